//! Experiments on interrupts and on who is told what.

use std::os::fd::AsFd;
use std::thread;

use super::Report;
use super::raw::{CONTROL, DATA, EVENT_IDX, Form, INDIRECT, NO_VECTOR, Piece, Raw, Setup, reg};
use super::request::{Cipher, ENCRYPT, PLAIN};

pub(super) fn run(raw: &mut Raw, report: &mut Report<'_>) {
    for (name, features) in [("EVENT_IDX", INDIRECT | EVENT_IDX), ("no EVENT_IDX", INDIRECT)] {
        suppression(raw, report, name, features);
    }
    events(raw, report);
    flags(raw, report);
    isr(raw, report);
    legacy(raw, report);
}

/// Posts `count` good requests in one batch and waits for them: the queue's interrupts.
fn batch(raw: &mut Raw, pieces: &[Piece], count: u16) -> u64 {
    for _ in 0..count {
        let posted = raw.prepare(DATA, pieces, Form::Table);
        raw.publish(DATA, posted.head);
    }
    raw.kick(DATA);
    let done = raw.await_used(DATA, count, raw.timing.patience * 4);
    raw.queues[DATA].seen = raw.queues[DATA].seen.wrapping_add(done);
    raw.interrupts()[1]
}

/// With a device as `setup` says, and the pieces of a good request.
fn with(raw: &mut Raw, setup: Setup, experiment: impl FnOnce(&mut Raw, &[Piece])) {
    raw.start_as(setup);
    let id = raw.session(ENCRYPT);
    raw.interrupts();
    let pieces = Cipher::new(id, &PLAIN[..16]).pieces();
    experiment(raw, &pieces);
    raw.clean(&[id]);
}

/// What the device says about kicks.
fn suppression(raw: &mut Raw, report: &mut Report<'_>, name: &str, features: u64) {
    with(raw, Setup { features, ..Setup::default() }, |raw, pieces| {
        let seen = |raw: &Raw, queue: usize| {
            format!(
                "used.flags {}, avail_event {}",
                raw.get16(raw.queues[queue].used),
                raw.avail_event(queue)
            )
        };
        let fresh = seen(raw, DATA);
        report.say(format_args!("{name}: data queue before the first request"), fresh);
        batch(raw, pieces, 3);
        report.say(format_args!("{name}: after 3 requests in one batch"), seen(raw, DATA));
        batch(raw, pieces, 1);
        report.say(format_args!("{name}: after another"), seen(raw, DATA));
        report.say(format_args!("{name}: control queue after 1"), seen(raw, CONTROL));
        raw.session_and_back();
        raw.interrupts();
        report.say(format_args!("{name}: control queue after 3"), seen(raw, CONTROL));
        let posted = raw.prepare(DATA, pieces, Form::Table);
        raw.publish(DATA, posted.head);
        thread::sleep(raw.timing.quiet);
        let more = raw.await_used(DATA, 1, raw.timing.quiet);
        report.say(format_args!("{name}: request without a kick"), format_args!("{more} completed"));
    });
}

/// used_event.
fn events(raw: &mut Raw, report: &mut Report<'_>) {
    let setup = Setup { features: INDIRECT | EVENT_IDX, ..Setup::default() };
    with(raw, setup, |raw, pieces| {
        raw.want_interrupt_at(DATA, 0);
        let seen = batch(raw, pieces, 1);
        report.say("EVENT_IDX: first completion, used_event 0", seen);
        let seen = batch(raw, pieces, 1);
        report.say("EVENT_IDX: second, used_event left behind at 0", seen);
        raw.want_interrupt_at(DATA, 3);
        let seen = batch(raw, pieces, 1);
        report.say("EVENT_IDX: third, used_event 3", seen);
        let seen = batch(raw, pieces, 1);
        report.say("EVENT_IDX: fourth, used_event 3", seen);
        raw.want_interrupt_at(DATA, 5);
        let seen = batch(raw, pieces, 4);
        report.say("EVENT_IDX: four in one batch from 4, used_event 5", seen > 0);
        raw.want_interrupt_at(DATA, 8);
        let seen = batch(raw, pieces, 3);
        report.say("EVENT_IDX: three in one batch from 8, used_event 8", seen > 0);
        raw.want_interrupt_at(DATA, 14);
        let seen = batch(raw, pieces, 3);
        report.say("EVENT_IDX: three in one batch from 11, used_event 14", seen > 0);
        raw.put_at(raw.queues[DATA].avail, &1_u16.to_le_bytes());
        let seen = batch(raw, pieces, 1);
        report.say("EVENT_IDX: used_event 14, avail.flags NO_INTERRUPT", seen);
    });
    with(raw, setup, |raw, pieces| {
        raw.want_interrupt_at(DATA, 100);
        let seen = batch(raw, pieces, 1);
        report.say("EVENT_IDX: first completion after a reset, used_event 100", seen);
        let seen = batch(raw, pieces, 1);
        report.say("EVENT_IDX: second, used_event 100", seen);
    });
    // The control queue has its own.
    raw.start_as(setup);
    raw.want_interrupt_at(CONTROL, 1);
    let id = raw.session(ENCRYPT);
    report.say("EVENT_IDX: control, first, used_event 1", raw.interrupts()[1]);
    raw.destroy(id);
    report.say("EVENT_IDX: control, second, used_event 1", raw.interrupts()[1]);
}

/// Flags, and vectors.
fn flags(raw: &mut Raw, report: &mut Report<'_>) {
    with(raw, Setup { features: INDIRECT, ..Setup::default() }, |raw, pieces| {
        let seen = batch(raw, pieces, 1);
        report.say("no EVENT_IDX: flags 0", seen);
        let seen = batch(raw, pieces, 5);
        report.say("no EVENT_IDX: flags 0, five in one batch", seen > 0);
        raw.put_at(raw.queues[DATA].avail, &1_u16.to_le_bytes());
        let seen = batch(raw, pieces, 1);
        report.say("no EVENT_IDX: flags NO_INTERRUPT", seen);
        raw.put_at(raw.queues[DATA].avail, &0_u16.to_le_bytes());
        let seen = batch(raw, pieces, 1);
        report.say("no EVENT_IDX: flags 0 again", seen);
    });
    for vector in [0, NO_VECTOR] {
        with(raw, Setup { features: INDIRECT, vector, ..Setup::default() }, |raw, pieces| {
            batch(raw, pieces, 1);
            let posted = raw.prepare(DATA, pieces, Form::Table);
            raw.publish(DATA, posted.head);
            raw.kick(DATA);
            let done = raw.await_used(DATA, 1, raw.timing.patience);
            let [zero, one] = raw.interrupts();
            report.say(
                format_args!("data queue on vector {vector:#x}"),
                format_args!("{done} completed, interrupts {zero} {one}"),
            );
        });
    }
}

fn isr(raw: &mut Raw, report: &mut Report<'_>) {
    with(raw, Setup { features: INDIRECT, ..Setup::default() }, |raw, pieces| {
        raw.read_isr();
        batch(raw, pieces, 1);
        report.say(
            "ISR after a completion, MSI-X on",
            format_args!("{}, then {}", raw.read_isr(), raw.read_isr()),
        );
    });
    with(raw, Setup { features: INDIRECT, msix: false, ..Setup::default() }, |raw, pieces| {
        raw.read_isr();
        batch(raw, pieces, 1);
        report.say(
            "ISR after a completion, MSI-X off",
            format_args!("{}, then {}", raw.read_isr(), raw.read_isr()),
        );
        raw.ask(DATA, &[Piece::Read(vec![0; 8]), Piece::Write(1)], Form::Chain);
        report.say(
            "ISR after an error, MSI-X off",
            format_args!("{}, then {}", raw.read_isr(), raw.read_isr()),
        );
        raw.ask(DATA, pieces, Form::Chain);
        raw.w8(reg::STATUS, 0);
    });
    with(raw, Setup { features: INDIRECT, msix: false, ..Setup::default() }, |raw, pieces| {
        batch(raw, pieces, 1);
        raw.w8(reg::STATUS, 0);
        report.say("ISR that was pending at a reset", raw.read_isr());
    });
}

/// The legacy interrupt.
fn legacy(raw: &mut Raw, report: &mut Report<'_>) {
    if !raw.function.interrupts().intx {
        return;
    }
    with(raw, Setup { features: INDIRECT, msix: false, ..Setup::default() }, |raw, pieces| {
        raw.read_isr();
        raw.interrupts();
        raw.function.set_intx(Some(raw.events[1].as_fd())).expect("the legacy interrupt");
        let seen = batch(raw, pieces, 1);
        report.say("INTx: a completion", seen);
        let seen = batch(raw, pieces, 1);
        report.say("INTx: another, masked", seen);
        let mut status = [0; 2];
        raw.function.read_config(6, &mut status).expect("config space");
        report.say("INTx: ISR", raw.read_isr());
        raw.function.unmask_intx().expect("the legacy interrupt");
        report.say("INTx: after ISR was read and it was unmasked", raw.interrupts()[1]);
        let seen = batch(raw, pieces, 1);
        report.say("INTx: a completion", seen);
        raw.function.unmask_intx().expect("the legacy interrupt");
        report.say("INTx: unmasked, ISR not read", raw.interrupts()[1]);
        raw.read_isr();
        raw.function.set_intx(None).expect("the legacy interrupt");
    });
}
