//! The answering half of a stream: a future that follows the exchange, run by whoever reads its answers. When nobody
//! takes them, nothing more is read: that is all the back-pressure there is, and all that is needed.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};

use crate::grpc::frame::GRPC_STATUS;

/// One answer on its way out.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Rc<RefCell<Option<Bytes>>>);

impl Outbox {
    /// Sends an answer; waits until the one before it was taken.
    pub(super) async fn send(&self, framed: Bytes) {
        let mut framed = Some(framed);
        // Whoever takes an answer runs the future again, so nobody needs to be woken.
        poll_fn(|_| {
            let mut place = self.0.borrow_mut();
            if place.is_some() {
                return Poll::Pending;
            }
            *place = framed.take();
            Poll::Ready(())
        })
        .await;
    }

    fn take(&self) -> Option<Bytes> {
        self.0.borrow_mut().take()
    }
}

type Run = Pin<Box<dyn Future<Output = &'static str>>>;

/// The body of a response: the answers, then the gRPC status.
pub struct Answers {
    outbox: Outbox,
    run: Option<Run>,
    status: Option<&'static str>,
    panicked: Box<dyn Fn() -> Bytes>,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answers {
    /// Runs `run`, which sends into `outbox` and ends with a gRPC status. `panicked` says what is sent when it panics.
    pub(super) fn new(
        outbox: Outbox,
        run: impl Future<Output = &'static str> + 'static,
        panicked: impl Fn() -> Bytes + 'static,
    ) -> Self {
        Self { outbox, run: Some(Box::pin(run)), status: None, panicked: Box::new(panicked) }
    }
}

impl Body for Answers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if let Some(answer) = this.outbox.take() {
            return Poll::Ready(Some(Ok(Frame::data(answer))));
        }
        if let Some(run) = &mut this.run {
            match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(cx))) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(status)) => {
                    this.status = Some(status);
                    this.run = None;
                }
                // The panic hook has reported where. An answer that was ready is not sent: who knows what it says.
                Err(_) => {
                    drop(this.outbox.take());
                    this.run = None;
                    this.status = Some("13");
                    return Poll::Ready(Some(Ok(Frame::data((this.panicked)()))));
                }
            }
            if let Some(answer) = this.outbox.take() {
                return Poll::Ready(Some(Ok(Frame::data(answer))));
            }
            if this.run.is_some() {
                return Poll::Pending;
            }
        }
        Poll::Ready(this.status.take().map(|status| {
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert(GRPC_STATUS, HeaderValue::from_static(status));
            Ok(Frame::trailers(trailers))
        }))
    }
}
