#![no_main]
//! See `hatokuse_fuzz::line`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hatokuse_fuzz::line(bytes));
