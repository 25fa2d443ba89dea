//! Addresses in their one canonical form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// An address whose IPv4-mapped IPv6 spelling has been folded to IPv4: no key, list or ban can see another spelling.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    /// The address itself.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0
    }

    /// True for 127.0.0.0/8 and ::1.
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(Self(ip), |v4| Self(IpAddr::V4(v4))),
            IpAddr::V4(_) => Self(ip),
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            // std prints IPv4-compatible addresses dotted (::1.2.3.4); guard-core's canonical text does not.
            IpAddr::V6(v6) => fmt_v6(v6, f),
        }
    }
}

fn fmt_v6(v6: Ipv6Addr, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => write!(f, "::{high:x}:{low:x}"),
        [0, 0, 0, 0, 0, 0xffff, high, low] => write!(f, "::ffff:{high:x}:{low:x}"),
        _ => fmt::Display::fmt(&v6, f),
    }
}

/// Who is asking: the key of every list, limit, count and ban.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Client<'r> {
    /// A plain address.
    Address(ClientAddr),
    /// An IPv6 address with a zone identifier (`fe80::1%eth0`).
    Zoned {
        /// The address part.
        addr: Ipv6Addr,
        /// The zone, as sent.
        zone: &'r str,
    },
    /// Text that is no address; list checks deny it.
    Text(&'r str),
    /// No peer address is known (a Unix socket, or a request without a source).
    Unknown,
}

impl Client<'_> {
    /// The plain address, when there is one.
    #[must_use]
    pub const fn address(&self) -> Option<ClientAddr> {
        match self {
            Self::Address(addr) => Some(*addr),
            Self::Zoned { .. } | Self::Text(_) | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(addr) => addr.fmt(f),
            Self::Zoned { addr, zone } => {
                fmt_v6(*addr, f)?;
                write!(f, "%{zone}")
            }
            Self::Text(text) => f.write_str(text),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// One entry of an address list: a single address or a network with its host bits cleared.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum IpEntry {
    /// Matches exactly this address.
    Addr(ClientAddr),
    /// Matches every address of the same family inside.
    Net(IpNet),
}

impl IpEntry {
    /// True when `addr` is the entry or lies inside it.
    #[must_use]
    pub fn contains(&self, addr: ClientAddr) -> bool {
        match self {
            Self::Addr(own) => *own == addr,
            Self::Net(net) => net.contains(&addr.ip()),
        }
    }

    /// True for a network of prefix length 0.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Net(net) if net.prefix_len() == 0)
    }
}

/// Why a text is not an address list entry.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("Invalid IP or CIDR range: {0}")]
pub struct BadEntry(pub String);

impl FromStr for IpEntry {
    type Err = BadEntry;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Addr(ip.into()));
        }
        let net: IpNet = text.parse().map_err(|_| BadEntry(text.to_owned()))?;
        Ok(Self::Net(fold(net.trunc())))
    }
}

/// Folds `::ffff:a.b.c.d/96+n` to `a.b.c.d/n`, as addresses are folded. What is shorter is a network of IPv6, and holds no
/// address of IPv4.
fn fold(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let (Some(v4), Some(len)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) else { return net };
    ipnet::Ipv4Net::new(Ipv4Addr::from(v4.octets()), len).map_or(net, IpNet::V4)
}

impl fmt::Display for IpEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

impl serde::Serialize for IpEntry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for IpEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for IpEntry {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IpEntry".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "an IPv4 or IPv6 address, or a CIDR range"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_networks_are_those_of_ipv4_unless_they_are_wider() {
        for (entry, address, expected) in [
            ("::ffff:192.0.2.0/120", "192.0.2.7", true),
            ("::ffff:192.0.2.0/96", "203.0.113.1", true),
            ("::ffff:192.0.2.0/95", "192.0.2.0", false),
            ("::ffff:192.0.2.0/1", "192.0.2.0", false),
            ("::ffff:192.0.2.0/1", "2001:db8::1", true),
            ("192.0.2.0/24", "::ffff:192.0.2.7", true),
        ] {
            let entry: IpEntry = entry.parse().unwrap();
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(entry.contains(address.into()), expected, "{entry} {address}");
        }
    }
}
