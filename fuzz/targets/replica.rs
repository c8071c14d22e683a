#![no_main]
//! See `hatokuse_fuzz::replica`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hatokuse_fuzz::replica(bytes));
