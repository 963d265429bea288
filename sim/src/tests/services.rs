//! Hash, MAC, AEAD and AES-XTS through the rings, against published vectors; what is refused; what a
//! hostile driver asks.

use super::Driver;
use super::driver::{ALL, Part};
use crate::crypto::hex;
use crate::rng::Rng;
use crate::{FaultKind, Sim};

const OK: u8 = 0;
const ERR: u8 = 1;
const BADMSG: u8 = 2;
const NOTSUPP: u8 = 3;
const INVSESS: u8 = 4;

pub(super) fn driver(options: &str) -> Driver {
    Driver::new(options.parse().and_then(Sim::stepped).unwrap(), ALL)
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u8,
    /// Used length.
    pub(super) len: u32,
    /// The room for the result.
    pub(super) out: Vec<u8>,
}

/// What was not written.
const UNTOUCHED: u8 = 0xee;

/// A data request's fixed part: opcode, algorithm, session, then words from 24 on.
pub(super) fn request(opcode: u32, algo: u32, session: u64, words: &[u32]) -> Vec<u8> {
    let mut request = vec![0; 72];
    request[0..4].copy_from_slice(&opcode.to_le_bytes());
    request[4..8].copy_from_slice(&algo.to_le_bytes());
    request[8..16].copy_from_slice(&session.to_le_bytes());
    for (at, word) in words.iter().enumerate() {
        request[24 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
    }
    request
}

/// Sends a request, what follows it, and `room` bytes for the result, in descriptors of `cut` bytes (0: as
/// few as can be), and says what came. The driver's memory is as before.
pub(super) fn ask(
    driver: &mut Driver,
    request: &[u8],
    follows: &[&[u8]],
    room: usize,
    cut: usize,
) -> Option<Answer> {
    let mark = driver.mark();
    let input = [request, &follows.concat()].concat();
    let (in_at, out_at) = (driver.put(&input), driver.put(&vec![UNTOUCHED; room + 1]));
    let mut parts: Vec<Part> = Vec::new();
    for (at, len, writable) in [(in_at, input.len(), false), (out_at, room + 1, true)] {
        let step = if cut == 0 { len } else { cut };
        for from in (0..len).step_by(step) {
            parts.push((at + from as u64, step.min(len - from) as u32, writable));
        }
    }
    driver.submit(0, &parts, true);
    driver.sim.step();
    let answer = driver.poll(0).map(|(_, len)| {
        let mut out = driver.get(out_at, room + 1);
        let status = out.pop().unwrap();
        Answer { status, len, out }
    });
    driver.release(mark);
    answer
}

/// Asks, however it is cut; it must be answered, always the same.
pub(super) fn tell(driver: &mut Driver, request: &[u8], follows: &[&[u8]], room: usize) -> Answer {
    let answer = ask(driver, request, follows, room, 0).unwrap();
    for cut in [1, 7, 16, 71, 73] {
        assert_eq!(ask(driver, request, follows, room, cut).as_ref(), Some(&answer), "cut {cut}");
    }
    answer
}

pub(super) fn status(status: u8, room: usize) -> Answer {
    Answer { status, len: 1, out: vec![UNTOUCHED; room] }
}

pub(super) fn done(out: &[u8]) -> Answer {
    Answer { status: OK, len: out.len() as u32 + 1, out: out.to_vec() }
}

// ---- sessions of each service ----

pub(super) fn hash(driver: &mut Driver, algo: u32, len: u32) -> Result<u64, u32> {
    driver.create_any(0x102, algo, &[(16, algo), (20, len)], &[])
}

pub(super) fn mac(driver: &mut Driver, algo: u32, len: u32, key: &[u8]) -> Result<u64, u32> {
    driver.create_any(0x202, algo, &[(16, algo), (20, len), (24, key.len() as u32)], key)
}

/// `op` is 1 to encrypt, 2 to decrypt.
pub(super) fn aead(driver: &mut Driver, algo: u32, op: u32, tag: u32, key: &[u8]) -> Result<u64, u32> {
    let body = [(16, algo), (20, key.len() as u32), (24, tag), (28, 77), (32, op)];
    driver.create_any(0x302, algo, &body, key)
}

fn plain() -> Vec<u8> {
    hex("d9313225f88406e5a55909c5aff5269a 86a7a9531534f7da2e4c303d8a318a72
         1c3c0c95956809532fcf0e2449a6b525 b16aedf5aa0de657ba637b39")
}

fn long() -> Vec<u8> {
    (0..100_003_u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect()
}

#[test]
fn hashes_are_those_of_fips_180_and_202_however_the_request_is_cut() {
    let driver = &mut driver("");
    for (algo, digest) in [
        (2, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (3, "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        (4, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            5,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            6,
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
        (7, "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
        (8, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
        (
            9,
            "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
        ),
        (
            10,
            "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
        ),
    ] {
        let digest = hex(digest);
        for len in [digest.len(), 12] {
            let session = hash(driver, algo, len as u32).unwrap();
            let request = request(0x100, algo, session, &[3, len as u32]);
            // A shorter result is the digest's beginning.
            assert_eq!(tell(driver, &request, &[b"abc"], len), done(&digest[..len]), "{algo}");
            assert_eq!(driver.destroy_any(0x103, session), OK);
            assert_eq!(tell(driver, &request, &[b"abc"], len), status(INVSESS, len));
        }
        assert_eq!(hash(driver, algo, digest.len() as u32 + 1), Err(ERR.into()));
        assert_eq!(hash(driver, algo, 0), Err(ERR.into()));
    }
    // Of nothing, too; and of much.
    let session = hash(driver, 4, 32).unwrap();
    let empty = hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(tell(driver, &request(0x100, 4, session, &[0, 32]), &[], 32), done(&empty));
    let whole = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &long());
    let request = request(0x100, 4, session, &[100_003, 32]);
    assert_eq!(ask(driver, &request, &[&long()], 32, 5000), Some(done(whole.as_ref())));
    assert_eq!(driver.sim.stats().faults, 0);
}

#[test]
fn codes_are_those_of_rfc_4231_and_sp_800_38b() {
    let driver = &mut driver("");
    let message = b"what do ya want for nothing?";
    for (algo, code) in [
        (2, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (3, "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44"),
        (4, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            5,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            6,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
    ] {
        let code = hex(code);
        for len in [code.len(), 12] {
            let session = mac(driver, algo, len as u32, b"Jefe").unwrap();
            let request = request(0x200, algo, session, &[28, len as u32]);
            assert_eq!(tell(driver, &request, &[message], len), done(&code[..len]), "{algo}");
        }
    }
    let key = hex("603deb1015ca71be2b73aef0857d7781 1f352c073b6108d72d9810a30914dff4");
    let message = hex("6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51 30c81c46a35ce411");
    let session = mac(driver, 26, 16, &key).unwrap();
    let code = hex("aaf3d8f1de5640c232f5b169b9c911e6");
    assert_eq!(tell(driver, &request(0x200, 26, session, &[40, 16]), &[&message], 16), done(&code));
    let long_request = request(0x200, 26, session, &[100_003, 16]);
    let key = aws_lc_rs::cmac::Key::new(aws_lc_rs::cmac::AES_256, &key).unwrap();
    let whole = aws_lc_rs::cmac::sign(&key, &long()).unwrap();
    assert_eq!(ask(driver, &long_request, &[&long()], 16, 4000), Some(done(whole.as_ref())));
    assert_eq!(driver.sim.stats().faults, 0);
}

struct Aead {
    algo: u32,
    key: Vec<u8>,
    iv: Vec<u8>,
    aad: Vec<u8>,
    plain: Vec<u8>,
    /// With the tag.
    cipher: Vec<u8>,
    tag: u32,
}

/// GCM: McGrew and Viega's test case 4, once by its J0; CCM: SP 800-38C, example 3, with AAD that is no
/// whole block; ChaCha20-Poly1305: RFC 8439, 2.8.2.
fn messages() -> Vec<Aead> {
    let gcm = Aead {
        algo: 1,
        key: hex("feffe9928665731c6d6a8f9467308308"),
        iv: hex("cafebabefacedbaddecaf888"),
        aad: hex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
        plain: plain(),
        cipher: hex("42831ec2217774244b7221b784d0d49c e3aa212f2c02a4e035c17e2329aca12e
             21d514b25466931c7d8f6a5aac84aa05 1ba30b396a0aac973d58e091
             5bc94fbc3221a5db94fae95ae7121a47"),
        tag: 16,
    };
    let j0 = Aead {
        iv: hex("cafebabefacedbaddecaf88800000001"),
        key: gcm.key.clone(),
        aad: gcm.aad.clone(),
        plain: plain(),
        cipher: gcm.cipher[..72].to_vec(),
        tag: 12,
        ..gcm
    };
    let ccm = Aead {
        algo: 2,
        key: hex("404142434445464748494a4b4c4d4e4f"),
        iv: hex("101112131415161718191a1b"),
        aad: (0..20).collect(),
        plain: (0x20..0x38).collect(),
        cipher: hex("e3b201a9f5b71a7a9b1ceaeccd97e70b6176aad9a4428aa5 484392fbc1b09951"),
        tag: 8,
    };
    let chacha = Aead {
        algo: 3,
        key: hex("808182838485868788898a8b8c8d8e8f 909192939495969798999a9b9c9d9e9f"),
        iv: hex("070000004041424344454647"),
        aad: hex("50515253c0c1c2c3c4c5c6c7"),
        plain: b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.".to_vec(),
        cipher: hex(
            "d31a8d34648e60db7b86afbc53ef7ec2 a4aded51296e08fea9e2b5a736ee62d6
             3dbea45e8ca9671282fafb69da92728b 1a71de0a9e060b2905d6a5b67ecd3b36
             92ddbd7f2d778b8c9803aee328091b58 fab324e4fad675945585808b4831d7bc
             3ff4def08e4b7a9de576d26586cec64b 6116
             1ae10b594f09e26a7e902ecbd0600691",
        ),
        tag: 16,
    };
    vec![gcm, j0, ccm, chacha]
}

/// iv_len, aad_len, src_data_len, dst_data_len, tag_len.
fn words(iv: &[u8], aad: &[u8], src: &[u8], dst: usize, tag: u32) -> [u32; 5] {
    [iv.len() as u32, aad.len() as u32, src.len() as u32, dst as u32, tag]
}

#[test]
fn messages_are_sealed_and_opened_as_published_however_they_are_cut() {
    let driver = &mut driver("");
    for Aead { algo, key, iv, aad: associated, plain, cipher, tag } in messages() {
        let seal = aead(driver, algo, 1, tag, &key).unwrap();
        let open = aead(driver, algo, 2, tag, &key).unwrap();
        for tag_len in [tag, 0] {
            let words = words(&iv, &associated, &plain, cipher.len(), tag_len);
            let sealing = request(0x300, algo, seal, &words);
            // The AAD stands behind the source.
            let follows = [&iv[..], &plain, &associated];
            assert_eq!(tell(driver, &sealing, &follows, cipher.len()), done(&cipher), "{algo}");
            let words = self::words(&iv, &associated, &cipher, plain.len(), tag_len);
            let opening = request(0x301, algo, open, &words);
            let follows = [&iv[..], &cipher, &associated];
            assert_eq!(tell(driver, &opening, &follows, plain.len()), done(&plain), "{algo}");
        }
        // A longer destination is not written to its end, nor counted.
        let words = words(&iv, &associated, &cipher, cipher.len(), tag);
        let opening = request(0x301, algo, open, &words);
        let answer = tell(driver, &opening, &[&iv, &cipher, &associated], cipher.len());
        assert_eq!((answer.status, answer.len as usize), (OK, plain.len() + 1));
        assert_eq!(answer.out[..plain.len()], plain);
        assert!(answer.out[plain.len()..].iter().all(|byte| *byte == UNTOUCHED));
        // Whatever is not as it was is answered BADMSG, and nothing is written.
        let whole = [&iv[..], &cipher, &associated].concat();
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] ^= 1 << (at % 8);
            let answer = ask(driver, &opening, &[&wrong], cipher.len(), 0).unwrap();
            assert_eq!(answer, status(BADMSG, cipher.len()), "{algo}, byte {at}");
        }
        assert_eq!((driver.destroy_any(0x303, seal), driver.destroy_any(0x303, open)), (OK, OK));
    }
    assert_eq!((driver.sim.stats().faults, driver.sim.stats().sessions), (0, 0));
}

#[test]
fn long_messages_go_through_in_pieces_and_empty_ones_are_sealed() {
    let driver = &mut driver("");
    let aad = long();
    for (algo, iv) in [(1, 12), (1, 16), (2, 12), (3, 12)] {
        let iv = vec![0xf5; iv];
        let seal = aead(driver, algo, 1, 16, &[7; 32]).unwrap();
        let open = aead(driver, algo, 2, 16, &[7; 32]).unwrap();
        for plain in [&long()[..], &[], &long()[..4096], &long()[..4097]] {
            for aad in [&aad[..], &[], &aad[..4095]] {
                let words = self::words(&iv, aad, plain, plain.len() + 16, 16);
                let sealing = request(0x300, algo, seal, &words);
                let answer = ask(driver, &sealing, &[&iv, plain, aad], plain.len() + 16, 4000).unwrap();
                assert_eq!((answer.status, answer.len as usize), (OK, plain.len() + 17));
                if algo == 1 && iv.len() == 12 {
                    // aws-lc's own.
                    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
                    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
                    let nonce = Nonce::try_assume_unique_for_key(&iv).unwrap();
                    let mut whole = plain.to_vec();
                    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut whole).unwrap();
                    assert!(answer.out == whole);
                }
                let words = self::words(&iv, aad, &answer.out, plain.len(), 16);
                let opening = request(0x301, algo, open, &words);
                let opened = ask(driver, &opening, &[&iv, &answer.out, aad], plain.len(), 5000).unwrap();
                assert_eq!(opened.status, OK);
                assert!(opened.out == plain, "{algo}");
            }
        }
    }
}

#[test]
fn a_message_is_opened_where_it_lies() {
    let driver = &mut driver("");
    for Aead { algo, key, iv, aad: associated, plain, cipher, tag } in messages() {
        let open = aead(driver, algo, 2, tag, &key).unwrap();
        let words = words(&iv, &associated, &cipher, plain.len(), tag);
        let head = driver.put(&[request(0x301, algo, open, &words), iv].concat());
        let (text, behind) = (driver.put(&cipher), driver.put(&associated));
        let end = driver.put(&[UNTOUCHED]);
        let head_len = (behind - text) as u32;
        assert!(head_len >= cipher.len() as u32);
        let parts = [
            (head, (text - head) as u32, false),
            (text, cipher.len() as u32, false),
            (behind, associated.len() as u32, false),
            (text, plain.len() as u32, true),
            (end, 1, true),
        ];
        // The head's padding to 16 bytes belongs to no part.
        let parts = [(head, 72 + words[0], false), parts[1], parts[2], parts[3], parts[4]];
        driver.submit(0, &parts, true);
        assert_eq!(driver.sim.step(), 1);
        assert_eq!(driver.poll(0).unwrap().1, plain.len() as u32 + 1);
        assert_eq!((driver.get(text, plain.len()), driver.get(end, 1)[0]), (plain, OK), "{algo}");
    }
}

/// iv_len, src_data_len, dst_data_len; the operation is a plain cipher.
fn xts_request(opcode: u32, session: u64, len: usize) -> Vec<u8> {
    let mut request = request(opcode, 13, session, &[16, len as u32, len as u32]);
    request[64] = 1;
    request
}

/// IEEE Std 1619-2007, annex B, vectors 2 and 15 to 18.
#[test]
fn data_units_are_encrypted_as_ieee_1619_says_with_and_without_a_tail() {
    let driver = &mut driver("");
    let counting: Vec<u8> = (0..20).collect();
    let key = hex("11111111111111111111111111111111 22222222222222222222222222222222");
    let stealing = hex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0 bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0");
    let iv = hex("9a785634120000000000000000000000");
    for (key, iv, plain, cipher) in [
        (
            &key,
            &hex("33333333330000000000000000000000"),
            &[0x44; 32][..],
            "c454185e6a16936e39334038acef838b fb186fff7480adc4289382ecd6d394f0",
        ),
        (&stealing, &iv, &counting[..17], "6c1625db4671522d3d7599601de7ca09 ed"),
        (&stealing, &iv, &counting[..18], "d069444b7a7e0cab09e24447d24deb1f edbf"),
        (&stealing, &iv, &counting[..19], "e5df1351c0544ba1350b3363cd8ef4be edbf9d"),
        (&stealing, &iv, &counting[..20], "9d84c813f719aa2c7be3f66171c7c5c2 edbf9dac"),
    ] {
        let cipher = hex(cipher);
        let encrypt = driver.create(13, 1, key).unwrap();
        let decrypt = driver.create(13, 2, key).unwrap();
        let request = xts_request(0, encrypt, plain.len());
        assert_eq!(tell(driver, &request, &[iv, plain], plain.len()), done(&cipher));
        let request = xts_request(1, decrypt, plain.len());
        assert_eq!(tell(driver, &request, &[iv, &cipher], plain.len()), done(plain));
    }
    // A data unit of less than a block is none. Keys come in pairs.
    let session = driver.create(13, 1, &key).unwrap();
    for len in [0, 1, 15] {
        let answer = tell(driver, &xts_request(0, session, len), &[&iv, &counting[..len]], len);
        assert_eq!(answer, status(ERR, len));
    }
    for len in [0, 16, 24, 31, 33, 48, 63] {
        assert_eq!(driver.create(13, 1, &vec![1; len]), Err(1), "{len}");
    }
    assert!(driver.create(13, 1, &[1; 64]).is_ok());
}

#[test]
fn a_long_data_unit_is_one_wherever_the_device_cuts_it() {
    let driver = &mut driver("");
    let encrypt = driver.create(13, 1, &(0..64).collect::<Vec<u8>>()).unwrap();
    let decrypt = driver.create(13, 2, &(0..64).collect::<Vec<u8>>()).unwrap();
    let (plain, iv) = (long(), [0x1d; 16]);
    let ask_for = |driver: &mut Driver, opcode, session, data: &[u8]| {
        let request = xts_request(opcode, session, data.len());
        let answer = ask(driver, &request, &[&iv, data], data.len(), 4000).unwrap();
        assert_eq!((answer.status, answer.len as usize), (OK, data.len() + 1));
        answer.out
    };
    let whole = ask_for(driver, 0, encrypt, &plain[..3 * 4096]);
    for len in [4096, 4097, 4111, 4112, 4113, 8192, 8193, 8207, 8208, 12287] {
        let cipher = ask_for(driver, 0, encrypt, &plain[..len]);
        // All blocks but the last whole one and the tail are those of a longer unit.
        let same = len / 16 * 16 - if len % 16 == 0 { 0 } else { 16 };
        assert!(cipher[..same] == whole[..same], "{len}");
        assert!(ask_for(driver, 1, decrypt, &cipher) == plain[..len], "{len}");
    }
}

#[test]
fn wrong_sessions_are_refused() {
    let driver = &mut driver("queues=2");
    // Unknown algorithms: none, those that are not here, beyond.
    for algo in [0, 1, 11, 12, 13, u32::MAX] {
        assert_eq!(hash(driver, algo, 20), Err(NOTSUPP.into()), "hash {algo}");
    }
    for algo in [0, 1, 7, 25, 27, 41, 49, 53, u32::MAX] {
        assert_eq!(mac(driver, algo, 16, &[0; 16]), Err(NOTSUPP.into()), "MAC {algo}");
    }
    for algo in [0, 4, u32::MAX] {
        assert_eq!(aead(driver, algo, 1, 16, &[0; 16]), Err(NOTSUPP.into()), "AEAD {algo}");
    }
    // Lengths of keys, results and tags.
    assert!(mac(driver, 4, 32, &[1; 512]).is_ok());
    assert_eq!(mac(driver, 4, 32, &[1; 513]), Err(ERR.into()), "max_auth_key_len");
    assert_eq!(mac(driver, 26, 16, &[1; 17]), Err(ERR.into()));
    assert_eq!(mac(driver, 26, 17, &[1; 16]), Err(ERR.into()));
    assert_eq!(mac(driver, 4, 0, &[1; 16]), Err(ERR.into()));
    for (algo, key) in [(1, 17), (2, 64), (3, 16), (1, 65)] {
        assert_eq!(aead(driver, algo, 1, 16, &vec![1; key]), Err(ERR.into()), "AEAD {algo}, key {key}");
    }
    for (algo, tag) in [(1, 11), (1, 0), (1, 17), (2, 2), (2, 15), (3, 12), (3, u32::MAX)] {
        assert_eq!(aead(driver, algo, 1, tag, &[1; 32]), Err(ERR.into()), "AEAD {algo}, tag {tag}");
    }
    for op in [0, 3] {
        assert_eq!(aead(driver, 1, op, 16, &[1; 16]), Err(ERR.into()), "direction {op}");
    }
    // Header and body differ; no such data queue; a key that is not there.
    assert_eq!(driver.create_any(0x102, 4, &[(16, 5), (20, 20)], &[]), Err(1));
    assert_eq!(driver.create_any(0x102, 4, &[(16, 4), (20, 20), (12, 2)], &[]), Err(1));
    assert!(driver.create_any(0x102, 4, &[(16, 4), (20, 20), (12, 1)], &[]).is_ok());
    assert_eq!(driver.create_any(0x202, 4, &[(16, 4), (20, 20), (24, 17)], &[1; 16]), Err(1));
    assert_eq!(driver.create_any(0x302, 1, &[(16, 1), (20, 32), (24, 16), (32, 1)], &[1; 16]), Err(1));
    assert_eq!(driver.create_any(0x502, 1, &[(16, 1)], &[]), Err(3), "no such service");
    assert_eq!((driver.sim.stats().faults, driver.sim.stats().sessions), (0, 2));
}

#[test]
fn a_session_is_of_one_service() {
    let driver = &mut driver("");
    let sessions = [
        (0, driver.create(3, 1, &[1; 16]).unwrap()),
        (1, hash(driver, 4, 32).unwrap()),
        (2, mac(driver, 4, 32, &[1; 16]).unwrap()),
        (3, aead(driver, 1, 1, 16, &[1; 16]).unwrap()),
    ];
    for (service, session) in sessions {
        let mut cipher = request(0, 3, session, &[16, 16, 16]);
        cipher[64] = 1;
        let requests = [
            (0, cipher),
            (1, request(0x100, 4, session, &[16, 32])),
            (2, request(0x200, 4, session, &[16, 32])),
            (3, request(0x300, 1, session, &[12, 0, 16, 32, 16])),
        ];
        for (of, request) in &requests {
            let answer = ask(driver, request, &[&[5; 64]], 64, 0).unwrap();
            assert_eq!(answer.status, if *of == service { OK } else { INVSESS }, "{of} on {service}");
        }
        for (of, _) in requests.iter().filter(|(of, _)| *of != service) {
            assert_eq!(driver.destroy_any(of << 8 | 3, session), INVSESS);
        }
        assert_eq!(driver.destroy_any(0x405, session), INVSESS);
        assert_eq!(driver.destroy_any(service << 8 | 3, session), OK);
        assert_eq!(driver.destroy_any(service << 8 | 3, session), INVSESS);
        let answer = ask(driver, &requests[service as usize].1, &[&[5; 64]], 64, 0).unwrap();
        assert_eq!(answer, status(INVSESS, 64), "gone");
    }
    // They share one table.
    for at in 0..256 {
        let created = if at % 2 == 0 { hash(driver, 4, 32) } else { mac(driver, 4, 32, &[]) };
        assert!(created.is_ok(), "{at}");
    }
    assert_eq!(driver.create(3, 1, &[1; 16]), Err(5), "NOSPC");
    assert_eq!(aead(driver, 1, 1, 16, &[1; 16]), Err(5));
}

#[test]
fn wrong_requests_are_answered_by_their_status() {
    let driver = &mut driver("");
    let sha = hash(driver, 4, 32).unwrap();
    let hmac = mac(driver, 4, 16, &[1; 16]).unwrap();
    let seal = aead(driver, 1, 1, 16, &[1; 16]).unwrap();
    let open = aead(driver, 1, 2, 16, &[1; 16]).unwrap();
    let ccm = aead(driver, 2, 1, 16, &[1; 16]).unwrap();
    let big = 64 << 20;
    for (request, expected, what) in [
        (request(0x100, 4, sha, &[64, 32]), OK, "as it should be"),
        (request(0x100, 4, sha, &[64, 31]), ERR, "not the session's length"),
        (request(0x100, 4, sha, &[64, 33]), ERR, "not the session's length"),
        (request(0x100, 5, sha, &[64, 32]), ERR, "another algorithm"),
        (request(0x101, 4, sha, &[64, 32]), NOTSUPP, "no such opcode"),
        (request(0x100, 4, sha, &[129, 32]), ERR, "the source is not there"),
        (request(0x100, 4, sha, &[64, 65]), ERR, "no room"),
        (request(0x100, 4, sha, &[u32::MAX, 32]), ERR, "absurd"),
        (request(0x100, 4, sha, &[64, u32::MAX]), ERR, "absurd"),
        (request(0x100, 4, sha, &[big - 31, 32]), ERR, "larger than max_size"),
        (request(0x100, 4, sha + 1, &[64, 32]), INVSESS, "no such session"),
        (request(0x200, 4, hmac, &[64, 16]), OK, "as it should be"),
        (request(0x200, 4, hmac, &[64, 32]), ERR, "not the session's length"),
        (request(0x200, 2, hmac, &[64, 16]), ERR, "another algorithm"),
        (request(0x201, 4, hmac, &[64, 16]), NOTSUPP, "no such opcode"),
        (request(0x300, 1, seal, &[12, 4, 32, 48, 16]), OK, "as it should be"),
        (request(0x300, 1, seal, &[12, 4, 32, 49, 16]), OK, "more room"),
        (request(0x300, 1, seal, &[12, 4, 32, 47, 16]), ERR, "no room for the tag"),
        (request(0x300, 1, seal, &[12, 4, 32, 65, 16]), ERR, "the room is not there"),
        (request(0x300, 1, seal, &[12, 4, 32, 48, 12]), ERR, "another tag"),
        (request(0x300, 1, seal, &[13, 4, 32, 48, 16]), ERR, "no such IV"),
        (request(0x300, 1, seal, &[0, 4, 32, 48, 16]), ERR, "no such IV"),
        (request(0x300, 1, seal, &[12, 85, 32, 48, 16]), ERR, "the AAD is not there"),
        (request(0x300, 1, seal, &[12, u32::MAX, 32, 48, 16]), ERR, "absurd"),
        (request(0x300, 1, seal, &[12, 4, u32::MAX, 48, 16]), ERR, "absurd"),
        (request(0x300, 1, seal, &[12, 4, 32, u32::MAX, 16]), ERR, "absurd"),
        (request(0x300, 1, seal, &[u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX]), ERR, "absurd"),
        (request(0x300, 2, seal, &[12, 4, 32, 48, 16]), ERR, "another algorithm"),
        (request(0x301, 1, seal, &[12, 4, 32, 48, 16]), ERR, "the other direction"),
        (request(0x300, 1, open, &[12, 4, 32, 48, 16]), ERR, "the other direction"),
        (request(0x302, 1, seal, &[12, 4, 32, 48, 16]), NOTSUPP, "no such opcode"),
        (request(0x301, 1, open, &[12, 4, 32, 16, 16]), BADMSG, "as it should be, but for the tag"),
        (request(0x301, 1, open, &[12, 4, 16, 0, 16]), BADMSG, "nothing but a tag"),
        (request(0x301, 1, open, &[12, 4, 15, 16, 16]), ERR, "less than a tag"),
        (request(0x301, 1, open, &[12, 4, 32, 15, 16]), ERR, "no room"),
        (request(0x300, 2, ccm, &[13, 4, 32, 48, 16]), OK, "as it should be"),
        (request(0x300, 2, ccm, &[14, 4, 32, 48, 16]), ERR, "no such nonce"),
        (request(0x300, 2, ccm, &[6, 4, 32, 48, 16]), ERR, "no such nonce"),
    ] {
        let answer = ask(driver, &request, &[&[9; 128]], 64, 0).unwrap();
        assert_eq!(answer.status, expected, "{what}: {request:?}");
        if expected != OK {
            assert_eq!(answer, status(expected, 64), "{what}: nothing is written");
        }
    }
    // Too long for a nonce of 13 bytes, if all of it were there.
    let data = vec![0; 65536];
    let request = request(0x300, 2, ccm, &[13, 0, 65536, 65552, 16]);
    assert_eq!(ask(driver, &request, &[&[0; 13], &data], 65552, 0), Some(status(ERR, 65552)));
    assert_eq!(driver.sim.stats().faults, 0);
}

#[test]
fn what_is_not_offered_is_not_supported() {
    let all = ["cipher", "hash", "mac", "aead"];
    for offered in 0..all.len() {
        let mut driver = driver(&format!("services={}", all[offered]));
        let created = [
            driver.create(3, 1, &[1; 16]),
            hash(&mut driver, 4, 32),
            mac(&mut driver, 4, 32, &[1; 16]),
            aead(&mut driver, 1, 1, 16, &[1; 16]),
        ];
        for (at, result) in created.iter().enumerate() {
            let session = result.unwrap_or(0);
            let mut request = request((at as u32) << 8, [3, 4, 4, 1][at], session, &[16, 16, 16, 32]);
            request[64] = 1;
            let answer = ask(&mut driver, &request, &[&[5; 64]], 64, 0).unwrap();
            if at == offered {
                assert!(result.is_ok());
            } else {
                assert_eq!(
                    (*result, answer),
                    (Err(3), status(NOTSUPP, 64)),
                    "{} of {}",
                    all[at],
                    all[offered]
                );
            }
            let destroyed = driver.destroy_any((at as u32) << 8 | 3, session);
            assert_eq!(destroyed, if at == offered { OK } else { NOTSUPP });
        }
    }
}

#[test]
fn without_compute_results_are_left_alone_and_counted() {
    let driver = &mut driver("compute=none");
    let sha = hash(driver, 4, 32).unwrap();
    let hmac = mac(driver, 4, 16, &[1; 16]).unwrap();
    let seal = aead(driver, 1, 1, 16, &[1; 16]).unwrap();
    let open = aead(driver, 1, 2, 16, &[1; 16]).unwrap();
    for (request, len) in [
        (request(0x100, 4, sha, &[64, 32]), 33),
        (request(0x200, 4, hmac, &[64, 16]), 17),
        (request(0x300, 1, seal, &[12, 4, 32, 48, 16]), 49),
        (request(0x301, 1, open, &[12, 4, 48, 64, 16]), 33),
    ] {
        let answer = ask(driver, &request, &[&[9; 128]], 64, 0).unwrap();
        assert_eq!(answer, Answer { status: OK, len, out: vec![UNTOUCHED; 64] });
    }
    let answer = ask(driver, &request(0x100, 4, sha, &[64, 31]), &[&[9; 64]], 64, 0).unwrap();
    assert_eq!(answer, status(ERR, 64), "it is checked all the same");
}

#[test]
fn faults_strike_requests_of_all_services() {
    let mut driver = driver("");
    let driver = &mut driver;
    let sha = hash(driver, 4, 32).unwrap();
    let seal = aead(driver, 1, 1, 16, &[1; 16]).unwrap();
    let requests = [request(0x100, 4, sha, &[64, 32]), request(0x300, 1, seal, &[12, 4, 32, 48, 16])];
    for request in &requests {
        let mut asked = |fault: &str| {
            driver.sim.inject(fault.parse().unwrap());
            ask(driver, request, &[&[9; 128]], 64, 0)
        };
        assert_eq!(asked("op-error:BADMSG"), Some(status(BADMSG, 64)));
        assert_eq!(asked("bad-len").unwrap().len, u32::MAX);
        assert_eq!(asked("status-garbage").unwrap().status, 119);
        assert_eq!(asked("drop"), None);
        assert_eq!(asked("session-lost"), Some(status(INVSESS, 64)));
        assert_eq!(asked("slow:1ms"), None);
        driver.sim.advance(std::time::Duration::from_millis(1));
        driver.sim.step();
        assert!(driver.poll(0).is_some());
    }
    assert_eq!(driver.sim.struck(FaultKind::SessionLost), 2);
    driver.sim.inject("sessions-full@0".parse().unwrap());
    assert_eq!(hash(driver, 4, 32), Err(5), "NOSPC");
    assert_eq!(mac(driver, 4, 32, &[]), Err(5));
    assert_eq!(aead(driver, 1, 1, 16, &[1; 16]), Err(5));
}

/// A good session and a good request of each kind: opcode to create, algorithm, body; opcode, words.
type Kind = (u32, u32, [(usize, u32); 5], u32, [u32; 5]);

const KINDS: [Kind; 8] = [
    (2, 3, [(16, 3), (20, 16), (24, 1), (64, 1), (68, 0)], 0, [16, 32, 32, 0, 0]),
    (2, 13, [(16, 13), (20, 32), (24, 2), (64, 1), (68, 0)], 1, [16, 33, 33, 0, 0]),
    (0x102, 4, [(16, 4), (20, 32), (24, 0), (28, 0), (32, 0)], 0x100, [64, 32, 0, 0, 0]),
    (0x202, 26, [(16, 26), (20, 16), (24, 16), (28, 0), (32, 0)], 0x200, [64, 16, 0, 0, 0]),
    (0x302, 1, [(16, 1), (20, 16), (24, 16), (28, 4), (32, 1)], 0x300, [12, 4, 32, 48, 16]),
    (0x302, 2, [(16, 2), (20, 24), (24, 8), (28, 0), (32, 1)], 0x300, [13, 20, 33, 41, 0]),
    (0x302, 1, [(16, 1), (20, 32), (24, 12), (28, 4), (32, 2)], 0x301, [16, 4, 32, 20, 12]),
    (0x302, 3, [(16, 3), (20, 32), (24, 16), (28, 4), (32, 1)], 0x300, [12, 4, 32, 48, 16]),
];

/// Any field may be anything: each request is answered or ends the device, which goes on after a reset.
#[test]
fn whatever_the_fields_say_the_device_goes_on() {
    const LENS: [u32; 16] =
        [0, 1, 7, 12, 13, 15, 16, 17, 32, 48, 64, 65, 4096, 1 << 26, u32::MAX - 71, u32::MAX];
    for quirks in ["none", "qemu"] {
        let driver = &mut driver(&format!("quirks={quirks}"));
        let mut rng = Rng::new(5);
        let mut pick = |of: &[u32]| of[(rng.next() % of.len() as u64) as usize];
        let (mut good, mut refused, mut ended) = (0, 0, 0);
        let mut sessions = vec![0; KINDS.len()];
        for round in 0..20_000 {
            let mark = driver.mark();
            let at = round % KINDS.len();
            let (create, algo, mut body, opcode, mut words) = KINDS[at];
            if sessions[at] == 0 || pick(&[0, 1, 2, 3]) == 0 {
                if pick(&[0, 1, 2]) == 0 {
                    body[pick(&[0, 1, 2, 3, 4]) as usize].1 = pick(&LENS);
                }
                sessions[at] = driver.create_any(create, algo, &body, &[3; 64]).unwrap_or(sessions[at]);
                if driver.status() & 0x40 != 0 {
                    // A key that is not there.
                    ended += 1;
                    driver.start(ALL);
                    continue;
                }
            }
            let wrong = pick(&[0, 0, 1, 2]);
            for _ in 0..wrong {
                words[pick(&[0, 1, 2, 3, 4]) as usize] = pick(&LENS);
            }
            let mut request = request(opcode, algo, sessions[at], &words);
            request[64] = u8::from(create == 2);
            if pick(&[0, 1, 2, 3, 4, 5]) == 0 {
                let place = pick(&[0, 1, 4, 8, 15, 64]) as usize;
                request[place] = pick(&[0, 1, 2, 3, 4, 5, 255]) as u8;
            }
            let (behind, room) = (pick(&[100, 100, 9000, 20]) as usize, pick(&[64, 64, 5000, 0]) as usize);
            match ask(driver, &request, &[&vec![1; behind]], room, 0) {
                Some(answer) => {
                    assert!(answer.status <= 6 && answer.len as usize <= room + 1, "{answer:?}");
                    assert!(answer.status == OK || answer.out.iter().all(|byte| *byte == UNTOUCHED));
                    *if answer.status == OK { &mut good } else { &mut refused } += 1;
                    driver.destroy_any(create | 1, sessions[at]);
                    sessions[at] = 0;
                }
                None => {
                    assert_eq!(driver.status() & 0x40, 0x40, "it ended");
                    ended += 1;
                    driver.start(ALL);
                    sessions.fill(0);
                }
            }
            // A start has begun anew.
            driver.release(mark.min(driver.mark()));
        }
        assert!(good > 500 && refused > 500, "{quirks}: {good} done, {refused} refused");
        assert_eq!(ended != 0, quirks == "qemu", "{quirks}: {ended} ended the device");
        let stats = driver.sim.stats();
        assert_eq!(stats.taken, stats.completed + stats.dropped);
    }
}
