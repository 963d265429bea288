//! Making the rings of a device, and telling it of them.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;

use super::control;
use super::data::{self, Blocks, DataCompleter, DataSubmitter};
use super::open::Agreed;
use crate::dma::{Arena, DmaBuffer, Epoch, ForkPage};
use crate::error::{Error, Result};
use crate::pci::PciFunction;
use crate::room::Room;
use crate::virtio::{NO_VECTOR, QueueSetup, Transport};
use crate::virtqueue::{Completer, QueueParts, RingMemory, SplitRing, Submitter, Wake, queue};

/// The two halves of a data queue whose entries are `T`.
pub type DataQueue<T> = (DataSubmitter<T>, DataCompleter<T>);

/// How interrupts arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupts {
    /// A vector for the configuration, one for the queues.
    Msix,
    /// One vector for all.
    MsixShared,
    Intx,
    None,
}

/// Makes the queues of one device.
pub(super) struct QueueMaker<'a> {
    pub(super) transport: &'a Transport,
    pub(super) arena: &'a Arc<Arena>,
    pub(super) vector: u16,
    pub(super) event_idx: bool,
    pub(super) fork: &'a Arc<ForkPage>,
    pub(super) wake: &'a Arc<Wake>,
    pub(super) room: &'a Arc<Room>,
}

impl QueueMaker<'_> {
    fn epoch(&self, index: u16) -> Result<Epoch> {
        // Word 0 of the page is the fork generation.
        self.fork.epoch(usize::from(index) + 1).ok_or_else(|| Error::NotUsable {
            device: self.transport.function().address().to_owned(),
            why: "it has more queues than Ringbell can drive (510)".to_owned(),
        })
    }

    fn ring(&self, size: u16) -> Result<SplitRing> {
        SplitRing::new(self.buffer(SplitRing::bytes(size))?, size)
    }

    fn buffer(&self, bytes: usize) -> Result<DmaBuffer> {
        self.arena.reserved(bytes).map_err(|_| {
            Error::Invalid(format!(
                "a DMA arena of {} bytes does not hold the device's rings; open it with a larger arena \
                 or smaller queues",
                self.arena.bytes()
            ))
        })
    }

    /// Tells the device of a ring and makes its halves.
    fn start<T>(&self, index: u16, ring: SplitRing, shift: u32) -> Result<Halves<T>> {
        let size = ring.size();
        let setup = QueueSetup { index, size, addresses: ring.addresses(), vector: self.vector };
        let doorbell = (self.transport.set_queue(&setup)?, index);
        let (wake, room) = (Arc::clone(self.wake), Arc::clone(self.room));
        let epoch = self.epoch(index)?;
        Ok(queue(QueueParts { memory: ring, shift, event_idx: self.event_idx, doorbell, epoch, wake, room }))
    }

    fn data_queue<T>(&self, index: u16, size: u16, indirect: bool) -> Result<DataQueue<T>> {
        let shift = if indirect { 0 } else { data::CHAIN_SHIFT };
        // An indirect table must not be longer than the queue either (2.7.5.3.1).
        if usize::from(size) < data::CHAIN {
            return Err(Error::NotUsable {
                device: self.transport.function().address().to_owned(),
                why: format!("its queue {index} holds {size} descriptors, fewer than one request takes"),
            });
        }
        let mut ring = self.ring(size)?;
        let count = size >> shift;
        let memory = self.buffer(Blocks::bytes(count.into()))?;
        let blocks = Blocks::new(memory, &mut ring, count, indirect)?;
        Ok(data::halves(self.start(index, ring, shift)?, blocks, indirect))
    }

    /// Makes all queues: those for data, and the control queue's ring.
    pub(super) fn all<T>(&self, agreed: &Agreed) -> Result<(Vec<DataQueue<T>>, control::Halves)> {
        let mut queues = Vec::with_capacity(agreed.sizes.len());
        for (index, size) in (0..).zip(&agreed.sizes) {
            queues.push(self.data_queue(index, *size, agreed.indirect)?);
        }
        // Nobody waits for room in this ring, and its buffers come back under the control lock.
        let maker = QueueMaker { room: &Arc::new(Room::new()), ..*self };
        let size = agreed.control_size;
        let control = maker.start(agreed.sizes.len() as u16, self.ring(size)?, control::SHIFT)?;
        Ok((queues, control))
    }

    /// Sets memory aside for fresh rings: after a fault there may be none left, and the present ones
    /// go only when their owner has left them.
    pub(super) fn set_aside(&self, agreed: &Agreed) {
        let data = agreed.sizes.iter().flat_map(|size| {
            let slots = usize::from(size >> agreed.shift());
            [SplitRing::bytes(*size), Blocks::bytes(slots)]
        });
        let wanted: Vec<usize> = data.chain([SplitRing::bytes(agreed.control_size)]).collect();
        // All at once, or the second would get what the first gave back.
        let aside: Result<Vec<_>> = match self.arena.free_bytes() / 2 > wanted.iter().sum() {
            true => wanted.iter().map(|bytes| self.arena.reserved(*bytes)).collect(),
            false => Err(Error::NoRoom("a second set of rings")),
        };
        if aside.is_err() {
            tracing::info!(
                device = self.transport.function().address(),
                "the arena is too small for a second set of rings: after a fault the device comes back \
                 only if there is memory then"
            );
        }
    }
}

type Halves<T> = (Submitter<T, SplitRing>, Completer<T, SplitRing>);

/// Routes the interrupts to the events: MSI-X vector 0 for the configuration and 1 for all queues, or
/// one for both, or the legacy interrupt; the first that can be had. Returns the queues' vector too.
pub(super) fn route_interrupts(
    function: &dyn PciFunction,
    transport: &Transport,
    completions: &EventFd,
    config: &EventFd,
) -> Result<(Interrupts, u16)> {
    let has = function.interrupts();
    let (completions, config) = (completions.as_fd(), config.as_fd());
    let ways = [
        (has.msix >= 2, Interrupts::Msix),
        (has.msix >= 1, Interrupts::MsixShared),
        (has.intx, Interrupts::Intx),
    ];
    for (_, way) in ways.into_iter().filter(|(there, _)| *there) {
        let routed = match way {
            Interrupts::Msix => function.set_msix(&[Some(config), Some(completions)]),
            Interrupts::MsixShared => function.set_msix(&[Some(completions)]),
            _ => function.set_intx(Some(completions)),
        };
        match routed {
            Ok(()) => {
                let vector = match way {
                    Interrupts::Msix => 1,
                    Interrupts::MsixShared => 0,
                    _ => NO_VECTOR,
                };
                if vector != NO_VECTOR {
                    transport.set_config_vector(0)?;
                }
                return Ok((way, vector));
            }
            // Too few vectors in the machine, a line that others share: there are other ways.
            Err(error) => {
                tracing::warn!(device = function.address(), ?way, %error, "interrupts cannot be had so")
            }
        }
    }
    tracing::warn!(device = function.address(), "no interrupts: the poller looks often while there is work");
    Ok((Interrupts::None, NO_VECTOR))
}

/// Turns them off.
pub(super) fn drop_interrupts(function: &dyn PciFunction, interrupts: Interrupts) -> Result<()> {
    match interrupts {
        Interrupts::Msix | Interrupts::MsixShared => function.set_msix(&[]),
        Interrupts::Intx => function.set_intx(None),
        Interrupts::None => Ok(()),
    }
}
