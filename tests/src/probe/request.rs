//! Requests: sessions and ciphers, and what comes back.

use super::raw::{CONTROL, DATA, Form, Outcome, Piece, Raw, UNTOUCHED, word};

/// AES-CBC.
pub(super) const CBC: u32 = 3;
pub(super) const ENCRYPT: u32 = 1;
pub(super) const DECRYPT: u32 = 2;

/// NIST SP 800-38A, F.2: keys, IV, the first two blocks.
pub(super) const KEY: [u8; 32] = [
    0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81, 0x1f,
    0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
];
pub(super) const KEY_192: [u8; 24] = [
    0x8e, 0x73, 0xb0, 0xf7, 0xda, 0x0e, 0x64, 0x52, 0xc8, 0x10, 0xf3, 0x2b, 0x80, 0x90, 0x79, 0xe5, 0x62,
    0xf8, 0xea, 0xd2, 0x52, 0x2c, 0x6b, 0x7b,
];
pub(super) const KEY_128: [u8; 16] =
    [0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c];
pub(super) const IV: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
pub(super) const PLAIN: [u8; 32] = [
    0x6b, 0xc1, 0xbe, 0xe2, 0x2e, 0x40, 0x9f, 0x96, 0xe9, 0x3d, 0x7e, 0x11, 0x73, 0x93, 0x17, 0x2a, 0xae,
    0x2d, 0x8a, 0x57, 0x1e, 0x03, 0xac, 0x9c, 0x9e, 0xb7, 0x6f, 0xac, 0x45, 0xaf, 0x8e, 0x51,
];

fn set(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// A request to create a session.
#[derive(Clone, Debug)]
pub(super) struct Create {
    pub(super) opcode: u32,
    pub(super) header_algo: u32,
    pub(super) queue_id: u32,
    pub(super) algo: u32,
    pub(super) op: u32,
    pub(super) op_type: u32,
    pub(super) key_len: u32,
    pub(super) key: Vec<u8>,
}

impl Create {
    pub(super) fn new(algo: u32, op: u32, key: &[u8]) -> Self {
        let key_len = key.len() as u32;
        Self { opcode: 2, header_algo: algo, queue_id: 0, algo, op, op_type: 1, key_len, key: key.to_vec() }
    }

    /// The fixed part.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 72];
        let fields = [
            (0, self.opcode),
            (4, self.header_algo),
            (12, self.queue_id),
            (16, self.algo),
            (20, self.key_len),
            (24, self.op),
            (64, self.op_type),
        ];
        for (at, value) in fields {
            set(&mut bytes, at, value);
        }
        bytes
    }

    /// As it is usually posted.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = vec![Piece::Read(self.bytes())];
        if !self.key.is_empty() {
            pieces.push(Piece::Read(self.key.clone()));
        }
        pieces.push(Piece::Write(16));
        pieces
    }
}

/// What a reply to a creation says: status, id, and as text.
pub(super) fn created(outcome: &Outcome) -> (Option<u64>, String) {
    let Outcome::Done { len, written } = outcome else { return (None, outcome.to_string()) };
    let (status, id) = (word(written, 8), u64::from(word(written, 0)) | u64::from(word(written, 4)) << 32);
    let text = format!("status {status}, used.len {len}");
    (if status == 0 { Some(id) } else { None }, text)
}

impl Raw {
    /// Asks for a session: its id, or what happened instead.
    pub(super) fn create(&mut self, create: &Create) -> Result<u64, String> {
        let (id, text) = created(&self.ask(CONTROL, &create.pieces(), Form::Chain));
        id.ok_or(text)
    }

    /// A session that must be.
    pub(super) fn session(&mut self, op: u32) -> u64 {
        self.create(&Create::new(CBC, op, &KEY_128)).expect("a session")
    }

    /// Two more requests on the control queue.
    pub(super) fn session_and_back(&mut self) {
        let id = self.session(ENCRYPT);
        self.destroy(id);
    }

    /// Destroys a session, which must exist (or the device be a simulated one).
    pub(super) fn destroy(&mut self, id: u64) -> String {
        self.destroy_as(3, id)
    }

    pub(super) fn destroy_as(&mut self, opcode: u32, id: u64) -> String {
        let mut bytes = vec![0; 72];
        set(&mut bytes, 0, opcode);
        bytes[16..24].copy_from_slice(&id.to_le_bytes());
        match self.ask(CONTROL, &[Piece::Read(bytes), Piece::Write(1)], Form::Chain) {
            Outcome::Done { len, written } => format!("status {}, used.len {len}", written[0]),
            other => other.to_string(),
        }
    }

    /// Ends an experiment: the device well again, the sessions gone.
    pub(super) fn clean(&mut self, ids: &[u64]) {
        self.start();
        for id in ids {
            self.destroy(*id);
        }
    }
}

/// A cipher request.
#[derive(Clone, Debug)]
pub(super) struct Cipher {
    pub(super) opcode: u32,
    pub(super) algo: u32,
    pub(super) session: u64,
    pub(super) iv_len: u32,
    pub(super) src_len: u32,
    pub(super) dst_len: u32,
    pub(super) op_type: u32,
    pub(super) iv: Vec<u8>,
    pub(super) src: Vec<u8>,
    /// Bytes of room for the destination; the status byte follows in a descriptor of its own.
    pub(super) dst: usize,
}

impl Cipher {
    /// Encrypts `src` with the standard IV.
    pub(super) fn new(session: u64, src: &[u8]) -> Self {
        let len = src.len() as u32;
        Self {
            opcode: 0,
            algo: CBC,
            session,
            iv_len: 16,
            src_len: len,
            dst_len: len,
            op_type: 1,
            iv: IV.to_vec(),
            src: src.to_vec(),
            dst: src.len(),
        }
    }

    pub(super) fn header(&self) -> Vec<u8> {
        let mut bytes = vec![0; 72];
        let fields = [
            (0, self.opcode),
            (4, self.algo),
            (24, self.iv_len),
            (28, self.src_len),
            (32, self.dst_len),
            (64, self.op_type),
        ];
        for (at, value) in fields {
            set(&mut bytes, at, value);
        }
        bytes[8..16].copy_from_slice(&self.session.to_le_bytes());
        bytes
    }

    /// As it is usually posted; empty parts have no descriptor.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = vec![Piece::Read(self.header())];
        for part in [&self.iv, &self.src] {
            if !part.is_empty() {
                pieces.push(Piece::Read(part.clone()));
            }
        }
        if self.dst != 0 {
            pieces.push(Piece::Write(self.dst));
        }
        pieces.push(Piece::Write(1));
        pieces
    }
}

/// The outcome of a cipher request as text.
pub(super) fn answered(outcome: &Outcome) -> String {
    let Outcome::Done { len, written } = outcome else { return outcome.to_string() };
    let (status, dst) = written.split_last().expect("a status byte");
    let dst = match dst {
        [] => String::new(),
        dst if dst.iter().all(|byte| *byte == UNTOUCHED) => ", dst untouched".to_owned(),
        dst if dst.len() > 48 => format!(", dst {} ... {}", hex(&dst[..8]), hex(&dst[dst.len() - 8..])),
        dst => format!(", dst {}", hex(dst)),
    };
    format!("status {status}, used.len {len}{dst}")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Raw {
    /// Posts a cipher request as usual and says what came.
    pub(super) fn cipher(&mut self, request: &Cipher) -> String {
        self.cipher_as(&request.pieces(), Form::Chain)
    }

    pub(super) fn cipher_as(&mut self, pieces: &[Piece], form: Form) -> String {
        answered(&self.ask(DATA, pieces, form))
    }
}
