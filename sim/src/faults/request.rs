//! What a strike does to a request: its answer, and its element in the used ring.

use zerocopy::{FromZeros, IntoBytes};

use super::fault::{Jump, WrongId};
use crate::chain::Rules;
use crate::data;
use crate::error::DriverError;
use crate::rng::Rng;
use crate::wire::DataHeader;
use crate::worker::Worker;

/// Ids far beyond any table. The lower half stays right, for a driver that looks at no more.
const BEYOND: u32 = 0x7fff_0000;

/// How a request was struck; several faults may have struck it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) stall: bool,
    /// It is completed in any order.
    pub(crate) shuffle: bool,
    /// There is no used element.
    pub(super) lost: bool,
    pub(super) twice: bool,
    pub(super) id: Option<WrongId>,
    pub(super) len: Option<u32>,
    pub(super) jump: Option<Jump>,
    pub(super) garbage: Option<u8>,
    /// It is not done, this is the answer.
    pub(super) status: Option<u8>,
    /// Nanoseconds more than the others have.
    pub(crate) delay: u64,
    pub(super) session_lost: bool,
}

impl Worker<'_> {
    /// Does a request that was struck: whether it was completed.
    pub(crate) fn complete_struck(
        &mut self,
        head: u16,
        marks: &Marks,
        rules: Rules,
        rng: &mut Rng,
    ) -> Result<bool, DriverError> {
        let mut len = self.serve_struck(head, marks, rules).inspect_err(|_| self.stats.dropped += 1)?;
        let Self { queue, chain, dma, stats, .. } = self;
        if let Some(garbage) = marks.garbage {
            chain.write_last(dma, garbage);
        }
        len = marks.len.unwrap_or(len);
        let completed = !marks.lost && marks.id.is_none();
        if completed {
            stats.completed += 1;
        } else {
            // The driver goes on waiting for it.
            stats.dropped += 1;
            queue.lost.insert(head);
        }
        let id = match marks.id {
            None => u32::from(head),
            Some(WrongId::Free) => queue.free_head(head, rng).map_or(BEYOND | u32::from(head), u32::from),
            Some(WrongId::Range) => BEYOND | u32::from(head),
        };
        // The index that a leap goes back from is what was there before this request.
        queue.publish();
        let before = queue.used_index();
        if !marks.lost {
            queue.push_used(id, len)?;
            if marks.twice {
                queue.push_used(id, len)?;
            }
        }
        match marks.jump {
            Some(Jump::Ahead) => queue.leap_to(queue.used_index().wrapping_add(queue.size).wrapping_add(1)),
            Some(Jump::Back) => queue.leap_to(before.wrapping_sub(1)),
            None => {}
        }
        queue.publish();
        Ok(completed)
    }

    /// Answers it: how many bytes were written.
    fn serve_struck(&mut self, head: u16, marks: &Marks, rules: Rules) -> Result<u32, DriverError> {
        let Self { queue, dma, sessions, chain, scratch, config, .. } = self;
        chain.walk(queue, head, dma, rules)?;
        if marks.session_lost {
            let mut header = DataHeader::new_zeroed();
            if chain.readable().read(dma, header.as_mut_bytes()).is_some() {
                sessions.remove(header.session_id.get());
            }
        }
        match marks.status {
            Some(status) => data::refuse(queue.index, chain, dma, status, config),
            None => data::serve(queue.index, chain, dma, sessions, scratch, config),
        }
    }
}
