//! Virtual machines for tests: QEMU boots Debian's kernel with an initramfs made here, runs one shell
//! script as root, and brings back its status, its files and all that was printed.
//!
//! ```text
//!   host                                             guest
//!   Machine ── initramfs (busybox, modules, files) ─► /init ── modules, users ── sh /job
//!      │                                               │
//!      ◄── ttyS1: started, status, results, end ───────┤  tell
//!      ◄── disk: a cpio archive of /out ───────────────┤  /dev/sda, the board's own AHCI
//!      ◄── ttyS0: the console ─────────────────────────┘
//! ```
//!
//! It is emulated (TCG), so neither hardware virtualisation nor root is needed, and takes seconds. What
//! the job prints cannot be taken for its status: that comes on a line of its own, and a machine that
//! ends without it has failed. The results' disk is no PCI function of its own, so a guest has those that
//! the test asked for, and the board's.
//!
//! ```no_run
//! use ringbell_tests::vm::Machine;
//!
//! let outcome = Machine::new().crypto(4, true).load(["vfio-pci"]).job("ls /dev/vfio > /out/vfio").run()?;
//! assert_eq!((outcome.status, outcome.text("vfio")), (0, "vfio\n"));
//! # Ok::<(), ringbell_tests::vm::Failure>(())
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `machine` | what a test asks for, and QEMU's arguments for it |
//! | `emulator` | the process: started, watched, ended; its outcome |
//! | `initramfs` | what the guest finds when it starts; `init.sh` is its first process |
//! | `kernel`, `modules` | Debian's kernel, fetched once; which modules need which |
//! | `programs` | our own binaries, linked statically |
//! | `newc` | cpio archives and checksums, both ways |
//! | `tools` | programs of the host: found, run, missed |

mod emulator;
mod failure;
mod initramfs;
mod kernel;
mod machine;
mod modules;
mod newc;
mod programs;
mod tools;

pub use emulator::Outcome;
pub use failure::Failure;
pub use machine::{Disk, Machine, Nic, Slot};
pub use programs::{Programs, programs};

/// Makes ready what every machine needs: the tools of the host and the kernel, which is fetched and
/// unpacked if that was not done before.
///
/// # Errors
/// [`Failure::Missing`] says what is not there; such a host cannot run these tests.
pub fn prepare() -> Result<(), Failure> {
    tools::all_present()?;
    kernel::Kernel::open().map(drop)
}
