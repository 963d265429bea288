//! Requests that are no plain ciphers on one buffer, with what an honest device makes of them.

use std::sync::OnceLock;

use ringbell::{
    Aead, AeadKey, Answer, Buffers, Cipher, CipherKey, Device, DeviceOptions, Direction, Hash, Hasher, Mac,
    MacKey, ManualPoller, PollerConfig, Request, RsaHash, RsaKey, RsaPadding, WaitCtx,
};

use ringbell::sim::{Sim, SimConfig};

const RSA_KEY: &str = include_str!("../../data/rsa/1024.pem");

/// How many there are.
pub(super) const COUNT: usize = 10;

/// What an honest device answers, and writes.
pub(super) struct Truth {
    pub(super) answer: Answer,
    pub(super) output: Vec<u8>,
}

/// Keys for them, as far as the device has what they are for.
pub(super) struct Others {
    hasher: Option<Hasher>,
    mac: Option<MacKey>,
    aead: Option<AeadKey>,
    cipher: Option<CipherKey>,
    rsa: Option<RsaKey>,
}

impl Others {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            hasher: device.hasher(Hash::Sha3_256).ok(),
            mac: device.mac_key(Mac::HmacSha512, &[3; 150]).ok(),
            aead: device.aead_key(Aead::Aes128Gcm, &[2; 16]).ok(),
            cipher: device.cipher_key(Cipher::Aes128Xts, &(0..32).collect::<Vec<u8>>()).ok(),
            rsa: device.rsa_key(RsaPadding::Pkcs1(RsaHash::Sha1), RSA_KEY.as_bytes()).ok(),
        }
    }

    /// Request number `which`, with its input cut as `shape` says. `None` where there is no room, or no key,
    /// or where it does not fit.
    pub(super) fn request(&self, device: &Device, which: usize, shape: u8) -> Option<Request> {
        let cut = |data: &[u8]| pieces(device, data, shape);
        let room = |len: usize| {
            let mut buffers = pieces(device, &vec![0xa5; len], shape >> 4)?;
            buffers.pieces_mut().iter_mut().for_each(|piece| piece.fill(0xa5));
            Some(buffers)
        };
        let (data, nonce, aad) = ([0; 45], [1; 12], b"associated");
        match which % COUNT {
            0 => self.hasher.as_ref()?.digest(cut(&data)?).ok(),
            1 => self.mac.as_ref()?.compute(cut(&data)?).ok(),
            2 => self.cipher.as_ref()?.scatter(Direction::Encrypt, &[5; 16], cut(&data)?, None).ok(),
            3 => {
                let to = room(data.len())?;
                self.cipher.as_ref()?.scatter(Direction::Decrypt, &[5; 16], cut(&data)?, Some(to)).ok()
            }
            4 => self.aead.as_ref()?.seal_into(&nonce, aad, cut(&data)?, room(data.len() + 16)?).ok(),
            5 => {
                let mut whole = device.buffer(data.len() + 16).ok()?;
                whole.set_len(data.len()).ok()?;
                whole.copy_from_slice(&data);
                self.aead.as_ref()?.seal(&nonce, b"", whole).ok()
            }
            // What nobody has sealed: the answer is no.
            6 => self.aead.as_ref()?.open(&nonce, aad, cut(&data)?).ok(),
            7 => self.rsa.as_ref()?.sign(cut(&[7; 20])?).ok(),
            8 => self.rsa.as_ref()?.verify(cut(&[1; 128])?, cut(&[7; 20])?).ok(),
            _ => self.rsa.as_ref()?.verify(cut(signature())?, cut(&[7; 20])?).ok(),
        }
    }
}

/// `data` in one to four buffers.
fn pieces(device: &Device, data: &[u8], shape: u8) -> Option<Buffers> {
    let count = usize::from(shape & 3) + 1;
    let step = 1 + usize::from(shape >> 2 & 3) * data.len() / 4;
    let mut rest = data;
    let mut buffers = Buffers::new();
    for piece in 1..=count {
        let now = if piece == count { rest.len() } else { step.min(rest.len()) };
        let (part, behind) = rest.split_at(now);
        buffers.push(device.buffer_from(part).ok()?);
        rest = behind;
    }
    Some(buffers)
}

/// What becomes of each at an honest device.
pub(super) fn truths() -> &'static [Truth] {
    static TRUTHS: OnceLock<Vec<Truth>> = OnceLock::new();
    TRUTHS.get_or_init(|| ask(&(0..COUNT).collect::<Vec<_>>()))
}

/// What number 7 gives, for number 9 to verify.
fn signature() -> &'static [u8] {
    static SIGNATURE: OnceLock<Vec<u8>> = OnceLock::new();
    SIGNATURE.get_or_init(|| ask(&[7]).pop().map(|truth| truth.output).unwrap_or_default())
}

/// Asks an honest device.
fn ask(which: &[usize]) -> Vec<Truth> {
    let sim = Sim::stepped(SimConfig::default()).expect("a simulator");
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).expect("a device");
    let mut poller = ManualPoller::new([&device], PollerConfig::default()).expect("a poller");
    let others = Others::new(&device);
    let ctx = WaitCtx::new();
    let mut run = |which: usize| {
        let mut request = others.request(&device, which, 0).expect("a request");
        for _ in 0..100 {
            match request.submit(&ctx) {
                Ok(()) => {
                    sim.step();
                    poller.poll();
                    let done = ctx.take().expect("an answer");
                    let output = done.request().outputs().flatten().copied().collect();
                    return Truth { answer: done.result().expect("an answer"), output };
                }
                Err(refused) => request = refused.into_request(),
            }
            poller.poll();
        }
        panic!("request {which} is not taken");
    };
    which.iter().map(|which| run(*which)).collect()
}
