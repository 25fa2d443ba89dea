//! An HTTP/2 client that says each frame itself: hyper, with prior knowledge.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

/// A body of chunks, and trailers behind them.
#[derive(Debug)]
pub(crate) struct Said {
    chunks: VecDeque<Bytes>,
    trailers: bool,
}

impl Said {
    pub(crate) fn new(chunks: &[&[u8]]) -> Self {
        Self { chunks: chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect(), trailers: false }
    }

    pub(crate) fn with_trailers(self) -> Self {
        Self { trailers: true, ..self }
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if !std::mem::take(&mut self.trailers) {
            return Poll::Ready(None);
        }
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-last"), HeaderValue::from_static("1"))]);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty() && !self.trailers
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection.
pub(crate) struct Client {
    sender: http2::SendRequest<Said>,
    port: u16,
}

impl Client {
    pub(crate) async fn connect(port: u16) -> Self {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, port }
    }

    /// Sends one request and reads its whole answer. Panics when the stream breaks.
    pub(crate) async fn send(&mut self, method: &str, path: &str, fields: &[(&str, &str)], said: Said) -> Heard {
        let mut request = Request::builder().method(method).uri(format!("http://127.0.0.1:{}{path}", self.port));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request.body(said).unwrap());
        let answer = answer.await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let (head, mut rest) = answer.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await {
            let frame = frame.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
            if let Ok(data) = frame.into_data() {
                body.extend_from_slice(&data);
            }
        }
        Heard { status: head.status.as_u16(), headers: head.headers, body }
    }
}
