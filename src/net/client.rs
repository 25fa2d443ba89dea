//! The one HTTP client of the service, and the only door to `reqwest`. Every answer is bounded in time, bytes and hops;
//! no error holds a secret.
//!
//! A proxy is taken from the environment, as other programs do: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.

use std::error::Error as _;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity, Method, Url};

use crate::net::inflate::{self, InflateError};

/// Bytes of the header fields of an answer at most, over HTTP/2; over HTTP/1 it is hyper's own bound, about 400 KiB.
const HEADER_BYTES_MAX: u32 = 64 * 1024;

/// Connections to one server that are kept for later.
const IDLE_CONNECTIONS_MAX: usize = 2;

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// Characters of a foreign message that an error repeats.
const DETAIL_CHARS_MAX: usize = 160;

/// How connections are opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// How long opening a connection may take, TLS included.
    pub connect_timeout: Duration,
    /// PEM certificates of authorities that are trusted beside the system's; may be empty.
    pub authorities: Vec<u8>,
    /// PEM certificate and key that are shown to servers that ask for one; may be empty.
    pub identity: Vec<u8>,
    /// Whom to ask, whatever the URL says.
    pub through: Through,
    /// What is spoken.
    pub protocol: Protocol,
}

/// Which way connections go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Through {
    /// To the server of the URL, or to a proxy that the environment names.
    #[default]
    Proxy,
    /// To the server of the URL itself.
    Direct,
    /// To this address; the URL's name counts for TLS and HTTP alone.
    Address(std::net::SocketAddr),
    /// To this Unix socket.
    Unix(std::path::PathBuf),
}

/// Versions of HTTP.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Protocol {
    /// What both sides agree on.
    #[default]
    Any,
    /// HTTP/2 without asking, as gRPC wants it.
    Http2,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            authorities: Vec::new(),
            identity: Vec::new(),
            through: Through::default(),
            protocol: Protocol::default(),
        }
    }
}

impl Options {
    /// With the authorities of a PEM file. Reads it: not for a thread that serves requests.
    ///
    /// # Errors
    /// When the file cannot be read; a message for people.
    pub fn with_file(ca_file: Option<&Path>, connect_timeout: Duration) -> Result<Self, String> {
        let authorities = match ca_file {
            Some(path) => std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?,
            None => Vec::new(),
        };
        Ok(Self { connect_timeout, authorities, ..Self::default() })
    }
}

/// Asks servers. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

/// What is asked for. Fill what differs from [`Request::get`] or [`Request::post`].
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// `http://` or `https://`. User information becomes basic authentication.
    pub url: &'r str,
    /// Header fields; their values count as secrets.
    pub headers: &'r [(&'r str, &'r str)],
    /// What is sent; `None` makes it a GET, anything else a POST.
    pub body: Option<&'r [u8]>,
    /// Another method than the body makes it.
    pub method: Option<&'static str>,
    /// Tags of the answer that is known already: the server may say that it still holds.
    pub known: Option<&'r Validators>,
    /// How long everything may take: connecting, redirects, the last byte, inflating.
    pub timeout: Duration,
    /// Bytes of the answer at most, as sent and as inflated.
    pub body_bytes_max: usize,
    /// What happens to a longer answer.
    pub overflow: Overflow,
    /// Redirects that a GET follows; a POST follows none. They must not leave HTTPS, and another server is not sent
    /// the header fields.
    pub redirects_max: u8,
}

/// What happens to an answer that is longer than it may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Overflow {
    /// It is an error.
    Refuse,
    /// Its beginning is taken, for callers to whom the status is what counts. Nothing is inflated then.
    Cut,
}

impl<'r> Request<'r> {
    /// A GET of a file: one minute, 16 MiB, 3 redirects.
    #[must_use]
    pub const fn get(url: &'r str) -> Self {
        Self {
            url,
            headers: &[],
            body: None,
            method: None,
            known: None,
            timeout: Duration::from_secs(60),
            body_bytes_max: 16 << 20,
            overflow: Overflow::Refuse,
            redirects_max: 3,
        }
    }

    /// A POST whose answer hardly matters: ten seconds, the first 64 KiB.
    #[must_use]
    pub const fn post(url: &'r str, body: &'r [u8]) -> Self {
        Self {
            body: Some(body),
            timeout: Duration::from_secs(10),
            body_bytes_max: 64 << 10,
            overflow: Overflow::Cut,
            redirects_max: 0,
            ..Self::get(url)
        }
    }
}

/// What a server said, whatever its status.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The inflated body.
    pub body: Vec<u8>,
}

impl Response {
    /// True when what is known already still holds.
    #[must_use]
    pub const fn is_not_modified(&self) -> bool {
        self.status == 304
    }

    /// A header field that is plain text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Tags to ask with next time.
    #[must_use]
    pub fn validators(&self) -> Validators {
        let tag = |name: HeaderName| self.headers.get(name)?.to_str().ok().map(str::to_owned);
        Validators { etag: tag(header::ETAG), last_modified: tag(header::LAST_MODIFIED) }
    }

    /// The answer, when it is a success or says that nothing changed.
    ///
    /// # Errors
    /// The status, when it is anything else.
    pub fn success(self) -> Result<Self, FetchError> {
        match self.status {
            200..=299 | 304 => Ok(self),
            status => Err(FetchError::Status(status)),
        }
    }
}

/// What a server calls this version of its answer.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The authorities are no PEM certificates.
    #[error("the certificates cannot be read: {0}")]
    Authorities(String),
    /// The own certificate and key are none, or do not fit together.
    #[error("the own certificate and key cannot be used: {0}")]
    Identity(String),
    /// Anything else.
    #[error("no HTTP client: {0}")]
    Other(String),
}

/// Why there is no answer. Names neither the URL nor any header field: callers say whom they asked, see [`shown`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The URL is none, or is neither `http://` nor `https://`.
    #[error("the URL cannot be used: {0}")]
    Url(&'static str),
    /// A header field cannot be sent; its name.
    #[error("the header field {0} cannot be sent")]
    Header(String),
    /// No connection: name, port, TLS or proxy.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// It took longer than it may.
    #[error("took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection was lost, or what came is not HTTP.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// The server answered something else than success.
    #[error("status {0}")]
    Status(u16),
    /// The answer is larger than it may be.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer cannot be inflated.
    #[error("the answer is compressed in a way that cannot be read")]
    Coding,
    /// A redirect that is not followed.
    #[error("redirected {0}")]
    Redirect(&'static str),
}

impl Client {
    /// A client that trusts the system's authorities and those of `options`. Reads files of the system: not for a
    /// thread that serves requests. Where the system has no authorities only those of `options` are trusted.
    ///
    /// # Errors
    /// When the authorities cannot be read.
    pub fn new(options: &Options) -> Result<Self, ClientError> {
        choose_cryptography();
        let authorities = match &*options.authorities {
            [] => Vec::new(),
            pem => Certificate::from_pem_bundle(pem).map_err(|error| ClientError::Authorities(detail(&error)))?,
        };
        if authorities.is_empty() && !options.authorities.is_empty() {
            return Err(ClientError::Authorities("there is none in it".to_owned()));
        }
        let identity = match &*options.identity {
            [] => None,
            pem => Some(Identity::from_pem(pem).map_err(|error| ClientError::Identity(detail(&error)))?),
        };
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(concat!("envoy-guard/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.connect_timeout)
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .http2_max_header_list_size(HEADER_BYTES_MAX)
                .redirect(Policy::none())
                .retry(reqwest::retry::never())
                .referer(false);
            let builder = match identity.clone() {
                Some(identity) => builder.identity(identity),
                None => builder,
            };
            let builder = match options.protocol {
                Protocol::Any => builder,
                Protocol::Http2 => builder.http2_prior_knowledge(),
            };
            match &options.through {
                Through::Proxy => builder,
                Through::Direct => builder.no_proxy(),
                Through::Address(address) => builder.no_proxy().dns_resolver(Fixed(*address)),
                Through::Unix(path) => builder.no_proxy().unix_socket(path.as_path()),
            }
        };
        // Small images have no authorities at all; plain HTTP works all the same.
        let http = builder()
            .tls_certs_merge(authorities.iter().cloned())
            .build()
            .or_else(|_| builder().tls_certs_only(authorities).build())
            .map_err(|error| match &*options.authorities {
                [] => ClientError::Other(detail(&error)),
                _ => ClientError::Authorities(detail(&error)),
            })?;
        Ok(Self { http })
    }

    /// Asks once.
    ///
    /// # Errors
    /// When there is no whole answer within the bounds. A status is no error here: see [`Response::success`].
    pub async fn send(&self, request: &Request<'_>) -> Result<Response, FetchError> {
        let late = |_| FetchError::Timeout(request.timeout);
        tokio::time::timeout(request.timeout, self.follow(request)).await.map_err(late)?
    }

    async fn follow(&self, request: &Request<'_>) -> Result<Response, FetchError> {
        let first = parse(request.url)?;
        let mut url = first.clone();
        for _ in 0..=request.redirects_max {
            let is_same_server = url.origin() == first.origin();
            let answer = self.ask(request, url.clone(), is_same_server).await?;
            match redirect(request, &url, &answer)? {
                Some(next) => url = next,
                None => return read(request, answer).await,
            }
        }
        Err(FetchError::Redirect("too often"))
    }

    async fn ask(&self, request: &Request<'_>, url: Url, with_headers: bool) -> Result<reqwest::Response, FetchError> {
        let mut headers = if with_headers { fields(request.headers)? } else { HeaderMap::new() };
        if request.overflow == Overflow::Refuse {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(inflate::ACCEPTED));
        }
        if let Some(known) = request.known {
            for (name, tag) in [(header::IF_NONE_MATCH, &known.etag), (header::IF_MODIFIED_SINCE, &known.last_modified)]
            {
                if let Some(value) = tag.as_deref().and_then(|tag| HeaderValue::from_str(tag).ok()) {
                    headers.insert(name, value);
                }
            }
        }
        let method = match (request.method, request.body) {
            (Some(method), _) => {
                Method::from_bytes(method.as_bytes()).map_err(|_| FetchError::Url("no such method"))?
            }
            (None, Some(_)) => Method::POST,
            (None, None) => Method::GET,
        };
        let asked = self.http.request(method, url);
        let asked = match request.body {
            Some(body) => asked.body(body.to_vec()),
            None => asked,
        };
        asked.headers(headers).send().await.map_err(|error| broken(&error))
    }
}

/// Every name has this address.
struct Fixed(std::net::SocketAddr);

impl Resolve for Fixed {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(std::iter::once(self.0));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// A URL as it may be shown: without user information, query and fragment.
#[must_use]
pub fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(parsed) => match parsed.host_str() {
            Some(host) => {
                let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
                format!("{}://{host}{port}{}", parsed.scheme(), parsed.path())
            }
            None => format!("{}:{}", parsed.scheme(), parsed.path()),
        },
        Err(_) => "<not a URL>".to_owned(),
    }
}

fn parse(url: &str) -> Result<Url, FetchError> {
    let url = Url::parse(url).map_err(|_| FetchError::Url("it is none"))?;
    match (url.scheme(), url.has_host()) {
        ("http" | "https", true) => Ok(url),
        _ => Err(FetchError::Url("only http:// and https:// can be asked")),
    }
}

fn fields(given: &[(&str, &str)]) -> Result<HeaderMap, FetchError> {
    let mut headers = HeaderMap::with_capacity(given.len());
    for (name, value) in given {
        let bad = || FetchError::Header((*name).to_owned());
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

/// Where an answer sends us, when it does and we may go.
fn redirect(request: &Request<'_>, at: &Url, answer: &reqwest::Response) -> Result<Option<Url>, FetchError> {
    let is_redirect = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    if !is_redirect || request.redirects_max == 0 || request.body.is_some() {
        return Ok(None);
    }
    let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|text| at.join(text).ok()).ok_or(FetchError::Redirect("to nowhere"))?;
    match (at.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") if next.has_host() => Ok(Some(next)),
        ("https", "http") => Err(FetchError::Redirect("from HTTPS to plain HTTP")),
        _ => Err(FetchError::Redirect("to another scheme")),
    }
}

async fn read(request: &Request<'_>, mut answer: reqwest::Response) -> Result<Response, FetchError> {
    let status = answer.status().as_u16();
    let headers = std::mem::take(answer.headers_mut());
    let body = body(request, answer).await?;
    let codings = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body = match request.overflow {
        Overflow::Refuse if !codings.is_empty() && !body.is_empty() => {
            let (codings, max) = (codings.to_owned(), request.body_bytes_max);
            let inflated = tokio::task::spawn_blocking(move || inflate::inflate(&codings, body, max)).await;
            match inflated {
                Ok(Ok(body)) => body,
                Ok(Err(InflateError::TooLarge)) => return Err(FetchError::TooLarge(max)),
                Ok(Err(InflateError::Unknown | InflateError::Damaged)) | Err(_) => return Err(FetchError::Coding),
            }
        }
        Overflow::Refuse | Overflow::Cut => body,
    };
    Ok(Response { status, headers, body })
}

/// The bytes as they were sent, within the bound.
async fn body(request: &Request<'_>, mut answer: reqwest::Response) -> Result<Vec<u8>, FetchError> {
    let (max, mut body) = (request.body_bytes_max, Vec::new());
    let announced = answer.content_length().unwrap_or(0);
    if request.overflow == Overflow::Refuse && u64::try_from(max).is_ok_and(|max| max < announced) {
        return Err(FetchError::TooLarge(max));
    }
    while let Some(chunk) = answer.chunk().await.map_err(|error| broken(&error))? {
        let room = max - body.len();
        match (chunk.get(..room), request.overflow) {
            (Some(_), Overflow::Refuse) if room < chunk.len() => return Err(FetchError::TooLarge(max)),
            (Some(fitting), Overflow::Cut) if room < chunk.len() => {
                body.extend_from_slice(fitting);
                break;
            }
            _ => body.extend_from_slice(&chunk),
        }
    }
    Ok(body)
}

fn broken(error: &reqwest::Error) -> FetchError {
    if error.is_connect() || error.is_timeout() {
        return FetchError::Connect(detail(error));
    }
    FetchError::Broken(detail(error))
}

/// The innermost reason, which names no URL, cut and without control characters: some of it may be the server's.
fn detail(error: &reqwest::Error) -> String {
    let Some(mut reason) = error.source() else { return "no reason given".to_owned() };
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string().chars().filter(|letter| !letter.is_control()).take(DETAIL_CHARS_MAX).collect()
}

/// Once for the process; a provider that was chosen before stays.
fn choose_cryptography() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

#[cfg(test)]
mod tests;
