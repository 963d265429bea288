//! RSA through the rings: keys of 1024 to 4096 bits against what the command `openssl` makes, what is
//! refused, and keys that a hostile driver makes up.

use super::Driver;
use super::rsa_vectors::*;
use super::services::{Answer, ask, done, driver, request, status, tell};
use crate::crypto::hex;

const OK: u8 = 0;
const ERR: u8 = 1;
const NOTSUPP: u8 = 3;
const INVSESS: u8 = 4;
const KEY_REJECTED: u8 = 6;

const PUBLIC: u32 = 1;
const PRIVATE: u32 = 2;
const RAW: u32 = 0;
const PKCS1: u32 = 1;

const ENCRYPT: u32 = 0x400;
const DECRYPT: u32 = 0x401;
const SIGN: u32 = 0x402;
const VERIFY: u32 = 0x403;

const MESSAGE: &[u8] = b"what do ya want for nothing?";

/// The digests of that, by number of the hash.
const DIGESTS: [(u32, &str, &str); 6] = [
    (4, "d03cb659cbf9192dcd066272249f8412", MD5_1024),
    (5, "8f820394f95335182045da24f34de52bf8bc3432", SHA1_1024),
    (9, "9b67b9bb148fae726d5bc97300f3ef9e11b8fa3d3e4b58cab50a4d9a", SHA224_1024),
    (6, SHA256, SHA256_1024),
    (
        7,
        "1ab7b35ff828054ad6d188df1d8fb729f67515d1288fd66e7725043e9da06e36598f26b302f8b044a554ec1230bf1702",
        SHA384_1024,
    ),
    (
        8,
        "a3adca3c9c1e45b39ef51b0703692e09ab3a20404dd7617537144720f35e304e89e530db6db9deb50f8b33e38d951f2ffc973085b7f0ccb11178799d113481f2",
        SHA512_1024,
    ),
];
const SHA256: &str = "b381e7fec653fc3ab9b178272366b8ac87fed8d31cb25ed1d0e1f3318644c89c";

/// A session: key type, padding, hash.
fn session(driver: &mut Driver, (kind, padding, hash): (u32, u32, u32), key: &[u8]) -> Result<u64, u32> {
    let body = [(16, 1), (20, kind), (24, key.len() as u32), (28, padding), (32, hash)];
    driver.create_any(0x404, 1, &body, key)
}

/// One operation, however it is cut, with `room` for the result.
fn operate(driver: &mut Driver, opcode: u32, session: u64, source: &[u8], room: usize) -> Answer {
    let request = request(opcode, 1, session, &[source.len() as u32, room as u32]);
    tell(driver, &request, &[source], room)
}

/// Verifies: the digest stands behind the signature, nothing is written but the status.
fn verify(driver: &mut Driver, session: u64, signature: &[u8], digest: &[u8]) -> u8 {
    let words = [signature.len() as u32, digest.len() as u32];
    let answer = ask(driver, &request(VERIFY, 1, session, &words), &[signature, digest], 0, 0).unwrap();
    assert_eq!(answer.len, 1);
    answer.status
}

struct Vectors {
    len: usize,
    private: Vec<u8>,
    public: Vec<u8>,
    sha256: Vec<u8>,
    no_hash: Vec<u8>,
    encrypted: Vec<u8>,
    raw: Vec<u8>,
}

fn vectors() -> [Vectors; 3] {
    [
        (128, [PRIVATE_1024, PUBLIC_1024, SHA256_1024, NO_HASH_1024, ENCRYPTED_1024, RAW_1024]),
        (256, [PRIVATE_2048, PUBLIC_2048, SHA256_2048, NO_HASH_2048, ENCRYPTED_2048, RAW_2048]),
        (512, [PRIVATE_4096, PUBLIC_4096, SHA256_4096, NO_HASH_4096, ENCRYPTED_4096, RAW_4096]),
    ]
    .map(|(len, texts)| {
        let [private, public, sha256, no_hash, encrypted, raw] = texts.map(hex);
        Vectors { len, private, public, sha256, no_hash, encrypted, raw }
    })
}

fn raw_plain(len: usize) -> Vec<u8> {
    [0, 0].into_iter().chain((0..len - 2).map(|at| (7 * at + 1) as u8)).collect()
}

#[test]
fn signatures_are_those_that_openssl_makes_and_verify() {
    let driver = &mut driver("");
    let Vectors { len, private, public, no_hash, .. } = &vectors()[0];
    for (hash, digest, signature) in DIGESTS {
        let (digest, signature) = (hex(digest), hex(signature));
        let private = session(driver, (PRIVATE, PKCS1, hash), private).unwrap();
        let public = session(driver, (PUBLIC, PKCS1, hash), public).unwrap();
        assert_eq!(operate(driver, SIGN, private, &digest, *len), done(&signature), "hash {hash}");
        for session in [public, private] {
            assert_eq!(verify(driver, session, &signature, &digest), OK, "hash {hash}");
        }
        // Another digest, another signature, another length of either.
        let flipped = |bytes: &[u8]| [&[bytes[0] ^ 1], &bytes[1..]].concat();
        for (signature, digest) in [
            (&signature[..], &flipped(&digest)[..]),
            (&flipped(&signature), &digest),
            (&signature[1..], &digest),
            (&[&[0], &signature[..]].concat(), &digest),
            (&signature, &digest[1..]),
            (&signature, &[&digest[..], &[0]].concat()),
            (&[0xff; 128], &digest),
            (&[0; 128], &digest),
            (&[], &digest),
            (&signature, &[]),
            (&[], &[]),
            (&[1; 513], &digest),
            (&signature, &[1; 600]),
        ] {
            assert_eq!(verify(driver, public, signature, digest), KEY_REJECTED);
        }
        // A digest that is none of the hash cannot be signed.
        for digest in [&digest[1..], &[&digest[..], &[0]].concat(), &[]] {
            assert_eq!(operate(driver, SIGN, private, digest, *len), status(ERR, *len));
        }
        assert_eq!((driver.destroy_any(0x405, private), driver.destroy_any(0x405, public)), (OK, OK));
        assert_eq!(operate(driver, SIGN, private, &digest, *len), status(INVSESS, *len));
    }
    // Without a hash it is the message itself.
    let private = session(driver, (PRIVATE, PKCS1, 0), private).unwrap();
    assert_eq!(operate(driver, SIGN, private, MESSAGE, *len), done(no_hash));
    assert_eq!(verify(driver, private, no_hash, MESSAGE), OK);
    assert_eq!(verify(driver, private, no_hash, &MESSAGE[1..]), KEY_REJECTED);
    // A signature whose first byte is 0 is none without it.
    let (message, signature) = (0..5000_u32)
        .map(u32::to_le_bytes)
        .map(|message| (message, operate(driver, SIGN, private, &message, *len).out))
        .find(|(_, signature)| signature[0] == 0)
        .unwrap();
    assert_eq!(verify(driver, private, &signature, &message), OK);
    assert_eq!(verify(driver, private, &signature[1..], &message), KEY_REJECTED);
    assert_eq!(operate(driver, SIGN, private, &[1; 118], *len), status(ERR, *len), "no room for padding");
    assert_eq!(operate(driver, SIGN, private, &[1; 117], *len).status, OK);
    assert_eq!(driver.sim.stats().faults, 0);
}

#[test]
fn keys_of_all_sizes_encrypt_decrypt_sign_and_verify() {
    let driver = &mut driver("");
    for Vectors { len, private, public, sha256, no_hash: _, encrypted, raw } in vectors() {
        let digest = hex(SHA256);
        let signer = session(driver, (PRIVATE, PKCS1, 6), &private).unwrap();
        let verifier = session(driver, (PUBLIC, PKCS1, 6), &public).unwrap();
        let signing = request(SIGN, 1, signer, &[32, len as u32]);
        assert_eq!(ask(driver, &signing, &[&digest], len, 0), Some(done(&sha256)), "{len}");
        assert_eq!(verify(driver, verifier, &sha256, &digest), OK);

        // What came out may be shorter than the room: the used length says so.
        let decrypting = request(DECRYPT, 1, signer, &[len as u32, len as u32]);
        let answer = ask(driver, &decrypting, &[&encrypted], len, 0).unwrap();
        assert_eq!((answer.status, answer.len as usize), (OK, MESSAGE.len() + 1));
        assert_eq!(&answer.out[..MESSAGE.len()], MESSAGE);
        assert!(answer.out[MESSAGE.len()..].iter().all(|byte| *byte == 0xee));
        let mut ciphers = Vec::new();
        for _ in 0..2 {
            let encrypting = request(ENCRYPT, 1, verifier, &[MESSAGE.len() as u32, len as u32]);
            let answer = ask(driver, &encrypting, &[MESSAGE], len, 0).unwrap();
            assert_eq!((answer.status, answer.len as usize), (OK, len + 1));
            let back = ask(driver, &decrypting, &[&answer.out], len, 0).unwrap();
            assert_eq!(&back.out[..MESSAGE.len()], MESSAGE);
            ciphers.push(answer.out);
        }
        assert_ne!(ciphers[0], ciphers[1], "the padding is random");
        // Of nothing, too.
        let answer = ask(driver, &request(ENCRYPT, 1, verifier, &[0, len as u32]), &[], len, 0).unwrap();
        let back = request(DECRYPT, 1, signer, &[len as u32, 0]);
        assert_eq!(ask(driver, &back, &[&answer.out], 0, 0), Some(done(&[])));

        let raw_private = session(driver, (PRIVATE, RAW, 77), &private).unwrap();
        let raw_public = session(driver, (PUBLIC, RAW, 0), &public).unwrap();
        let encrypting = request(ENCRYPT, 1, raw_public, &[len as u32, len as u32]);
        assert_eq!(ask(driver, &encrypting, &[&raw_plain(len)], len, 0), Some(done(&raw)));
        let decrypting = request(DECRYPT, 1, raw_private, &[len as u32, len as u32]);
        assert_eq!(ask(driver, &decrypting, &[&raw], len, 0), Some(done(&raw_plain(len))));
    }
    assert_eq!(driver.sim.stats().faults, 0);
}

#[test]
fn wrong_requests_are_answered_by_their_status() {
    let driver = &mut driver("");
    let Vectors { private, public, encrypted, .. } = &vectors()[0];
    let signer = session(driver, (PRIVATE, PKCS1, 6), private).unwrap();
    let verifier = session(driver, (PUBLIC, PKCS1, 6), public).unwrap();
    let raw_private = session(driver, (PRIVATE, RAW, 0), private).unwrap();
    let raw_public = session(driver, (PUBLIC, RAW, 0), public).unwrap();
    let cipher = driver.create(3, 1, &[0; 16]).unwrap();
    let full = &[1; 600];
    for (opcode, session, lens, source, expected, what) in [
        (DECRYPT, signer, [128, 27], &encrypted[..], ERR, "no room for the message"),
        (DECRYPT, signer, [128, 128], &full[..128], ERR, "the padding is none"),
        (DECRYPT, signer, [127, 128], &encrypted[..127], ERR, "the padding is none"),
        (DECRYPT, signer, [129, 128], &full[..129], ERR, "longer than the modulus"),
        (DECRYPT, signer, [128, 128], &[0xff; 128], ERR, "not below the modulus"),
        (DECRYPT, verifier, [128, 128], &encrypted[..], ERR, "the key is public"),
        (SIGN, verifier, [32, 128], &full[..32], ERR, "the key is public"),
        (SIGN, signer, [32, 127], &full[..32], ERR, "no room"),
        (ENCRYPT, verifier, [118, 128], &full[..118], ERR, "no room for the padding"),
        (ENCRYPT, verifier, [117, 127], &full[..117], ERR, "no room"),
        (ENCRYPT, verifier, [600, 128], &full[..600], ERR, "longer than any modulus"),
        (ENCRYPT, raw_public, [127, 128], &full[..127], ERR, "raw sources are padded"),
        (ENCRYPT, raw_public, [129, 129], &full[..129], ERR, "longer than the modulus"),
        (ENCRYPT, raw_public, [128, 128], &[0xff; 128], ERR, "not below the modulus"),
        (SIGN, raw_private, [32, 128], &full[..32], NOTSUPP, "raw"),
        (VERIFY, raw_public, [128, 32], &full[..160], NOTSUPP, "raw"),
        (ENCRYPT, cipher, [32, 128], &full[..32], INVSESS, "a cipher's session"),
        (ENCRYPT, signer + 1, [32, 128], &full[..32], INVSESS, "no such session"),
        (0x404, signer, [32, 128], &full[..32], NOTSUPP, "no such opcode"),
        (SIGN, signer, [33, 128], &full[..32], ERR, "the source is not there"),
        (SIGN, signer, [32, 601], &full[..32], ERR, "the room is not there"),
        (SIGN, signer, [u32::MAX, 128], &full[..32], ERR, "absurd"),
        (SIGN, signer, [32, u32::MAX], &full[..32], ERR, "absurd"),
        (VERIFY, verifier, [128, u32::MAX], &full[..160], ERR, "absurd"),
        (VERIFY, verifier, [u32::MAX, u32::MAX], &full[..160], ERR, "absurd"),
        (VERIFY, verifier, [128, 33], &full[..160], ERR, "the digest is not there"),
    ] {
        let answer = ask(driver, &request(opcode, 1, session, &lens), &[source], 600, 0).unwrap();
        assert_eq!(answer, status(expected, 600), "{opcode:#x}, {what}");
    }
    let answer = ask(driver, &request(SIGN, 2, signer, &[32, 128]), &[&full[..32]], 128, 0);
    assert_eq!(answer, Some(status(ERR, 128)), "another algorithm");
    assert_eq!(driver.sim.stats().faults, 0);
}

/// DER of a sequence of numbers, each big-endian.
fn sequence(numbers: &[&[u8]]) -> Vec<u8> {
    fn element(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = body.len();
        let head = match len {
            0..=127 => vec![tag, len as u8],
            128..=255 => vec![tag, 0x81, len as u8],
            _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
        };
        [head, body.to_vec()].concat()
    }
    let integer = |number: &&[u8]| {
        let from = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let number = &number[from..];
        let sign = number.first().is_none_or(|byte| byte & 0x80 != 0);
        element(2, &[if sign { &[0][..] } else { &[] }, number].concat())
    };
    element(0x30, &numbers.iter().flat_map(integer).collect::<Vec<u8>>())
}

/// The numbers of a private key: n, e, d, p, q.
fn numbers(der: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &der[4..];
    let mut numbers = Vec::new();
    while let [2, len, behind @ ..] = rest {
        let (len, behind) = match len {
            0x81 => (usize::from(behind[0]), &behind[1..]),
            0x82 => (usize::from(behind[0]) << 8 | usize::from(behind[1]), &behind[2..]),
            short => (usize::from(*short), behind),
        };
        let number = &behind[..len];
        numbers.push(number[usize::from(number[0] == 0 && len > 1)..].to_vec());
        rest = &behind[len..];
    }
    numbers[1..6].to_vec()
}

#[test]
fn wrong_keys_are_refused() {
    let driver = &mut driver("");
    let Vectors { private, public, .. } = &vectors()[0];
    let mut created = |what: (u32, u32, u32), key: &[u8]| {
        let result = session(driver, what, key);
        if let Ok(id) = result {
            assert_eq!(driver.destroy_any(0x405, id), OK);
        }
        result.map(|_| ())
    };
    assert_eq!(created((PUBLIC, PKCS1, 6), public), Ok(()));
    assert_eq!(created((PRIVATE, PKCS1, 6), private), Ok(()));
    // Paddings, hashes and types that are not here.
    for what in
        [(PUBLIC, 2, 6), (PUBLIC, PKCS1, 1), (PUBLIC, PKCS1, 2), (PUBLIC, PKCS1, 3), (PUBLIC, PKCS1, 10)]
    {
        assert_eq!(created(what, public), Err(NOTSUPP.into()), "{what:?}");
    }
    for (kind, key) in [(0, public), (3, public), (PRIVATE, public), (PUBLIC, private)] {
        assert_eq!(created((kind, PKCS1, 6), key), Err(ERR.into()), "type {kind}");
    }
    // No DER, too little, too much.
    for cut in [0, 1, 3, 4, 100, public.len() - 1] {
        assert_eq!(created((PUBLIC, RAW, 0), &public[..cut]), Err(ERR.into()), "{cut}");
    }
    assert_eq!(created((PUBLIC, RAW, 0), &[&public[..], &[0]].concat()), Err(ERR.into()));
    assert_eq!(created((PUBLIC, RAW, 0), &[0x30; 4096]), Err(ERR.into()));
    assert_eq!(created((PUBLIC, RAW, 0), &[0x30; 4097]), Err(ERR.into()));

    let [n, e, d, p, q] = &numbers(private)[..] else { panic!() };
    assert_eq!(*public, sequence(&[n, e]));
    let bits = |bits: usize| {
        let mut number = vec![0xff; bits.div_ceil(8)];
        number[0] >>= (8 - bits % 8) % 8;
        number
    };
    for (what, n, e) in [
        ("1023 bits", &bits(1023)[..], &e[..]),
        ("4097 bits", &bits(4097), e),
        ("16384 bits", &bits(16384), e),
        ("nothing", &[], e),
        ("an even modulus", &[&n[..127], &[0xfe]].concat(), e),
        ("exponent 0", n, &[]),
        ("exponent 1", n, &[1]),
        ("an even exponent", n, &[1, 0, 0]),
        ("an exponent of 34 bits", n, &[2, 0, 0, 0, 1]),
        ("an exponent of 65 bits", n, &[1, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("an exponent as long as the modulus", n, d),
    ] {
        assert_eq!(created((PUBLIC, RAW, 0), &sequence(&[n, e])), Err(ERR.into()), "{what}");
    }
    for (what, n, e) in [
        ("1024 bits", &bits(1024)[..], &[3][..]),
        ("1025 bits", &bits(1025), &[3]),
        ("4096 bits", &bits(4096), &[1, 0xff, 0xff, 0xff, 0xff]),
    ] {
        assert_eq!(created((PUBLIC, RAW, 0), &sequence(&[n, e])), Ok(()), "{what}");
    }
    let two_n = [&[1][..], n].concat();
    for (what, version, [n, e, d, p, q]) in [
        ("p is 1", &[][..], [&n[..], e, d, &[1], n]),
        ("p is 0", &[], [n, e, d, &[], q]),
        ("no primes", &[], [n, e, d, &[], &[]]),
        ("p twice", &[], [n, e, d, p, p]),
        ("another p", &[], [n, e, d, &[&p[..63], &[p[63] ^ 2]].concat(), q]),
        ("an even p", &[], [n, e, d, &[&p[..63], &[0]].concat(), q]),
        ("d is 0", &[], [n, e, &[], p, q]),
        ("d is 1", &[], [n, e, &[1], p, q]),
        ("d is even", &[], [n, e, &[&d[..d.len() - 1], &[0]].concat(), p, q]),
        ("d is longer than n", &[], [n, e, &two_n, p, q]),
        ("d is n", &[], [n, e, n, p, q]),
        ("another e", &[], [n, &[3], d, p, q]),
        ("more than two primes", &[1], [n, e, d, p, q]),
        ("an unknown version", &[2], [n, e, d, p, q]),
        ("n is a square", &[], [&[0x40].into_iter().chain([0; 127]).collect::<Vec<u8>>(), e, d, p, p]),
    ] {
        let key = sequence(&[version, n, e, d, p, q, &[1], &[1], &[1]]);
        assert_eq!(created((PRIVATE, RAW, 0), &key), Err(ERR.into()), "{what}");
    }
    // What the key says of exponents and coefficient is not used.
    let key = sequence(&[&[], n, e, d, p, q, &[1], &[1], &[1]]);
    assert_eq!(created((PRIVATE, RAW, 0), &key), Ok(()));
    assert_eq!((driver.sim.stats().faults, driver.sim.stats().sessions), (0, 0));
}

/// Any byte of a key may be anything.
#[test]
fn whatever_a_key_says_the_device_goes_on() {
    let driver = &mut driver("");
    let mut rng = crate::rng::Rng::new(11);
    let Vectors { private, public, raw, .. } = &vectors()[0];
    let (mut taken, mut done) = (0, 0);
    for round in 0..1500 {
        let mark = driver.mark();
        let (kind, key) = if round % 3 == 0 { (PUBLIC, public) } else { (PRIVATE, private) };
        let mut key = key.clone();
        for _ in 0..rng.next() % 3 {
            let at = (rng.next() % key.len() as u64) as usize;
            key[at] = rng.next() as u8;
        }
        if let Ok(id) = session(driver, (kind, RAW, 0), &key) {
            taken += 1;
            for opcode in [ENCRYPT, DECRYPT] {
                let answer = ask(driver, &request(opcode, 1, id, &[128, 128]), &[raw], 128, 0).unwrap();
                done += u32::from(answer.status == OK);
            }
            driver.destroy_any(0x405, id);
        }
        driver.release(mark);
    }
    assert!(taken > 300 && done > 300, "{taken} keys were taken, {done} operations done");
    assert_eq!(driver.sim.stats().faults, 0);
}

/// What takes long ends a turn early: whoever wants a register need not wait for the whole queue.
#[test]
fn long_keys_do_not_keep_the_device_to_themselves() {
    for options in ["", "latency=1ns", "fault=slow@1000000"] {
        let driver = &mut driver(options);
        let Vectors { len, public, .. } = &vectors()[2];
        let key = session(driver, (PUBLIC, RAW, 0), public).unwrap();
        let sha = super::services::hash(driver, 4, 32).unwrap();
        let asymmetric = [request(ENCRYPT, 1, key, &[512, 512]), raw_plain(*len)].concat();
        let asymmetric = (driver.put(&asymmetric), asymmetric.len() as u32, false);
        let symmetric = driver.put(&[request(0x100, 4, sha, &[64, 32]), vec![1; 64]].concat());
        let out = (driver.put(&[0; 513]), 513, true);
        let core = driver.sim.core_for_test().upgrade().unwrap();
        let turns = |driver: &mut Driver, input, count| {
            (0..count).for_each(|_| _ = driver.submit(0, &[input, out], true));
            core.device().kicked(0);
            let mut turns = Vec::new();
            while turns.iter().sum::<usize>() < count {
                driver.sim.advance(std::time::Duration::from_nanos(1));
                turns.push(core.device().round());
                assert!(turns.len() <= 2 * count, "{turns:?}");
            }
            turns.retain(|done| *done != 0);
            turns
        };
        assert_eq!(turns(driver, asymmetric, 3), [1, 1, 1], "{options}");
        assert_eq!(turns(driver, (symmetric, 136, false), 100), [64, 36], "{options}");
    }
}

#[test]
fn what_is_not_offered_is_not_supported_and_what_is_not_computed_is_counted() {
    let Vectors { private, public, .. } = &vectors()[0];
    let mut driver = driver("services=cipher+hash");
    assert_eq!(session(&mut driver, (PUBLIC, PKCS1, 6), public), Err(3));
    assert_eq!(operate(&mut driver, ENCRYPT, 0, &[1; 16], 128), status(NOTSUPP, 128));
    assert_eq!(driver.destroy_any(0x405, 0), NOTSUPP);

    let mut driver = super::services::driver("compute=none");
    let key = session(&mut driver, (PRIVATE, PKCS1, 6), private).unwrap();
    for (opcode, len) in [(ENCRYPT, 129), (DECRYPT, 129), (SIGN, 129)] {
        let answer = operate(&mut driver, opcode, key, &[1; 32], 128);
        assert_eq!(answer, Answer { status: OK, len, out: vec![0xee; 128] });
    }
    assert_eq!(verify(&mut driver, key, &[1; 128], &[1; 32]), OK);
}

#[test]
fn qemu_has_no_other_hashes_and_ends_where_services_are_mixed() {
    let Vectors { private, public, sha256, .. } = &vectors()[0];
    let mut driver = driver("quirks=qemu");
    let driver = &mut driver;
    for (padding, hash, created) in [
        (RAW, 0, true),
        (RAW, 99, true),
        (PKCS1, 4, true),
        (PKCS1, 5, true),
        (PKCS1, 6, true),
        (PKCS1, 8, true),
        (PKCS1, 0, false),
        (PKCS1, 7, false),
        (PKCS1, 9, false),
        (2, 6, false),
    ] {
        let result = session(driver, (PUBLIC, padding, hash), public);
        assert_eq!(result.is_ok(), created, "padding {padding}, hash {hash}");
        assert!(created || result == Err(1));
    }
    let signer = session(driver, (PRIVATE, PKCS1, 6), private).unwrap();
    assert!(signer < 256);
    let signing = request(SIGN, 0, signer, &[32, 128]);
    let answer = ask(driver, &signing, &[&hex(SHA256)], 200, 0).unwrap();
    assert_eq!((answer.status, answer.len), (OK, 129), "what was written");
    assert_eq!(answer.out[..128], sha256[..]);
    let short = request(SIGN, 0, signer, &[32, 127]);
    let answer = ask(driver, &short, &[&hex(SHA256)], 200, 0).unwrap();
    assert_eq!((answer.status, answer.len), (ERR, 201), "all there is to write");
    assert_eq!(verify(driver, signer, sha256, &hex(SHA256)), OK);
    assert_eq!(verify(driver, signer, sha256, &[1; 32]), KEY_REJECTED);
    assert_eq!(verify(driver, signer, &sha256[1..], &[1; 31]), KEY_REJECTED);
    let raw = session(driver, (PRIVATE, RAW, 0), private).unwrap();
    assert_eq!(verify(driver, raw, sha256, &[1; 32]), KEY_REJECTED);
    // They share the table with ciphers, and outlive a reset.
    let before = driver.sim.stats().sessions;
    for _ in before..256 {
        driver.create(3, 1, &[0; 16]).unwrap();
    }
    assert_eq!(session(driver, (PUBLIC, RAW, 0), public), Err(1));
    driver.start(super::driver::ALL);
    assert_eq!(verify(driver, signer, sha256, &hex(SHA256)), OK);
    // Lengths that cannot be, and sessions of the other kind, end the device.
    let mut cipher = request(0, 3, signer, &[16, 16, 16]);
    cipher[64] = 1;
    for request in [
        request(SIGN, 1, signer, &[33, 128]),
        request(SIGN, 1, signer, &[32, 300]),
        request(VERIFY, 1, signer, &[32, 1]),
        cipher,
        request(SIGN, 1, before as u64, &[32, 128]),
    ] {
        assert_eq!(ask(driver, &request, &[&[1; 32]], 200, 0), None);
        assert_eq!(driver.status() & 0x40, 0x40, "{request:?}");
        driver.start(super::driver::ALL);
    }
}
