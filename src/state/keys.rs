//! The keys that guard-core's participants share, byte for byte, and the few of our own. The only place that spells one.

use std::fmt::{self, Write as _};

use crate::model::addr::{Client, IpEntry};
use crate::model::time::Timestamp;
use crate::state::{Bucket, Digest, Track};
use sha2::{Digest as _, Sha256};

/// Bytes of a client's name that go into a key as they are; a longer name is replaced by its digest.
const NAME_BYTES_MAX: usize = 255;

/// Makes keys: the prefix, the family, the rest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys that begin with `prefix`, verbatim.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Any key: prefix, namespace, colon, name.
    #[must_use]
    pub fn named(&self, namespace: &str, name: &str) -> String {
        self.make(format_args!("{namespace}:{name}"))
    }

    /// Rate limit history: one for all paths, or one for each path.
    #[must_use]
    pub fn bucket(&self, bucket: Bucket<'_>) -> String {
        let client = Named(bucket.client);
        match bucket.path {
            None => self.make(format_args!("rate_limit:rate:{client}")),
            Some(path) => self.make(format_args!("rate_limit:rate:{client}:{}", Hex(path))),
        }
    }

    /// The ban of an address or network.
    #[must_use]
    pub fn ban(&self, target: IpEntry) -> String {
        match target {
            IpEntry::Addr(addr) => self.make(format_args!("banned_ips:{addr}")),
            IpEntry::Net(net) => self.make(format_args!("banned_networks:{net}")),
        }
    }

    /// The ban to look up for a client; `None` for a client that is no address, which nobody can ban.
    #[must_use]
    pub fn ban_of(&self, client: Client<'_>) -> Option<String> {
        match client {
            Client::Address(_) | Client::Zoned { .. } => Some(self.make(format_args!("banned_ips:{}", Named(client)))),
            Client::Text(_) | Client::Unknown => None,
        }
    }

    /// Behaviour history.
    #[must_use]
    pub fn track(&self, track: Track<'_>) -> String {
        let mut name = HashedText(Sha256::new());
        // Hashing cannot fail, so neither can this.
        write!(name, "{}", track.client).unwrap_or_default();
        let (endpoint, client) = (Hex(track.endpoint), Hex(Digest(name.0.finalize().into())));
        match track.pattern {
            None => self.make(format_args!("behavior_usage:behavior:usage:{endpoint}:{client}")),
            Some(pattern) => {
                let pattern = Hex(pattern);
                self.make(format_args!("behavior_returns:behavior:return:{endpoint}:{client}:{pattern}"))
            }
        }
    }

    /// Suspicious counts: a family of our own, unknown to guard-core.
    #[must_use]
    pub fn suspicion(&self, client: Client<'_>) -> String {
        self.make(format_args!("envoy_guard:suspicion:{}", Named(client)))
    }

    /// History of one of the service's own limits: a family unknown to guard-core.
    #[must_use]
    pub fn rule(&self, key: Digest) -> String {
        self.make(format_args!("envoy_guard:limit:{}", Hex(key)))
    }

    /// The channel on which our replicas tell each other what changed.
    #[must_use]
    pub fn channel(&self) -> String {
        self.make(format_args!("envoy_guard:push"))
    }

    /// A SCAN pattern for all keys of a namespace whose names match `pattern`. The prefix matches only itself.
    #[must_use]
    pub fn matching(&self, namespace: &str, pattern: &str) -> String {
        format!("{}{}:{pattern}", escape(&self.prefix), escape(namespace))
    }

    /// What follows prefix, namespace and colon in `key`.
    #[must_use]
    pub fn name_in<'k>(&self, namespace: &str, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.prefix)?.strip_prefix(namespace)?.strip_prefix(':')
    }

    fn make(&self, rest: fmt::Arguments<'_>) -> String {
        let mut key = String::with_capacity(self.prefix.len() + 160);
        key.push_str(&self.prefix);
        // Writing into a string cannot fail.
        key.write_fmt(rest).unwrap_or_default();
        key
    }
}

/// A moment as guard-core writes it: the shortest text that reads back the same, always with a fraction.
#[must_use]
pub fn moment(at: Timestamp) -> String {
    format!("{:?}", at.0)
}

/// Reads a moment in any usual decimal or exponent form.
#[must_use]
pub fn read_moment(text: &str) -> Option<Timestamp> {
    text.trim().parse().ok().filter(|at: &f64| at.is_finite()).map(Timestamp)
}

/// `text` with every glob character made literal.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// SHA-256 of a text.
#[must_use]
pub fn digest(text: &str) -> Digest {
    Digest(Sha256::digest(text).into())
}

/// A client as it stands in a key.
struct Named<'r>(Client<'r>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Client::Text(text) if NAME_BYTES_MAX < text.len() => Hex(digest(text)).fmt(f),
            Client::Zoned { zone, .. } if NAME_BYTES_MAX < zone.len() => Hex(digest(&self.0.to_string())).fmt(f),
            client => client.fmt(f),
        }
    }
}

struct Hex(Digest);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A digest that text can be written into.
struct HashedText(Sha256);

impl fmt::Write for HashedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    const API: &str = "702acf7c08d3b03b321d97b4903ad2210d87cee61dae07068d060b8d7dcbd693";
    const ENDPOINT: &str = "ded2c0cf54d6716bb27c96c49bfa9baa37f1fc5f973b780fef5b25e6fcc58118";
    const CLIENT: &str = "89d523ed9039790f597af21528236c4d4934fd3c270f2fd0d8e114866c2c694d";
    const STATUS: &str = "c4a3b17cef32e92bbce11146e8ff9b841378ba417eab26c814248a1f264d6ba1";

    fn client(text: &str) -> Client<'_> {
        text.parse().map_or(Client::Text(text), |ip: IpAddr| Client::Address(ip.into()))
    }

    #[test]
    fn keys_are_guard_cores() {
        let keys = Keys::new("t:");
        let track = |pattern| Track { client: client("203.0.113.20"), endpoint: digest("corpus.endpoint"), pattern };
        for (made, expected) in [
            (
                keys.bucket(Bucket { client: client("203.0.113.20"), path: None }),
                "t:rate_limit:rate:203.0.113.20".into(),
            ),
            (
                keys.bucket(Bucket { client: client("2001:DB8::1"), path: Some(digest("/api")) }),
                format!("t:rate_limit:rate:2001:db8::1:{API}"),
            ),
            (keys.bucket(Bucket { client: Client::Unknown, path: None }), "t:rate_limit:rate:unknown".into()),
            (keys.ban("::ffff:203.0.113.8".parse().unwrap()), "t:banned_ips:203.0.113.8".into()),
            (keys.ban("198.51.100.77/24".parse().unwrap()), "t:banned_networks:198.51.100.0/24".into()),
            (keys.track(track(None)), format!("t:behavior_usage:behavior:usage:{ENDPOINT}:{CLIENT}")),
            (
                keys.track(track(Some(digest("status:404")))),
                format!("t:behavior_returns:behavior:return:{ENDPOINT}:{CLIENT}:{STATUS}"),
            ),
        ] {
            assert_eq!(made, expected);
        }
        assert_eq!(keys.ban_of(Client::Text("1.2.3.4:80")), None);
        let zoned = Client::Zoned { addr: "fe80::1".parse().unwrap(), zone: "eth0" };
        assert_eq!(keys.ban_of(zoned).as_deref(), Some("t:banned_ips:fe80::1%eth0"));
    }

    #[test]
    fn a_key_is_short_whatever_the_client_sends() {
        let long = "x".repeat(100_000);
        let key = Keys::new("t:").bucket(Bucket { client: Client::Text(&long), path: None });
        assert_eq!(key.len(), "t:rate_limit:rate:".len() + 64);
    }

    #[test]
    fn moments_read_back_the_same() {
        for (at, text) in [
            (1_795_249_371.818_84, "1795249371.81884"),
            (1_795_248_471.0, "1795248471.0"),
            (1_795_248_471.811_892_3, "1795248471.8118923"),
        ] {
            assert_eq!(moment(Timestamp(at)), text);
            assert_eq!(read_moment(text), Some(Timestamp(at)));
        }
        assert_eq!(read_moment("1.796e+09"), Some(Timestamp(1.796e9)));
        assert_eq!(read_moment("1795248571"), Some(Timestamp(1_795_248_571.0)));
        for garbage in ["garbage", "", "nan", "inf"] {
            assert_eq!(read_moment(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn a_pattern_matches_its_own_prefix_only() {
        assert_eq!(Keys::new("a*[b]?\\:").matching("banned_ips", "*"), r"a\*\[b\]\?\\:banned_ips:*");
        assert_eq!(Keys::new("p:").name_in("banned_ips", "p:banned_ips:2001:db8::1"), Some("2001:db8::1"));
        assert_eq!(Keys::new("p:").name_in("banned_ips", "q:banned_ips:x"), None);
    }
}
