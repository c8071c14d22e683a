#![no_main]
//! See `hatokuse_fuzz::frame`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hatokuse_fuzz::frame(bytes));
