//! What a worker thread derives from a snapshot, once, for all services of the thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::grpc::write::Writer;
use crate::live::{Live, Reader, Snapshot};
use crate::telemetry::lines::Lines;

/// A thread's view of the current snapshot and of what follows from it.
#[derive(Debug)]
pub struct Desk {
    reader: RefCell<Reader>,
    prepared: RefCell<Rc<Prepared>>,
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
        Rc::new(Self { reader: RefCell::new(reader), prepared })
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
            messages_max: config.limits.max_stream_messages,
            idle: Duration::from_secs(config.limits.stream_idle_seconds.into()),
            snapshot: Arc::clone(snapshot),
        })
    }
}
