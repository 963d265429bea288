//! The table: every kind of fault, and what each moment of it ends with. See `crate::expect` for how
//! to read it and `crate::LEGEND` for the letters.

use std::time::Duration;

use ringbell::sim::{Fault, FaultKind};
use ringbell::{DeviceOptions, PollerConfig};

use crate::moments::Moment;

/// A kind of fault with its argument.
pub struct Kind {
    /// As in the simulator's options, without `@N`.
    pub fault: &'static str,
    /// More options of the simulator.
    pub sim: &'static str,
    /// What else the poller's configuration is to be.
    pub config: fn(&mut PollerConfig),
    /// And the device's.
    pub options: fn(&mut DeviceOptions),
    /// Where the device writes to what it has no right to: stray writes may be counted.
    pub stray: bool,
    /// It goes on for ever: no full ring of good requests afterwards.
    pub lasting: bool,
    /// The request at which it strikes when it is injected into an idle device; 0 is at once.
    pub idle_at: u32,
    /// Moments at which nothing of it may be met: nobody asks for what it spoils.
    pub unmet: &'static [Moment],
    /// One for each of `Moment::ALL`; `-` and a reason where there is no such cell.
    pub ends: [&'static str; 7],
    /// Shown in the name where the same fault is there twice.
    pub suffix: &'static str,
}

impl Kind {
    pub fn name(&self) -> String {
        format!("{}{}", self.fault, self.suffix)
    }

    /// The fault's text, striking at the `at`th request.
    pub fn fault_at(&self, at: u32) -> String {
        let (kind, argument) = self.fault.split_once(':').unwrap_or((self.fault, ""));
        let colon = if argument.is_empty() { "" } else { ":" };
        format!("{kind}@{at}{colon}{argument}")
    }

    pub fn fault_kind(&self) -> FaultKind {
        self.fault.parse::<Fault>().expect("a fault").kind()
    }

    pub fn expected(&self, moment: Moment) -> &'static str {
        self.ends[moment as usize]
    }

    /// Other ends at some moments.
    const fn but(mut self, moment: Moment, ends: &'static str) -> Self {
        self.ends[moment as usize] = ends;
        self
    }

    const fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }

    const fn unmet(mut self, moments: &'static [Moment]) -> Self {
        self.unmet = moments;
        self
    }

    /// A reset may take long.
    const fn slowly(mut self) -> Self {
        self.suffix = " (slowly)";
        self.options = |options| options.control_timeout = Duration::from_millis(200);
        self
    }

    const fn configured(mut self, suffix: &'static str, config: fn(&mut PollerConfig)) -> Self {
        self.suffix = suffix;
        self.config = config;
        self
    }
}

const fn kind(fault: &'static str, ends: [&'static str; 7]) -> Kind {
    Kind {
        fault,
        suffix: "",
        sim: "",
        config: |_| (),
        options: |_| (),
        stray: false,
        lasting: false,
        idle_at: 0,
        unmet: &[],
        ends,
    }
}

/// Nobody notices anything.
const HARMLESS: [&str; 7] = [
    "+.+ Ready 0/0",
    "+ Ready 0/0",
    "++++++++ Ready 0/0",
    "++.++.++.++ Ready 0/0",
    "+.+ Ready 0/0",
    "F.+ Ready 1/1",
    "+++ Closed 0/0",
];

/// One request has no answer: it times out, and the queue, in which only its quarantined slot is left,
/// is reset.
const LOST: [&str; 7] = [
    "T.+ Ready 1/1",
    "T Ready 1/1",
    "+++T++++ Ready 1/1",
    "[T+][T+].[T+][T+].++.++ Ready 1/1",
    "T.+ Ready 1/1",
    "F.T Ready 2/2",
    "+S+ Closed 0/0",
];

/// The device lies: all in flight end, with their buffers, and it is brought back.
const LIE: [&str; 7] = [
    "F.+ Ready 1/1",
    "F Ready 1/1",
    "+++FFFFF Ready 1/1",
    "[+F][+F].[+F]+.FF.FF Ready 1/1",
    "F.+ Ready 1/1",
    "F.F Ready 2/2",
    "[+FS][FS][FS] Closed 0-1/0",
];

/// The device says itself that it needs a reset.
const NEEDS_RESET: [&str; 7] = [
    "+.+ Ready 1/1",
    "F Ready 1/1",
    "[+F]*FFFFF Ready 1/1",
    "FF.F+.FF.FF Ready 1/1",
    "F.+ Ready 1/1",
    "F.+ Ready 1-2/1-2",
    "[+FS][FS][FS] Closed 0-1/0",
];

/// The same, and its reset takes a function reset, which is there before the next tick.
const HANGS: [&str; 7] = [
    "+.+ Ready 1/1",
    "F Ready 1/1",
    "[+F]*FFFFF Ready 1/1",
    "FF.F+.FF.FF Ready 1/1",
    "[Ff].+ Ready 1/1",
    "F.+ Ready 1-2/1-2",
    "[+FfSs][FfSs][FfSs] Closed 0-1/0",
];

/// The same where that takes longer than a tick: the requests end without their buffers, which stay
/// until the device is stopped.
const HANGS_LONG: [&str; 7] = [
    "+.+ Ready 1/1",
    "f Ready 1/1",
    "[+f]*fffff Ready 1/1",
    "ff.f+.ff.[fF]F Ready 1/1",
    "f.+ Ready 1/1",
    "f.+ Ready 1-2/1-2",
    "[+FfSs][FfSs][FfSs] Closed 0-1/0",
];

/// It cannot be reset.
const DEAD: [&str; 7] = [
    "x.x Failed 1/0",
    "f Failed 1/0",
    "[+f]*fffff Failed 1/0",
    "ff.fx.ff.ff Failed 1/0",
    "f.x Failed 1/0",
    "F.x Failed 1-2/0-1",
    "[+FfSs][FfSs][FfSs] Closed 0-1/0",
];

/// The struck request ends with an error of the device, and nothing else happens.
const ERROR: [&str; 7] = [
    "e.+ Ready 0/0",
    "e Ready 0/0",
    "+++e++++ Ready 0/0",
    "[e+][e+].[e+]+.++.++ Ready 0/0",
    "e.+ Ready 0/0",
    "F.e Ready 1/1",
    "+e+ Closed 0/0",
];

/// The same with an answer that is no.
const NO: [&str; 7] = [
    "n.+ Ready 0/0",
    "n Ready 0/0",
    "+++n++++ Ready 0/0",
    "[n+][n+].[n+]+.++.++ Ready 0/0",
    "n.+ Ready 0/0",
    "F.n Ready 1/1",
    "+n+ Closed 0/0",
];

/// The struck request's session is said to be unknown, which is made again for the next one.
const UNKNOWN_SESSION: [&str; 7] = [
    "i.+ Ready 0/1",
    "i Ready 0/0-1",
    "+++i++++ Ready 0/0-1",
    "[i+][i+].[i+]+.++.++ Ready 0/1",
    "i.+ Ready 0/0-1",
    "F.i Ready 1/1-2",
    "+i+ Closed 0/0",
];

/// It is unknown indeed.
const SESSION_LOST: [&str; 7] = [
    "i.+ Ready 0/1",
    "i Ready 0/0-1",
    "+++iiiii Ready 0/0-1",
    "[i+][i+].[i+]+.[i+][i+].++ Ready 0/1",
    "i.+ Ready 0/0-1",
    "F.i Ready 1/1-2",
    "+ii Closed 0/0",
];

/// All sessions are forgotten, and the control queue does not answer until the device is reset.
const CONTROL: [&str; 7] = [
    "i.+ Ready 1/1-2",
    "i Ready 0-1/0-1",
    "[+i]*iiiii Ready 0-1/0-1",
    "ii.i+.[iF][iF].++ Ready 1/1-2",
    "i.+ Ready 1/1-2",
    "F.+ Ready 1-2/1-2",
    "[+i]ii Closed 0/0",
];

/// The same after each reset: the device has failed.
const CONTROL_FOR_EVER: [&str; 7] = [
    "i.x Failed 1-9/0-9",
    "i Ready|Failed 0-9/0-9",
    "[+i]*iiiii Ready|Failed 0-9/0-9",
    "ii.ix.[iFfx][iFfx].xx Failed 1-9/0-9",
    "i.x Failed 1-9/0-9",
    "F.x Failed 1-9/0-9",
    "[+i]ii Closed 0/0",
];

/// No session can be made for a while.
const NO_SESSIONS: [&str; 7] = [
    "i.+ Ready 0/1",
    "i Ready 0/0-1",
    "[+i]*iiiii Ready 0/0-1",
    "ii.i+.[i+][i+].++ Ready 0/1",
    "i.+ Ready 0/0-1",
    "F.+ Ready 1/1",
    "[+i]ii Closed 0/0",
];

/// No session can be made ever again. What the program gets is no room, or a refusal.
const NO_SESSIONS_EVER: [&str; 7] = [
    "i.[ax] Ready 0/0",
    "i Ready 0/0",
    "[+i]*iiiii Ready 0/0",
    "ii.i[ax].ii.[ax][ax] Ready 0/0",
    "i.[ax] Ready 0/0",
    "F.[axi] Ready|Failed 1-9/0-1",
    "[+i]ii Closed 0/0",
];

/// It is gone.
const GONE: [&str; 7] = [
    "x.x Failed 1/0",
    "[Ff] Failed 1/0",
    "[+Ff]*[Ff][Ff][Ff][Ff][Ff] Failed 1/0",
    "[Ff][Ff].[Ff]x.[Ff][Ff].[xFf][xFf] Failed 1/0",
    "[Ff].x Failed 1/0",
    "F.x Failed 1-2/0",
    "[+FfSs][FfSs][FfSs] Closed 0-1/0",
];

/// After the reset it says of itself what cannot be, for ever: where that is looked at it has failed.
const LIES_OF_ITSELF: [&str; 7] = [
    "[Ff].x Failed 1/0",
    "[Ff] Failed 1/0",
    "[+Ff]*[Ff][Ff][Ff][Ff][Ff] Failed 1/0",
    "[Ff][Ff].[Ff]x.[Ff][Ff].[xFf][xFf] Failed 1/0",
    "[Ff].x Failed 1/0",
    "F.x Failed 1/0",
    "[+FfSs][FfSs][FfSs] Closed 0-1/0",
];

/// It does so once.
const LIES_ONCE: [&str; 7] = [
    "[Ff].+ Ready 1/1",
    "[Ff] Ready 1/1",
    "[+Ff]*[Ff][Ff][Ff][Ff][Ff] Ready 1/1",
    "[Ff][Ff].[Ff]+.FF.FF Ready 1/1",
    "[Ff].+ Ready 1/1",
    "F.+ Ready 1/1",
    "[+FfSs][FfSs][FfSs] Closed 0-1/0",
];

/// It lies where nothing is read again after a reset.
const LIES_UNHEARD: [&str; 7] = [
    "F.+ Ready 1/1",
    "F Ready 1/1",
    "[+F]*FFFFF Ready 1/1",
    "FF.F+.FF.FF Ready 1/1",
    "F.+ Ready 1/1",
    "F.+ Ready 1/1",
    "[+FS][FS][FS] Closed 0-1/0",
];

/// The strikes that are left would hit what comes after the cell.
const LATER: &str = "- as `drop`";

fn patient(config: &mut PollerConfig) {
    config.request_timeout = Duration::from_secs(30);
}

fn bad_config(fault: &'static str, ends: [&'static str; 7]) -> Kind {
    // Where nothing is set up again a lie of this kind is not heard: it needs the error state.
    Kind { idle_at: 1, ..kind(fault, ends) }
}

pub fn all() -> Vec<Kind> {
    use Moment::*;
    vec![
        kind("stall", LOST)
            .but(Full, "+++TTTTT Ready 1/1")
            .but(Burst, "[T+][T+].[T+][T+].TT.TT Ready 1/1")
            .but(Session, "T.T Ready 1/1")
            .but(Shutdown, "+SS Closed 0/0"),
        kind("stall", LIE)
            .configured(" (patient)", patient)
            .but(Burst, "[F+][F+].[F+]F.FF.FF Ready 1/1")
            .but(Session, "F.F Ready 1/1")
            .but(Shutdown, "+SS Closed 0/0"),
        kind("stall:once", LOST),
        kind("drop", LOST),
        kind("drop:x3", LOST)
            .but(Idle, LATER)
            .but(One, LATER)
            .but(Full, "+++TTT++ Ready 1/1")
            .but(Session, LATER)
            .but(Recovery, LATER)
            .but(Shutdown, "+SS Closed 0/0"),
        kind("duplicate", LIE)
            .but(Idle, "[+F].+ Ready 1/1")
            .but(One, "[+F] Ready 1/1")
            .but(Full, "+++[+F]FFFF Ready 1/1")
            .but(Session, "[+F].+ Ready 1/1")
            .but(Recovery, "F.[+F] Ready 2/2")
            .but(Shutdown, "[+FS][+FS][FS] Closed 0-1/0"),
        kind("bad-id:range", LIE),
        kind("bad-id:free", LIE),
        kind("bad-len", LIE),
        kind("bad-len:4096", LIE),
        kind("used-jump:ahead", LIE),
        // The third is written over the first: of what the index leaves one is there.
        kind("used-jump:back", LIE).but(Shutdown, "[+FS][FS][+FS] Closed 0-1/0"),
        kind("status-garbage", LIE),
        kind("status-garbage:7", LIE),
        kind("status-garbage:255", LIE),
        kind("op-error:ERR", ERROR),
        kind("op-error:BADMSG", NO),
        kind("op-error:NOTSUPP", ERROR),
        kind("op-error:INVSESS", UNKNOWN_SESSION),
        kind("op-error:NOSPC", ERROR),
        kind("op-error:KEY_REJECTED", NO),
        kind("op-error:each", ERROR),
        kind("reorder", HARMLESS),
        kind("slow", HARMLESS).but(Shutdown, "+S+ Closed 0/0"),
        kind("slow:1500ms", LOST)
            .but(Idle, "T.+ Ready|Suspect 0/0")
            .but(One, "T Ready|Suspect 0/0")
            .but(Full, "+++T++++ Ready|Suspect 0/0")
            .but(Burst, "[T+][T+].[T+]+.++.++ Ready|Suspect 0/0")
            .but(Session, "T.+ Ready|Suspect 0/0")
            .but(Recovery, "F.T Ready|Suspect 1/1"),
        kind("needs-reset", NEEDS_RESET),
        kind("reset-hang", HANGS),
        kind("reset-hang:x1", HANGS),
        kind("reset-hang", HANGS_LONG).slowly(),
        kind("reset-fails", DEAD).lasting(),
        kind("reset-fails:x1", HANGS),
        kind("reset-fails:x3", HANGS_LONG).but(Recovery, "F.+ Ready 1-2/1-2"),
        kind("control-hang", CONTROL),
        kind("control-hang:always", CONTROL_FOR_EVER).lasting(),
        kind("session-lost", SESSION_LOST),
        kind("sessions-full", NO_SESSIONS_EVER).lasting(),
        kind("sessions-full:x1", NO_SESSIONS),
        kind("sessions-full:x2", NO_SESSIONS),
        kind("irq-lost", HARMLESS).unmet(&[Full, Shutdown]),
        kind("irq-storm", HARMLESS).unmet(&[Shutdown]),
        kind("irq-storm:always", HARMLESS).unmet(&[Shutdown]),
        kind("config-change", HARMLESS),
        kind("config-change:not-ready", NEEDS_RESET)
            .but(One, "[eF] Ready 1/1")
            .but(Full, "[+eF]*[eF][eF][eF][eF][eF] Ready 1/1")
            .but(Burst, "[eF][eF].[eF]+.FF.FF Ready 1/1")
            .but(Session, "[eF].[+eF] Ready 1/1")
            .but(Shutdown, "[+eFS][eFS][eFS] Closed 0-1/0"),
        kind("remove", GONE).lasting(),
        bad_config("bad-config:queue-size-0", LIES_OF_ITSELF).lasting(),
        bad_config("bad-config:queue-size-0:x1", LIES_ONCE),
        bad_config("bad-config:queue-size-65535", LIES_OF_ITSELF).lasting(),
        bad_config("bad-config:generation", LIES_OF_ITSELF).lasting(),
        bad_config("bad-config:notify", LIES_OF_ITSELF).lasting(),
        bad_config("bad-config:capability", LIES_UNHEARD).unmet(&[Recovery]),
        bad_config("bad-config:bar", LIES_UNHEARD).unmet(&[Recovery]),
        bad_config("bad-config:loop", LIES_UNHEARD).unmet(&[Recovery]),
        Kind { stray: true, ..kind("write-after-reset", NEEDS_RESET) }
            .but(One, "F Ready 1-2/1-2")
            .but(Full, "[+F]*FFFFF Ready 1-2/1-2"),
    ]
}
