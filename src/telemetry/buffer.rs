//! A bounded place between those who tell and a sink that sends. Whoever tells never waits: what finds no room is
//! dropped, or drops something older, and is counted. A full queue that drops what comes says so beforehand, for the price
//! of reading one number: what nobody would take need not be made.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::check::names;

names! {
    /// Where telemetry goes. The name is the label of every count about it.
    SinkName {
        /// Events as log lines.
        Log = "log",
        /// Events to a webhook of ours.
        Webhook = "webhook",
        /// Blocks to `on_block`.
        OnBlock = "on_block",
        /// Failures to `on_error`.
        OnError = "on_error",
        /// Events in the agent protocol.
        AgentEvents = "agent_events",
        /// Metrics in the agent protocol.
        AgentMetrics = "agent_metrics",
        /// Spans over OTLP.
        OtelTraces = "otel_traces",
        /// Events over OTLP.
        OtelLogs = "otel_logs",
        /// Metrics over OTLP.
        OtelMetrics = "otel_metrics",
    }
}

/// What became of what was told to one sink.
#[derive(Debug, Default)]
pub struct Tally {
    delivered: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
    waiting: AtomicU64,
}

impl Tally {
    /// Items that the other side has.
    pub fn delivered(&self, items: usize) {
        self.delivered.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// Items that are lost: no room, refused by the other side, or left at the end.
    pub fn dropped(&self, items: usize) {
        self.dropped.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// Items that are being sent.
    #[must_use]
    pub const fn underway(&self, items: usize) -> Underway<'_> {
        Underway { tally: self, items }
    }

    /// An attempt to deliver that failed.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Items delivered, items lost, attempts that failed, items waiting.
    #[must_use]
    pub fn read(&self) -> [u64; 4] {
        [&self.delivered, &self.dropped, &self.failures, &self.waiting].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Items on their way: lost, unless they arrive. Whatever ends the attempt, they are counted.
#[derive(Debug)]
pub struct Underway<'t> {
    tally: &'t Tally,
    items: usize,
}

impl Underway<'_> {
    /// They have arrived.
    pub fn arrived(self) {
        self.arrived_but(0);
    }

    /// They have arrived, and the other side threw away so many of them.
    pub fn arrived_but(mut self, rejected: usize) {
        let rejected = rejected.min(self.items);
        self.tally.delivered(self.items - rejected);
        self.items = rejected;
    }

    /// They wait again.
    pub fn returned(mut self) {
        self.items = 0;
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.tally.dropped(self.items);
    }
}

/// One tally for each sink; they outlive a reload.
#[derive(Clone, Debug)]
pub struct Tallies(Arc<[Arc<Tally>]>);

impl Default for Tallies {
    fn default() -> Self {
        Self(SinkName::ALL.iter().map(|_| Arc::default()).collect())
    }
}

impl Tallies {
    /// The tally of a sink.
    #[must_use]
    pub fn of(&self, sink: SinkName) -> Arc<Tally> {
        self.0.get(sink as usize).cloned().unwrap_or_default()
    }
}

/// What has to go when there is no room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Full {
    /// What has waited longest.
    DropOldest,
    /// What comes.
    DropNewest,
}

/// A bounded queue. Cheap to clone; clones are the same queue.
#[derive(Debug)]
pub struct Buffer<T>(Arc<Inner<T>>);

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<T> {
    queue: Mutex<VecDeque<T>>,
    capacity: usize,
    full: Full,
    /// Items at which a waiting sink is woken.
    mark: usize,
    /// Length of the queue, for those who do not want its lock.
    waiting: AtomicUsize,
    woken: Notify,
    tally: Arc<Tally>,
}

impl<T> Buffer<T> {
    /// A queue of `capacity` items that wakes its sink when `mark` of them wait; both are at least 1.
    #[must_use]
    pub fn new(capacity: usize, mark: usize, full: Full, tally: Arc<Tally>) -> Self {
        let capacity = capacity.max(1);
        Self(Arc::new(Inner {
            queue: Mutex::new(VecDeque::new()),
            capacity,
            full,
            mark: mark.clamp(1, capacity),
            waiting: AtomicUsize::new(0),
            woken: Notify::new(),
            tally,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called with the lock held, so that the latest length is the one that stays.
    fn note(&self, waiting: usize) {
        self.0.waiting.store(waiting, Ordering::Relaxed);
        self.0.tally.waiting.store(waiting as u64, Ordering::Relaxed);
    }

    /// True when an item that came now would be dropped. The answer may be late by an item or two: nobody waits for it.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.0.full == Full::DropNewest && self.0.capacity <= self.0.waiting.load(Ordering::Relaxed)
    }

    /// Counts an item as lost that was not even made, because this queue [is shut](Self::is_shut).
    pub fn turn_away(&self) {
        self.0.tally.dropped(1);
    }

    /// Adds what `make` makes; when there is no room for it, it is not made and counts as lost.
    pub fn offer(&self, make: impl FnOnce() -> T) {
        if self.is_shut() { self.turn_away() } else { self.push(make()) }
    }

    /// Adds an item. When there is no room something has to go for it, or it has to go itself. The sink is woken when
    /// [the mark](Self::new) is reached, not by each item beyond it: waking another thread costs more than the item.
    pub fn push(&self, item: T) {
        if self.is_shut() {
            return self.turn_away();
        }
        let mut queue = self.lock();
        let before = queue.len();
        // Memory of what goes is given back outside the lock.
        let mut gone = None;
        if self.0.capacity <= queue.len() {
            self.0.tally.dropped(1);
            match self.0.full {
                Full::DropOldest => gone = queue.pop_front(),
                Full::DropNewest => return,
            }
        }
        queue.push_back(item);
        let waiting = queue.len();
        self.note(waiting);
        drop(queue);
        drop(gone);
        if before < self.0.mark && self.0.mark <= waiting {
            self.0.woken.notify_one();
        }
    }

    /// The items that have waited longest, at most `max`.
    #[must_use]
    pub fn take(&self, max: usize) -> Vec<T> {
        let mut queue = self.lock();
        let count = queue.len().min(max);
        let taken = queue.drain(..count).collect();
        self.note(queue.len());
        drop(queue);
        taken
    }

    /// Puts back what could not be sent, before what came since. Where there is no room the newest go.
    pub fn put_back(&self, items: Vec<T>) {
        let mut queue = self.lock();
        for item in items.into_iter().rev() {
            queue.push_front(item);
        }
        let excess = queue.len().saturating_sub(self.0.capacity);
        queue.truncate(self.0.capacity);
        self.note(queue.len());
        drop(queue);
        self.0.tally.dropped(excess);
    }

    /// Items waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Items that may wait.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// What became of its items.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.0.tally
    }

    /// Waits until `mark` items came together since the last time. Whoever leaves items behind comes back by itself: what
    /// is above the mark already does not wake anybody again.
    pub async fn filled(&self) {
        self.0.woken.notified().await;
    }

    /// Counts what is left as lost.
    pub fn abandon(&self) {
        let left = self.take(usize::MAX).len();
        self.0.tally.dropped(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(capacity: usize, full: Full) -> Buffer<u32> {
        Buffer::new(capacity, 2, full, Arc::default())
    }

    #[test]
    fn a_full_queue_drops_what_it_is_told_to_and_counts() {
        for (full, expected) in [(Full::DropOldest, [2, 3, 4]), (Full::DropNewest, [0, 1, 2])] {
            let queue = buffer(3, full);
            (0..5).for_each(|item| queue.push(item));
            assert_eq!(queue.tally().read(), [0, 2, 0, 3], "{full:?}");
            assert_eq!(queue.take(usize::MAX), expected, "{full:?}");
            assert_eq!(queue.tally().read(), [0, 2, 0, 0], "{full:?}");
        }
    }

    #[test]
    fn what_is_put_back_stands_first_and_the_newest_go() {
        let queue = buffer(3, Full::DropOldest);
        (0..3).for_each(|item| queue.push(item));
        let taken = queue.take(2);
        assert_eq!((taken.as_slice(), queue.len()), (&[0, 1][..], 1));
        queue.push(3);
        queue.push(4);
        queue.put_back(taken);
        assert_eq!(queue.take(9), [0, 1, 2]);
        assert_eq!(queue.tally().read(), [0, 2, 0, 0]);
        queue.push(5);
        queue.abandon();
        assert!(queue.is_empty());
        assert_eq!(queue.tally().read(), [0, 3, 0, 0]);
    }

    #[test]
    fn what_a_full_queue_would_drop_is_not_made() {
        let queue = buffer(2, Full::DropNewest);
        let mut made = 0;
        (0..5).for_each(|item| {
            queue.offer(|| {
                made += 1;
                item
            });
        });
        assert_eq!((made, queue.is_shut(), queue.tally().read()), (2, true, [0, 3, 0, 2]));
        assert_eq!(queue.take(1), [0]);
        assert!(!queue.is_shut());
        queue.put_back(vec![7, 8]);
        assert!(queue.is_shut(), "what is put back takes room");
        queue.abandon();
        assert!(!queue.is_shut());
        let oldest = buffer(2, Full::DropOldest);
        (0..5).for_each(|item| oldest.offer(|| item));
        assert_eq!((oldest.is_shut(), oldest.take(9)), (false, vec![3, 4]), "the newest is what it wants");
    }

    #[tokio::test]
    async fn the_mark_wakes_the_sink_once() {
        let queue = buffer(4, Full::DropOldest);
        queue.push(0);
        assert!(futures_ready(queue.filled()).await.is_none(), "one is not two");
        queue.push(1);
        queue.push(2);
        assert!(futures_ready(queue.filled()).await.is_some());
        (3..9).for_each(|item| queue.push(item));
        assert!(futures_ready(queue.filled()).await.is_none(), "a sink that rests is left alone");
        drop(queue.take(3));
        queue.push(9);
        assert!(futures_ready(queue.filled()).await.is_some(), "the mark is reached anew");
    }

    /// The future's output if it has one at once.
    async fn futures_ready<F: Future>(future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
