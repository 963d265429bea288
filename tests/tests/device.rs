//! Opening devices, and what they refuse: addresses, options, keys, requests, memory.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{run, small, stepped, submit, zero_key};
use ringbell::sim::{Quirks, Sim, SimConfig};
use ringbell::{
    Answer, Cipher, Device, DeviceOptions, Direction, Error, Mode, Poller, PollerConfig, Reason, Status,
    WaitCtx,
};

fn open(address: &str) -> (Device, Poller) {
    let device = Device::open(address).unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    (device, poller)
}

fn error(result: Result<Device, Error>) -> String {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message:?}");
    message
}

// ---- addresses ----

#[test]
fn a_malformed_address_is_an_error_that_gives_it_back_and_says_why() {
    for address in [
        "",
        " ",
        "sim",
        "sim :",
        "SIM:",
        "simulator:x",
        "0000:00:04",
        "0000:00:20.0",
        "0000:00:04.8",
        "0000:100:04.0",
        "10000:00:04.0",
        "0000:00:4g.0",
        "vfio-user:",
        "daemon:",
        "vfio-user:/run/a\0b",
        "/dev/vfio/3",
        "https://example.org",
    ] {
        let message = error(Device::open(address));
        assert!(
            message.starts_with(&format!("cannot read device address '{address}': ")),
            "{address:?}: {message}"
        );
        assert!(message.len() > 35 + address.len(), "{message}");
    }
}

#[test]
fn unknown_options_of_the_simulator_are_errors_that_list_the_known_ones() {
    for options in [
        "bogus=1",
        "virtio-crypto,bogus=1",
        "edu",
        "queues",
        "queues=",
        "queues=0",
        "queues=65",
        "queues=two",
        "queues=1,queues=1",
        "queue-size=100",
        "queue-size=0",
        "seed=-1",
        "latency=5",
        "latency=61s",
        "compute=half",
        "order=lifo",
        "quirks=none,",
        "quirks=qemu,queues=2",
        "QUEUES=1",
    ] {
        let address = format!("sim:{options}");
        let message = error(Device::open(&address));
        assert!(message.contains(&address), "{message}");
        for key in ["queues=", "queue-size=", "seed=", "latency=", "compute=", "order=", "quirks="] {
            assert!(message.contains(key), "{key} is not listed: {message}");
        }
    }
}

#[test]
fn an_address_without_a_backend_says_so() {
    for address in ["vfio-user:/nonexistent/ringbell.sock", "daemon:/nonexistent/ringbell.sock"] {
        assert!(error(Device::open(address)).contains(address));
    }
}

#[test]
fn a_function_that_is_not_there_is_an_error_that_says_where_to_look() {
    let said = error(Device::open("dead:1e:1f.7"));
    assert!(said.contains("dead:1e:1f.7") && said.contains("ringbell list"), "{said}");
}

#[test]
fn good_addresses_open_and_are_told_again() {
    for (address, queues, depth) in [
        ("sim:", 1, 1024),
        ("sim:virtio-crypto", 1, 1024),
        ("sim:queues=3,queue-size=16", 3, 16),
        ("sim:virtio-crypto,queue-size=32768", 1, 1024),
        ("sim:quirks=qemu", 1, 1024),
    ] {
        let device = Device::open(address).unwrap();
        let offered = device.capabilities();
        assert_eq!((offered.queues, offered.queue_depth), (queues, depth), "{address}");
        assert!(device.address().starts_with("sim:"));
        let again = Device::open(device.address()).unwrap();
        assert_eq!(again.capabilities(), offered);
    }
}

// ---- options ----

#[test]
fn queue_sizes_out_of_range_are_refused_and_those_in_range_are_used() {
    for queue_size in [0, 1, 2, 4, 7, 9, 1000, 32_769, u16::MAX] {
        let options = DeviceOptions { queue_size, ..Default::default() };
        assert!(error(Device::open_with("sim:", &options)).contains(&queue_size.to_string()));
    }
    for (queue_size, depth) in [(8, 8), (256, 256), (1024, 512)] {
        let options = DeviceOptions { queue_size, ..Default::default() };
        let device = Device::open_with("sim:queue-size=512", &options).unwrap();
        assert_eq!(device.capabilities().queue_depth, depth);
        let options = DeviceOptions { indirect: false, ..options };
        let device = Device::open_with("sim:queue-size=512", &options).unwrap();
        assert_eq!(
            device.capabilities().queue_depth,
            depth / 4,
            "without indirect descriptors a request takes four"
        );
    }
}

#[test]
fn an_arena_out_of_range_or_too_small_for_the_rings_is_refused() {
    for arena_bytes in [0, 1, 65_535, (64 << 30) + 1, usize::MAX] {
        let options = DeviceOptions { arena_bytes, ..Default::default() };
        let message = error(Device::open_with("sim:", &options));
        assert!(message.contains("64 KiB"), "{message}");
    }
    let options = DeviceOptions { arena_bytes: 64 << 10, ..Default::default() };
    let message = error(Device::open_with("sim:queues=8", &options));
    assert!(message.contains("larger arena"), "{message}");
    let options = DeviceOptions { arena_bytes: 64 << 10, queue_size: 8, ..Default::default() };
    Device::open_with("sim:", &options).expect("small rings fit into a small arena");
}

#[test]
fn a_device_without_indirect_descriptors_or_event_indexes_works() {
    for features_off in [0, 1 << 28, 1 << 29, 1 << 28 | 1 << 29, 1 << 33, 1 << 40] {
        for quirks in [Quirks::None, Quirks::Qemu] {
            let config = SimConfig { features_off, quirks, queue_size: 64, ..Default::default() };
            let sim = Sim::threaded(config).unwrap();
            let device = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
            let depth = if features_off & 1 << 28 != 0 { 16 } else { 64 };
            assert_eq!(device.capabilities().queue_depth, depth);
            let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
            let key = zero_key(&device, Cipher::Aes192Cbc);
            let contexts: Vec<_> = (0..40).map(|_| WaitCtx::new()).collect();
            for round in 0..5 {
                for ctx in &contexts {
                    let request = small(&device, &key, 16 * round);
                    device.submit_wait(request, ctx, common::FOR_EVER).map_err(|r| r.to_error()).unwrap();
                }
                for ctx in &contexts {
                    common::wait_until("a completion", || !ctx.is_busy());
                    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
                }
            }
            assert_eq!(sim.stats().last_fault, None);
            poller.shutdown();
        }
    }
}

#[test]
fn a_device_without_version_1_is_refused() {
    let config = SimConfig { features_off: 1 << 32, ..Default::default() };
    let sim = Sim::threaded(config).unwrap();
    let result = Device::from_function(sim.function(), &DeviceOptions::default());
    assert!(!error(result).is_empty());
}

// ---- keys ----

#[test]
fn a_cipher_that_the_device_does_not_offer_is_refused_with_a_list_of_those_it_does() {
    let (device, poller) = open("sim:quirks=qemu");
    let cbc: Vec<_> = Cipher::ALL.into_iter().filter(|cipher| cipher.mode() == Mode::Cbc).collect();
    assert_eq!(device.capabilities().ciphers, cbc);
    for cipher in Cipher::ALL.into_iter().filter(|cipher| cipher.mode() != Mode::Cbc) {
        let refused = device.cipher_key(cipher, &common::zeros(cipher)).unwrap_err();
        let Error::NotOffered { asked, offered } = &refused else { panic!("{refused:?}") };
        assert_eq!(
            (asked.as_str(), offered.as_str()),
            (cipher.name(), "aes-128-cbc, aes-192-cbc, aes-256-cbc")
        );
    }
    let key = zero_key(&device, Cipher::Aes256Cbc);
    assert_eq!(run(small(&device, &key, 32), &WaitCtx::new()).result(), Ok(Answer::Yes));
    poller.shutdown();
}

#[test]
fn a_key_of_the_wrong_length_is_refused() {
    let device = Device::open("sim:").unwrap();
    for cipher in Cipher::ALL {
        for len in [0, 1, 15, 16, 17, 23, 24, 25, 31, 32, 33, 64, 1000] {
            let bytes: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let key = device.cipher_key(cipher, &bytes);
            assert_eq!(key.is_ok(), len == cipher.key_len(), "{cipher}, {len} bytes");
            if let Err(error) = key {
                assert!(matches!(error, Error::Invalid(_)));
                assert!(error.to_string().contains(&cipher.key_len().to_string()), "{error}");
            }
        }
    }
}

#[test]
fn a_key_of_xts_with_equal_halves_is_refused() {
    let device = Device::open("sim:").unwrap();
    for cipher in [Cipher::Aes128Xts, Cipher::Aes256Xts] {
        let half: Vec<u8> = (0..cipher.key_len() / 2).map(|byte| byte as u8).collect();
        let mut key = [half.as_slice(), &half].concat();
        let refused = device.cipher_key(cipher, &key).unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)) && refused.to_string().contains("halves"), "{refused}");
        for at in [0, key.len() - 1] {
            key[at] ^= 0x80;
            assert!(device.cipher_key(cipher, &key).is_ok());
            key[at] ^= 0x80;
        }
    }
}

#[test]
fn names_of_ciphers_read_back_and_others_are_refused_with_a_list() {
    for cipher in Cipher::ALL {
        assert_eq!(cipher.name().parse::<Cipher>().unwrap(), cipher);
        assert_eq!(cipher.name().to_uppercase().parse::<Cipher>().unwrap(), cipher);
    }
    for name in ["", "aes", "aes-128", "aes-512-cbc", "des-cbc", "aes_128_cbc"] {
        assert!(name.parse::<Cipher>().unwrap_err().to_string().contains("aes-256-ctr"));
    }
}

// ---- requests ----

#[test]
fn a_request_that_can_never_work_is_refused_with_err_and_comes_back_unchanged() {
    let (_sim, device, mut poller) =
        stepped("", &DeviceOptions { arena_bytes: 8 << 20, ..Default::default() }, PollerConfig::default());
    let other = Device::open("sim:").unwrap();
    let fill = |device: &Device, len: usize| {
        let mut buffer = device.buffer(len).unwrap();
        buffer.fill(0x5a);
        buffer
    };
    let free = device.free_bytes();
    let mut count = 0;
    for cipher in Cipher::ALL {
        let key = zero_key(&device, cipher);
        let iv = vec![1; cipher.iv_len()];
        let mut cases = vec![];
        for len in [0, 1, 12, 15, 17, 32].into_iter().filter(|len| *len != cipher.iv_len()) {
            cases.push((Reason::IvLength, key.encrypt(&vec![1; len], fill(&device, 32))));
        }
        if cipher.granule() == 16 {
            for len in [1, 15, 17, 31, 4095] {
                cases.push((Reason::PartialBlock, key.decrypt(&iv, fill(&device, len))));
            }
        }
        for len in [0, 1, 15].into_iter().filter(|len| *len < cipher.least()) {
            cases.push((Reason::TooShort, key.encrypt(&iv, fill(&device, len))));
        }
        for output in [16, 48] {
            let request =
                key.request(Direction::Encrypt, &iv, fill(&device, 32), Some(fill(&device, output)));
            cases.push((Reason::LengthsDiffer, request));
        }
        cases.push((Reason::OtherDevice, key.encrypt(&iv, fill(&other, 32))));
        let request = key.request(Direction::Encrypt, &iv, fill(&device, 32), Some(fill(&other, 32)));
        cases.push((Reason::OtherDevice, request));
        for (reason, request) in cases {
            let ctx = WaitCtx::new();
            let len = request.input().len();
            let refused = request.submit(&ctx).unwrap_err();
            assert_eq!(
                (refused.reason(), refused.status(), ctx.status()),
                (reason, Status::Err, Status::Err)
            );
            assert!(!refused.to_string().is_empty() && !refused.to_string().contains('\n'));
            assert!(!ctx.is_busy());
            let request = refused.into_request();
            assert_eq!(
                (request.input().len(), request.input().iter().all(|byte| *byte == 0x5a)),
                (len, true)
            );
            count += 1;
        }
    }
    poller.poll();
    let stats = device.stats();
    assert_eq!((stats.accepted, stats.refused, stats.deliveries), (0, count, 0));
    common::assert_all_back(&device, free);
}

#[test]
fn a_request_refused_for_its_iv_or_length_works_once_that_is_mended() {
    let (device, poller) = open("sim:");
    let key = zero_key(&device, Cipher::Aes128Cbc);
    let ctx = WaitCtx::new();
    let mut buffer = device.buffer(64).unwrap();
    buffer.fill(0);
    let mut request = key.encrypt(&[0; 15], buffer);
    request.set_len(63).unwrap();
    assert_eq!(request.device().address(), device.address());
    let refused = request.submit(&ctx).unwrap_err();
    assert_eq!(refused.status(), Status::Err);
    request = refused.into_request();
    request.set_iv(&[0; 16]);
    let refused = request.submit(&ctx).unwrap_err();
    assert_eq!(refused.reason(), Reason::PartialBlock);
    request = refused.into_request();
    assert!(request.set_len(1 << 20).is_err(), "beyond the buffer's capacity");
    request.set_len(64).unwrap();
    assert_eq!(run(request, &ctx).result(), Ok(Answer::Yes));
    poller.shutdown();
}

#[test]
fn a_key_of_another_device_is_refused_by_an_owned_queue() {
    let (device, other) = (Device::open("sim:").unwrap(), Device::open("sim:").unwrap());
    let key = zero_key(&other, Cipher::Aes128Ctr);
    let mut queue = device.owned_queue().unwrap();
    let ctx = WaitCtx::new();
    let refused = queue.submit(small(&other, &key, 16), &ctx).unwrap_err();
    assert_eq!((refused.reason(), ctx.status()), (Reason::OtherDevice, Status::Err));
}

#[test]
fn the_longest_request_that_the_device_says_it_takes_is_done_and_a_longer_one_is_refused() {
    let options = DeviceOptions { arena_bytes: 160 << 20, ..Default::default() };
    let device = Device::open_with("sim:", &options).unwrap();
    let poller = Poller::spawn(
        &device,
        PollerConfig {
            request_timeout: common::FOR_EVER,
            stall_limit: common::FOR_EVER,
            ..Default::default()
        },
    )
    .unwrap();
    let most = usize::try_from(device.capabilities().max_request).unwrap();
    assert!(most <= 64 << 20, "the simulator's max_size is 64 MiB");
    let key = zero_key(&device, Cipher::Aes128Ctr);
    let ctx = WaitCtx::new();
    let refused = small(&device, &key, most + 1).submit(&ctx).unwrap_err();
    assert_eq!((refused.reason(), refused.status()), (Reason::TooLong, Status::Err));
    drop(refused);
    let done = run(small(&device, &key, most), &ctx);
    assert_eq!(done.result(), Ok(Answer::Yes), "{most} bytes were accepted");
    poller.shutdown();
}

#[test]
fn a_request_of_no_bytes_is_done() {
    let (device, poller) = open("sim:");
    let ctx = WaitCtx::new();
    for cipher in Cipher::ALL.into_iter().filter(|cipher| cipher.least() == 0) {
        let key = zero_key(&device, cipher);
        let done = run(small(&device, &key, 0), &ctx);
        assert_eq!((done.result(), done.request().output().len()), (Ok(Answer::Yes), 0));
    }
    poller.shutdown();
}

#[test]
fn when_all_queues_are_owned_a_shared_submit_is_refused_and_counted() {
    let (_sim, device, _poller) = stepped("queues=2", &DeviceOptions::default(), PollerConfig::default());
    let key = zero_key(&device, Cipher::Aes128Ctr);
    let ctx = WaitCtx::new();
    let first = device.owned_queue().unwrap();
    submit(small(&device, &key, 16), &ctx);
    let second = device.owned_queue().unwrap();
    assert!(matches!(device.owned_queue(), Err(Error::Invalid(_))));
    let another = WaitCtx::new();
    let refused = small(&device, &key, 16).submit(&another).unwrap_err();
    assert_eq!((refused.reason(), another.status()), (Reason::NoSharedQueue, Status::Err));
    assert_eq!(device.stats().refused, 1);
    drop(first);
    submit(refused.into_request(), &another);
    drop(second);
}

// ---- memory ----

#[test]
fn buffers_have_their_length_are_aligned_and_of_their_device() {
    let (device, other) = (Device::open("sim:").unwrap(), Device::open("sim:").unwrap());
    for len in [0, 1, 63, 64, 65, 4096, 1 << 20] {
        let buffer = device.buffer(len).unwrap();
        assert_eq!((buffer.len(), buffer.as_ptr().addr() % 64), (len, 0));
        assert!(buffer.capacity() >= len);
    }
    let data: Vec<u8> = (0..=255).collect();
    assert_eq!(device.buffer_from(&data[3..]).unwrap()[..], data[3..]);
    assert_eq!(other.buffer_from(&[]).unwrap().len(), 0);
}

#[test]
fn an_exhausted_arena_says_no_room_and_tells_when_there_is_some() {
    let (_sim, device, _poller) = stepped("", &DeviceOptions::default(), PollerConfig::default());
    let free = device.free_bytes();
    let mut held = Vec::new();
    loop {
        match device.buffer(64 << 10) {
            Ok(buffer) => held.push(buffer),
            Err(error) => {
                assert!(matches!(error, Error::NoRoom(_)), "{error}");
                break;
            }
        }
    }
    assert!(held.len() * (64 << 10) > free / 2);
    let told = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&told);
    device.on_room(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    assert!(device.buffer(64 << 10).is_err());
    assert_eq!(told.load(Ordering::SeqCst), 0);
    held.pop();
    assert_eq!(told.load(Ordering::SeqCst), 1);
    held.push(device.buffer(64 << 10).expect("there is room again"));
    held.clear();
    assert_eq!(device.free_bytes(), free);
}

#[test]
fn with_an_exhausted_arena_a_session_waits_for_memory_and_comes() {
    let (_sim, device, mut poller) = stepped("", &DeviceOptions::default(), PollerConfig::default());
    let key = device.cipher_key(Cipher::Aes128Ctr, &[0; 16]).unwrap();
    let mut request = Some(small(&device, &key, 16));
    let mut held: Vec<_> = (0..20)
        .rev()
        .flat_map(|bits| std::iter::from_fn(|| device.buffer(1 << bits).ok()).collect::<Vec<_>>())
        .collect();
    assert!(matches!(device.buffer(1), Err(Error::NoRoom(_))));
    let ctx = WaitCtx::new();
    for _ in 0..5 {
        let refused = request.take().unwrap().submit(&ctx).unwrap_err();
        assert_eq!((refused.reason(), ctx.status()), (Reason::SessionPending, Status::Eagain));
        request = Some(refused.into_request());
        poller.poll();
    }
    held.clear();
    for _ in 0..5 {
        poller.poll();
    }
    request.unwrap().submit(&ctx).map_err(|r| r.to_error()).expect("the session is there");
}

#[test]
fn a_buffer_larger_than_the_arena_can_never_be() {
    let device = Device::open("sim:").unwrap();
    for len in [(6 << 20) + 1, 1 << 30, 1 << 40, usize::MAX - 100, usize::MAX] {
        let error = device.buffer(len).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{len}: {error:?}");
        assert!(error.to_string().contains("larger arena"), "{error}");
    }
}

#[test]
fn a_buffer_that_does_not_fit_beside_the_rings_can_never_be() {
    let device = Device::open("sim:").unwrap();
    let free = device.free_bytes();
    // Nothing but the rings is in the arena, and they stay: to wait for room would be for ever.
    let error = device.buffer(free + 1).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
}

#[test]
fn the_last_handle_stops_the_device_and_its_session_ends() {
    let sim = Sim::stepped(SimConfig::default()).unwrap();
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
    let key = zero_key(&device, Cipher::Aes128Ctr);
    let request = small(&device, &key, 16);
    drop((device, key));
    assert_eq!(sim.stats().sessions, 2, "the request holds the device");
    drop(request);
    assert_eq!((sim.stats().sessions, sim.stats().device_status), (0, 0));
}
