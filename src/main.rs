//! The `hatokuse` binary.

fn main() {}
