//! `write-after-reset`: what was in flight is written when the reset is over.
//!
//! The answers are worked out when the device breaks, and kept with their bus addresses. These are
//! translated when they are written: what the driver has unmapped by then is not reached, as with
//! an IOMMU.

use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use super::fault::FaultKind;
use crate::data;
use crate::device::Device;
use crate::error::DriverError;
use crate::wire::UsedElement;

/// What one queue will have written.
#[derive(Debug)]
pub(crate) struct Ghost {
    /// Its used ring: bus address, entries, next index.
    used: u64,
    size: u16,
    next: u16,
    answers: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    element: UsedElement,
    /// Bus address, bytes.
    writes: Vec<(u64, Vec<u8>)>,
}

impl Device {
    /// Works out what is in flight on the data queues, and what waits there to be taken: the device
    /// has it all in its hands when it breaks.
    pub(super) fn conjure(&mut self) {
        for index in 0..self.queues.len() - 1 {
            if !self.queues[index].enabled || self.queues[index].attach(&self.dma).is_err() {
                continue;
            }
            while let Ok(Some(head)) = self.queues[index].take() {
                self.stats.taken += 1;
                self.queues[index].stalled.push(head);
            }
            let queue = &self.queues[index];
            let heads: Vec<u16> = queue.heads().collect();
            let mut ghost = Ghost {
                used: queue.used_ring(),
                size: queue.size,
                next: queue.used_index(),
                answers: Vec::new(),
            };
            for head in heads {
                let wanted = self
                    .faults
                    .each(|_, rule| rule.kind == FaultKind::WriteAfterReset && rule.begun && rule.strikes());
                if wanted && let Ok(answer) = self.answer(index, head) {
                    ghost.answers.push(answer);
                }
            }
            if !ghost.answers.is_empty() {
                self.faults.ghosts.push(ghost);
            }
        }
    }

    /// Does a request, and leaves its memory as it was: it belongs to the device, nobody looks.
    fn answer(&mut self, index: usize, head: u16) -> Result<Answer, DriverError> {
        let rules = self.rules();
        let worker = self.worker(index);
        worker.chain.walk(worker.queue, head, worker.dma, rules)?;
        let before = worker.chain.writable_bytes(worker.dma);
        let len = data::serve(
            worker.queue.index,
            worker.chain,
            worker.dma,
            worker.sessions,
            worker.scratch,
            worker.config,
        )?;
        let writes = worker.chain.writable_bytes(worker.dma);
        for (address, bytes) in before {
            worker.dma.write_at(address, &bytes);
        }
        Ok(Answer { element: UsedElement { id: u32::from(head).into(), len: len.into() }, writes })
    }

    /// Writes it all, if the reset has come and the device may write.
    pub(crate) fn haunt(&mut self) {
        if !self.faults.haunted || !self.space.bus_master() {
            return;
        }
        self.faults.haunted = false;
        for ghost in std::mem::take(&mut self.faults.ghosts) {
            let mut next = ghost.next;
            for answer in &ghost.answers {
                for (address, bytes) in &answer.writes {
                    self.dma.write_at(*address, bytes);
                }
                let slot = u64::from(next % ghost.size);
                self.dma.write_at(ghost.used + 4 + 8 * slot, answer.element.as_bytes());
                next = next.wrapping_add(1);
            }
            if let Some(ring) = self.dma.piece(ghost.used, 4) {
                ring.store_u16(2, next, Ordering::Release);
            }
        }
    }
}
