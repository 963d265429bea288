//! A fault as options name it: `KIND[@N][:ARG...]`.

use std::fmt;
use std::str::FromStr;

use crate::config::{Delay, number};
use crate::error::SimError;
use crate::wire;

macro_rules! kinds {
    ($first:ident = $first_name:literal, $first_doc:literal; $($kind:ident = $name:literal, $doc:literal;)*) => {
        /// What goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum FaultKind {
            #[doc = $first_doc]
            $first,
            $(#[doc = $doc] $kind,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[Self::$first $(, Self::$kind)*];

            /// Its name in options.
            pub fn name(self) -> &'static str {
                match self {
                    Self::$first => $first_name,
                    $(Self::$kind => $name,)*
                }
            }
        }

        /// How a fault is written, for messages.
        pub(crate) const KINDS: &str = concat!(
            "KIND[@N][:ARG], KIND ", $first_name $(, "|", $name)*,
            ", ARG its own or once, xK, 1/K, always"
        );
    };
}

kinds! {
    Stall = "stall", "The struck request and all later ones are taken and never completed.";
    Drop = "drop", "The request is done, but no used element says so.";
    Duplicate = "duplicate", "Its used element is written twice.";
    BadId = "bad-id", "Its used element has another id.";
    BadLen = "bad-len", "Its used element has a length that the chain cannot hold.";
    UsedJump = "used-jump", "After it the used index leaps.";
    StatusGarbage = "status-garbage", "Its status byte is none of the specification's.";
    OpError = "op-error", "It is not done, and its status says so.";
    Reorder = "reorder", "From it on, completions are in random order.";
    Slow = "slow", "It is completed later.";
    NeedsReset = "needs-reset", "The device goes into its error state.";
    ResetHang = "reset-hang", "It does so, and a device reset does not finish.";
    ResetFails = "reset-fails", "It does so, and neither kind of reset works.";
    ControlHang = "control-hang", "Sessions are forgotten, and the control queue does not answer.";
    SessionLost = "session-lost", "The session of the struck request is forgotten.";
    SessionsFull = "sessions-full", "Sessions are forgotten, and new ones refused.";
    IrqLost = "irq-lost", "Interrupts of queues are not raised.";
    IrqStorm = "irq-storm", "Interrupts are raised without a cause.";
    ConfigChange = "config-change", "The configuration's generation moves, with an interrupt.";
    Remove = "remove", "The function is gone.";
    BadConfig = "bad-config", "The device lies about itself when it is set up.";
    WriteAfterReset = "write-after-reset", "What was in flight at a reset is written all the same.";
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// On how many occasions a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Often {
    /// On so many, one after the other: `once`, `xK`.
    Times(u64),
    /// On all: `always`.
    Always,
    /// On each with chance 1 in so many: `1/K`.
    Chance(u64),
}

impl Often {
    fn parse(word: &str) -> Option<Self> {
        let count = |text| number::<u64>(text).filter(|count| *count != 0);
        match word {
            "once" => Some(Self::Times(1)),
            "always" => Some(Self::Always),
            _ => match word.strip_prefix('x') {
                Some(times) => count(times).map(Self::Times),
                None => count(word.strip_prefix("1/")?).map(Self::Chance),
            },
        }
    }
}

impl fmt::Display for Often {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(1) => f.write_str("once"),
            Self::Times(times) => write!(f, "x{times}"),
            Self::Always => f.write_str("always"),
            Self::Chance(one_in) => write!(f, "1/{one_in}"),
        }
    }
}

/// A wrong id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongId {
    /// Far beyond the table.
    Range,
    /// A head that is not outstanding.
    Free,
}

/// Where the used index leaps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jump {
    /// By the queue's size + 1.
    Ahead,
    /// One before what was published.
    Back,
}

/// What lies when the device is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    QueueSize0,
    QueueSize65535,
    /// A structure that leaves its BAR.
    Capability,
    /// `queue_notify_off` outside of its structure.
    Notify,
    /// A structure in a BAR that is not there.
    Bar,
    /// The list of capabilities loops.
    Loop,
    /// `config_generation` moves at each read.
    Generation,
}

impl Lie {
    pub(crate) const ALL: [(&str, Self); 7] = [
        ("queue-size-0", Self::QueueSize0),
        ("queue-size-65535", Self::QueueSize65535),
        ("capability", Self::Capability),
        ("notify", Self::Notify),
        ("bar", Self::Bar),
        ("loop", Self::Loop),
        ("generation", Self::Generation),
    ];
}

/// The statuses that a request can fail with.
pub(crate) const STATUSES: [(&str, u8); 6] = [
    ("ERR", wire::ERR),
    ("BADMSG", wire::BADMSG),
    ("NOTSUPP", wire::NOTSUPP),
    ("INVSESS", wire::INVSESS),
    ("NOSPC", wire::NOSPC),
    ("KEY_REJECTED", wire::KEY_REJECTED),
];

/// An ARG that belongs to one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    Id(WrongId),
    Len(u32),
    Jump(Jump),
    Garbage(u8),
    /// One of [`STATUSES`].
    Status(u8),
    /// All of them in turn.
    EachStatus,
    Delay(Delay),
    NotReady,
    Lie(Lie),
}

const IDS: [(&str, WrongId); 2] = [("range", WrongId::Range), ("free", WrongId::Free)];
const JUMPS: [(&str, Jump); 2] = [("ahead", Jump::Ahead), ("back", Jump::Back)];

fn find<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
}

fn name_of<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, other)| other == value).map_or("", |(name, _)| name)
}

impl Arg {
    fn parse(kind: FaultKind, word: &str) -> Option<Self> {
        match kind {
            FaultKind::BadId => find(&IDS, word).map(Self::Id),
            FaultKind::BadLen => number(word).map(Self::Len),
            FaultKind::UsedJump => find(&JUMPS, word).map(Self::Jump),
            FaultKind::StatusGarbage => {
                number(word).filter(|status| *status > wire::KEY_REJECTED).map(Self::Garbage)
            }
            FaultKind::OpError if word == "each" => Some(Self::EachStatus),
            FaultKind::OpError => STATUSES
                .iter()
                .find(|(name, _)| *name == word || name.to_ascii_lowercase() == word)
                .map(|(_, status)| Self::Status(*status)),
            FaultKind::Slow => Delay::parse(word).map(Self::Delay),
            FaultKind::ConfigChange => (word == "not-ready").then_some(Self::NotReady),
            FaultKind::BadConfig => find(&Lie::ALL, word).map(Self::Lie),
            _ => None,
        }
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.write_str(name_of(&IDS, id)),
            Self::Len(len) => len.fmt(f),
            Self::Jump(jump) => f.write_str(name_of(&JUMPS, jump)),
            Self::Garbage(status) => status.fmt(f),
            Self::Status(status) => f.write_str(name_of(&STATUSES, status)),
            Self::EachStatus => f.write_str("each"),
            Self::Delay(delay) => delay.fmt(f),
            Self::NotReady => f.write_str("not-ready"),
            Self::Lie(lie) => f.write_str(name_of(&Lie::ALL, lie)),
        }
    }
}

/// What ARG can be, for messages.
fn args(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::BadId => "range|free, ",
        FaultKind::BadLen => "0..=4294967295, ",
        FaultKind::UsedJump => "ahead|back, ",
        FaultKind::StatusGarbage => "7..=255, ",
        FaultKind::OpError => "ERR|BADMSG|NOTSUPP|INVSESS|NOSPC|KEY_REJECTED|each, ",
        FaultKind::Slow => "0..=60s (as 250ns, 10us, 2ms, 1s), ",
        FaultKind::ConfigChange => "not-ready, ",
        FaultKind::BadConfig => "queue-size-0|queue-size-65535|capability|notify|bar|loop|generation, ",
        _ => "",
    }
}

/// A fault: what goes wrong, from which request on, how often.
///
/// It is read from `KIND[@N][:ARG...]`, as in the option `fault=`. The book's chapter on the
/// simulator has a table of the kinds.
///
/// ```
/// use ringbell_sim::{Fault, FaultKind};
/// let fault: Fault = "op-error@100:BADMSG:1/50".parse()?;
/// assert_eq!((fault.kind(), fault.at()), (FaultKind::OpError, 100));
/// assert_eq!(fault.to_string(), "op-error@100:BADMSG:1/50");
/// # Ok::<(), ringbell_sim::SimError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: FaultKind,
    at: u64,
    pub(crate) arg: Option<Arg>,
    pub(crate) often: Option<Often>,
}

impl Fault {
    /// What goes wrong.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The request that is the first to be struck, counted from 1; 0: before any.
    pub fn at(&self) -> u64 {
        self.at
    }
}

impl From<FaultKind> for Fault {
    /// That kind at the next request, as often as it is without another word.
    fn from(kind: FaultKind) -> Self {
        Self { kind, at: 1, arg: None, often: None }
    }
}

/// Reads a fault, or says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Fault, String> {
    let mut words = text.split(':');
    let first = words.next().unwrap_or_default();
    let (name, at) = match first.split_once('@') {
        Some((name, at)) => (name, number(at).ok_or_else(|| format!("{at:?} is no number of a request"))?),
        None => (first, 1),
    };
    let kind = FaultKind::ALL
        .iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| format!("there is no fault {name:?}"))?;
    let mut fault = Fault { at, ..(*kind).into() };
    for word in words {
        let twice = if let Some(often) = Often::parse(word) {
            fault.often.replace(often).is_some()
        } else if let Some(arg) = Arg::parse(*kind, word) {
            fault.arg.replace(arg).is_some()
        } else {
            let own = args(*kind);
            return Err(format!("{word:?} is no ARG of {name}, which takes {own}once, xK, 1/K, always"));
        };
        if twice {
            return Err(format!("{word:?} is one ARG of {name} too many"));
        }
    }
    Ok(fault)
}

impl FromStr for Fault {
    type Err = SimError;

    fn from_str(text: &str) -> Result<Self, SimError> {
        parse(text).map_err(|why| SimError::Options { given: text.to_owned(), why, known: KINDS })
    }
}

impl fmt::Display for Fault {
    /// The text that parses to the same fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        if self.at != 1 {
            write!(f, "@{}", self.at)?;
        }
        if let Some(arg) = self.arg {
            write!(f, ":{arg}")?;
        }
        if let Some(often) = self.often {
            write!(f, ":{often}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read_by_its_name_and_written_back() {
        for kind in FaultKind::ALL {
            for text in ["", "@0", "@17", ":x3", ":1/9", ":always", "@18446744073709551615:once"] {
                let text = format!("{kind}{text}");
                let fault: Fault = text.parse().unwrap();
                assert_eq!((fault.kind(), fault.to_string()), (*kind, text));
            }
            assert!(KINDS.contains(kind.name()));
            assert_eq!(format!("{kind}@1").parse::<Fault>().unwrap(), Fault::from(*kind));
        }
    }

    #[test]
    fn words_of_a_kind_are_read_in_any_order_and_written_back() {
        for (text, written) in [
            ("bad-id:free", "bad-id:free"),
            ("bad-id@3:x2:range", "bad-id@3:range:x2"),
            ("bad-len:100", "bad-len:100"),
            ("bad-len:4294967295", "bad-len:4294967295"),
            ("used-jump:back", "used-jump:back"),
            ("used-jump:ahead:x1", "used-jump:ahead:once"),
            ("status-garbage:7", "status-garbage:7"),
            ("op-error:key_rejected", "op-error:KEY_REJECTED"),
            ("op-error:1/4:NOSPC", "op-error:NOSPC:1/4"),
            ("op-error:each:always", "op-error:each:always"),
            ("slow:1500us", "slow:1500us"),
            ("slow:0", "slow:0s"),
            ("config-change:not-ready", "config-change:not-ready"),
            ("bad-config@0:queue-size-65535:x3", "bad-config@0:queue-size-65535:x3"),
            ("bad-config:loop", "bad-config:loop"),
        ] {
            let fault: Fault = text.parse().unwrap();
            assert_eq!(fault.to_string(), written);
            assert_eq!(written.parse::<Fault>().unwrap(), fault);
        }
    }

    #[test]
    fn wrong_faults_are_refused_in_one_line_that_lists_the_kinds() {
        for text in [
            "",
            "stal",
            "stall ",
            "Stall",
            "stall@",
            "stall@x",
            "stall@-1",
            "stall@1@2",
            "stall@18446744073709551616",
            "stall:",
            "stall:x0",
            "stall:x",
            "stall:x-1",
            "stall:1/0",
            "stall:2/3",
            "stall:free",
            "stall:once:x2",
            "stall\n",
            "bad-id:free:range",
            "bad-len:4294967296",
            "status-garbage:6",
            "status-garbage:256",
            "op-error:Err",
            "op-error:OK",
            "slow:10",
            "slow:61s",
            "bad-config:all",
        ] {
            let message = text.parse::<Fault>().unwrap_err().to_string();
            assert!(message.contains("stall|drop|") && message.contains("|write-after-reset"), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
        let message = "op-error:OK".parse::<Fault>().unwrap_err().to_string();
        assert!(message.contains("ERR|BADMSG|"), "{message}");
    }
}
