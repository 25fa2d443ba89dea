//! One call to the admin port: HTTP/1.1 over TCP or a Unix socket, one connection each, bounded in time and bytes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// Longest wait for a connection, and for the next byte of an answer. A reload may compile for a while.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers.
    #[error("the service cannot be reached: {0}")]
    Unreachable(String),
    /// The service says no: its status, and why.
    #[error("{1} ({0})")]
    Refused(u16, String),
}

enum Place {
    Tcp(String),
    Unix(PathBuf),
}

/// The admin port of one service.
pub(super) struct Admin {
    place: Place,
    token: Option<String>,
}

/// One call.
pub(super) struct Call {
    method: &'static str,
    path: String,
    body: Option<Value>,
}

impl Call {
    /// Without a body.
    pub(super) fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), body: None }
    }

    /// With this body.
    pub(super) fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }
}

impl Admin {
    /// The port at `http://HOST:PORT` or `unix:PATH`.
    pub(super) fn new(url: &str, token: Option<&str>) -> Result<Self, CallError> {
        let place = if let Some(path) = url.strip_prefix("unix:") {
            Place::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
        } else if let Some(rest) = url.strip_prefix("http://") {
            let authority = rest.split('/').next().unwrap_or_default();
            let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            Place::Tcp(if has_port { authority.to_owned() } else { format!("{authority}:8081") })
        } else {
            return Err(CallError::Usage(format!("--admin takes http://HOST:PORT or unix:PATH, not `{url}`")));
        };
        if token.is_some_and(|token| token.chars().any(char::is_control)) {
            return Err(CallError::Usage("the token holds control characters".to_owned()));
        }
        Ok(Self { place, token: token.map(str::to_owned) })
    }

    /// Makes a call; an answer that is no success becomes an error with the service's words.
    pub(super) fn send(&self, call: &Call) -> Result<Value, CallError> {
        let (status, body) = self.exchange(call).map_err(|error| CallError::Unreachable(error.to_string()))?;
        let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if (200..300).contains(&status) {
            return Ok(value);
        }
        let detail = value.get("detail").and_then(Value::as_str).unwrap_or("the answer says no more");
        Err(CallError::Refused(status, detail.to_owned()))
    }

    /// The text of a page, such as the metrics.
    pub(super) fn page(&self, path: &str) -> Result<String, CallError> {
        let (_, body) =
            self.exchange(&Call::new("GET", path)).map_err(|error| CallError::Unreachable(error.to_string()))?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn exchange(&self, call: &Call) -> io::Result<(u16, Vec<u8>)> {
        match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(READ_TIMEOUT))?;
                self.converse(stream, "localhost", call)
            }
            Place::Tcp(authority) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in authority.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            stream.set_read_timeout(Some(READ_TIMEOUT))?;
                            return self.converse(stream, authority, call);
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn converse<S: Read + Write>(&self, mut stream: S, host: &str, call: &Call) -> io::Result<(u16, Vec<u8>)> {
        let body = call.body.as_ref().map(Value::to_string).unwrap_or_default();
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n", call.method, call.path);
        if let Some(token) = &self.token {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        if call.method != "GET" {
            head.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        read_answer(&mut BufReader::new(stream.take(ANSWER_BYTES_MAX)))
    }
}

/// Status and body. Our service names the length of all its answers; without one the connection's end is the body's.
fn read_answer(stream: &mut impl BufRead) -> io::Result<(u16, Vec<u8>)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "this is no HTTP answer; is it the admin port?");
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    let status = status.and_then(|code| code.trim().parse().ok()).ok_or_else(bad)?;
    let mut length: Option<u64> = None;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(bad());
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    let mut body = Vec::new();
    stream.take(length.unwrap_or(ANSWER_BYTES_MAX)).read_to_end(&mut body)?;
    Ok((status, body))
}

/// A text as one segment of a path, or one value of a query.
pub(super) fn escaped(text: &str) -> String {
    let mut coded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => coded.push(char::from(byte)),
            _ => coded.push_str(&format!("%{byte:02X}")),
        }
    }
    coded
}
