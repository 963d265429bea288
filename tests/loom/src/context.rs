//! A wait context in a model, and what the poll thread does with the requests of one.

use std::sync::Arc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use ringbell_drivers::claim::{self, Claim};
use ringbell_drivers::virtqueue::Completer;

use crate::Shared;

/// What a context owns: counts calls, and lets loom see who touches it when.
pub struct Value {
    /// Calls made.
    pub calls: Arc<AtomicU32>,
    /// Drops of the value.
    pub dropped: Arc<AtomicU32>,
    /// Touched by each call, and by its owner after `quiesce`.
    pub touched: UnsafeCell<u32>,
}

// SAFETY: the model's point: loom reports it where accesses to `touched` overlap.
unsafe impl Sync for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A handle to a context.
pub type Context = claim::Shared<Value>;

/// A context, its calls and its drops.
pub fn context() -> (Context, Arc<AtomicU32>, Arc<AtomicU32>) {
    let (calls, dropped) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let context = claim::Shared::new(Value {
        calls: Arc::clone(&calls),
        dropped: Arc::clone(&dropped),
        touched: UnsafeCell::new(0),
    });
    (context, calls, dropped)
}

/// What the poll thread does with an ended request. True where it was delivered.
pub fn complete(claim: Claim<Value>) -> bool {
    let Some(seen) = claim.look() else { return false };
    match claim.begin(seen) {
        Ok(calling) => {
            calling.shared().calls.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the model's point: loom reports it if an owner touches it at the same time.
            calling.shared().touched.with_mut(|touched| unsafe { *touched += 1 });
            true
        }
        Err(_) => false,
    }
}

/// A request in the ring: `None` once it has ended early.
pub struct Entry(pub Option<Claim<Value>>);

/// The poll thread of a queue: what the poller does with the complete half.
pub struct Poll {
    /// The complete half.
    pub completer: Completer<Entry, Shared>,
    /// Requests delivered, by whatever ended them.
    pub delivered: u32,
    /// Requests that had been given up.
    pub given_up: u32,
    /// Entries that came back after their request had ended early.
    pub back: u32,
    /// Requests ended early.
    pub early: u32,
}

impl Poll {
    /// Nothing has happened.
    pub fn new(completer: Completer<Entry, Shared>) -> Self {
        Self { completer, delivered: 0, given_up: 0, back: 0, early: 0 }
    }

    fn end(&mut self, Entry(claim): Entry) {
        match claim.map(complete) {
            Some(true) => self.delivered += 1,
            Some(false) => self.given_up += 1,
            None => self.back += 1,
        }
    }

    /// Takes what is completed.
    ///
    /// # Panics
    /// The device lies.
    pub fn drain(&mut self) {
        crate::drain(&mut self.completer).into_iter().for_each(|entry| self.end(entry));
    }

    /// A tick of the clock, by a deadline of `limit` units.
    pub fn tick(&mut self, now: u64, limit: u64) {
        let mut late = Vec::new();
        let unit = Duration::from_millis;
        self.completer.tick(unit(now), unit(limit), |entry| late.extend(entry.0.take()));
        self.end_early(late);
    }

    /// The message of a cancel.
    pub fn cancel(&mut self, context: &Context, generation: u32) {
        let mut found = Vec::new();
        let ours = |claim: &mut Claim<Value>| claim.is_of(context) && claim.generation() == generation;
        self.completer.for_each_in_flight(|entry| found.extend(entry.0.take_if(ours)));
        self.end_early(found);
    }

    fn end_early(&mut self, claims: Vec<Claim<Value>>) {
        self.early += claims.len() as u32;
        claims.into_iter().for_each(|claim| self.end(Entry(Some(claim))));
    }

    /// The device is stopped: ends the rest.
    pub fn reap(&mut self) {
        let mut rest = Vec::new();
        self.completer.reap(false, |entry| rest.push(entry));
        rest.into_iter().for_each(|entry| self.end(entry));
    }

    /// Closes the queue and ends the rest.
    pub fn finish(&mut self) {
        self.completer.close();
        self.reap();
    }
}
