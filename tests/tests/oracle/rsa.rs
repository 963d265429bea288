//! RSA: raw and with PKCS #1 padding, 1024 to 4096 bits, also sizes that are no whole bytes.

use openssl::bn::BigNum;
use openssl::pkey::Private;
use openssl::rsa::{Padding, Rsa};
use ringbell::{Answer, Completion, Device, Fault, Request, RsaHash, RsaKey, RsaPadding, Status, WaitCtx};

use crate::common::evp::{self, RSA_SIZES, rsa_decrypt, rsa_encrypt, rsa_key, rsa_sign, rsa_verify};
use crate::common::{Rng, output, run, scattered};
use crate::device;

const PKCS1: RsaPadding = RsaPadding::Pkcs1(RsaHash::Sha256);

fn at(device: &Device, padding: RsaPadding, key: &Rsa<Private>) -> RsaKey {
    device.rsa_key(padding, &key.private_key_to_der().unwrap()).unwrap()
}

fn done(request: Result<Request, ringbell::NotMade>, ctx: &WaitCtx) -> Completion {
    run(request.unwrap(), ctx)
}

fn yes(request: Result<Request, ringbell::NotMade>, ctx: &WaitCtx) -> Vec<u8> {
    let done = done(request, ctx);
    assert_eq!((done.result(), ctx.status()), (Ok(Answer::Yes), Status::Ok));
    output(&done)
}

/// A number below the modulus, as long as it.
fn below_modulus(key: &Rsa<Private>, rng: &mut Rng) -> Vec<u8> {
    loop {
        let mut number = rng.bytes(key.size() as usize);
        let spare = 8 * key.size() as usize - key.n().num_bits() as usize;
        number[0] &= 0xff >> spare;
        if rng.one_in(4) {
            // Leading zeros are kept.
            let zeros = rng.below(5);
            number[..zeros].fill(0);
        }
        if BigNum::from_slice(&number).unwrap().ucmp(key.n()).is_lt() {
            return number;
        }
    }
}

#[test]
fn raw_encryption_and_decryption_are_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(1));
    for bits in RSA_SIZES {
        let oracle = rsa_key(bits);
        let key = at(&device, RsaPadding::Raw, &oracle);
        assert_eq!((key.bits(), key.size(), key.is_private()), (bits, bits.div_ceil(8), true));
        for round in 0..4 {
            let number = match round {
                0 => vec![0; key.size()],
                _ => below_modulus(&oracle, &mut rng),
            };
            let pieces = 1 + rng.below(4);
            let sealed = yes(key.encrypt(scattered(&device, &mut rng, &number, pieces)), &ctx);
            assert_eq!(sealed, rsa_encrypt(&oracle, Padding::NONE, &number), "{bits} bits");
            let opened = yes(key.decrypt(scattered(&device, &mut rng, &number, pieces)), &ctx);
            assert_eq!(opened, rsa_decrypt(&oracle, Padding::NONE, &number), "{bits} bits");
            assert_eq!(yes(key.decrypt(device.buffer_from(&sealed).unwrap()), &ctx), number, "{bits} bits");
        }
    }
    assert_eq!(device.stats().errors, 0);
    poller.shutdown();
}

#[test]
fn what_one_encrypts_with_padding_the_other_decrypts() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(2));
    for bits in RSA_SIZES {
        let oracle = rsa_key(bits);
        let key = at(&device, PKCS1, &oracle);
        let most = key.size() - 11;
        for len in [0, 1, 2, 32, most / 2, most - 1, most] {
            let mut data = rng.bytes(len);
            if len > 2 {
                // A zero is what ends the padding, not the data.
                data[0] = 0;
                data[len - 1] = 0;
            }
            let pieces = 1 + rng.below(4);
            let sealed = yes(key.encrypt(scattered(&device, &mut rng, &data, pieces)), &ctx);
            assert_eq!(sealed.len(), key.size());
            assert_eq!(rsa_decrypt(&oracle, Padding::PKCS1, &sealed), data, "{bits} bits, {len} bytes");
            let again = yes(key.encrypt(device.buffer_from(&data).unwrap()), &ctx);
            assert_ne!(again, sealed, "the padding is random");
            let sealed = rsa_encrypt(&oracle, Padding::PKCS1, &data);
            let opened = yes(key.decrypt(scattered(&device, &mut rng, &sealed, pieces)), &ctx);
            assert_eq!(opened, data, "{bits} bits, {len} bytes: as long as what was encrypted");
        }
        assert!(key.encrypt(device.buffer(most + 1).unwrap()).is_err(), "{bits} bits: too long");
    }
    assert_eq!(device.stats().errors, 0);
    poller.shutdown();
}

#[test]
fn a_ciphertext_with_a_wrong_padding_ends_with_an_error() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(3));
    let oracle = rsa_key(2048);
    let key = at(&device, PKCS1, &oracle);
    for padded in [
        vec![0; 256],
        [&[0, 2][..], &[7; 254]].concat(),
        [&[0, 1][..], &[0xff; 200], &[0], &[3; 53]].concat(),
        [&[0, 2][..], &[7; 7], &[0], &[3; 246]].concat(),
        [&[1, 2][..], &[7; 100], &[0], &[3; 153]].concat(),
    ] {
        let sealed = rsa_encrypt(&oracle, Padding::NONE, &padded);
        let done = done(key.decrypt(scattered(&device, &mut rng, &sealed, 2)), &ctx);
        assert!(matches!(done.result(), Err(Fault::Device(_))), "{:?}", done.result());
        assert_eq!((output(&done).len(), ctx.status()), (0, Status::Err));
    }
    // A number that is none below the modulus.
    let done = done(key.decrypt(device.buffer_from(&[0xff; 256]).unwrap()), &ctx);
    assert!(matches!(done.result(), Err(Fault::Device(_))), "{:?}", done.result());
    poller.shutdown();
}

#[test]
fn signatures_are_equal_to_libcryptos_byte_for_byte() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(4));
    for bits in RSA_SIZES {
        let oracle = rsa_key(bits);
        for hash in RsaHash::ALL {
            let key = at(&device, RsaPadding::Pkcs1(hash), &oracle);
            let digest = rng.bytes(hash.hash().output_len());
            let pieces = 1 + rng.below(3);
            let signature = yes(key.sign(scattered(&device, &mut rng, &digest, pieces)), &ctx);
            assert_eq!(signature, rsa_sign(&oracle, hash, &digest), "{bits} bits, {hash:?}");
            assert!(rsa_verify(&oracle, hash, &digest, &signature));
        }
    }
    poller.shutdown();
}

#[test]
fn signatures_verify_and_changed_ones_do_not() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(5));
    let mut no = 0;
    for bits in RSA_SIZES {
        let oracle = rsa_key(bits);
        for hash in RsaHash::ALL {
            let public = oracle.public_key_to_der_pkcs1().unwrap();
            let key = device.rsa_key(RsaPadding::Pkcs1(hash), &public).unwrap();
            assert!(!key.is_private());
            let digest = rng.bytes(hash.hash().output_len());
            let signature = rsa_sign(&oracle, hash, &digest);
            let mut answer = |signature: &[u8], digest: &[u8]| {
                let (from, of) = (1 + rng.below(3), 1 + rng.below(3));
                let signature = scattered(&device, &mut rng, signature, from);
                let digest = scattered(&device, &mut rng, digest, of);
                let done = done(key.verify(signature, digest), &ctx);
                assert_eq!(ctx.status(), Status::Ok, "{bits} bits, {hash:?}: {:?}", done.result());
                assert!(output(&done).is_empty());
                done.result().unwrap()
            };
            assert_eq!(answer(&signature, &digest), Answer::Yes, "{bits} bits, {hash:?}");
            let mut changed = digest.clone();
            *changed.last_mut().unwrap() ^= 1;
            assert_eq!(answer(&signature, &changed), Answer::No);
            for at in [1, signature.len() / 2, signature.len() - 1] {
                let mut changed = signature.clone();
                changed[at] ^= 0x10;
                assert_eq!(answer(&changed, &digest), Answer::No, "{bits} bits, {hash:?}, byte {at}");
            }
            assert_eq!(answer(&vec![0; key.size()], &digest), Answer::No);
            let mut one = vec![0; key.size()];
            one[key.size() - 1] = 1;
            assert_eq!(answer(&one, &digest), Answer::No);
            no += 6;
        }
    }
    let stats = device.stats();
    assert_eq!((stats.errors, stats.faults), (0, 0), "{no} answers of no are no errors");
    poller.shutdown();
}

#[test]
fn a_signature_of_another_hash_function_or_key_does_not_verify() {
    let (device, poller) = device("sim:");
    let ctx = WaitCtx::new();
    let oracle = rsa_key(2048);
    let digest = [0x31; 32];
    let key = at(&device, PKCS1, &oracle);
    let verify = |signature: &[u8]| {
        let request =
            key.verify(device.buffer_from(signature).unwrap(), device.buffer_from(&digest).unwrap());
        done(request, &ctx).result()
    };
    // As long as one of SHA-256, and says that it is one of SHA-224.
    let other = rsa_sign(&oracle, RsaHash::Sha224, &digest[..28]);
    assert_eq!(verify(&other), Ok(Answer::No));
    let another = Rsa::private_key_from_pem(evp::rsa_pem("2048-e3").as_bytes()).unwrap();
    assert_eq!(verify(&rsa_sign(&another, RsaHash::Sha256, &digest)), Ok(Answer::No));
    assert_eq!(verify(&rsa_sign(&oracle, RsaHash::Sha256, &digest)), Ok(Answer::Yes));
    let small = at(&device, PKCS1, &another);
    let signature = rsa_sign(&another, RsaHash::Sha256, &digest);
    let request = small.verify(device.buffer_from(&signature).unwrap(), device.buffer_from(&digest).unwrap());
    assert_eq!(done(request, &ctx).result(), Ok(Answer::Yes), "3 as the public exponent");
    poller.shutdown();
}
