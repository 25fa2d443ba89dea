//! What a worker thread derives from a snapshot, once, for all services of the thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::grpc::write::Writer;
use crate::live::{Live, Reader, Snapshot};
use crate::model::decision::{Decision, ResponseHeaders, Verdict};
use crate::telemetry::lines::Lines;
use crate::telemetry::metrics::Shard;

/// A thread's view of the current snapshot and of what follows from it.
#[derive(Debug)]
pub struct Desk {
    reader: RefCell<Reader>,
    prepared: RefCell<Rc<Prepared>>,
    /// Requests of this thread that are slowed down.
    delayed: Cell<u32>,
}

/// What follows from one snapshot.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) writer: Writer,
    pub(super) lines: Lines,
    /// Time for one request's detection.
    pub(super) detection: Duration,
    pub(super) message_bytes_max: u32,
    /// Body bytes gathered for one inspection: what detection reads, and the overlap behind it.
    pub(super) body_bytes_max: usize,
    /// Response body bytes looked at.
    pub(super) response_bytes_max: usize,
    /// Body bytes that all exchanges of the thread may have gathered at once.
    pub(super) gathered_bytes_max: usize,
    /// Requests of the thread that may be slowed down at once.
    pub(super) delayed_max: u32,
    /// Messages that one exchange may have.
    pub(super) messages_max: u32,
    /// Silence after which an exchange is given up.
    pub(super) idle: Duration,
}

/// Bytes that detection reads behind its cap, so that an attack across the cut is whole.
const OVERLAP: usize = 256;

impl Desk {
    /// The desk of one thread.
    #[must_use]
    pub fn new(live: &Live) -> Rc<Self> {
        let mut reader = Reader::new(live);
        let prepared = RefCell::new(Prepared::new(reader.current()));
        Rc::new(Self { reader: RefCell::new(reader), prepared, delayed: Cell::new(0) })
    }

    /// What follows from the current snapshot.
    pub(super) fn prepared(&self) -> Rc<Prepared> {
        let mut reader = self.reader.borrow_mut();
        let mut prepared = self.prepared.borrow_mut();
        let current = reader.current();
        if !Arc::ptr_eq(current, &prepared.snapshot) {
            *prepared = Prepared::new(current);
        }
        Rc::clone(&prepared)
    }

    /// Finds room for a request that is to be slowed down. Without room it is refused instead: waiting costs memory, and
    /// a client that opens ever more requests must not have it. The decision then says so, and `shard` counts both.
    pub(super) fn slow_down(
        self: &Rc<Self>,
        prepared: &Prepared,
        decision: &mut Decision<'_>,
        shard: &Shard,
    ) -> Option<Slowed> {
        let by = Duration::from_millis(decision.delay.as_ref()?.millis.into());
        if prepared.delayed_max <= self.delayed.get() {
            decision.verdict = Verdict::Deny(decision.delay.take()?.otherwise);
            decision.response_headers = ResponseHeaders::default();
            decision.request_headers.clear();
            shard.delay_refused();
            return None;
        }
        self.delayed.set(self.delayed.get() + 1);
        shard.delayed(by);
        Some(Slowed { desk: Rc::clone(self), by })
    }
}

/// A request whose answer waits, and its place among those that do.
#[derive(Debug)]
pub(super) struct Slowed {
    desk: Rc<Desk>,
    by: Duration,
}

impl Slowed {
    /// Waits.
    pub(super) async fn wait(self) {
        tokio::time::sleep(self.by).await;
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.desk.delayed.set(self.desk.delayed.get().saturating_sub(1));
    }
}

impl Prepared {
    fn new(snapshot: &Arc<Snapshot>) -> Rc<Self> {
        let config = &snapshot.config;
        let size = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Rc::new(Self {
            writer: Writer::new(snapshot.version, config.telemetry.metadata),
            lines: Lines::new(config),
            detection: Duration::try_from_secs_f64(config.security.detection_max_scan_seconds).unwrap_or(Duration::MAX),
            message_bytes_max: config.limits.max_message_bytes,
            response_bytes_max: snapshot.policy.response_bytes_max(),
            body_bytes_max: size(config.security.detection_max_body_inspect_bytes).saturating_add(OVERLAP),
            gathered_bytes_max: size(config.limits.max_gathered_bytes),
            delayed_max: config.limits.max_delayed_requests,
            messages_max: config.limits.max_stream_messages,
            idle: Duration::from_secs(config.limits.stream_idle_seconds.into()),
            snapshot: Arc::clone(snapshot),
        })
    }
}
