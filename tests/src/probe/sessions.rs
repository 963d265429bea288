//! Experiments on the control queue.

use super::Report;
use super::raw::{CONTROL, Form, Piece, Raw, reg};
use super::request::{CBC, Cipher, Create, DECRYPT, ENCRYPT, KEY_128, PLAIN, created};

/// The algorithms of the specification.
const NAMES: [&str; 13] = [
    "arc4",
    "aes-ecb",
    "aes-cbc",
    "aes-ctr",
    "des-ecb",
    "des-cbc",
    "3des-ecb",
    "3des-cbc",
    "3des-ctr",
    "kasumi-f8",
    "snow3g-uea2",
    "aes-f8",
    "aes-xts",
];

pub(super) fn run(raw: &mut Raw, report: &mut Report<'_>) {
    algorithms(raw, report);
    others(raw, report);
    shapes(raw, report);
    ids(raw, report);
    full(raw, report);
    over_reset(raw, report);
}

/// Which algorithms with which keys.
fn algorithms(raw: &mut Raw, report: &mut Report<'_>) {
    // Eight different bytes: a weak key would be refused for another reason.
    let key: Vec<u8> = (0..65_u8).map(|at| at.wrapping_mul(37) ^ 0x5a).collect();
    for (algo, name) in (1..).zip(NAMES) {
        let mut seen = Vec::new();
        for len in [0, 8, 15, 16, 24, 32, 33, 64] {
            raw.start();
            let result = raw.create(&Create::new(algo, ENCRYPT, &key[..len]));
            seen.push(format!("key {len}: {}", end(raw, result)));
        }
        report.say(format_args!("create {name}"), seen.join("; "));
    }
    raw.start();
    let result = raw.create(&Create::new(CBC, ENCRYPT, &key[..65]));
    let seen = end(raw, result);
    report.say("create aes-cbc, key 65", seen);
    for algo in [0, 14, 0xffff_ffff] {
        raw.start();
        let result = raw.create(&Create::new(algo, ENCRYPT, &KEY_128));
        let seen = end(raw, result);
        report.say(format_args!("create algorithm {algo:#x}"), seen);
    }
}

/// Says what came of a creation, and destroys what was created.
fn end(raw: &mut Raw, result: Result<u64, String>) -> String {
    match result {
        Ok(id) => {
            raw.destroy(id);
            "ok".to_owned()
        }
        Err(text) => text,
    }
}

/// Other fields, other services.
fn others(raw: &mut Raw, report: &mut Report<'_>) {
    let good = Create::new(CBC, ENCRYPT, &KEY_128);
    let variants: [(&str, Create); 11] = [
        ("direction 0", Create { op: 0, ..good.clone() }),
        ("direction 2", Create { op: 2, ..good.clone() }),
        ("direction 3", Create { op: 3, ..good.clone() }),
        ("header algorithm 0", Create { header_algo: 0, ..good.clone() }),
        ("header algorithm 99", Create { header_algo: 99, ..good.clone() }),
        ("queue_id 1", Create { queue_id: 1, ..good.clone() }),
        ("queue_id 7", Create { queue_id: 7, ..good.clone() }),
        ("op_type 0", Create { op_type: 0, ..good.clone() }),
        ("op_type 2, chaining", Create { op_type: 2, ..good.clone() }),
        ("op_type 3", Create { op_type: 3, ..good.clone() }),
        ("key_len 17, key 17", Create { key_len: 17, key: vec![1; 17], ..good.clone() }),
    ];
    for (what, create) in variants {
        raw.start();
        let result = raw.create(&create);
        let seen = end(raw, result);
        report.say(format_args!("create with {what}"), seen);
    }
    for (what, opcode) in [
        ("hash", 0x102),
        ("MAC", 0x202),
        ("AEAD", 0x302),
        ("unknown 0x000", 0),
        ("unknown 0x502", 0x502),
        ("unknown 0xffffffff", 0xffff_ffff),
    ] {
        raw.start();
        let result = raw.create(&Create { opcode, ..good.clone() });
        let seen = end(raw, result);
        report.say(format_args!("create, opcode {what}"), seen);
    }
    // An asymmetric session without a key that could be read.
    raw.start();
    let result =
        raw.create(&Create { opcode: 0x404, header_algo: 1, algo: 1, key_len: 1, op: 16, ..good.clone() });
    let seen = end(raw, result);
    report.say("create, opcode AKCIPHER, a key that is none", seen);
}

/// Chains of other shapes.
fn shapes(raw: &mut Raw, report: &mut Report<'_>) {
    let good = Create::new(CBC, ENCRYPT, &KEY_128);
    let (header, key) = (good.bytes(), good.key.clone());
    let whole = [header.clone(), key.clone()].concat();
    let read = |bytes: &[u8]| Piece::Read(bytes.to_vec());
    let shapes: [(&str, Vec<Piece>); 14] = [
        ("header and key in one descriptor", vec![read(&whole), Piece::Write(16)]),
        ("header cut at 20", vec![read(&whole[..20]), read(&whole[20..]), Piece::Write(16)]),
        (
            "key cut at 5, reply cut at 9",
            vec![read(&header), read(&key[..5]), read(&key[5..]), Piece::Write(9), Piece::Write(7)],
        ),
        ("header of 71 bytes", vec![read(&header[..71]), Piece::Write(16)]),
        ("header of 16 bytes", vec![read(&header[..16]), Piece::Write(16)]),
        ("key missing", vec![read(&header), Piece::Write(16)]),
        ("key one byte short", vec![read(&header), read(&key[..15]), Piece::Write(16)]),
        ("16 bytes too many behind the key", vec![read(&header), read(&key), read(&key), Piece::Write(16)]),
        ("reply of 15 bytes", vec![read(&header), read(&key), Piece::Write(15)]),
        ("reply of 1 byte", vec![read(&header), read(&key), Piece::Write(1)]),
        ("reply of 32 bytes", vec![read(&header), read(&key), Piece::Write(32)]),
        ("no reply", vec![read(&header), read(&key)]),
        ("nothing to read", vec![Piece::Write(16)]),
        (
            "a zero-length descriptor",
            vec![read(&header), Piece::Raw(raw.iova, 0, 0), read(&key), Piece::Write(16)],
        ),
    ];
    for (what, pieces) in shapes {
        raw.start();
        let outcome = raw.ask(CONTROL, &pieces, Form::Chain);
        let status = raw.r8(reg::STATUS);
        let (id, text) = created(&outcome);
        report.say(format_args!("create, {what}"), format_args!("{text}, device status {status:#04x}"));
        // A reply too small for its status still may have made a session: ids are handed out in
        // order, so what follows would show it.
        raw.clean(id.as_slice());
    }
    raw.start();
    let outcome = raw.ask(CONTROL, &good.pieces(), Form::Table);
    let (id, text) = created(&outcome);
    report.say("create, indirect", text);
    raw.clean(id.as_slice());
}

/// An id as text: what is not small is the device's affair.
fn name(id: u64) -> String {
    if id < 0x1_0000 { id.to_string() } else { "large".to_owned() }
}

fn ids(raw: &mut Raw, report: &mut Report<'_>) {
    raw.start();
    let ids: Vec<u64> = (0..4).map(|_| raw.session(ENCRYPT)).collect();
    let names: Vec<String> = ids.iter().map(|id| name(*id)).collect();
    report.say("ids of four sessions", names.join(" "));
    let seen = raw.destroy(ids[1]);
    report.say("destroy the second", seen);
    let next = raw.session(DECRYPT);
    report.say("id of the next", format_args!("{}, the same again: {}", name(next), next == ids[1]));
    for (what, opcode, id) in [("hash", 0x103, ids[0]), ("MAC", 0x203, next), ("AEAD", 0x303, ids[2])] {
        let seen = raw.destroy_as(opcode, id);
        report.say(format_args!("destroy a cipher session by the {what} opcode"), seen);
        // Whether it is gone: only a device that refused has it still.
        let seen = raw.cipher(&Cipher::new(id, &PLAIN[..16]));
        let live = seen.starts_with("status 0");
        report.say("... is it live", live);
        if live {
            raw.destroy(id);
        }
    }
    let seen = raw.destroy(ids[3]);
    report.say("destroy the last", seen);
    // A reply with more room than the status byte.
    let id = raw.session(ENCRYPT);
    let mut bytes = vec![0; 72];
    bytes[0] = 3;
    bytes[16..24].copy_from_slice(&id.to_le_bytes());
    let outcome = raw.ask(CONTROL, &[Piece::Read(bytes), Piece::Write(4)], Form::Chain);
    let seen = match &outcome {
        super::raw::Outcome::Done { len, written } => {
            format!("used.len {len}, reply {}", super::request::hex(written))
        }
        other => other.to_string(),
    };
    report.say("destroy with a reply of 4 bytes", seen);
}

fn full(raw: &mut Raw, report: &mut Report<'_>) {
    raw.start();
    let create = Create::new(CBC, ENCRYPT, &KEY_128);
    let mut ids = Vec::new();
    let refused = loop {
        if ids.len() % 64 == 0 {
            raw.forget();
        }
        match raw.create(&create) {
            Ok(id) => ids.push(id),
            Err(text) => break text,
        }
        if ids.len() > 1024 {
            break "none".to_owned();
        }
    };
    report.say("sessions until one is refused", format_args!("{}, then {refused}", ids.len()));
    raw.destroy(ids[100]);
    let again = raw.session(ENCRYPT);
    report.say("one destroyed, one created: its id again", again == ids[100]);
    ids[100] = again;
    for (at, id) in ids.iter().enumerate() {
        if at % 64 == 0 {
            raw.forget();
        }
        raw.destroy(*id);
    }
}

fn over_reset(raw: &mut Raw, report: &mut Report<'_>) {
    raw.start();
    let id = raw.session(ENCRYPT);
    raw.start();
    let request = Cipher::new(id, &PLAIN[..16]);
    let seen = raw.cipher(&request);
    report.say("session after a reset of the device", seen);
    raw.clean(&[id]);
}
