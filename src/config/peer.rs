//! Names in certificates: who may connect.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A subject alternative name that is let in.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PeerName {
    /// A DNS name, in lower case.
    Dns(String),
    /// One label, then this: what follows the `*` of `*.example.com`.
    AnyLabel(String),
    /// A URI, byte for byte.
    Uri(String),
    /// Any URI that begins so: what stands before the `*` of `spiffe://cluster.local/ns/gateway/*`.
    Below(String),
    /// An address.
    Address(IpAddr),
}

impl PeerName {
    /// True when a certificate's DNS name is this one.
    #[must_use]
    pub fn is_dns(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        match self {
            Self::Dns(known) => known.eq_ignore_ascii_case(name),
            Self::AnyLabel(rest) => {
                name.split_once('.').is_some_and(|(label, below)| !label.is_empty() && rest.eq_ignore_ascii_case(below))
            }
            Self::Uri(_) | Self::Below(_) | Self::Address(_) => false,
        }
    }

    /// True when a certificate's URI is this one.
    #[must_use]
    pub fn is_uri(&self, uri: &str) -> bool {
        match self {
            Self::Uri(known) => known == uri,
            // Not the prefix alone: something has to follow.
            Self::Below(start) => uri.strip_prefix(start.as_str()).is_some_and(|rest| !rest.is_empty()),
            Self::Dns(_) | Self::AnyLabel(_) | Self::Address(_) => false,
        }
    }

    /// True when a certificate's address is this one.
    #[must_use]
    pub fn is_address(&self, address: IpAddr) -> bool {
        matches!(self, Self::Address(known) if *known == address)
    }
}

/// A text that names no peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is no DNS name, address or URI; a `*` may stand for the first label or the last part of a path")]
pub struct PeerNameError;

impl FromStr for PeerName {
    type Err = PeerNameError;

    fn from_str(text: &str) -> Result<Self, PeerNameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let start = rest.strip_suffix("/*");
            let plain = start.unwrap_or(rest);
            let authority = plain.split('/').next().unwrap_or_default();
            if scheme.is_empty() || authority.is_empty() || plain.contains(['*', ' ']) || !plain.is_ascii() {
                return Err(PeerNameError);
            }
            return Ok(match start {
                Some(start) => Self::Below(format!("{scheme}://{start}/")),
                None => Self::Uri(text.to_owned()),
            });
        }
        let (is_any, name) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if !name.split('.').all(label) {
            return Err(PeerNameError);
        }
        let name = name.to_ascii_lowercase();
        Ok(if is_any { Self::AnyLabel(name) } else { Self::Dns(name) })
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) => f.write_str(text),
            Self::AnyLabel(rest) => write!(f, "*.{rest}"),
            Self::Below(start) => write!(f, "{start}*"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for PeerName {
    type Error = PeerNameError;

    fn try_from(text: String) -> Result<Self, PeerNameError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lets_in_what_it_says_and_no_more() {
        for (name, good, bad) in [
            ("Envoy.mesh", &["envoy.mesh", "ENVOY.MESH."][..], &["x.envoy.mesh", "envoy.mesh.evil"][..]),
            ("*.mesh", &["envoy.mesh"], &["mesh", "a.b.mesh", ".mesh", "envoymesh"]),
        ] {
            let parsed: PeerName = name.parse().unwrap();
            good.iter().for_each(|text| assert!(parsed.is_dns(text), "{name} {text}"));
            bad.iter().for_each(|text| assert!(!parsed.is_dns(text), "{name} {text}"));
            assert!(!parsed.is_uri(name), "a DNS name is no URI");
        }
        for (name, good, bad) in [
            ("spiffe://td/ns/a", &["spiffe://td/ns/a"][..], &["spiffe://td/ns/ab", "spiffe://TD/ns/a"][..]),
            ("spiffe://td/*", &["spiffe://td/x", "spiffe://td/ns/a"], &["spiffe://td/", "spiffe://td.evil/x"]),
            ("spiffe://td/ns/*", &["spiffe://td/ns/a"], &["spiffe://td/nsx/a", "spiffe://td/ns"]),
        ] {
            let parsed: PeerName = name.parse().unwrap();
            good.iter().for_each(|text| assert!(parsed.is_uri(text), "{name} {text}"));
            bad.iter().for_each(|text| assert!(!parsed.is_uri(text), "{name} {text}"));
            assert_eq!(parsed.to_string(), name, "it is written as it was read");
        }
        let address: PeerName = "192.0.2.1".parse().unwrap();
        assert!(address.is_address("192.0.2.1".parse().unwrap()) && !address.is_dns("192.0.2.1"));
    }

    #[test]
    fn what_would_let_in_everybody_is_refused() {
        for text in ["", "*", "*.", "a.*.b", "spiffe://*", "spiffe:///x", "://x", "spiffe://td/*/x", "a b", "x*.y"] {
            assert_eq!(text.parse::<PeerName>(), Err(PeerNameError), "{text}");
        }
    }
}
