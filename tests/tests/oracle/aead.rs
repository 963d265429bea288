//! Authenticated encryption: all algorithms, nonces and tags of every length, associated data up to 1000
//! bytes; in place, into other buffers, over several; and what does not verify.

use ringbell::{Aead, AeadKey, Answer, Buffers, Device, Error, Status, WaitCtx};

use crate::common::{Rng, buffers_of, cuts, evp, output, run, scattered};
use crate::{device, length};

/// How the buffers of a request lie.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In place.
    Same,
    Into,
    /// In place, over so many.
    Scattered(usize),
    /// From so many into so many.
    ScatteredInto(usize, usize),
}

impl Place {
    fn random(rng: &mut Rng) -> Self {
        match rng.below(4) {
            0 => Self::Same,
            1 => Self::Into,
            2 => Self::Scattered(1 + rng.below(10)),
            _ => Self::ScatteredInto(1 + rng.below(10), 1 + rng.below(10)),
        }
    }
}

/// What is sealed, and with what.
#[derive(Clone)]
struct Case {
    aead: Aead,
    key: Vec<u8>,
    nonce: Vec<u8>,
    aad: Vec<u8>,
    data: Vec<u8>,
    tag: usize,
}

impl Case {
    fn random(rng: &mut Rng, len: usize) -> Self {
        let aead = Aead::ALL[rng.below(Aead::ALL.len())];
        let lens = aead.nonce_lens();
        let nonce = lens.start() + rng.below(lens.end() - lens.start() + 1);
        let tag = aead.tag_lens()[rng.below(aead.tag_lens().len())];
        let aad = match rng.below(4) {
            0 => 0,
            1 => rng.below(40),
            _ => rng.below(1001),
        };
        let len = len.min(aead.longest(nonce).min(1 << 30) as usize);
        Self {
            aead,
            key: rng.bytes(aead.key_len()),
            nonce: rng.bytes(nonce),
            aad: rng.bytes(aad),
            data: rng.bytes(len),
            tag,
        }
    }

    fn what(&self, place: Place) -> String {
        format!(
            "{}, nonce of {}, AAD of {}, {} bytes, tag of {}, {place:?}",
            self.aead,
            self.nonce.len(),
            self.aad.len(),
            self.data.len(),
            self.tag
        )
    }

    fn key(&self, device: &Device) -> AeadKey {
        device.aead_key_with_tag(self.aead, &self.key, self.tag).unwrap()
    }

    fn sealed(&self) -> Vec<u8> {
        evp::seal(self.aead, &self.key, &self.nonce, &self.aad, &self.data, self.tag)
    }
}

/// In place, with room for `more` bytes behind the last.
fn with_room(device: &Device, rng: &mut Rng, data: &[u8], count: usize, more: usize) -> Buffers {
    let mut lens = cuts(rng, data.len(), count);
    *lens.last_mut().unwrap() += more;
    let mut buffers = buffers_of(device, &lens);
    let last = buffers.pieces_mut().last_mut().unwrap();
    last.set_len(last.size() - more).unwrap();
    buffers.copy_from_slice(data);
    buffers
}

fn seal(device: &Device, case: &Case, place: Place, rng: &mut Rng, ctx: &WaitCtx) {
    let key = case.key(device);
    let (nonce, aad, data) = (&case.nonce, &case.aad, &case.data);
    let full = data.len() + case.tag;
    let request = match place {
        Place::Same => key.seal(nonce, aad, with_room(device, rng, data, 1, case.tag)),
        Place::Scattered(count) => key.seal(nonce, aad, with_room(device, rng, data, count, case.tag)),
        Place::Into => {
            let (input, output) = (device.buffer_from(data).unwrap(), device.buffer(full).unwrap());
            key.seal_into(nonce, aad, input, output)
        }
        Place::ScatteredInto(from, to) => {
            // It may be longer than it has to be.
            let room = full + rng.below(40);
            let output = buffers_of(device, &cuts(rng, room, to));
            key.seal_into(nonce, aad, scattered(device, rng, data, from), output)
        }
    };
    let done = run(request.unwrap(), ctx);
    assert_eq!((done.result(), ctx.status()), (Ok(Answer::Yes), Status::Ok), "{}", case.what(place));
    let sealed = output(&done);
    assert!(sealed == case.sealed(), "sealing {}", case.what(place));
    let (inputs, outputs) = done.into_request().into_pieces();
    match place {
        Place::Same | Place::Scattered(_) => {
            assert!(inputs.to_vec() == sealed && outputs.pieces().is_empty(), "{}", case.what(place));
        }
        Place::Into | Place::ScatteredInto(..) => {
            assert!(inputs.to_vec() == *data && outputs.to_vec() == sealed, "{}", case.what(place));
        }
    }
}

/// Opens `sealed`; the plaintext, or `None` where the answer is no: then the buffers are wiped.
fn open(
    device: &Device,
    case: &Case,
    sealed: &[u8],
    place: Place,
    rng: &mut Rng,
    ctx: &WaitCtx,
) -> Option<Vec<u8>> {
    let key = case.key(device);
    let (nonce, aad) = (&case.nonce, &case.aad);
    let request = match place {
        Place::Same => key.open(nonce, aad, device.buffer_from(sealed).unwrap()),
        Place::Scattered(count) => key.open(nonce, aad, scattered(device, rng, sealed, count)),
        Place::Into => {
            let mut plain = device.buffer(sealed.len() - case.tag).unwrap();
            plain.fill(0xa5);
            key.open_into(nonce, aad, device.buffer_from(sealed).unwrap(), plain)
        }
        Place::ScatteredInto(from, to) => {
            let room = sealed.len() - case.tag + rng.below(40);
            let output = buffers_of(device, &cuts(rng, room, to));
            key.open_into(nonce, aad, scattered(device, rng, sealed, from), output)
        }
    };
    let done = run(request.unwrap(), ctx);
    let what = case.what(place);
    assert_eq!(ctx.status(), Status::Ok, "{what}");
    let plain = output(&done);
    let answer = done.result().unwrap_or_else(|fault| panic!("{fault}: {what}"));
    let in_place = matches!(place, Place::Same | Place::Scattered(_));
    let (inputs, outputs) = done.into_request().into_pieces();
    match answer {
        Answer::Yes => {
            let there = if in_place { &inputs } else { &outputs };
            assert!(there.to_vec() == plain, "{what}");
            if !in_place {
                assert!(inputs.to_vec() == sealed, "{what}: the input has changed");
            }
            Some(plain)
        }
        Answer::No => {
            assert!(plain.is_empty(), "{what}: output of what did not verify");
            let wiped = if in_place { &inputs } else { &outputs };
            assert!(wiped.to_vec().iter().all(|byte| *byte == 0), "{what}: not wiped");
            if !in_place {
                assert!(inputs.to_vec() == sealed, "{what}: the input has changed");
            }
            None
        }
    }
}

fn both_ways(device: &Device, case: &Case, rng: &mut Rng, ctx: &WaitCtx) {
    let place = Place::random(rng);
    seal(device, case, place, rng, ctx);
    let place = Place::random(rng);
    let plain = open(device, case, &case.sealed(), place, rng, ctx);
    assert!(plain.as_ref() == Some(&case.data), "opening {}", case.what(place));
}

#[test]
fn every_nonce_and_tag_length_is_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(1));
    assert_eq!(device.capabilities().aeads, Aead::ALL);
    for aead in Aead::ALL {
        for nonce in aead.nonce_lens() {
            for tag in aead.tag_lens() {
                for (len, aad) in [(0, 0), (0, 20), (1, 0), (16, 13), (33, 64), (500, 1000)] {
                    let case = Case {
                        aead,
                        key: rng.bytes(aead.key_len()),
                        nonce: rng.bytes(nonce),
                        aad: rng.bytes(aad),
                        data: rng.bytes(len),
                        tag: *tag,
                    };
                    both_ways(&device, &case, &mut rng, &ctx);
                }
            }
        }
    }
    poller.shutdown();
}

#[test]
fn every_short_length_of_data_and_associated_data_is_as_libcrypto_says() {
    let (device, poller) = device("sim:order=shuffle");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(2));
    for aead in Aead::ALL {
        let (key, nonce) = (rng.bytes(aead.key_len()), rng.bytes(12));
        for len in 0..=100 {
            let (data, aad) = (rng.bytes(len), rng.bytes((len * 7) % 61));
            let case = Case { aead, key: key.clone(), nonce: nonce.clone(), aad, data, tag: 16 };
            both_ways(&device, &case, &mut rng, &ctx);
        }
    }
    poller.shutdown();
}

#[test]
fn random_lengths_keys_and_nonces_are_as_libcrypto_says() {
    let (device, poller) = device("sim:queues=2,order=shuffle");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(3));
    for round in 0..500 {
        let len = length(&mut rng, round);
        let case = Case::random(&mut rng, len);
        both_ways(&device, &case, &mut rng, &ctx);
    }
    let stats = device.stats();
    assert_eq!((stats.errors, stats.faults), (0, 0));
    poller.shutdown();
}

#[test]
fn what_was_changed_is_answered_no_without_output_and_the_buffers_are_wiped() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(4));
    let mut refused = [0; 5];
    for round in 0..600 {
        let len = rng.below(if round % 50 == 0 { 20_000 } else { 200 });
        let case = Case::random(&mut rng, len);
        let mut sealed = case.sealed();
        let place = Place::random(&mut rng);
        assert!(open(&device, &case, &sealed, place, &mut rng, &ctx).is_some(), "{}", case.what(place));
        let bit = 1 << rng.below(8);
        let mut other = case.clone();
        let kind = match rng.below(5) {
            0 if !case.data.is_empty() => {
                let at = rng.below(case.data.len());
                sealed[at] ^= bit;
                0
            }
            1 if !case.aad.is_empty() => {
                let at = rng.below(case.aad.len());
                other.aad[at] ^= bit;
                1
            }
            2 => {
                let at = rng.below(case.nonce.len());
                other.nonce[at] ^= bit;
                2
            }
            3 => {
                let at = rng.below(case.key.len());
                other.key[at] ^= bit;
                3
            }
            _ => {
                let at = case.data.len() + rng.below(case.tag);
                sealed[at] ^= bit;
                4
            }
        };
        // A tag of 32 bits lets one in four thousand million through: never a seeded test's.
        assert_eq!(open(&device, &other, &sealed, place, &mut rng, &ctx), None, "{}", case.what(place));
        refused[kind] += 1;
    }
    assert!(refused.iter().all(|count| *count > 20), "{refused:?}");
    let stats = device.stats();
    assert_eq!((stats.errors, stats.faults), (0, 0), "an answer of no is no error");
    poller.shutdown();
}

#[test]
fn a_request_used_again_with_another_nonce_data_and_length_is_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(5));
    for (aead, into) in [(Aead::Aes256Gcm, false), (Aead::Aes128Ccm, true), (Aead::ChaCha20Poly1305, true)] {
        let key_bytes = rng.bytes(aead.key_len());
        let key = device.aead_key(aead, &key_bytes).unwrap();
        let mut buffer = device.buffer(4096 + 16).unwrap();
        buffer.set_len(4096).unwrap();
        let mut request = if into {
            key.seal_into(&[0; 12], &[0; 30], buffer, device.buffer(4096 + 16).unwrap()).unwrap()
        } else {
            key.seal(&[0; 12], &[0; 30], buffer).unwrap()
        };
        for _ in 0..60 {
            let (len, nonce, aad) = (rng.below(4097), rng.bytes(12), rng.bytes(30));
            request.set_len(len).unwrap();
            request.set_iv(&nonce);
            request.set_aad(&aad).unwrap();
            let data = rng.bytes(len);
            request.input_mut().copy_from_slice(&data);
            let done = run(request, &ctx);
            assert_eq!(done.result(), Ok(Answer::Yes));
            assert!(output(&done) == evp::seal(aead, &key_bytes, &nonce, &aad, &data, 16), "{aead}, {len}");
            request = done.into_request();
        }
        assert!(matches!(request.set_len(1 << 16), Err(Error::Invalid(_))));
        assert!(matches!(request.set_aad(&[0; 29]), Err(Error::Invalid(_))));
    }
    poller.shutdown();
}

#[test]
fn what_can_never_work_is_a_clear_error() {
    let device = Device::open("sim:").unwrap();
    let invalid = |result: Result<(), Error>, word: &str| match result {
        Err(Error::Invalid(text)) => assert!(text.contains(word), "{text:?} says nothing of {word}"),
        other => panic!("{word}: {other:?}"),
    };
    for aead in Aead::ALL {
        let bytes = vec![1; aead.key_len()];
        let key = device.aead_key(aead, &bytes).unwrap();
        let buffer = |len| device.buffer(len).unwrap();
        for len in [0, 6, 11, 13, 14, 16, 17].into_iter().filter(|len| !aead.nonce_lens().contains(len)) {
            let lens = aead.nonce_lens();
            let named = lens.start().to_string();
            invalid(
                key.seal_into(&vec![0; len], b"", buffer(10), buffer(26)).map(drop).map_err(Error::from),
                &named,
            );
        }
        let nonce = [0; 12];
        // No room for the tag: the buffer is full to the last byte of its cache line.
        invalid(key.seal(&nonce, b"", buffer(64)).map(drop).map_err(Error::from), "longer");
        invalid(key.seal_into(&nonce, b"", buffer(10), buffer(25)).map(drop).map_err(Error::from), "26");
        invalid(key.open(&nonce, b"", buffer(15)).map(drop).map_err(Error::from), "tag");
        invalid(key.open_into(&nonce, b"", buffer(26), buffer(9)).map(drop).map_err(Error::from), "10");
        for len in [0, aead.key_len() - 1, aead.key_len() + 1] {
            invalid(device.aead_key(aead, &vec![0; len]).map(drop), &aead.key_len().to_string());
        }
        for tag in (0..=20).filter(|tag| !aead.tag_lens().contains(tag)) {
            invalid(device.aead_key_with_tag(aead, &bytes, tag).map(drop), "16");
        }
        let foreign = Device::open("sim:").unwrap();
        invalid(
            key.open(&nonce, b"", foreign.buffer(64).unwrap()).map(drop).map_err(Error::from),
            "another device",
        );
    }
    // The length field of CCM with a nonce of 13 bytes has 16 bits.
    let key = device.aead_key(Aead::Aes128Ccm, &[1; 16]).unwrap();
    let (input, output) = (device.buffer(65_536).unwrap(), device.buffer(65_552).unwrap());
    invalid(key.seal_into(&[0; 13], b"", input, output).map(drop).map_err(Error::from), "65536");
}
