//! Experiments on config space and on the registers.

use ringbell_drivers::Result;
use ringbell_drivers::pci::{Capabilities, PciFunction, config};

use super::Report;
use super::raw::{
    ACCESS_PLATFORM, DATA, EVENT_IDX, Form, INDIRECT, NEEDS_RESET, Raw, Setup, VERSION_1, reg, word,
};
use super::request::{Cipher, ENCRYPT, PLAIN, answered, hex};

/// What enumeration sees.
pub(super) fn pci(function: &dyn PciFunction, report: &mut Report<'_>) -> Result<()> {
    let mut header = [0; 64];
    function.read_config(0, &mut header)?;
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    report.say("vendor, device", format_args!("{:04x}:{:04x}", half(0), half(2)));
    report.say("class, revision", format_args!("{:06x}, {}", word(&header, 8) >> 8, header[8]));
    report.say("header type", header[14]);
    report.say("subsystem", format_args!("{:04x}:{:04x}", half(0x2c), half(0x2e)));
    report.say("interrupt pin", header[0x3d]);
    report.say("status register", format_args!("{:#06x}", half(6) & !(1 << 3)));
    for capability in Capabilities::read(function)?.iter() {
        let mut bytes = [0; 20];
        let len = bytes.len().min(256 - usize::from(capability.offset));
        function.read_config(capability.offset, &mut bytes[..len])?;
        let seen = match capability.id {
            config::CAP_VENDOR if bytes[3] == 5 => format!("access through config space, {} bytes", bytes[2]),
            config::CAP_VENDOR => {
                let extra =
                    if bytes[3] == 2 { format!(", multiplier {}", word(&bytes, 16)) } else { String::new() };
                format!(
                    "virtio structure {}, {} bytes, BAR {}, id {}, offset {:#x}, length {:#x}{extra}",
                    bytes[3],
                    bytes[2],
                    bytes[4],
                    bytes[5],
                    word(&bytes, 8),
                    word(&bytes, 12)
                )
            }
            config::CAP_MSIX => format!(
                "MSI-X, {} vectors, table {:#x}, pending {:#x}",
                (u16::from_le_bytes([bytes[2], bytes[3]]) & 0x7ff) + 1,
                word(&bytes, 4),
                word(&bytes, 8)
            ),
            id => format!("id {id:#x}"),
        };
        report.say(format_args!("capability at {:#x}", capability.offset), seen);
    }
    for bar in 0..6 {
        if let Some(found) = function.bar(bar) {
            let low = word(&header, 0x10 + 4 * usize::from(bar)) & 0xf;
            report
                .say(format_args!("BAR {bar}"), format_args!("{:#x} bytes, type bits {low:#x}", found.size));
        }
    }
    let interrupts = function.interrupts();
    report.say("interrupts", format_args!("{} MSI-X vectors, INTx {}", interrupts.msix, interrupts.intx));
    Ok(())
}

/// Features, configuration, queues.
pub(super) fn registers(raw: &mut Raw, report: &mut Report<'_>) {
    raw.reset();
    let offered = raw.offered();
    report.say("features offered", format_args!("{offered:#x}"));
    raw.w32(reg::DEVICE_FEATURE_SELECT, 2);
    report.say("features, third word", format_args!("{:#x}", raw.r32(reg::DEVICE_FEATURE)));

    let status = |status: u8| format!("status {status:#04x}");
    report.say("all features accepted", status(raw.negotiate(offered)));
    raw.w32(reg::DRIVER_FEATURE_SELECT, 0);
    raw.w32(reg::DRIVER_FEATURE, 0);
    let kept = raw.r32(reg::DRIVER_FEATURE);
    report.say("features changed to 0 after FEATURES_OK, low word then", format_args!("{kept:#x}"));
    report.say("without VERSION_1", status(raw.negotiate(offered & !VERSION_1)));
    if offered & ACCESS_PLATFORM != 0 {
        report.say("without ACCESS_PLATFORM", status(raw.negotiate(offered & !ACCESS_PLATFORM)));
    }
    report.say("with a bit that is not offered (50)", status(raw.negotiate(offered | 1 << 50)));
    report.say("that bit reads back", raw.r32(reg::DRIVER_FEATURE) >> 18 & 1);
    raw.negotiate(offered & !VERSION_1);
    raw.accept(offered);
    raw.w8(reg::STATUS, 0x0b);
    report.say("VERSION_1 after FEATURES_OK was tried without", status(raw.r8(reg::STATUS)));

    raw.negotiate(offered);
    report.say("num_queues", raw.r16(reg::NUM_QUEUES));
    for queue in [0, 1, 2, 63, 1023, 1024, 0xffff] {
        raw.w16(reg::QUEUE_SELECT, 0);
        raw.w16(reg::QUEUE_SELECT, queue);
        let read = |at| raw.r16(at);
        report.say(
            format_args!("queue {queue}"),
            format_args!(
                "select {}, size {}, vector {:#x}, enabled {}, notify_off {}",
                read(reg::QUEUE_SELECT),
                read(reg::QUEUE_SIZE),
                read(reg::QUEUE_VECTOR),
                read(reg::QUEUE_ENABLE),
                read(reg::QUEUE_NOTIFY_OFF)
            ),
        );
    }
    raw.w16(reg::QUEUE_SELECT, 0);
    for size in [512, 100, 1, 0, 2048, 1024] {
        raw.w16(reg::QUEUE_SIZE, size);
        report.say(
            format_args!("queue size {size} written"),
            format_args!("reads {}", raw.r16(reg::QUEUE_SIZE)),
        );
    }
    for vector in [0, 1, 2, 0xffff] {
        raw.w16(reg::MSIX_CONFIG, vector);
        raw.w16(reg::QUEUE_VECTOR, vector);
        let (config, queue) = (raw.r16(reg::MSIX_CONFIG), raw.r16(reg::QUEUE_VECTOR));
        report.say(format_args!("vector {vector:#x} written"), format_args!("reads {config:#x}, {queue:#x}"));
    }
    raw.w32(reg::QUEUE_DESC, 0x1234_5678);
    raw.w32(reg::QUEUE_DESC + 4, 0x9abc);
    report.say(
        "queue_desc written",
        format_args!("reads {:#x}{:08x}", raw.r32(reg::QUEUE_DESC + 4), raw.r32(reg::QUEUE_DESC)),
    );
    raw.w16(reg::QUEUE_SELECT, 2);
    raw.w16(reg::QUEUE_ENABLE, 1);
    report.say(
        "queue 2 enabled",
        format_args!("reads {}, {}", raw.r16(reg::QUEUE_ENABLE), status(raw.r8(reg::STATUS))),
    );

    for (at, name) in (0..14).zip([
        "status",
        "max_dataqueues",
        "crypto_services",
        "cipher_algo_l",
        "cipher_algo_h",
        "hash_algo",
        "mac_algo_l",
        "mac_algo_h",
        "aead_algo",
        "max_cipher_key_len",
        "max_auth_key_len",
        "akcipher_algo",
        "max_size, low",
        "max_size, high",
    ]) {
        report.say(format_args!("config {name}"), format_args!("{:#x}", raw.device_config(4 * at)));
    }
    let behind: Vec<u8> = [56, 57, 60, 64, 128, 0xffc].iter().map(|at| raw.device_config8(*at)).collect();
    report.say("config at 56, 57, 60, 64, 128, 4092", hex(&behind));
    report.say("config at 56, 4 bytes", format_args!("{:#x}", raw.device_config(56)));
    raw.reset();
    report.say("config generation after reset", raw.r8(reg::GENERATION));
}

/// The status register, and what depends on it.
pub(super) fn status(raw: &mut Raw, report: &mut Report<'_>) {
    raw.reset();
    report.say("after reset", format_args!("{:#04x}, ISR {}", raw.r8(reg::STATUS), raw.read_isr()));
    for value in [0x01, 0x03, 0x07, 0x80, 0x40, 0x30, 0xff] {
        raw.reset();
        raw.w8(reg::STATUS, value);
        report.say(
            format_args!("{value:#04x} written after reset"),
            format_args!("{:#04x}", raw.r8(reg::STATUS)),
        );
    }
    raw.negotiate(raw.offered());
    raw.w8(reg::STATUS, 0x03);
    report.say("FEATURES_OK taken back", format_args!("{:#04x}", raw.r8(reg::STATUS)));

    raw.reset();
    raw.w8(reg::STATUS, 0x03);
    raw.w16(reg::QUEUE_SELECT, 0);
    raw.w16(reg::QUEUE_ENABLE, 1);
    report.say("queue_enable before FEATURES_OK", format_args!("reads {}", raw.r16(reg::QUEUE_ENABLE)));

    // Before and without DRIVER_OK.
    raw.start_as(Setup { status: 0x0b, ..Setup::default() });
    let seen = {
        let request = Cipher::new(77, &PLAIN[..16]);
        let outcome = raw.ask(DATA, &request.pieces(), Form::Chain);
        format!("{}; status {:#04x}", answered(&outcome), raw.r8(reg::STATUS))
    };
    report.say("request before DRIVER_OK", seen);
    raw.w8(reg::STATUS, 0x0f);
    let seen = format!("{}, status {:#04x}", used(raw), raw.r8(reg::STATUS));
    report.say("then DRIVER_OK, without another kick", seen);

    // Registers of a live queue.
    raw.start();
    raw.w16(reg::QUEUE_SELECT, 0);
    let before = raw.r32(reg::QUEUE_DESC);
    raw.w32(reg::QUEUE_DESC, before ^ 0x1000);
    report.say(
        "queue_desc of a live queue changed",
        if raw.r32(reg::QUEUE_DESC) == before { "no" } else { "yes" },
    );
    raw.w32(reg::QUEUE_DESC, before);
    raw.w16(reg::QUEUE_SIZE, 512);
    report.say("queue_size of a live queue changed to 512", raw.r16(reg::QUEUE_SIZE));
    raw.start();
    raw.w16(reg::QUEUE_SELECT, 0);
    raw.w16(reg::QUEUE_ENABLE, 0);
    report.say(
        "queue_enable 0 written to a live queue",
        format_args!("reads {}, status {:#04x}", raw.r16(reg::QUEUE_ENABLE), raw.r8(reg::STATUS)),
    );

    // What a reset takes.
    raw.start();
    raw.reset();
    raw.w16(reg::QUEUE_SELECT, 1);
    report.say(
        "a live queue after reset",
        format_args!(
            "enabled {}, size {}, vector {:#x}, desc {}",
            raw.r16(reg::QUEUE_ENABLE),
            raw.r16(reg::QUEUE_SIZE),
            raw.r16(reg::QUEUE_VECTOR),
            kept(raw)
        ),
    );
    report.say(
        "device after reset",
        format_args!(
            "msix_config {:#x}, driver features low {:#x}, queue_select {}",
            raw.r16(reg::MSIX_CONFIG),
            {
                raw.w32(reg::DRIVER_FEATURE_SELECT, 0);
                raw.r32(reg::DRIVER_FEATURE)
            },
            {
                raw.start();
                raw.w16(reg::QUEUE_SELECT, 1);
                raw.reset();
                raw.r16(reg::QUEUE_SELECT)
            }
        ),
    );
    queue_reset(raw, report);
    bus_master(raw, report);
    doorbells(raw, report);
}

/// Whether the selected queue has its table's address still.
fn kept(raw: &Raw) -> &'static str {
    if raw.r32(reg::QUEUE_DESC) | raw.r32(reg::QUEUE_DESC + 4) == 0 { "0" } else { "kept" }
}

fn used(raw: &Raw) -> String {
    let more = raw.await_used(DATA, 1, raw.timing.quiet * 10);
    format!("{more} completed")
}

fn queue_reset(raw: &mut Raw, report: &mut Report<'_>) {
    raw.start();
    let id = raw.session(ENCRYPT);
    let request = Cipher::new(id, &PLAIN[..16]);
    raw.cipher(&request);
    raw.w16(reg::QUEUE_SELECT, 0);
    raw.w16(reg::QUEUE_RESET, 1);
    report.say(
        "queue_reset 1 written",
        format_args!(
            "reads {}, enabled {}, size {}, vector {:#x}, desc {}",
            raw.r16(reg::QUEUE_RESET),
            raw.r16(reg::QUEUE_ENABLE),
            raw.r16(reg::QUEUE_SIZE),
            raw.r16(reg::QUEUE_VECTOR),
            kept(raw)
        ),
    );
    raw.kick(DATA);
    report.say(
        "kick of a queue that was reset",
        format_args!("{}, status {:#04x}", used(raw), raw.r8(reg::STATUS)),
    );
    raw.arrange_again(DATA);
    let seen = raw.cipher(&request);
    report.say("the queue set up again", seen);
    raw.clean(&[id]);
    raw.start_as(Setup { features: INDIRECT | EVENT_IDX, ..Setup::default() });
    raw.w16(reg::QUEUE_SELECT, 0);
    raw.w16(reg::QUEUE_RESET, 1);
    report.say(
        "queue_reset without RING_RESET",
        format_args!("enabled {}, status {:#04x}", raw.r16(reg::QUEUE_ENABLE), raw.r8(reg::STATUS)),
    );
}

fn bus_master(raw: &mut Raw, report: &mut Report<'_>) {
    raw.start();
    let id = raw.session(ENCRYPT);
    let request = Cipher::new(id, &PLAIN[..16]);
    raw.function.set_bus_master(false).expect("the command register");
    report.say("bus mastering off", format_args!("status {:#04x}", raw.r8(reg::STATUS)));
    let posted = raw.post(DATA, &request.pieces(), Form::Chain);
    report.say("request without bus mastering", used(raw));
    raw.function.set_bus_master(true).expect("the command register");
    let status = raw.r8(reg::STATUS);
    report.say("bus mastering on again", format_args!("status {status:#04x}, {}", used(raw)));
    raw.kick(DATA);
    report.say("kicked", used(raw));
    raw.w8(reg::STATUS, 0x0f);
    raw.kick(DATA);
    let outcome = raw.outcome(DATA, &posted);
    report.say("DRIVER_OK written again, kicked", answered(&outcome));
    raw.clean(&[id]);
}

fn doorbells(raw: &mut Raw, report: &mut Report<'_>) {
    raw.start();
    let id = raw.session(ENCRYPT);
    let pieces = Cipher::new(id, &PLAIN[..16]).pieces();
    // The device has gone to sleep by then.
    raw.interrupts();
    let posted = raw.prepare(DATA, &pieces, Form::Chain);
    raw.publish(DATA, posted.head);
    report.say("request without a kick", used(raw));
    raw.kick_with(DATA, 7);
    report.say("kick with a value that is not the queue", used(raw));
    raw.kick(DATA);
    let outcome = raw.outcome(DATA, &posted);
    report.say("kick", answered(&outcome));
    raw.kick(DATA);
    report.say(
        "kick without a request",
        format_args!("{}, status {:#04x}", used(raw), raw.r8(reg::STATUS) & NEEDS_RESET),
    );
    raw.clean(&[id]);
}
