#![no_main]
//! See `hatokuse_fuzz::metadata`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hatokuse_fuzz::metadata(bytes));
