//! ext_authz: one question of Envoy, one answer.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::{Request as HttpRequest, Response};
use http_body::Body;

use crate::clock::{self, Budget, Parts, Stopwatch};
use crate::engine::policy::Policy;
use crate::engine::trace::{Outcome, Trace};
use crate::engine::{self, Asked};
use crate::grpc::desk::{Desk, Prepared, Slowed};
use crate::grpc::frame::{self, FrameError, Unary};
use crate::grpc::read;
use crate::grpc::repeat::Repeats;
use crate::grpc::write;
use crate::model::check::Check;
use crate::model::time::Timestamp;
use crate::request::Request;
use crate::state::State;
use crate::telemetry::Recorder;
use crate::telemetry::metrics::Shard;

/// The full path of the method.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The service's name, for health.
pub const SERVICE: &str = "envoy.service.auth.v3.Authorization";

/// The service as one worker thread sees it. What it shares with others it only reads, or counts in.
#[derive(Debug)]
pub struct Authz<S> {
    desk: Rc<Desk>,
    state: Arc<S>,
    repeats: Arc<Repeats>,
    recorder: Rc<Recorder>,
}

impl<S: State> Authz<S> {
    /// The service for one thread.
    #[must_use]
    pub const fn new(desk: Rc<Desk>, state: Arc<S>, repeats: Arc<Repeats>, recorder: Rc<Recorder>) -> Self {
        Self { desk, state, repeats, recorder }
    }

    /// Answers one call of [`CHECK`].
    ///
    /// Whatever the call holds, the answer is a gRPC success with a decision or with our failure in it. Only a call
    /// that is no gRPC at all, is compressed, or was broken off gets a gRPC status.
    pub async fn call<B>(&self, call: HttpRequest<B>) -> Response<Unary>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let prepared = self.desk.prepared();
        match frame::take(call.into_body(), prepared.message_bytes_max).await {
            Ok(message) => {
                let (answer, slowed) = self.check(&prepared, &message).await;
                if let Some(slowed) = slowed {
                    // Only the answer waits.
                    drop(message);
                    slowed.wait().await;
                }
                Unary::answer(answer)
            }
            Err(error @ FrameError::TooLarge(_)) => {
                self.recorder.unreadable(&error);
                Unary::answer(write::unreadable("the message is larger than limits.max_message_bytes"))
            }
            // 12 is UNIMPLEMENTED, 3 INVALID_ARGUMENT, 1 CANCELLED.
            Err(FrameError::Compressed) => Unary::refusal("12", "compression is not supported"),
            Err(FrameError::Truncated) => Unary::refusal("3", "the call holds no whole message"),
            Err(FrameError::Broken) => Unary::refusal("1", "the call was broken off"),
        }
    }

    /// The framed answer to one CheckRequest. A panic on the way is our failure, not a lost answer.
    async fn check(&self, prepared: &Prepared, message: &[u8]) -> (Bytes, Option<Slowed>) {
        let mut decision = pin!(self.decide(prepared, message));
        let answer = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| decision.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        });
        match answer.await {
            Ok(answer) => answer,
            // The panic hook has reported where.
            Err(_) => {
                self.recorder.panicked();
                (write::unreadable("internal error"), None)
            }
        }
    }

    async fn decide(&self, prepared: &Prepared, message: &[u8]) -> (Bytes, Option<Slowed>) {
        let start = clock::instant();
        let asked = self.repeats.identify(message);
        if let Some(answer) = asked.and_then(|asked| self.repeats.answer(asked, start)) {
            return (answer, None);
        }
        let (answer, slowed) = self.decide_afresh(prepared, message, start).await;
        if let Some(asked) = asked {
            self.repeats.keep(asked, answer.clone(), start);
        }
        (answer, slowed)
    }

    async fn decide_afresh(&self, prepared: &Prepared, message: &[u8], start: Instant) -> (Bytes, Option<Slowed>) {
        let request = match read::read(message) {
            Ok(request) => request,
            Err(error) => {
                self.recorder.unreadable(&error);
                return (write::unreadable("the question cannot be read"), None);
            }
        };
        let policy = &prepared.snapshot.policy;
        let budget = Budget::new(start, prepared.detection);
        let mut times = Times::of(self.recorder.shard());
        let watch = times.watch(budget);
        let now = clock::now();
        let asked = Asked { request: &request, now, meter: &watch };
        let mut decision = engine::decide_traced(policy, &*self.state, asked, &mut times).await;
        let slowed = self.desk.slow_down(prepared, &mut decision, self.recorder.shard());
        let client = policy.client(&request);
        let answer = prepared.writer.write(&request, &decision, client);
        self.recorder.decided(&prepared.lines, &request, &decision, (client, start.elapsed()));
        if let Some(parts) = watch.parts() {
            measured(&self.recorder, policy, (&parts, &request), (decision.detection.is_some(), now));
        }
        (answer, slowed)
    }
}

/// Takes in what a measured detection of a request spent its time on; whether it found something, and when.
pub(super) fn measured(
    recorder: &Recorder,
    policy: &Policy,
    (parts, request): (&Parts, &Request<'_>),
    (matched, now): (bool, Timestamp),
) {
    let shard = recorder.shard();
    parts.spent().for_each(|(stage, took)| shard.detected(stage, took));
    for anomaly in policy.detector.record(parts.samples(matched), now) {
        recorder.anomaly(&anomaly, request);
    }
}

/// Measures the checks of a sampled request.
pub(super) struct Times<'a> {
    shard: &'a Shard,
    /// When the running check began; `None` when this request is not measured.
    began: Option<Instant>,
}

impl<'a> Times<'a> {
    pub(super) fn of(shard: &'a Shard) -> Self {
        Self { shard, began: shard.samples().then(clock::instant) }
    }

    /// Measures the detection of a request that is measured.
    pub(super) fn watch(&self, budget: Budget) -> Stopwatch {
        if self.began.is_some() { Stopwatch::running(budget) } else { Stopwatch::stopped(budget) }
    }
}

impl Trace for Times<'_> {
    #[inline]
    fn begin(&mut self, _: Check) {
        if let Some(began) = &mut self.began {
            *began = clock::instant();
        }
    }

    #[inline]
    fn end(&mut self, check: Check, outcome: Outcome<'_>) {
        if let (Some(began), false) = (self.began, matches!(outcome, Outcome::Skipped(_))) {
            self.shard.checked(check, began.elapsed());
        }
    }
}
