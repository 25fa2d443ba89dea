//! Bans under spellings that older participants used, moved to the canonical one.

use std::net::IpAddr;

use deadpool_redis::redis::cmd;

use crate::model::addr::{ClientAddr, IpEntry};
use crate::state::StateError;
use crate::state::redis::{Redis, parsed};

impl Redis {
    /// Moves every ban whose address is not spelled canonically; the longer of two bans stays. A ban that has ended, or
    /// that would never end, is dropped. Returns how many keys were moved or dropped.
    ///
    /// The steps are not one: another replica that does the same meanwhile does no harm.
    pub async fn migrate_bans(&self) -> Result<u64, StateError> {
        let mut migrated = 0;
        for name in self.names("banned_ips", "*").await? {
            let Some(addr) = foreign(&name) else { continue };
            let old = self.keys.named("banned_ips", &name);
            let left = self.milliseconds_left(&old).await?;
            if 0 < left {
                self.move_ban(&old, &self.keys.ban(IpEntry::Addr(addr)), left).await?;
            }
            let mut unlink = cmd("UNLINK");
            unlink.arg(&old);
            self.call_patiently(&unlink).await?;
            self.cache.forget(addr);
            migrated += 1;
        }
        Ok(migrated)
    }

    async fn move_ban(&self, old: &str, canonical: &str, left: i64) -> Result<(), StateError> {
        let mut read = cmd("GET");
        read.arg(old);
        let value: Option<String> = parsed(self.call_patiently(&read).await?)?;
        let there = self.milliseconds_left(canonical).await?;
        // -1 is a key without an end.
        let Some(value) = value.filter(|_| there != -1 && there < left) else { return Ok(()) };
        let mut write = cmd("SET");
        write.arg(canonical).arg(value).arg("PX").arg(left);
        self.call_patiently(&write).await.map(drop)
    }

    /// -1 without an expiry, -2 without the key.
    async fn milliseconds_left(&self, key: &str) -> Result<i64, StateError> {
        let mut read = cmd("PTTL");
        read.arg(key);
        parsed(self.call_patiently(&read).await?)
    }
}

/// The address that `name` spells otherwise than we would; `None` when it is canonical or no address.
fn foreign(name: &str) -> Option<ClientAddr> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let addr = ClientAddr::from(bare.parse::<IpAddr>().ok()?);
    (addr.to_string() != name).then_some(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_spellings_of_addresses_are_foreign() {
        for (name, expected) in [
            ("203.0.113.8", None),
            ("2001:db8::1", None),
            ("::102:304", None),
            ("fe80::1%eth0", None),
            ("unknown", None),
            ("::ffff:203.0.113.8", Some("203.0.113.8")),
            ("[2001:DB8::1]", Some("2001:db8::1")),
            ("2001:0db8:0:0:0:0:0:1", Some("2001:db8::1")),
        ] {
            assert_eq!(foreign(name).map(|addr| addr.to_string()).as_deref(), expected, "{name}");
        }
    }
}
