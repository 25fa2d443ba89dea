//! TLS of a listener: terms read from files, exchanged while the service runs, and handshakes under bounds.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock;
use crate::config::peer::PeerName;
use crate::config::tls::{ServerTls, TlsVersion};
use crate::model::time::Timestamp;

/// Longest time from a connection to the end of its handshake, the wait for a place included.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes of one listener at once; later ones wait.
pub const HANDSHAKES_MAX: usize = 256;
/// Refusals for one reason are told once in so many seconds; all are counted.
const TOLD_EVERY_SECONDS: u64 = 1;
/// Certificates and keys are small; anything larger is another file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Names of a certificate that a log line shows.
const NAMES_SHOWN: usize = 4;

/// Why terms cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct TlsError {
    /// The setting.
    pub key: String,
    /// What is wrong with the file that it names.
    pub message: String,
}

/// What new handshakes go by.
#[derive(Clone, Debug)]
pub struct Terms {
    config: Arc<ServerConfig>,
    /// When our certificate ends.
    pub expires: Timestamp,
    /// SHA-256 of our certificate, in hexadecimal.
    pub fingerprint: String,
    /// Nobody gets in without a certificate.
    pub demands_certificate: bool,
}

impl Terms {
    /// Reads the files of the section `key` and checks that they fit together. `protocol` is what is spoken inside.
    pub fn read(key: &str, tls: &ServerTls, protocol: &[u8], now: Timestamp) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let of = |field: &str| format!("{key}.{field}");
        let chain = certificates(&of("cert_file"), &tls.cert_file)?;
        let expires = in_force(&of("cert_file"), chain.first(), now)?;
        let digest = Sha256::digest(chain.first().map(|first| first.as_ref()).unwrap_or_default());
        let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = read_file(&of("key_file"), &tls.key_file)?;
        let secret = PrivateKeyDer::from_pem_slice(&text)
            .map_err(|_| TlsError { key: of("key_file"), message: "holds no key that can be read".to_owned() })?;
        let versions: &[_] = match tls.min_version {
            TlsVersion::V1_2 => rustls::ALL_VERSIONS,
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let failed = |field: &str, error: &dyn fmt::Display| TlsError { key: of(field), message: error.to_string() };
        let verifier = verifier(key, tls, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| failed("min_version", &error))?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| failed("key_file", &error))?;
        config.alpn_protocols = vec![protocol.to_vec()];
        // Connections live long, and one that is resumed would show no certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), expires, fingerprint, demands_certificate: tls.demands_certificate() })
    }
}

fn verifier(
    key: &str,
    tls: &ServerTls,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(path) = &tls.client_ca_file else { return Ok(None) };
    let key = format!("{key}.client_ca_file");
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&key, path)? {
        roots.add(certificate).map_err(|error| TlsError { key: key.clone(), message: error.to_string() })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if tls.require_client_certificate { builder } else { builder.allow_unauthenticated() };
    let inner = builder.build().map_err(|error| TlsError { key, message: error.to_string() })?;
    Ok(Some(if tls.client_names.is_empty() {
        inner
    } else {
        Arc::new(Named { inner, names: tls.client_names.clone() })
    }))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read_file(key, path)?;
    let failed = |message: String| TlsError { key: key.to_owned(), message };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| failed(format!("cannot be read as PEM: {error}")))?;
    if found.is_empty() {
        return Err(failed("holds no certificate".to_owned()));
    }
    Ok(found)
}

/// When a certificate ends; an error when it is not in force now.
fn in_force(key: &str, certificate: Option<&CertificateDer<'_>>, now: Timestamp) -> Result<Timestamp, TlsError> {
    let failed = |message: String| TlsError { key: key.to_owned(), message };
    let der = certificate.map(|certificate| certificate.as_ref()).unwrap_or_default();
    let (_, parsed) =
        X509Certificate::from_der(der).map_err(|_| failed("holds a certificate that cannot be read".to_owned()))?;
    let validity = parsed.validity();
    let (from, until) = (validity.not_before.timestamp() as f64, validity.not_after.timestamp() as f64);
    if until < now.0 {
        return Err(failed(format!("the certificate ended on {}", validity.not_after)));
    }
    if now.0 < from {
        return Err(failed(format!("the certificate begins on {}", validity.not_before)));
    }
    Ok(Timestamp(until))
}

/// The content of a small file that `key` names.
pub(in crate::server) fn read_file(key: &str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |message: String| TlsError { key: key.to_owned(), message };
    let broken = |error: io::Error| failed(format!("{} cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(broken)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(broken)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(failed(format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display())));
    }
    Ok(bytes)
}

/// Takes what the authorities vouch for, and then one of the names.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<PeerName>,
}

/// A certificate without any of the names that are let in.
#[derive(Debug, thiserror::Error)]
#[error("the certificate holds none of client_names, but {0}")]
struct WrongName(String);

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let shown = Shown::of(end_entity).ok_or(CertificateError::BadEncoding)?;
        if self.names.iter().any(|name| shown.holds(name)) {
            return Ok(verified);
        }
        let wrong = Arc::new(WrongName(shown.to_string()));
        Err(CertificateError::Other(rustls::OtherError(wrong)).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The names that a certificate holds.
#[derive(Debug, Default)]
struct Shown {
    dns: Vec<String>,
    uris: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Shown {
    /// `None` for what is no certificate, or one whose names cannot be read.
    fn of(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let mut shown = Self::default();
        let names = parsed.subject_alternative_name().ok()?.map(|found| found.value.general_names.as_slice());
        for name in names.unwrap_or_default() {
            match name {
                GeneralName::DNSName(name) => shown.dns.push((*name).to_owned()),
                GeneralName::URI(uri) => shown.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                    shown.addresses.extend(address);
                }
                _ => {}
            }
        }
        Some(shown)
    }

    fn holds(&self, name: &PeerName) -> bool {
        // A SPIFFE identity is the only URI of its certificate; one that holds two is no identity.
        let is_identity = self.uris.len() == 1 || !self.uris.iter().any(|uri| uri.starts_with("spiffe://"));
        self.dns.iter().any(|dns| name.is_dns(dns))
            || (is_identity && self.uris.iter().any(|uri| name.is_uri(uri)))
            || self.addresses.iter().any(|address| name.is_address(*address))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self
            .uris
            .iter()
            .chain(&self.dns)
            .map(|name| name.escape_default().to_string())
            .chain(self.addresses.iter().map(ToString::to_string))
            .collect();
        match all.get(..NAMES_SHOWN) {
            _ if all.is_empty() => f.write_str("no name at all"),
            Some(first) if NAMES_SHOWN < all.len() => write!(f, "{} and more", first.join(", ")),
            _ => f.write_str(&all.join(", ")),
        }
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handshake {
    /// With a connection.
    Done,
    /// The peer does not speak TLS.
    Plaintext,
    /// The peer showed no certificate.
    NoCertificate,
    /// The certificate is not, or no longer, in force.
    Expired,
    /// None of our authorities vouches for it.
    UnknownAuthority,
    /// It holds none of the names that are let in.
    WrongName,
    /// It cannot be used for another reason.
    BadCertificate,
    /// The two sides have no version, cipher or protocol in common, or the peer refused us.
    Protocol,
    /// It took too long.
    Late,
    /// The peer went away: a probe of the port, or a peer that does not trust our certificate.
    Gone,
}

impl Handshake {
    const ALL: [Self; 10] = [
        Self::Done,
        Self::Plaintext,
        Self::NoCertificate,
        Self::Expired,
        Self::UnknownAuthority,
        Self::WrongName,
        Self::BadCertificate,
        Self::Protocol,
        Self::Late,
        Self::Gone,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Plaintext => "plaintext",
            Self::NoCertificate => "no_certificate",
            Self::Expired => "expired",
            Self::UnknownAuthority => "unknown_authority",
            Self::WrongName => "wrong_name",
            Self::BadCertificate => "bad_certificate",
            Self::Protocol => "protocol",
            Self::Late => "late",
            Self::Gone => "gone",
        }
    }

    fn of(error: &io::Error) -> Self {
        use rustls::Error;
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return Self::Gone };
        match error {
            Error::InvalidMessage(_) => Self::Plaintext,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired,
                CertificateError::UnknownIssuer => Self::UnknownAuthority,
                CertificateError::Other(_) => Self::WrongName,
                _ => Self::BadCertificate,
            },
            _ => Self::Protocol,
        }
    }
}

/// How often handshakes ended in which way.
#[derive(Debug, Default)]
struct Ends {
    counts: [AtomicU64; Handshake::ALL.len()],
    /// When each was told last, in seconds since the epoch.
    told: [AtomicU64; Handshake::ALL.len()],
}

impl Ends {
    /// Counts, and says whether it is worth a line.
    fn count(&self, end: Handshake) -> bool {
        let (Some(count), Some(told)) = (self.counts.get(end as usize), self.told.get(end as usize)) else {
            return false;
        };
        count.fetch_add(1, Ordering::Relaxed);
        let (now, last) = (clock::now().0 as u64, told.load(Ordering::Relaxed));
        let is_due = last + TOLD_EVERY_SECONDS <= now;
        is_due && told.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// TLS of one listener, or none. Exchanged at any time: new handshakes go by the new terms, connections stay.
#[derive(Debug)]
pub struct Tls {
    listener: &'static str,
    terms: ArcSwapOption<Terms>,
    ends: Ends,
    room: Semaphore,
    patience: Duration,
}

/// A connection after the handshake, if there was one to do.
#[derive(Debug)]
pub enum Secured<IO> {
    /// There are no terms.
    Plain(IO),
    /// Encrypted.
    Tls(Box<TlsStream<IO>>),
}

impl<IO> Secured<IO> {
    /// The names in the certificate that the peer showed and our authorities vouch for; `None` without one.
    #[must_use]
    pub fn peer(&self) -> Option<String> {
        let Self::Tls(stream) = self else { return None };
        let leaf = stream.get_ref().1.peer_certificates()?.first()?;
        Some(Shown::of(leaf)?.to_string())
    }
}

impl Tls {
    /// TLS of the listener called `listener`. Without terms connections stay as they are.
    #[must_use]
    pub fn new(listener: &'static str, terms: Option<Arc<Terms>>) -> Self {
        let (terms, room) = (ArcSwapOption::new(terms), Semaphore::new(HANDSHAKES_MAX));
        Self { listener, terms, ends: Ends::default(), room, patience: HANDSHAKE_TIMEOUT }
    }

    /// Other terms from now on.
    pub fn exchange(&self, terms: Option<Arc<Terms>>) {
        self.terms.store(terms);
    }

    /// The terms now.
    #[must_use]
    pub fn terms(&self) -> Option<Arc<Terms>> {
        self.terms.load_full()
    }

    /// How often handshakes ended in which way, by label.
    pub fn ends(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Handshake::ALL.iter().zip(&self.ends.counts).map(|(end, count)| (end.name(), count.load(Ordering::Relaxed)))
    }

    /// Makes a connection secure. `None` when it was refused, which is counted and told.
    pub async fn secure<IO>(&self, io: IO, peer: Option<IpAddr>) -> Option<Secured<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(terms) = self.terms() else { return Some(Secured::Plain(io)) };
        let shaken = tokio::time::timeout(self.patience, async {
            // The semaphore is never closed.
            let _place = self.room.acquire().await.ok();
            TlsAcceptor::from(Arc::clone(&terms.config)).accept(io).await
        });
        let (end, error) = match shaken.await {
            Ok(Ok(stream)) => {
                self.ends.count(Handshake::Done);
                return Some(Secured::Tls(Box::new(stream)));
            }
            Ok(Err(error)) => (Handshake::of(&error), Some(error)),
            Err(_) => (Handshake::Late, None),
        };
        let is_due = self.ends.count(end);
        let error = error.as_ref().map(tracing::field::display);
        let peer = peer.as_ref().map(tracing::field::display);
        let (listener, reason) = (self.listener, end.name());
        if end == Handshake::Gone {
            tracing::debug!(listener, reason, peer, error, "a TLS handshake was broken off");
        } else if is_due {
            tracing::warn!(listener, reason, peer, error, "a TLS handshake was refused");
        }
        None
    }
}

#[cfg(test)]
mod tests;
