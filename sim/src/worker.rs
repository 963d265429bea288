//! One data request: taken, done, put into the used ring.

use crate::chain::{Chain, Rules};
use crate::config::SimConfig;
use crate::data;
use crate::dma::DmaMap;
use crate::error::DriverError;
use crate::ring::Queue;
use crate::sessions::Sessions;
use crate::stats::SimStats;

/// The used index is published after this many completions...
const PUBLISH_EVERY: u16 = 16;
/// ... or this many bytes, so that the driver need not wait for the others of a batch. (For each
/// completion it would move the cache line to and fro.)
const PUBLISH_BYTES: u32 = 4096;

/// The parts of the device that a data request needs, borrowed apart.
pub(crate) struct Worker<'d> {
    pub(crate) queue: &'d mut Queue,
    pub(crate) dma: &'d DmaMap,
    pub(crate) sessions: &'d mut Sessions,
    pub(crate) chain: &'d mut Chain,
    pub(crate) scratch: &'d mut data::Scratch,
    pub(crate) config: &'d SimConfig,
    pub(crate) stats: &'d mut SimStats,
}

impl Worker<'_> {
    /// Does a request and puts it into the used ring.
    #[inline]
    pub(crate) fn complete(&mut self, head: u16, rules: Rules) -> Result<(), DriverError> {
        let Self { queue, dma, sessions, chain, scratch, config, stats } = self;
        let outcome = match chain.walk(queue, head, dma, rules) {
            Ok(()) => data::serve(queue.index, chain, dma, sessions, scratch, config),
            Err(error) => Err(error),
        };
        let len = outcome.inspect_err(|_| stats.dropped += 1)?;
        queue.push_used(u32::from(head), len)?;
        stats.completed += 1;
        if queue.unpublished() >= PUBLISH_EVERY || len >= PUBLISH_BYTES {
            queue.publish();
        }
        Ok(())
    }
}
