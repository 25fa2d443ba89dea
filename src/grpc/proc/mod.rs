//! ext_proc: one stream for each exchange. The session says what to do with each part; this room reads parts, asks the
//! engine, writes answers, and keeps the time.
//!
//! A stream that ends without an answer lets its request pass, and so may a gRPC error. Whatever a client can bring
//! about is therefore answered with an immediate response: a refusal, or our failure.

mod answers;
mod exchange;
mod read;
mod route_metadata;
mod write;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request as HttpRequest, Response, header};
use http_body::Body;

pub use answers::Answers;

use crate::grpc::desk::{Desk, Prepared};
use crate::grpc::frame::{FrameError, Messages};
use crate::grpc::proc::answers::Outbox;
use crate::grpc::proc::exchange::Exchange;
use crate::session::Ending;
use crate::state::State;
use crate::telemetry::Recorder;
use crate::telemetry::metrics::StreamEnd;

/// The full path of the method.
pub const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// The service's name, for health.
pub const SERVICE: &str = "envoy.service.ext_proc.v3.ExternalProcessor";
/// The header of the call by which an operator chooses the route (`grpc_initial_metadata`). Clients cannot set it.
const ROUTE: &str = "guard-route";
/// A stream that was opened brings its first part at once.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// The service as one worker thread sees it.
#[derive(Debug)]
pub struct Proc<S> {
    desk: Rc<Desk>,
    state: Arc<S>,
    recorder: Rc<Recorder>,
    /// Body bytes that the exchanges of this thread have gathered.
    gathered: Rc<Cell<usize>>,
}

impl<S: State + 'static> Proc<S> {
    /// The service for one thread.
    #[must_use]
    pub fn new(desk: Rc<Desk>, state: Arc<S>, recorder: Rc<Recorder>) -> Self {
        Self { desk, state, recorder, gathered: Rc::default() }
    }

    /// Answers one call of [`PROCESS`].
    pub fn call<B>(self: Rc<Self>, call: HttpRequest<B>) -> Response<Answers>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let (parts, body) = call.into_parts();
        let route = parts.headers.get(ROUTE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (outbox, recorder) = (Outbox::default(), Rc::clone(&self.recorder));
        let run = {
            let outbox = outbox.clone();
            async move {
                let prepared = self.desk.prepared();
                let messages = Messages::new(body, prepared.message_bytes_max);
                let end = End { recorder: Rc::clone(&self.recorder), is: Cell::new(StreamEnd::Broken) };
                let (how, status) = self.follow(&prepared, messages, (route.as_deref(), &outbox, &end)).await;
                end.is.set(how);
                status
            }
        };
        let panicked = move || {
            recorder.panicked();
            write::failure(500, FAILED, "envoy_guard_fail_internal")
        };
        let mut response = Response::new(Answers::new(outbox, run, panicked));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    /// Follows one exchange. Returns how the stream ends, and the gRPC status that says so.
    async fn follow<B>(
        &self,
        prepared: &Prepared,
        mut messages: Messages<B>,
        by: (Option<&str>, &Outbox, &End),
    ) -> (StreamEnd, &'static str)
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (route, outbox, end) = by;
        let first = match receive(&mut messages, FIRST_WITHIN).await {
            Ok(Some(first)) => first,
            Ok(None) => return (StreamEnd::Answered, OK),
            Err(lost) => return lost.report(outbox, &self.recorder).await,
        };
        let opening = match read::read(&first) {
            Ok(opening) => opening,
            Err(error) => return Lost::Unreadable(error.to_string()).report(outbox, &self.recorder).await,
        };
        let Some(mut exchange) = Exchange::open(self, prepared, outbox, (&opening, route)) else {
            return Lost::Unreadable("the headers are no request".to_owned()).report(outbox, &self.recorder).await;
        };
        exchange.take(&opening, &first).await;
        let mut taken = 1;
        while !exchange.session.is_closed() {
            // Envoy resets the stream when it needs no more answers, and nobody runs this any further.
            end.is.set(match exchange.session.ending() {
                Ending::Answered => StreamEnd::Answered,
                Ending::Unanswered | Ending::Closed => StreamEnd::Broken,
            });
            let message = match receive(&mut messages, prepared.idle).await {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(lost) => return lost.report(outbox, &self.recorder).await,
            };
            taken += 1;
            if prepared.messages_max < taken {
                return Lost::Endless(prepared.messages_max).report(outbox, &self.recorder).await;
            }
            match read::read(&message) {
                Ok(part) => exchange.take(&part, &message).await,
                Err(error) => return Lost::Unreadable(error.to_string()).report(outbox, &self.recorder).await,
            }
        }
        match exchange.session.ending() {
            Ending::Answered => (StreamEnd::Answered, OK),
            // Not OK: an end in good order would let pass what was not answered.
            Ending::Unanswered => (StreamEnd::Broken, CANCELLED),
            Ending::Closed if exchange.has_failed => (StreamEnd::Failed, INTERNAL),
            Ending::Closed => (StreamEnd::Refused, OK),
        }
    }
}

/// Counts how a stream ends, whoever ends it.
struct End {
    recorder: Rc<Recorder>,
    is: Cell<StreamEnd>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.recorder.stream_ended(self.is.get());
    }
}

const FAILED: &str = "Security check failed";
const OK: &str = "0";
const CANCELLED: &str = "1";
const DEADLINE_EXCEEDED: &str = "4";
const INTERNAL: &str = "13";

/// Why no part came.
enum Lost {
    Frame(FrameError),
    Unreadable(String),
    Idle,
    /// More parts came than one exchange may have.
    Endless(u32),
}

impl Lost {
    /// Says so: to Envoy, when there is somebody to answer, and to the counts.
    async fn report(self, outbox: &Outbox, recorder: &Recorder) -> (StreamEnd, &'static str) {
        match self {
            Self::Frame(FrameError::Broken) => (StreamEnd::Broken, CANCELLED),
            // A client may have sent the bytes that made it so large: never a mere gRPC error.
            Self::Frame(error @ FrameError::TooLarge(_)) => {
                recorder.unreadable(&error);
                outbox.send(write::failure(413, "Request too large", "envoy_guard_fail_message_too_large")).await;
                (StreamEnd::Failed, OK)
            }
            Self::Frame(error) => {
                recorder.unreadable(&error);
                outbox.send(write::failure(500, FAILED, "envoy_guard_fail_unreadable")).await;
                (StreamEnd::Failed, INTERNAL)
            }
            Self::Unreadable(error) => {
                recorder.unreadable(&error);
                outbox.send(write::failure(500, FAILED, "envoy_guard_fail_unreadable")).await;
                (StreamEnd::Failed, INTERNAL)
            }
            Self::Endless(max) => {
                recorder
                    .unreadable(&format_args!("the exchange has more than {max} parts (limits.max_stream_messages)"));
                outbox.send(write::failure(500, FAILED, "envoy_guard_fail_too_many_messages")).await;
                (StreamEnd::Failed, INTERNAL)
            }
            Self::Idle => (StreamEnd::Idle, DEADLINE_EXCEEDED),
        }
    }
}

async fn receive<B>(messages: &mut Messages<B>, within: Duration) -> Result<Option<Bytes>, Lost>
where
    B: Body<Data = Bytes> + Unpin,
{
    match tokio::time::timeout(within, messages.next()).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) => Err(Lost::Frame(error)),
        Err(_) => Err(Lost::Idle),
    }
}

#[cfg(test)]
mod tests;
