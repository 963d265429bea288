//! Opening the device.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_queue::SegQueue;

use super::config::Offer;
use super::control::{self, Control, Left};
use super::data;
use super::device::{ControlQueue, VirtioCrypto};
use super::queues::{DataQueue, Interrupts, QueueMaker, drop_interrupts, route_interrupts};
use super::wire;
use crate::dma::{Arena, ArenaOptions, ForkPage};
use crate::error::{Error, Result};
use crate::pci::PciFunction;
use crate::room::Room;
use crate::virtio::{Transport, feature, status};
use crate::virtqueue::Wake;
use crate::wait::{self, EventSignal};

/// QEMU takes no longer chains, whatever the queue's size (VIRTQUEUE_MAX_SIZE).
const LONGEST_TABLE: usize = 1024;

/// A device that is being set up: dropped on the way, it is made still.
struct Undo<'a> {
    transport: &'a Transport,
    limit: Duration,
    interrupts: Interrupts,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let function = &**self.transport.function();
        let reset = self.transport.reset(self.limit);
        let cut = function.set_bus_master(false);
        let off = drop_interrupts(function, self.interrupts);
        if let Err(error) = reset.and(cut).and(off) {
            tracing::warn!(device = function.address(), %error, "undoing what was set up");
        }
    }
}

/// How a device is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Its DMA memory.
    pub arena: ArenaOptions,
    /// The most descriptors of a data ring: a power of two; the device may have fewer. 1024.
    pub queue_size: u16,
    /// How long the device may take to reset or to answer a control request. 1 s.
    pub limit: Duration,
    /// Accept INDIRECT_DESC where it is offered. Without it a request takes four descriptors.
    pub indirect: bool,
    /// Accept EVENT_IDX where it is offered.
    pub event_idx: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            arena: ArenaOptions::default(),
            queue_size: 1024,
            limit: Duration::from_secs(1),
            indirect: true,
            event_idx: true,
        }
    }
}

/// What driver and device have agreed on: the same again after a reset.
pub(super) struct Agreed {
    pub(super) wanted: u64,
    pub(super) accepted: u64,
    pub(super) indirect: bool,
    pub(super) event_idx: bool,
    /// The queues' MSI-X vector.
    pub(super) vector: u16,
    /// Descriptors of each data queue.
    pub(super) sizes: Vec<u16>,
    pub(super) control_size: u16,
}

impl Agreed {
    /// log2 of the descriptors that a slot has in the ring itself.
    pub(super) fn shift(&self) -> u32 {
        if self.indirect { 0 } else { data::CHAIN_SHIFT }
    }

    /// The most descriptors of a chain: in a table of its own no more than the queue has (2.7.5.3.1), nor
    /// than QEMU takes; in the ring itself those of the slot.
    fn longest_chain(&self) -> usize {
        let smallest = self.sizes.iter().copied().min().unwrap_or(0);
        if self.indirect { usize::from(smallest).min(LONGEST_TABLE) } else { data::CHAIN }
    }
}

impl VirtioCrypto {
    /// Opens the device behind `function`: negotiates, makes the rings of all its queues, and sets
    /// it going (3.1.1). Returns it with the halves of its data queues.
    ///
    /// # Errors
    /// The device cannot be driven, there is no memory for its rings, or it does not answer in time.
    pub fn open<T>(
        function: Arc<dyn PciFunction>,
        options: &OpenOptions,
    ) -> Result<(Arc<Self>, Vec<DataQueue<T>>)> {
        if !options.queue_size.is_power_of_two() || !(8..=1 << 15).contains(&options.queue_size) {
            return Err(Error::Invalid(format!(
                "a queue size of {} is not possible; it is a power of two from 8 to 32768",
                options.queue_size
            )));
        }
        let transport = Transport::new(Arc::clone(&function), wire::DEVICE_TYPE)?;
        // Whoever had it before may have left it with rings: without them first, then DMA.
        transport.reset(options.limit)?;
        function.set_bus_master(true)?;
        let opened = Self::set_up(transport, options);
        if opened.is_err() {
            // Whatever state it is in.
            let _ = function.set_bus_master(false);
        }
        opened
    }

    fn set_up<T>(transport: Transport, options: &OpenOptions) -> Result<(Arc<Self>, Vec<DataQueue<T>>)> {
        let function = Arc::clone(transport.function());
        let mut wanted = 0;
        for (bit, on) in [(feature::INDIRECT_DESC, options.indirect), (feature::EVENT_IDX, options.event_idx)]
        {
            wanted |= if on { feature::mask(bit) } else { 0 };
        }
        let accepted = transport.negotiate(wanted)?;
        let indirect = accepted & feature::mask(feature::INDIRECT_DESC) != 0;
        let event_idx = accepted & feature::mask(feature::EVENT_IDX) != 0;
        let offer = Offer::read(&transport, options.limit)?;

        let room = Arc::new(Room::new());
        let wake_event = wait::event()?;
        let wake = Arc::new(Wake::new(EventSignal(Arc::clone(&wake_event))));
        let (completions, config_event) = (wait::event()?, wait::event()?);
        let (interrupts, vector) = route_interrupts(&*function, &transport, &completions, &config_event)?;
        let arena = Arena::new(Arc::clone(&function), &options.arena, Arc::clone(&room))?;
        // Goes before the arena: the device must be still when that is unmapped.
        let undo = Undo { transport: &transport, limit: options.limit, interrupts };
        let fork = ForkPage::new()?;

        let maker = QueueMaker {
            transport: &transport,
            arena: &arena,
            vector,
            event_idx,
            fork: &fork,
            wake: &wake,
            room: &room,
        };
        let sizes: Result<Vec<_>> = (0..offer.data_queues)
            .map(|index| transport.queue_size(index).map(|size| size.min(options.queue_size)))
            .collect();
        let control_size = transport.queue_size(offer.data_queues)?.min(control::RING);
        let agreed = Agreed { wanted, accepted, indirect, event_idx, vector, sizes: sizes?, control_size };
        let (queues, control) = maker.all(&agreed)?;
        maker.set_aside(&agreed);
        arena.settle();
        let control = Control::new(control, Arc::clone(&arena), options.limit, Left::default());
        transport.set_driver_ok()?;
        if transport.status()? & status::NEEDS_RESET != 0 {
            return Err(Error::NotUsable {
                device: function.address().to_owned(),
                why: "it went into its error state while it was being set up".to_owned(),
            });
        }
        std::mem::forget(undo);
        let longest_chain = agreed.longest_chain();
        let queue_depth = queues.iter().map(|(submitter, _)| submitter.capacity()).min().unwrap_or(0);
        tracing::info!(
            device = function.address(),
            queues = offer.data_queues,
            depth = queue_depth,
            indirect,
            event_idx,
            ?interrupts,
            ciphers = offer.ciphers.len(),
            "virtio-crypto device ready"
        );
        let device = Arc::new(Self {
            limit: options.limit,
            arena,
            adopted: Mutex::default(),
            room,
            wake,
            wake_event,
            completions,
            config_event,
            interrupts,
            offer,
            queue_depth,
            longest_chain,
            sessions: Mutex::default(),
            agreed,
            control: Mutex::new(ControlQueue::Up(control)),
            commands: SegQueue::new(),
            control_pending: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            down: AtomicBool::new(false),
            stopped: Mutex::new(None),
            fork,
            sessions_restored: AtomicU64::new(0),
            transport,
        });
        Ok((device, queues))
    }
}
