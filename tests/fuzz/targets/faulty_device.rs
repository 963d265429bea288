#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ringbell_tests::fuzz::faulty_device(data));
