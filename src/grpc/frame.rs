//! gRPC framing: messages in, no copy of one that came in one piece; one message out for a unary call.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};

/// Bytes before a message: a compression flag and the length.
const PREFIX: usize = 5;
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why no message could be taken from a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The message announces more bytes than are taken.
    #[error("the message has {0} bytes, which is more than limits.max_message_bytes")]
    TooLarge(u32),
    /// The message is compressed, which was never offered.
    #[error("the message is compressed")]
    Compressed,
    /// The call ended before its message did.
    #[error("the call ended within its message")]
    Truncated,
    /// The connection or the stream broke: nobody waits for an answer.
    #[error("the call was broken off")]
    Broken,
}

/// Takes the one message of a unary call, of at most `max` bytes. Nothing is copied when it came in one frame.
pub async fn take<B>(body: B, max: u32) -> Result<Bytes, FrameError>
where
    B: Body<Data = Bytes> + Unpin,
{
    Messages::new(body, max).next().await?.ok_or(FrameError::Truncated)
}

/// The messages of a call, of at most `max` bytes each. Nothing is copied of one that came in one frame.
#[derive(Debug)]
pub struct Messages<B> {
    body: B,
    max: u32,
    /// What came and was not taken, as long as it is one frame.
    received: Bytes,
    joined: BytesMut,
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    /// The messages of `body`.
    pub fn new(body: B, max: u32) -> Self {
        Self { body, max, received: Bytes::new(), joined: BytesMut::new() }
    }

    /// The next message, or `None` when the call ended after the last one. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let have = if self.joined.is_empty() { &self.received[..] } else { &self.joined[..] };
            if let Some(length) = length(have, self.max)? {
                if PREFIX + length <= have.len() {
                    return Ok(Some(self.split(PREFIX + length)));
                }
                if !self.joined.is_empty() {
                    // In powers of two: an allocator keeps pages for each size it has seen, and messages have all sizes.
                    let room = (PREFIX + length).next_power_of_two();
                    self.joined.reserve(room - self.joined.len());
                }
            }
            match next(&mut self.body).await? {
                Some(data) => self.push(data),
                None if self.received.is_empty() && self.joined.is_empty() => return Ok(None),
                None => return Err(FrameError::Truncated),
            }
        }
    }

    fn push(&mut self, data: Bytes) {
        if self.received.is_empty() && self.joined.is_empty() {
            self.received = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&std::mem::take(&mut self.received));
        }
        self.joined.extend_from_slice(&data);
    }

    fn split(&mut self, end: usize) -> Bytes {
        let mut message =
            if self.joined.is_empty() { self.received.split_to(end) } else { self.joined.split_to(end).freeze() };
        message.advance(PREFIX);
        message
    }
}

/// The announced length, once the prefix is there.
fn length(have: &[u8], max: u32) -> Result<Option<usize>, FrameError> {
    let Some((flag, length)) = have.first_chunk::<PREFIX>().and_then(|prefix| prefix.split_first_chunk::<1>()) else {
        return Ok(None);
    };
    if flag != &[0] {
        return Err(FrameError::Compressed);
    }
    let length = u32::from_be_bytes(length.try_into().map_err(|_| FrameError::Truncated)?);
    if max < length {
        return Err(FrameError::TooLarge(length));
    }
    Ok(Some(length as usize))
}

/// The next bytes, or `None` at the end.
async fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Result<Option<Bytes>, FrameError> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Err(_)) => return Err(FrameError::Broken),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The body of a unary answer: one framed message, then the trailers that say OK.
#[derive(Debug)]
pub struct Unary {
    message: Option<Bytes>,
    trailers: bool,
}

impl Unary {
    /// A call that succeeded, with its framed message.
    #[must_use]
    pub fn answer(framed: Bytes) -> Response<Self> {
        let mut response = Response::new(Self { message: Some(framed), trailers: true });
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    /// A call that did not reach the service: a gRPC status without a message.
    #[must_use]
    pub fn refusal(status: &'static str, message: &'static str) -> Response<Self> {
        let mut response = Response::new(Self { message: None, trailers: false });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
        response
    }
}

impl Body for Unary {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if !std::mem::take(&mut self.trailers) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && !self.trailers
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.message.as_ref().map_or(0, |message| message.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A body of the given pieces.
    struct Pieces(VecDeque<Result<Bytes, ()>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            Poll::Ready(self.0.pop_front().map(|piece| piece.map(Frame::data)))
        }
    }

    fn taken(pieces: impl IntoIterator<Item = Result<Bytes, ()>>, max: u32) -> Result<Bytes, String> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(take(Pieces(pieces.into_iter().collect()), max)).poll(&mut cx) {
            Poll::Ready(result) => result.map_err(|error| error.to_string()),
            Poll::Pending => panic!("all pieces are there"),
        }
    }

    #[test]
    fn messages_follow_one_another_however_they_are_cut() {
        let bytes = [whole(b"one"), whole(b""), whole(b"three")].concat();
        for size in 1..=bytes.len() {
            let pieces = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
            let mut messages = Messages::new(Pieces(pieces.collect()), 5);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            for expected in [Some(&b"one"[..]), Some(b""), Some(b"three"), None] {
                let Poll::Ready(Ok(message)) = std::pin::pin!(messages.next()).poll(&mut cx) else {
                    panic!("pieces of {size}")
                };
                assert_eq!(message.as_deref(), expected, "pieces of {size}");
            }
        }
    }

    fn whole(message: &[u8]) -> Vec<u8> {
        [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
    }

    #[test]
    fn a_message_is_taken_however_it_is_cut() {
        let message: Vec<u8> = (0..200).collect();
        let bytes = whole(&message);
        for size in 1..=bytes.len() {
            let pieces = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
            assert_eq!(taken(pieces, 200).as_deref(), Ok(&message[..]), "pieces of {size}");
        }
    }

    #[test]
    fn one_piece_is_not_copied() {
        let bytes = Bytes::from(whole(b"question"));
        let message = taken([Ok(bytes.clone())], 8).unwrap();
        assert_eq!(message.as_ptr(), bytes.slice(5..).as_ptr());
    }

    #[test]
    fn bounds_and_breaks_are_named() {
        let piece = |bytes: &[u8]| Ok(Bytes::copy_from_slice(bytes));
        assert!(taken([piece(&whole(&[7; 10]))], 10).is_ok(), "at the bound");
        let error = |pieces: Vec<Result<Bytes, ()>>| taken(pieces, 10).unwrap_err();
        assert!(error(vec![piece(&whole(&[7; 11]))]).contains("11 bytes"), "above the bound");
        assert!(error(vec![piece(&[0, 255, 255, 255, 255])]).contains("4294967295"), "nothing is reserved for a lie");
        assert!(error(vec![piece(&[1, 0, 0, 0, 1, 7])]).contains("compressed"));
        assert!(error(vec![piece(&[0, 0, 0, 0, 2, 7])]).contains("ended within"));
        assert!(error(vec![]).contains("ended within"));
        assert!(error(vec![piece(&[0, 0]), Err(())]).contains("broken off"));
    }
}
