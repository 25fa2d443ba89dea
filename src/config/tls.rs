//! `listeners.tls:` and `admin.tls:`: who we are to those who connect, and whom we let in.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::formats;
use crate::config::peer::PeerName;

/// TLS of one of our listeners. The files are read again when they change; connections that are open stay.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// PEM file of our certificate, its chain included.
    #[schemars(with = "formats::NonBlank")]
    pub cert_file: PathBuf,
    /// PEM file of our key, not encrypted.
    #[schemars(with = "formats::NonBlank")]
    pub key_file: PathBuf,
    /// PEM file of the authorities that may vouch for clients; without it nobody is asked for a certificate.
    #[serde(default)]
    #[schemars(with = "Option<formats::NonBlank>")]
    pub client_ca_file: Option<PathBuf>,
    /// Refuse who shows no certificate. Matters with `client_ca_file` only.
    #[serde(default = "yes")]
    pub require_client_certificate: bool,
    /// Names of which a client's certificate must hold one; any certificate of the authorities will do when empty.
    #[serde(default)]
    #[schemars(with = "Vec<formats::PeerName>")]
    pub client_names: Vec<PeerName>,
    /// Oldest version of TLS that is spoken.
    #[serde(default)]
    pub min_version: TlsVersion,
}

const fn yes() -> bool {
    true
}

impl ServerTls {
    /// True when nobody gets in without a certificate.
    #[must_use]
    pub const fn demands_certificate(&self) -> bool {
        self.client_ca_file.is_some() && self.require_client_certificate
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "TLSv1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "TLSv1.3")]
    V1_3,
}
