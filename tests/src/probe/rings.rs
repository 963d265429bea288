//! Experiments on rings that are not as they should be, and what the device does afterwards.

use super::Report;
use super::raw::{DATA, EVENT_IDX, Form, Outcome, Piece, Raw, Setup, TABLE, descriptor, reg};
use super::request::{Cipher, ENCRYPT, PLAIN, answered};

pub(super) fn run(raw: &mut Raw, report: &mut Report<'_>) {
    heads(raw, report);
    tables(raw, report);
    error_state(raw, report);
    placement(raw, report);
}

/// A device with a session, one experiment, and what became of it.
fn alone(
    raw: &mut Raw,
    report: &mut Report<'_>,
    what: &str,
    setup: Setup,
    experiment: impl FnOnce(&mut Raw, Cipher) -> String,
) {
    raw.start_as(setup);
    let id = raw.session(ENCRYPT);
    raw.interrupts();
    let seen = experiment(raw, Cipher::new(id, &PLAIN[..16]));
    report.say(what, seen);
    raw.clean(&[id]);
}

/// How many were used, and the status.
fn state(raw: &Raw) -> String {
    let mut used = raw.await_used(DATA, 1, raw.timing.patience);
    // All that come: until there are no more for a while.
    while used != 0 {
        let more = raw.await_used(DATA, u16::MAX, raw.timing.quiet * 4);
        if more == used {
            break;
        }
        used = more;
    }
    let status = raw.r8(reg::STATUS);
    format!("{used} completed, status {status:#04x}, config interrupts {}", raw.interrupts()[0])
}

fn heads(raw: &mut Raw, report: &mut Report<'_>) {
    let plain = Setup::default();
    for head in [1024, 0xffff] {
        alone(raw, report, &format!("head {head}"), plain, |raw, _| {
            raw.publish(DATA, head);
            raw.kick(DATA);
            state(raw)
        });
    }
    alone(raw, report, "next that is out of the table", plain, |raw, request| {
        let at = raw.put(&request.header());
        raw.descriptor(DATA, 0, descriptor((raw.bus(at), 72, 0), true, 1024));
        raw.publish(DATA, 0);
        raw.kick(DATA);
        state(raw)
    });
    alone(raw, report, "chain that loops", plain, |raw, request| {
        let at = raw.put(&request.header());
        raw.descriptor(DATA, 0, descriptor((raw.bus(at), 72, 0), true, 1));
        raw.descriptor(DATA, 1, descriptor((raw.bus(at), 72, 0), true, 0));
        raw.publish(DATA, 0);
        raw.kick(DATA);
        state(raw)
    });
    // All entries of the ring are good and name the same chain; the index runs ahead of them.
    for ahead in [1025_u16, 2000, 0xffff] {
        alone(raw, report, &format!("available index {ahead} ahead"), plain, |raw, request| {
            let posted = raw.prepare(DATA, &request.pieces(), Form::Chain);
            assert_eq!(posted.head, 0);
            raw.publish_index(raw.queues[DATA].avail, ahead);
            raw.kick(DATA);
            state(raw)
        });
    }
    alone(raw, report, "available index moved back", plain, |raw, request| {
        raw.ask(DATA, &request.pieces(), Form::Chain);
        raw.ask(DATA, &request.pieces(), Form::Chain);
        raw.publish_index(raw.queues[DATA].avail, 1);
        raw.kick(DATA);
        state(raw)
    });
    alone(raw, report, "the same head twice in one batch", plain, |raw, request| {
        let posted = raw.prepare(DATA, &request.pieces(), Form::Chain);
        raw.publish(DATA, posted.head);
        raw.publish(DATA, posted.head);
        raw.kick(DATA);
        state(raw)
    });
    for (what, setup) in [
        ("table at 8 mod 16", Setup { desc_at: 8, ..plain }),
        ("available ring at 1 mod 2", Setup { avail_at: 1, ..plain }),
        ("used ring at 2 mod 4", Setup { used_at: 2, ..plain }),
        ("data queue of 100 entries", Setup { size: 100, ..plain }),
        ("data queue of 64 entries", Setup { size: 64, ..plain }),
    ] {
        alone(raw, report, what, setup, |raw, request| {
            let seen = raw.cipher(&request);
            let seen = if seen.starts_with("not") || seen.starts_with("error") {
                seen
            } else {
                seen + "; " + &raw.cipher(&request)
            };
            format!("{seen}; status {:#04x}", raw.r8(reg::STATUS))
        });
    }
}

/// Indirect tables.
fn tables(raw: &mut Raw, report: &mut Report<'_>) {
    let plain = Setup::default();
    let with = |raw: &mut Raw, table: (u64, u32, u16), next: bool| {
        raw.descriptor(DATA, 0, descriptor(table, next, 1));
        raw.publish(DATA, 0);
        raw.kick(DATA);
        state(raw)
    };
    /// The descriptors of a good request.
    fn good(raw: &mut Raw, request: &Cipher) -> (Vec<[u8; 16]>, usize) {
        let (read, write) = (
            raw.put(&[request.header(), request.iv.clone(), request.src.clone()].concat()),
            raw.put(&[0xee; 17]),
        );
        let read = descriptor((raw.bus(read), 104, 0), true, 1);
        (vec![read, descriptor((raw.bus(write), 17, 2), false, 0)], write + 16)
    }
    fn status_byte(raw: &Raw, at: usize) -> String {
        match raw.get(at, 1)[0] {
            0xee => "untouched".to_owned(),
            byte => byte.to_string(),
        }
    }
    let table = |raw: &mut Raw, entries: &[[u8; 16]]| {
        let at = raw.put(&entries.concat());
        raw.bus(at)
    };
    let cases: [(&str, u32, u16, bool); 8] = [
        ("as it should be", 32, TABLE, false),
        ("with WRITE", 32, TABLE | 2, false),
        ("with NEXT", 32, TABLE, true),
        ("of 0 bytes", 0, TABLE, false),
        ("of 31 bytes", 31, TABLE, false),
        ("of 33 bytes", 33, TABLE, false),
        ("of 16 bytes, its next is outside", 16, TABLE, false),
        ("of 48 bytes, the last unused", 48, TABLE, false),
    ];
    for (what, len, flags, next) in cases {
        alone(raw, report, &format!("indirect table {what}"), plain, |raw, request| {
            let (mut entries, status) = good(raw, &request);
            entries.push([0; 16]);
            let at = table(raw, &entries);
            let seen = with(raw, (at, len, flags), next);
            format!("{seen}, status byte {}", status_byte(raw, status))
        });
    }
    alone(raw, report, "indirect table in an indirect table", plain, |raw, request| {
        let (entries, status) = good(raw, &request);
        let inner = table(raw, &entries);
        let outer = table(raw, &[descriptor((inner, 32, TABLE), false, 0)]);
        let seen = with(raw, (outer, 16, TABLE), false);
        format!("{seen}, status byte {}", status_byte(raw, status))
    });
    alone(raw, report, "nested table behind good descriptors", plain, |raw, request| {
        let (mut entries, status) = good(raw, &request);
        let inner = table(raw, &[entries[1]]);
        entries[1] = descriptor((inner, 16, TABLE), false, 0);
        let outer = table(raw, &entries);
        let seen = with(raw, (outer, 32, TABLE), false);
        format!("{seen}, status byte {}", status_byte(raw, status))
    });
    alone(
        raw,
        report,
        "indirect without the feature",
        Setup { features: EVENT_IDX, ..plain },
        |raw, request| {
            let (entries, status) = good(raw, &request);
            let at = table(raw, &entries);
            let seen = with(raw, (at, 32, TABLE), false);
            format!("{seen}, status byte {}", status_byte(raw, status))
        },
    );
    alone(raw, report, "a descriptor, then a table", plain, |raw, request| {
        let outcome = raw.ask(DATA, &request.pieces(), Form::Mixed);
        answered(&outcome)
    });
    alone(raw, report, "table at 8 mod 16 in one page", plain, |raw, request| {
        let (entries, status) = good(raw, &request);
        let page = raw.page(4096);
        raw.put_at(page + 8, &entries.concat());
        let seen = with(raw, (raw.bus(page + 8), 32, TABLE), false);
        format!("{seen}, status byte {}", status_byte(raw, status))
    });
    alone(raw, report, "table over a page's end, aligned", plain, |raw, request| {
        let (entries, status) = good(raw, &request);
        let page = raw.page(8192);
        raw.put_at(page + 4080, &entries.concat());
        let seen = with(raw, (raw.bus(page + 4080), 32, TABLE), false);
        format!("{seen}, status byte {}", status_byte(raw, status))
    });
    for count in [1023, 1024, 1025] {
        alone(raw, report, &format!("indirect table of {count} descriptors"), plain, |raw, request| {
            let bytes = [request.header(), request.iv.clone(), request.src.clone()].concat();
            let mut pieces: Vec<_> = bytes.iter().map(|byte| Piece::Read(vec![*byte])).collect();
            while pieces.len() < count - 17 {
                pieces.push(Piece::Read(vec![0]));
            }
            pieces.extend((0..17).map(|_| Piece::Write(1)));
            let outcome = raw.ask(DATA, &pieces, Form::Table);
            answered(&outcome)
        });
    }
}

/// In the error state, and out of it.
fn error_state(raw: &mut Raw, report: &mut Report<'_>) {
    raw.start();
    let id = raw.session(ENCRYPT);
    let good = Cipher::new(id, &PLAIN[..16]);
    // Good, bad and good in one batch.
    let generation = raw.r8(reg::GENERATION);
    raw.read_isr();
    raw.interrupts();
    let bad = Cipher { dst_len: 32, ..good.clone() };
    let posted: Vec<_> =
        [&good, &bad, &good].map(|r| raw.prepare(DATA, &r.pieces(), Form::Chain)).into_iter().collect();
    for posted in &posted {
        raw.publish(DATA, posted.head);
    }
    raw.kick(DATA);
    let used = raw.await_used(DATA, 3, raw.timing.patience);
    let [config, queue] = raw.interrupts();
    report.say(
        "good, bad, good in one batch",
        format_args!("{used} completed, status {:#04x}", raw.r8(reg::STATUS)),
    );
    report.say(
        "status bytes",
        posted.iter().map(|p| format!("{:02x}", raw.written(p)[16])).collect::<Vec<_>>().join(" "),
    );
    report.say("interrupts", format_args!("config {config}, queue {queue}, ISR {}", raw.read_isr()));
    report.say("config generation moved by", raw.r8(reg::GENERATION).wrapping_sub(generation));
    raw.queues[DATA].seen = used;
    let outcome = raw.ask(DATA, &good.pieces(), Form::Chain);
    report.say("a good request in the error state", outcome);
    let [config, queue] = raw.interrupts();
    report.say("interrupts for it", format_args!("config {config}, queue {queue}"));
    let outcome =
        raw.ask(super::raw::CONTROL, &super::request::Create::new(3, 1, &[1; 16]).pieces(), Form::Chain);
    report.say("a control request in the error state", outcome);
    raw.w8(reg::STATUS, 0x0f);
    report.say("status 0x0f written in the error state", format_args!("{:#04x}", raw.r8(reg::STATUS)));
    raw.kick(DATA);
    report.say("kick then", state(raw));
    raw.start();
    report.say("status after reset and start", format_args!("{:#04x}", raw.r8(reg::STATUS)));
    let again = raw.session(ENCRYPT);
    let seen = raw.cipher(&Cipher::new(again, &PLAIN[..16]));
    report.say("a good request then", seen);
    raw.clean(&[id, again]);

    // An error on the control queue stops the data queue too.
    raw.start();
    let id = raw.session(ENCRYPT);
    raw.interrupts();
    let outcome = raw.ask(super::raw::CONTROL, &[Piece::Read(vec![0; 8]), Piece::Write(16)], Form::Chain);
    report.say("a control request of 8 bytes", outcome);
    report.say("config interrupts", raw.interrupts()[0]);
    let outcome = raw.ask(DATA, &Cipher::new(id, &PLAIN[..16]).pieces(), Form::Chain);
    report.say("a data request then", outcome);
    raw.clean(&[id]);
}

/// Used elements over the end of a page.
fn placement(raw: &mut Raw, report: &mut Report<'_>) {
    // With the ring at the start of a page, element 511 begins 4 bytes before the end of it.
    for used_at in [0, 4] {
        let setup = Setup { used_at, ..Setup::default() };
        raw.start_as(setup);
        let id = raw.session(ENCRYPT);
        let pieces = Cipher::new(id, &PLAIN[..16]).pieces();
        for _ in 0..511 {
            let posted = raw.prepare(DATA, &pieces, Form::Table);
            raw.publish(DATA, posted.head);
        }
        raw.kick(DATA);
        let done = raw.await_used(DATA, 511, raw.timing.patience * 20);
        raw.queues[DATA].seen = done;
        let element = raw.queues[DATA].used + 4 + 8 * 511;
        raw.put_at(element, &[0xaa; 8]);
        let outcome = raw.ask_anything(DATA, &pieces, Form::Table);
        let (id_seen, len) = raw.used_element(DATA, 511);
        let text = if matches!(outcome, Outcome::Done { .. }) { "completed" } else { "not completed" };
        report.say(
            format_args!("used ring at {used_at} mod 8, element 511"),
            format_args!(
                "{done} before, {text}, id {id_seen}, len {len:#x}, status {:#04x}",
                raw.r8(reg::STATUS)
            ),
        );
        raw.clean(&[id]);
    }
}
