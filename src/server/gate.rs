//! Who may come in: TLS of both ports and the token of operators, exchanged together while the service runs.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::Config;
use crate::model::time::Timestamp;
use crate::server::tls::{Terms, Tls, TlsError, read_file};

/// What is spoken on the port for Envoy, and on that for operators.
const GRPC_PROTOCOL: &[u8] = b"h2";
const ADMIN_PROTOCOL: &[u8] = b"http/1.1";
/// Bytes of a token at least; a shorter one can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The token of operators; only its digest is kept.
#[derive(Clone, Eq, PartialEq)]
pub struct Token([u8; 32]);

impl Token {
    /// Of this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Compares in a time that tells nothing about the token.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        self.0.ct_eq(&Self::new(text).0).into()
    }
}

/// Shows nothing.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What the files that a configuration names say about who may come in.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// TLS of `listeners.grpc`.
    pub grpc: Option<Arc<Terms>>,
    /// TLS of `admin.address`.
    pub admin: Option<Arc<Terms>>,
    /// Of operators.
    pub token: Option<Arc<Token>>,
}

impl Credentials {
    /// Reads the files; the errors of all of them together.
    pub fn read(config: &Config, now: Timestamp) -> Result<Self, Vec<TlsError>> {
        let read = |key, tls, protocol| Terms::read(key, tls, protocol, now).map(Arc::new);
        let grpc = config.listeners.tls.as_ref().map(|tls| read("listeners.tls", tls, GRPC_PROTOCOL)).transpose();
        let admin = config.admin.tls.as_ref().map(|tls| read("admin.tls", tls, ADMIN_PROTOCOL)).transpose();
        match (grpc, admin, token(config)) {
            (Ok(grpc), Ok(admin), Ok(token)) => Ok(Self { grpc, admin, token }),
            (grpc, admin, token) => Err([grpc.err(), admin.err(), token.err()].into_iter().flatten().collect()),
        }
    }
}

fn token(config: &Config) -> Result<Option<Arc<Token>>, TlsError> {
    let key = "admin.token_file";
    let text = match (&config.admin.token, &config.admin.token_file) {
        (_, Some(path)) => {
            let failed = |message: String| TlsError { key: key.to_owned(), message };
            let text = String::from_utf8(read_file(key, path)?).map_err(|_| failed("is not UTF-8 text".to_owned()))?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.len() < TOKEN_BYTES_MIN {
                return Err(failed(format!("holds less than {TOKEN_BYTES_MIN} characters")));
            }
            Some(line.to_owned())
        }
        (Some(secret), None) => Some(secret.expose().to_owned()),
        (None, None) => None,
    };
    Ok(text.map(|text| Arc::new(Token::new(&text))))
}

/// Where the credentials in force stand.
#[derive(Debug)]
pub struct Gate {
    /// Of `listeners.grpc`.
    pub grpc: Arc<Tls>,
    /// Of `admin.address`.
    pub admin: Arc<Tls>,
    token: ArcSwapOption<Token>,
}

impl Gate {
    /// Begins with `first`.
    #[must_use]
    pub fn new(first: Credentials) -> Arc<Self> {
        Arc::new(Self {
            grpc: Arc::new(Tls::new("grpc", first.grpc)),
            admin: Arc::new(Tls::new("admin", first.admin)),
            token: ArcSwapOption::new(first.token),
        })
    }

    /// Other credentials from now on. Connections that are open stay.
    pub fn exchange(&self, next: Credentials) {
        self.grpc.exchange(next.grpc);
        self.admin.exchange(next.admin);
        self.token.store(next.token);
    }

    /// The token of operators, if there is one.
    #[must_use]
    pub fn token(&self) -> Option<Arc<Token>> {
        self.token.load_full()
    }
}
