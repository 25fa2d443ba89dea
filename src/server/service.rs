//! What a connection serves: Check and Process on the short way, everything else through tonic's router.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::service::Routes;
use tower::ServiceExt;

use crate::grpc::authz::{Authz, CHECK};
use crate::grpc::frame::Unary;
use crate::grpc::proc::{Answers, PROCESS, Proc};
use crate::state::State;

/// The services of one worker thread.
#[derive(Debug)]
pub struct Services<S> {
    /// Decides.
    pub authz: Authz<S>,
    /// Follows exchanges.
    pub proc: Rc<Proc<S>>,
    /// Health, reflection, and the answer to unknown methods.
    pub others: Routes,
}

impl<S: State + 'static> Services<S> {
    /// Answers one call.
    pub async fn call(self: Rc<Self>, call: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let path = call.uri().path();
        if path == CHECK || path == PROCESS {
            let is_grpc = call
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
            if !is_grpc {
                let mut response = Response::new(Answer::Other(tonic::body::Body::empty()));
                *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
                return Ok(response);
            }
            if path == PROCESS {
                return Ok(Rc::clone(&self.proc).call(call).map(Answer::Process));
            }
            return Ok(self.authz.call(call).await.map(Answer::Check));
        }
        let response = self.others.clone().oneshot(call.map(tonic::body::Body::new)).await;
        Ok(response.map_or_else(|error| match error {}, |response| response.map(Answer::Other)))
    }
}

/// The body of an answer.
#[derive(Debug)]
pub enum Answer {
    /// Of Check.
    Check(Unary),
    /// Of Process.
    Process(Answers),
    /// Of the other services.
    Other(tonic::body::Body),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match self.get_mut() {
            Self::Check(unary) => Pin::new(unary).poll_frame(cx).map_err(|error| match error {}),
            Self::Process(answers) => Pin::new(answers).poll_frame(cx).map_err(|error| match error {}),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Check(unary) => unary.is_end_stream(),
            Self::Process(answers) => answers.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Check(unary) => unary.size_hint(),
            Self::Process(answers) => answers.size_hint(),
            Self::Other(body) => body.size_hint(),
        }
    }
}
