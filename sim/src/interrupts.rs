//! Interrupts: MSI-X vectors and the legacy line, as eventfds. Ref: VIRTIO 1.2, 4.1.4.5, 4.1.5.1.

use std::os::fd::OwnedFd;

use crate::wire;

/// Where interrupts go. Which of them is raised is the queues' and the device's affair.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    /// MSI-X is on where this is not empty.
    msix: Vec<Option<OwnedFd>>,
    intx: Option<OwnedFd>,
    /// The legacy line is masked when it fires, until it is unmasked.
    intx_masked: bool,
    /// ISR status; reading clears it.
    isr: u8,
    /// QEMU: it shows queues with MSI-X, too.
    isr_always: bool,
    /// Eventfds signalled.
    pub(crate) raised: u64,
}

impl Interrupts {
    pub(crate) fn new(isr_always: bool) -> Self {
        Self { isr_always, ..Self::default() }
    }

    pub(crate) fn set_msix(&mut self, vectors: Vec<Option<OwnedFd>>) {
        self.msix = vectors;
    }

    pub(crate) fn set_intx(&mut self, event: Option<OwnedFd>) {
        self.intx = event;
        self.intx_masked = false;
    }

    pub(crate) fn msix_enabled(&self) -> bool {
        !self.msix.is_empty()
    }

    /// Whether the legacy line is asserted: never with MSI-X.
    pub(crate) fn asserted(&self) -> bool {
        self.isr != 0 && !self.msix_enabled()
    }

    /// Raises the interrupt of `vector`, or the legacy one with `isr` as its cause.
    pub(crate) fn raise(&mut self, vector: u16, isr: u8, bus_master: bool, intx_allowed: bool) {
        // With MSI-X, only the configuration's bit has to be set (4.1.4.5.1).
        if !self.msix_enabled() || isr & wire::ISR_CONFIG != 0 || self.isr_always {
            self.isr |= isr;
        }
        if self.msix_enabled() {
            // A message is a write to memory: it needs bus mastering. NO_VECTOR is out of range.
            if let Some(Some(event)) = self.msix.get(usize::from(vector)).filter(|_| bus_master) {
                signal(event);
                self.raised += 1;
            }
        } else {
            self.fire_intx(intx_allowed);
        }
    }

    /// Raises one that nobody asked for; ISR status does not know of it.
    pub(crate) fn raise_without_cause(&mut self, vector: u16, bus_master: bool, intx_allowed: bool) {
        if self.msix_enabled() {
            self.raise(vector, 0, bus_master, intx_allowed);
        } else if let (true, false, Some(event)) = (intx_allowed, self.intx_masked, &self.intx) {
            signal(event);
            self.intx_masked = true;
            self.raised += 1;
        }
    }

    /// Signals the legacy line where it is asserted and not masked.
    pub(crate) fn fire_intx(&mut self, allowed: bool) {
        if let (true, true, false, Some(event)) = (allowed, self.asserted(), self.intx_masked, &self.intx) {
            signal(event);
            self.intx_masked = true;
            self.raised += 1;
        }
    }

    pub(crate) fn unmask_intx(&mut self, allowed: bool) {
        self.intx_masked = false;
        self.fire_intx(allowed);
    }

    /// Reads ISR status, which clears it and takes the line back.
    pub(crate) fn take_isr(&mut self) -> u8 {
        std::mem::take(&mut self.isr)
    }

    pub(crate) fn reset(&mut self) {
        self.isr = 0;
    }
}

/// Whether ISR_QUEUE and ISR_CONFIG are what a driver expects.
const _: () = assert!(wire::ISR_QUEUE == 1 && wire::ISR_CONFIG == 2);

fn signal(event: &OwnedFd) {
    // It fails only where the count is at its end (EAGAIN): then the event is readable already.
    let _ = nix::unistd::write(event, &1_u64.to_ne_bytes());
}
