//! The bodies of the fuzz targets on seeded bytes and on the kept corpus: what once was found stays
//! found, on machines without a fuzzer too.

use ringbell_tests::fuzz;

fn replay(name: &str, body: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    if let Ok(files) = std::fs::read_dir(folder) {
        for file in files {
            body(&std::fs::read(file.unwrap().path()).unwrap());
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..300 {
        let len = round % 400;
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        body(&bytes);
    }
}

#[test]
fn addresses_from_anywhere_are_read_or_refused() {
    replay("address", fuzz::address);
}

#[test]
fn a_lying_device_breaks_nothing() {
    replay("hostile_device", fuzz::hostile_device);
}

#[test]
fn a_hostile_driver_does_not_break_the_simulator() {
    replay("hostile_driver", fuzz::hostile_driver);
}

#[test]
fn a_faulty_device_breaks_nothing() {
    replay("faulty_device", fuzz::faulty_device);
}
