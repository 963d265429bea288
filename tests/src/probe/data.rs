//! Experiments on the data queue: one request at a time, then many.

use super::Report;
use super::raw::{DATA, EVENT_IDX, Form, INDIRECT, Outcome, Piece, Raw, Setup, reg};
use super::request::{CBC, Cipher, Create, DECRYPT, ENCRYPT, KEY, KEY_128, KEY_192, PLAIN, answered, hex};

pub(super) fn run(raw: &mut Raw, report: &mut Report<'_>) {
    vectors(raw, report);
    fields(raw, report);
    stale_iv(raw, report);
    algorithms(raw, report);
    shapes(raw, report);
    sizes(raw, report);
    many(raw, report);
}

/// What the specification's vectors give.
fn vectors(raw: &mut Raw, report: &mut Report<'_>) {
    for (name, key) in [("128", &KEY_128[..]), ("192", &KEY_192), ("256", &KEY)] {
        raw.start();
        let encrypt = raw.create(&Create::new(CBC, ENCRYPT, key)).expect("a session");
        let decrypt = raw.create(&Create::new(CBC, DECRYPT, key)).expect("a session");
        let outcome = raw.ask(DATA, &Cipher::new(encrypt, &PLAIN).pieces(), Form::Chain);
        report.say(format_args!("aes-{name}-cbc encrypt"), answered(&outcome));
        if let Outcome::Done { written, .. } = outcome {
            let request = Cipher { opcode: 1, ..Cipher::new(decrypt, &written[..32]) };
            let seen = raw.cipher(&request);
            report.say(format_args!("aes-{name}-cbc decrypt"), seen);
        }
        raw.clean(&[encrypt, decrypt]);
    }
}

/// Runs `request` with a fresh device and a fresh session.
fn alone(
    raw: &mut Raw,
    report: &mut Report<'_>,
    what: &str,
    request: impl FnOnce(&Raw, Cipher) -> Vec<Piece>,
) {
    raw.start();
    let id = raw.session(ENCRYPT);
    let pieces = request(raw, Cipher::new(id, &PLAIN));
    let seen = raw.cipher_as(&pieces, Form::Chain);
    report.say(what, seen);
    raw.clean(&[id]);
}

/// Fields that are not as they should be.
fn fields(raw: &mut Raw, report: &mut Report<'_>) {
    type Change = fn(&mut Cipher);
    let variants: [(&str, Change); 27] = [
        ("opcode decrypt, session encrypt", |r| r.opcode = 1),
        ("header algorithm 0", |r| r.algo = 0),
        ("header algorithm 4", |r| r.algo = 4),
        ("session id + 1", |r| r.session += 1),
        ("session id 255", |r| r.session = 255),
        ("session id 256", |r| r.session = 256),
        ("session id 2^63", |r| r.session = 1 << 63),
        ("session id with high half 1", |r| r.session |= 1 << 32),
        ("iv_len 8, IV 16", |r| r.iv_len = 8),
        ("iv_len 8, IV 8", |r| (r.iv_len, r.iv) = (8, vec![0; 8])),
        ("iv_len 17, IV 17", |r| (r.iv_len, r.iv) = (17, vec![0; 17])),
        ("iv_len 32, IV 32", |r| (r.iv_len, r.iv) = (32, vec![0; 32])),
        ("src_len 16, dst_len 32", |r| (r.src_len, r.src) = (16, r.src[..16].to_vec())),
        ("src_len 32, dst_len 16", |r| (r.dst_len, r.dst) = (16, 16)),
        ("src_len 0, dst_len 0, nothing else", |r| {
            (r.src_len, r.dst_len, r.src, r.dst) = (0, 0, vec![], 0);
        }),
        ("src_len 24", |r| (r.src_len, r.dst_len, r.src, r.dst) = (24, 24, r.src[..24].to_vec(), 24)),
        ("src_len 1", |r| (r.src_len, r.dst_len, r.src, r.dst) = (1, 1, r.src[..1].to_vec(), 1)),
        ("dst of 16, dst_len 32", |r| r.dst = 16),
        ("dst of 31, dst_len 32", |r| r.dst = 31),
        ("dst of 48, dst_len 32", |r| r.dst = 48),
        ("src of 31, src_len 32", |r| r.src.truncate(31)),
        ("src of 48, src_len 32", |r| r.src.extend([1; 16])),
        ("src_len 16 MiB, 32 bytes there", |r| (r.src_len, r.dst_len) = (16 << 20, 16 << 20)),
        ("op_type 0", |r| r.op_type = 0),
        ("op_type 2, chaining", |r| r.op_type = 2),
        ("op_type 3", |r| r.op_type = 3),
        ("session id + 1, src_len 24", |r| (r.session, r.src_len, r.dst_len) = (r.session + 1, 24, 24)),
    ];
    for (what, change) in variants {
        alone(raw, report, what, |_, mut request| {
            change(&mut request);
            request.pieces()
        });
    }
    for (what, opcode) in [
        ("hash", 0x100),
        ("MAC", 0x200),
        ("AEAD encrypt", 0x300),
        ("unknown 2", 2),
        ("unknown 0x502", 0x502),
        ("unknown 0xffffffff", 0xffff_ffff),
    ] {
        alone(raw, report, &format!("opcode {what}"), |_, r| Cipher { opcode, ..r }.pieces());
    }
    // Only on a session that is not there: what one for a cipher would do was not tried.
    alone(raw, report, "opcode AKCIPHER encrypt, no such session", |_, r| {
        Cipher { opcode: 0x400, session: 200, iv_len: 32, src_len: 32, iv: vec![], ..r }.pieces()
    });
    // The session's direction decides.
    for direction in [DECRYPT, 0, 3] {
        raw.start();
        let what = format!("opcode encrypt, session of direction {direction}");
        match raw.create(&Create::new(CBC, direction, &KEY_128)) {
            Ok(id) => {
                let seen = raw.cipher(&Cipher::new(id, &PLAIN));
                report.say(what, seen);
                raw.clean(&[id]);
            }
            Err(text) => report.say(what, format_args!("create: {text}")),
        }
    }
}

/// No IV in a mode that has one.
fn stale_iv(raw: &mut Raw, report: &mut Report<'_>) {
    raw.start();
    let id = raw.session(ENCRYPT);
    let good = Cipher::new(id, &PLAIN);
    let none = Cipher { iv_len: 0, iv: vec![], ..good.clone() };
    for (what, request) in [
        ("iv_len 0 in a new session", &none),
        ("then with an IV", &good),
        ("then iv_len 0", &none),
        ("then iv_len 0 again", &none),
        ("then with an IV again", &good),
    ] {
        let seen = raw.cipher(request);
        report.say(what, seen);
    }
    raw.clean(&[id]);
}

/// Other ciphers, where they are taken.
fn algorithms(raw: &mut Raw, report: &mut Report<'_>) {
    let key: Vec<u8> = (0..64_u8).map(|at| at.wrapping_mul(37) ^ 0x5a).collect();
    for (name, algo, key_len, iv_lens) in [
        ("aes-ecb", 2, 16, [0, 16, 8]),
        ("aes-ctr", 4, 16, [16, 0, 8]),
        ("des-ecb", 5, 8, [0, 8, 16]),
        ("des-cbc", 6, 8, [8, 0, 16]),
        ("3des-ecb", 7, 24, [0, 8, 16]),
        ("3des-cbc", 8, 24, [8, 0, 16]),
        ("3des-ctr", 9, 24, [8, 0, 16]),
        ("aes-xts", 13, 32, [16, 0, 8]),
    ] {
        raw.start();
        match raw.create(&Create::new(algo, ENCRYPT, &key[..key_len])) {
            Ok(id) => {
                for iv_len in iv_lens {
                    for len in [32, 24, 20] {
                        let src = &PLAIN[..len];
                        let request = Cipher {
                            algo,
                            iv_len: iv_len as u32,
                            iv: vec![9; iv_len],
                            ..Cipher::new(id, src)
                        };
                        let seen = raw.cipher(&request);
                        report.say(format_args!("{name}, iv_len {iv_len}, src_len {len}"), seen);
                    }
                }
                raw.clean(&[id]);
            }
            Err(text) => report.say(name, format_args!("create: {text}")),
        }
    }
}

/// The same request in other descriptors.
fn shapes(raw: &mut Raw, report: &mut Report<'_>) {
    fn read(bytes: &[u8]) -> Piece {
        Piece::Read(bytes.to_vec())
    }
    type Shape = fn(&Raw, Cipher) -> Vec<Piece>;
    let shapes: [(&str, Shape); 24] = [
        ("header and IV in one descriptor", |_, r| {
            vec![read(&[r.header(), r.iv].concat()), read(&r.src), Piece::Write(32), Piece::Write(1)]
        }),
        ("all that is read in one descriptor, all that is written in another", |_, r| {
            vec![read(&[r.header(), r.iv, r.src].concat()), Piece::Write(33)]
        }),
        ("header cut at 24", |_, r| {
            let header = r.header();
            [vec![read(&header[..24]), read(&header[24..])], r.pieces()[1..].to_vec()].concat()
        }),
        ("IV cut at 5, src at 3 and 20, dst at 7", |_, r| {
            vec![
                read(&r.header()),
                read(&r.iv[..5]),
                read(&r.iv[5..]),
                read(&r.src[..3]),
                read(&r.src[3..20]),
                read(&r.src[20..]),
                Piece::Write(7),
                Piece::Write(25),
                Piece::Write(1),
            ]
        }),
        ("every byte a descriptor", |_, r| {
            let bytes = [r.header(), r.iv, r.src].concat();
            let mut pieces: Vec<_> = bytes.iter().map(|byte| read(&[*byte])).collect();
            pieces.extend((0..33).map(|_| Piece::Write(1)));
            pieces
        }),
        ("header of 71 bytes alone", |_, r| vec![read(&r.header()[..71]), Piece::Write(1)]),
        ("header of 24 bytes alone", |_, r| vec![read(&r.header()[..24]), Piece::Write(1)]),
        ("IV and src missing", |_, r| vec![read(&r.header()), Piece::Write(32), Piece::Write(1)]),
        ("dst missing", |_, r| vec![read(&r.header()), read(&r.iv), read(&r.src), Piece::Write(1)]),
        ("status byte missing", |_, r| vec![read(&r.header()), read(&r.iv), read(&r.src), Piece::Write(32)]),
        ("nothing to write", |_, r| vec![read(&r.header()), read(&r.iv), read(&r.src)]),
        ("nothing to read", |_, _| vec![Piece::Write(32), Piece::Write(1)]),
        ("status in a descriptor of 4 bytes", |_, r| {
            vec![read(&r.header()), read(&r.iv), read(&r.src), Piece::Write(32), Piece::Write(4)]
        }),
        ("dst of 32 in 2 descriptors, the second with the status", |_, r| {
            vec![read(&r.header()), read(&r.iv), read(&r.src), Piece::Write(16), Piece::Write(17)]
        }),
        ("zero-length descriptor first", |raw, r| [vec![Piece::Raw(raw.iova, 0, 0)], r.pieces()].concat()),
        ("zero-length readable in the middle", |raw, r| {
            vec![
                read(&r.header()),
                read(&r.iv),
                Piece::Raw(raw.iova, 0, 0),
                read(&r.src),
                Piece::Write(32),
                Piece::Write(1),
            ]
        }),
        ("zero-length writable in the middle", |raw, r| {
            vec![
                read(&r.header()),
                read(&r.iv),
                read(&r.src),
                Piece::Raw(raw.iova, 0, 2),
                Piece::Write(32),
                Piece::Write(1),
            ]
        }),
        ("zero-length writable last", |raw, r| [r.pieces(), vec![Piece::Raw(raw.iova, 0, 2)]].concat()),
        ("readable behind writable", |_, r| {
            vec![read(&r.header()), Piece::Write(32), read(&r.iv), read(&r.src), Piece::Write(1)]
        }),
        ("readable last", |_, r| [r.pieces(), vec![read(&[0; 4])]].concat()),
        ("an unknown descriptor flag", |raw, r| {
            // The same header, by a descriptor with flag 8.
            let at = raw.memory.len() - 4096;
            raw.put_at(at, &r.header());
            [vec![Piece::Raw(raw.bus(at), 72, 8)], r.pieces()[1..].to_vec()].concat()
        }),
        ("dst is src (in place)", |raw, r| {
            let at = raw.memory.len() - 4096;
            raw.put_at(at, &r.src);
            vec![
                read(&r.header()),
                read(&r.iv),
                Piece::Raw(raw.bus(at), 32, 0),
                Piece::Raw(raw.bus(at), 32, 2),
                Piece::Write(1),
            ]
        }),
        ("dst over a page's end", |raw, r| {
            let at = raw.memory.len() - 4096 - 16;
            vec![
                read(&r.header()),
                read(&r.iv),
                read(&r.src),
                Piece::Raw(raw.bus(at), 32, 2),
                Piece::Write(1),
            ]
        }),
        ("chain of 1023 writable bytes too many", |_, r| {
            let mut pieces = r.pieces();
            pieces.insert(4, Piece::Write(1023));
            pieces
        }),
    ];
    for (what, shape) in shapes {
        for (form, suffix) in [(Form::Chain, ""), (Form::Table, ", indirect")] {
            raw.start();
            let id = raw.session(ENCRYPT);
            let pieces = shape(raw, Cipher::new(id, &PLAIN));
            let at = raw.memory.len() - 4096;
            let seen = raw.cipher_as(&pieces, form);
            let place = match what {
                "dst is src (in place)" => format!(", there {}", hex(&raw.get(at, 32))),
                "dst over a page's end" => format!(", there {}", hex(&raw.get(at - 16, 32))),
                _ => String::new(),
            };
            report.say(format_args!("{what}{suffix}"), format_args!("{seen}{place}"));
            raw.clean(&[id]);
        }
    }
}

fn sizes(raw: &mut Raw, report: &mut Report<'_>) {
    for len in [4096, 65536, 1 << 20] {
        raw.start();
        let id = raw.session(ENCRYPT);
        let src: Vec<u8> = (0..len).map(|at: u32| (at ^ at >> 8) as u8).collect();
        let seen = raw.cipher(&Cipher::new(id, &src));
        report.say(format_args!("encrypt {len} bytes"), seen);
        raw.clean(&[id]);
    }
}

/// Full rings.
fn many(raw: &mut Raw, report: &mut Report<'_>) {
    for (what, form, features) in [
        ("full ring, indirect, EVENT_IDX", Form::Table, INDIRECT | EVENT_IDX),
        ("full ring, indirect", Form::Table, INDIRECT),
        ("full ring, chains of 5", Form::Chain, 0),
    ] {
        raw.start_as(Setup { features, ..Setup::default() });
        let id = raw.session(ENCRYPT);
        let pieces = Cipher::new(id, &PLAIN[..16]).pieces();
        let size = raw.queues[DATA].size;
        let count = if form == Form::Table { size } else { size / 5 };
        let mut heads = Vec::new();
        for _ in 0..count {
            let posted = raw.prepare(DATA, &pieces, form);
            raw.publish(DATA, posted.head);
            heads.push(posted);
        }
        raw.kick(DATA);
        let done = raw.await_used(DATA, count, raw.timing.patience * 20);
        let in_order = (0..done).zip(&heads).all(|(at, p)| raw.used_element(DATA, at).0 == u32::from(p.head));
        let lens = (0..done).all(|at| raw.used_element(DATA, at).1 == 17);
        let right = heads.iter().filter(|p| raw.written(p).last() == Some(&0)).count();
        report.say(
            what,
            format_args!(
                "{done} of {count} completed, in order: {in_order}, used.len 17: {lens}, status 0: {right}, \
                 device status {:#04x}",
                raw.r8(reg::STATUS)
            ),
        );
        raw.clean(&[id]);
    }
}
