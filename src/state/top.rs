//! Which rate limit histories are the busiest, for operators. Looks at a bounded number of them.

use crate::model::time::Timestamp;
use crate::state::keys::Keys;
use crate::state::{Backend, Digest, StateError};

/// Whose history.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BusyKey {
    /// guard-core's: of a client, on one path or on all. A client that is no address is shown as a digest where only
    /// that is known.
    Client(String, Option<Digest>),
    /// Of one of the service's own limits.
    Rule(Digest),
}

/// One history.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Busy {
    /// Whose.
    pub key: BusyKey,
    /// Requests within its window.
    pub count: u64,
}

/// The busiest ones.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Busiest {
    /// The busiest first.
    pub entries: Vec<Busy>,
    /// False when there were more histories than are looked at.
    pub is_complete: bool,
    /// `memory` or `redis`.
    pub source: &'static str,
}

impl Busiest {
    /// Takes entries in and keeps the busiest `size`.
    pub(super) fn add(&mut self, more: impl IntoIterator<Item = Busy>, size: usize) {
        self.entries.extend(more.into_iter().filter(|busy| 0 < busy.count));
        self.entries.sort_by_key(|busy| std::cmp::Reverse(busy.count));
        self.entries.truncate(size);
    }
}

impl Backend {
    /// The busiest `size` histories where limits are counted now. `window` tells over which time a history counts, in
    /// seconds; `None` counts all it holds.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn busiest(
        &self,
        size: usize,
        now: Timestamp,
        window: impl Fn(&BusyKey) -> Option<u32> + Send + Sync,
    ) -> Result<Busiest, StateError> {
        match self {
            Self::Memory(memory) => Ok(memory.busiest(size, now)),
            Self::Failover(both) if both.is_degraded() => Ok(both.memory().busiest(size, now)),
            Self::Redis(redis) => redis.busiest(size, now, window).await,
            Self::Failover(both) => both.redis().busiest(size, now, window).await,
        }
    }
}

impl Keys {
    /// Patterns of all histories of rate limits: namespace and name.
    pub(super) const HISTORIES: [(&'static str, &'static str); 2] =
        [("rate_limit", "rate:*"), ("envoy_guard", "limit:*")];

    /// Whose history a key is; `None` for a key that is none.
    pub(super) fn busy(&self, key: &str) -> Option<BusyKey> {
        if let Some(digest) = self.name_in("envoy_guard", key).and_then(|name| name.strip_prefix("limit:")) {
            return Some(BusyKey::Rule(digest_of(digest)?));
        }
        let name = self.name_in("rate_limit", key)?.strip_prefix("rate:")?;
        // An IPv6 address holds colons, too; a digest is 64 digits long.
        let path = name.rsplit_once(':').and_then(|(client, path)| Some((client, digest_of(path)?)));
        Some(match path {
            Some((client, path)) => BusyKey::Client(client.to_owned(), Some(path)),
            None => BusyKey::Client(name.to_owned(), None),
        })
    }
}

fn digest_of(text: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (place, at) in bytes.iter_mut().zip((0..64).step_by(2)).take(if is_digest { 32 } else { 0 }) {
        *place = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    is_digest.then_some(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::addr::Client;
    use crate::state::Bucket;

    #[test]
    fn keys_are_read_back() {
        let keys = Keys::new("guard_core:");
        let path = Digest([0xab; 32]);
        for (name, path) in
            [("192.0.2.1", None), ("192.0.2.1", Some(path)), ("2001:db8::1", None), ("2001:db8::1", Some(path))]
        {
            let client = Client::Address(name.parse::<std::net::IpAddr>().unwrap().into());
            let key = keys.bucket(Bucket { client, path });
            assert_eq!(keys.busy(&key), Some(BusyKey::Client(name.to_owned(), path)), "{key}");
        }
        assert_eq!(keys.busy(&keys.rule(path)), Some(BusyKey::Rule(path)));
        assert_eq!(keys.busy("guard_core:banned_ips:192.0.2.1"), None);
        assert_eq!(keys.busy("guard_core:envoy_guard:limit:short"), None);
    }
}
