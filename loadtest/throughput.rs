//! How many operations per second a cluster of this machine does. `-- --help` lists the options,
//! `loadtest/README.md` says how to read the figures.
#![allow(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a test that prints a table, and fails if it cannot go on"
)]

mod common;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::main(hatokuse::bench::options::throughput(std::env::args_os()))
}
