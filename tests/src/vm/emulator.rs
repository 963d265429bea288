//! The process of QEMU: started, watched until the job is done, ended whatever happens.
//!
//! The guest's first process says how far it is, a line each:
//!
//! ```text
//!   started              the job starts
//!   status N             it ended: its exit status, or 128 and the signal's number
//!   results CRC LENGTH   the archive of /out is on the disk
//!   failed WHAT          the guest cannot go on
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::failure::Tail;
use super::{Failure, newc, tools};

/// Files in the machine's folder.
pub(super) const INITRAMFS: &str = "initramfs";
pub(super) const RESULTS: &str = "results";
pub(super) const CONSOLE: &str = "console";
const MESSAGES: &str = "messages";

/// The kernel's log among the results, and the line in it that says that the kernel's own start is over.
const DMESG: &str = ".dmesg";
const STARTED: &str = "ringbell: started";

/// How long a machine may take to end once all is said.
const ENDING: Duration = Duration::from_secs(10);

/// What came of a job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The job's exit status; 128 and the signal's number if one killed it.
    pub status: i32,
    /// Everything on the console: the job's stdout and stderr, and the kernel's messages.
    pub console: String,
    /// What QEMU itself had to say, for example of DMA that the IOMMU refused.
    pub emulator: String,
    /// The kernel's log when the job was done, as `dmesg -r` prints it.
    pub dmesg: String,
    /// The files in /out, by their path from there.
    pub files: BTreeMap<String, Vec<u8>>,
    /// From power-on until the job started.
    pub boot: Duration,
    /// From power-on until the results were back.
    pub total: Duration,
}

impl Outcome {
    /// What the kernel warned of, or worse, since it was up: while modules were loaded and the job ran.
    /// Of its own start on an emulated board it always has something to say.
    pub fn warnings(&self) -> Vec<&str> {
        let level = |line: &&str| {
            let (number, _) = line.strip_prefix('<')?.split_once('>')?;
            number.parse().ok().map(|number: u32| number % 8)
        };
        let lines = self.dmesg.lines().skip_while(|line| !line.ends_with(STARTED));
        // Of a host that is busy, not of anything in the guest.
        let slow = |line: &&str| line.contains("hrtimer: interrupt took");
        lines.filter(|line| level(line).is_some_and(|level| level <= 4) && !slow(line)).collect()
    }

    /// A file of /out that is text.
    ///
    /// # Panics
    /// If there is no such file, or it is no UTF-8; the message holds the console.
    pub fn text(&self, path: &str) -> &str {
        let bytes = self.files.get(path);
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.unwrap_or_else(|| panic!("no text {path} among the results; the console:\n{}", self.console))
    }

    /// Itself, if the job's status is 0.
    ///
    /// # Panics
    /// If it is another; the message holds the console.
    #[must_use]
    pub fn success(self) -> Self {
        assert_eq!(self.status, 0, "the job failed; the console:\n{}", self.console);
        self
    }
}

/// A process that does not outlive its owner: it is killed on drop, and by the kernel should this
/// thread be gone without one.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // Either may fail only because the process is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs QEMU in a folder that holds the initramfs and the disks.
pub(super) fn run(folder: &Path, arguments: &[String], limit: Duration) -> Result<Outcome, Failure> {
    let messages = File::create(folder.join(MESSAGES)).map_err(Failure::io(MESSAGES))?;
    let mut command = Command::new(tools::find("setpriv")?);
    command.args(["--pdeathsig", "KILL", "--"]).arg(tools::find("qemu-system-x86_64")?).args(arguments);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(messages);
    let started = Instant::now();
    let mut emulator = Emulator(command.spawn().map_err(Failure::io("starting QEMU"))?);
    let stdout = emulator.0.stdout.take();
    let (sender, lines) = mpsc::channel();
    // Ends with the pipe, which ends with QEMU.
    let reader = std::thread::spawn(move || {
        for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
            let Ok(line) = line else { return };
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    let told = listen(&lines, started, limit);
    let ended = end(&mut emulator, &lines, &told);
    drop(emulator);
    let _ = reader.join();
    conclude(folder, told, ended, limit)
}

/// What the guest has told so far.
#[derive(Debug, Default)]
struct Told {
    boot: Option<Duration>,
    status: Option<i32>,
    results: Option<(u32, usize)>,
    total: Duration,
    failed: Option<String>,
    late: bool,
}

/// Listens until all is told, the time is over, or QEMU is gone.
fn listen(lines: &Receiver<(Instant, String)>, started: Instant, limit: Duration) -> Told {
    let mut told = Told::default();
    while told.results.is_none() && told.failed.is_none() {
        let (when, line) = match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                told.late = true;
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["started"] => told.boot = Some(when - started),
            ["status", status] => told.status = status.parse().ok(),
            ["results", crc, length] => {
                told.results = u32::from_str_radix(crc, 16).ok().zip(length.parse().ok());
                told.total = when - started;
            }
            _ => told.failed = Some(line.trim().to_owned()),
        }
    }
    told
}

/// Gives the machine time to end by itself, which it does not get if it is late already. None if it had
/// to be killed.
fn end(emulator: &mut Emulator, lines: &Receiver<(Instant, String)>, told: &Told) -> Option<ExitStatus> {
    let deadline = Instant::now() + if told.late { Duration::ZERO } else { ENDING };
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return None,
            // The pipe is closed: the process is about to end.
            Err(RecvTimeoutError::Disconnected) => return emulator.0.wait().ok(),
        }
    }
}

fn conclude(
    folder: &Path,
    told: Told,
    ended: Option<ExitStatus>,
    limit: Duration,
) -> Result<Outcome, Failure> {
    let text = |name: &str| {
        let bytes = std::fs::read(folder.join(name)).map_err(Failure::io(name))?;
        Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
    };
    let console: String = text(CONSOLE)?;
    let emulator: String = text(MESSAGES)?;
    let tail = Tail::of(&console);
    if told.late {
        return Err(Failure::TimeLimit { limit, console: tail });
    }
    if let Some(message) = told.failed {
        return Err(Failure::Guest { message, console: tail });
    }
    let (Some(boot), Some(status), Some((crc, length))) = (told.boot, told.status, told.results) else {
        // A job may print these words, too: they count only where the guest fell silent.
        if console.contains("Kernel panic - not syncing") {
            return Err(Failure::Panic { console: tail });
        }
        let status = ended.map_or_else(|| "killed".to_owned(), |status| status.to_string());
        return Err(Failure::Emulator { status, emulator, console: tail });
    };
    let mut archive = Vec::new();
    let disk = File::open(folder.join(RESULTS)).map_err(Failure::io(RESULTS))?;
    disk.take(length as u64).read_to_end(&mut archive).map_err(Failure::io(RESULTS))?;
    let files = (archive.len() == length && newc::crc32(&archive) == crc).then(|| newc::files(&archive));
    let Some(mut files) = files.flatten() else {
        return Err(Failure::Guest { message: "the results came back damaged".to_owned(), console: tail });
    };
    let dmesg = files.remove(DMESG).unwrap_or_default();
    let dmesg = String::from_utf8_lossy(&dmesg).into_owned();
    Ok(Outcome { status, console, emulator, dmesg, files, boot, total: told.total })
}
