#![no_main]
//! See `hatokuse_fuzz::record`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hatokuse_fuzz::record(bytes));
