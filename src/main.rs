//! The `hatokuse` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    hatokuse::cli::run()
}
