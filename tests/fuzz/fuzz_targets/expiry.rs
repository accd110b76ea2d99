#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| expirefs_fuzz::targets::expiry(data));
