//! An HTTP/2 client that says each frame itself: hyper, with prior knowledge.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

/// A body of chunks, of more that come later, and of trailers behind them.
#[derive(Debug)]
pub(crate) struct Said {
    chunks: VecDeque<Bytes>,
    later: Option<mpsc::UnboundedReceiver<Bytes>>,
    trailers: bool,
}

impl Said {
    pub(crate) fn new(chunks: &[&[u8]]) -> Self {
        let chunks = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect();
        Self { chunks, later: None, trailers: false }
    }

    /// A body whose chunks are sent by and by; it ends when the sender is dropped.
    pub(crate) fn by_and_by() -> (mpsc::UnboundedSender<Bytes>, Self) {
        let (sender, later) = mpsc::unbounded_channel();
        (sender, Self { chunks: VecDeque::new(), later: Some(later), trailers: false })
    }

    pub(crate) fn with_trailers(self) -> Self {
        Self { trailers: true, ..self }
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if let Some(later) = &mut self.later {
            return later.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))));
        }
        if !std::mem::take(&mut self.trailers) {
            return Poll::Ready(None);
        }
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-last"), HeaderValue::from_static("1"))]);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty() && self.later.is_none() && !self.trailers
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
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
        let answer = self.open(method, path, fields, said).await;
        let (head, mut rest) = answer.into_parts();
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        while let Some(frame) = next(&mut rest).await {
            match frame.unwrap_or_else(|error| panic!("{method} {path}: {error:?}")).into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        Heard { status: head.status.as_u16(), headers: head.headers, body, trailers }
    }

    /// Sends one request and reads the head of its answer.
    pub(crate) async fn open(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        said: Said,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://127.0.0.1:{}{path}", self.port));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request.body(said).unwrap());
        answer.await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }
}

/// The next frame of an answer.
pub(crate) async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}
