//! Calls to the admin port: over TCP, TLS or a Unix socket, each bounded in time and bytes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::net::client::{Client, FetchError, Options, Overflow, Request, Response, Through};

/// Longest wait for a connection, and for a whole answer. A reload may compile for a while.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a file with certificates or a key at most.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

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

/// Who we are to a server with TLS, and whom we trust.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::app) struct Secrets {
    /// PEM file of the authorities that vouch for the service, beside the system's.
    #[arg(long, value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
    /// PEM file of our certificate, where the service asks for one.
    #[arg(long, value_name = "FILE", global = true, requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// PEM file of our key.
    #[arg(long, value_name = "FILE", global = true, requires = "cert_file")]
    key_file: Option<PathBuf>,
}

impl Secrets {
    /// True when there is a certificate to show.
    pub(super) const fn has_identity(&self) -> bool {
        self.cert_file.is_some()
    }

    /// Puts the files' contents into the options of a client.
    pub(super) fn fill(&self, mut options: Options) -> Result<Options, CallError> {
        if let Some(path) = &self.ca_file {
            options.authorities = read(path)?;
        }
        for path in self.cert_file.iter().chain(&self.key_file) {
            options.identity.extend(read(path)?);
            options.identity.push(b'\n');
        }
        Ok(options)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CallError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| std::io::Read::read_to_end(&mut std::io::Read::take(file, PEM_BYTES_MAX), &mut bytes))
        .map_err(|error| CallError::Usage(format!("{}: {error}", path.display())))?;
    Ok(bytes)
}

/// The admin port of one service.
pub(super) struct Admin {
    base: String,
    authorization: Option<String>,
    client: Client,
    runtime: Runtime,
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
    /// The port at `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    pub(super) fn new(url: &str, token: Option<&str>, secrets: &Secrets) -> Result<Self, CallError> {
        let (base, through) = place(url)?;
        if token.is_some_and(|token| token.chars().any(char::is_control)) {
            return Err(CallError::Usage("the token holds control characters".to_owned()));
        }
        let options = Options { connect_timeout: CONNECT_TIMEOUT, through, ..Options::default() };
        let client = Client::new(&secrets.fill(options)?).map_err(|error| CallError::Usage(error.to_string()))?;
        Ok(Self { base, authorization: token.map(|token| format!("Bearer {token}")), client, runtime: runtime()? })
    }

    /// Makes a call; an answer that is no success becomes an error with the service's words.
    pub(super) fn send(&self, call: &Call) -> Result<Value, CallError> {
        let answer = self.exchange(call)?;
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if (200..300).contains(&answer.status) {
            return Ok(value);
        }
        let detail = value.get("detail").and_then(Value::as_str).unwrap_or("the answer says no more");
        Err(CallError::Refused(answer.status, detail.to_owned()))
    }

    /// The text of a page, such as the metrics.
    pub(super) fn page(&self, path: &str) -> Result<String, CallError> {
        Ok(String::from_utf8_lossy(&self.exchange(&Call::new("GET", path))?.body).into_owned())
    }

    fn exchange(&self, call: &Call) -> Result<Response, CallError> {
        let body = call.body.as_ref().map(Value::to_string);
        let url = format!("{}{}", self.base, call.path);
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(self.authorization.as_deref().map(|value| ("authorization", value)));
        let request = Request {
            headers: &headers,
            body: body.as_deref().map(str::as_bytes),
            method: Some(call.method),
            timeout: CALL_TIMEOUT,
            body_bytes_max: ANSWER_BYTES_MAX,
            overflow: Overflow::Refuse,
            redirects_max: 0,
            ..Request::get(&url)
        };
        self.runtime.block_on(self.client.send(&request)).map_err(|error| match error {
            FetchError::Url(_) | FetchError::Header(_) => CallError::Usage(format!("--admin: {error}")),
            other => CallError::Unreachable(other.to_string()),
        })
    }
}

/// A runtime for calls one after another.
pub(super) fn runtime() -> Result<Runtime, CallError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CallError::Unreachable(error.to_string()))
}

/// What URLs begin with, and which way connections go.
fn place(url: &str) -> Result<(String, Through), CallError> {
    if let Some(path) = url.strip_prefix("unix:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        return Ok(("http://localhost".to_owned(), Through::Unix(path)));
    }
    let Some((scheme @ ("http" | "https"), rest)) = url.split_once("://") else {
        let message = format!("--admin takes http://HOST:PORT, https://HOST:PORT or unix:PATH, not `{url}`");
        return Err(CallError::Usage(message));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if has_port { "" } else { ":8081" };
    Ok((format!("{scheme}://{authority}{port}"), Through::Direct))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_or_a_socket() {
        for (url, expected) in [
            ("http://127.0.0.1:8081", Some(("http://127.0.0.1:8081", Through::Direct))),
            ("http://guard", Some(("http://guard:8081", Through::Direct))),
            ("https://[::1]:9/ignored", Some(("https://[::1]:9", Through::Direct))),
            ("unix:/run/a.sock", Some(("http://localhost", Through::Unix("/run/a.sock".into())))),
            ("unix:///run/a.sock", Some(("http://localhost", Through::Unix("/run/a.sock".into())))),
            ("ftp://guard", None),
            ("guard:8081", None),
        ] {
            let found = place(url).ok();
            assert_eq!(found, expected.map(|(base, through)| (base.to_owned(), through)), "{url}");
        }
    }
}
