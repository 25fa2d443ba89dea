//! Dynamic rules: a document from outside, read strictly, and laid over the configuration.
//!
//! A document is taken whole or refused whole, with every reason. What it says holds on top of the *base*, never on top
//! of an earlier document: whatever a new version leaves out, and everything once it has expired, is the base again.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::model::addr::IpEntry;
use crate::model::place::CloudSelectors;
use crate::model::time::{Timestamp, Window};
use crate::state::formats::{Moment, Rules};

/// Bytes of a document at most.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// Entries of one list of addresses, or limits of paths, at most.
pub const ADDRESSES_MAX: usize = 10_000;
/// Entries of any other list at most.
pub const ENTRIES_MAX: usize = 1_000;
/// Characters of an entry, of a path and of the rule's id at most.
pub const TEXT_CHARS_MAX: usize = 4096;
/// Reasons that one refusal tells.
pub const REASONS_MAX: usize = 50;

/// A document that can be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// What it says, as participants store it.
    pub rules: Rules,
    /// Whom it bans.
    pub bans: Vec<IpEntry>,
    /// Whose bans it lifts.
    pub unbans: Vec<IpEntry>,
    /// For how long it bans.
    pub ban_window: Window,
    emergency_whitelist: Vec<IpEntry>,
    clouds: BTreeSet<String>,
    /// What it says and what is left out, for people.
    pub warnings: Vec<String>,
}

/// Every reason why a document is refused, each with its field; never more than [`REASONS_MAX`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct BadDocument(pub Vec<String>);

/// Reads a document; `None` when it holds no rules (`null`, or an object without a field).
///
/// Fields that are not known are left out, as is documented for every reader of this format: a control plane may be
/// newer than we are. A field that is known and unusable refuses all.
///
/// # Errors
/// Every field that cannot be used.
pub fn read(text: &[u8], now: Timestamp) -> Result<Option<Checked>, BadDocument> {
    let refuse = |reason: String| BadDocument(vec![reason]);
    if DOCUMENT_BYTES_MAX < text.len() {
        return Err(refuse(format!("the document has more than {DOCUMENT_BYTES_MAX} bytes")));
    }
    match serde_json::from_slice(text) {
        Ok(Value::Null) => Ok(None),
        Ok(Value::Object(fields)) if fields.is_empty() => Ok(None),
        Ok(Value::Object(fields)) => check(Fields::new(fields).rules(now)).map(Some),
        Ok(_) => Err(refuse("the document is no JSON object".to_owned())),
        // The message tells line and column, and nothing of the text.
        Err(error) => Err(refuse(format!("the document is no JSON: {error}"))),
    }
}

/// Checks rules that another participant stored.
///
/// # Errors
/// Every field that cannot be used.
pub fn restore(rules: Rules) -> Result<Checked, BadDocument> {
    check((rules, Vec::new()))
}

/// The fields of a document, and what is wrong with those that were taken.
struct Fields {
    fields: Map<String, Value>,
    reasons: Vec<String>,
}

impl Fields {
    const fn new(fields: Map<String, Value>) -> Self {
        Self { fields, reasons: Vec::new() }
    }

    /// One field; its default when it is absent or of another kind, which is a reason to refuse.
    fn take<T: DeserializeOwned>(&mut self, name: &str, kind: &str, default: T) -> T {
        let Some(value) = self.fields.remove(name) else { return default };
        match serde_json::from_value(value) {
            Ok(value) => value,
            Err(_) => {
                self.reasons.push(format!("{name}: is not {kind}"));
                default
            }
        }
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        self.take(name, "a list of texts", Vec::new())
    }

    fn whole(&mut self, name: &str, default: i64) -> i64 {
        self.take(name, "a whole number", default)
    }

    fn optional(&mut self, name: &str) -> Option<i64> {
        self.take(name, "a whole number or null", None)
    }

    fn switch(&mut self, name: &str) -> Option<bool> {
        self.take(name, "true, false or null", None)
    }

    /// A time as text, or in seconds since the Unix epoch.
    fn moment(&mut self, name: &str) -> Option<Moment> {
        let value = self.fields.remove(name).filter(|value| !value.is_null())?;
        let read = match &value {
            Value::String(text) => Moment::try_from(text.clone()).ok(),
            value => value.as_f64().filter(|unix| (0.0..2.5e11).contains(unix)).map(|unix| Timestamp(unix).into()),
        };
        if read.is_none() {
            self.reasons.push(format!("{name}: is no ISO 8601 time such as 2026-01-31T08:30:00Z"));
        }
        read
    }

    fn rules(mut self, now: Timestamp) -> (Rules, Vec<String>) {
        let rules = Rules {
            rule_id: self.take("rule_id", "a text", "default-rule".to_owned()),
            version: self.whole("version", 1),
            timestamp: self.moment("timestamp").unwrap_or_else(|| now.into()),
            expires_at: self.moment("expires_at"),
            ttl: self.whole("ttl", 300),
            ip_blacklist: self.texts("ip_blacklist"),
            ip_whitelist: self.texts("ip_whitelist"),
            ip_ban_duration: self.whole("ip_ban_duration", 3600),
            blocked_countries: self.texts("blocked_countries"),
            whitelist_countries: self.texts("whitelist_countries"),
            global_rate_limit: self.optional("global_rate_limit"),
            global_rate_window: self.optional("global_rate_window"),
            endpoint_rate_limits: self.take(
                "endpoint_rate_limits",
                "an object of paths, each with [requests, window]",
                BTreeMap::new(),
            ),
            blocked_cloud_providers: self.take("blocked_cloud_providers", "a list of texts", BTreeSet::new()),
            blocked_user_agents: self.texts("blocked_user_agents"),
            suspicious_patterns: self.texts("suspicious_patterns"),
            enable_penetration_detection: self.switch("enable_penetration_detection"),
            enable_ip_banning: self.switch("enable_ip_banning"),
            enable_rate_limiting: self.switch("enable_rate_limiting"),
            auto_ban_threshold: self.optional("auto_ban_threshold"),
            auto_ban_duration: self.optional("auto_ban_duration"),
            enable_rate_limit_auto_ban: self.switch("enable_rate_limit_auto_ban"),
            emergency_mode: self.take("emergency_mode", "true or false", false),
            emergency_whitelist: self.texts("emergency_whitelist"),
        };
        (rules, self.reasons)
    }
}

/// Turns the texts of rules into what they mean.
fn check((rules, reasons): (Rules, Vec<String>)) -> Result<Checked, BadDocument> {
    let mut judge = Judge { reasons, warnings: Vec::new() };
    judge.sizes(&rules);
    judge.numbers(&rules);
    let bans = judge.addresses("ip_blacklist", &rules.ip_blacklist);
    let unbans = judge.addresses("ip_whitelist", &rules.ip_whitelist);
    let emergency_whitelist = judge.addresses("emergency_whitelist", &rules.emergency_whitelist);
    let everybody = |text: &String| text.trim().parse().is_ok_and(|entry: IpEntry| entry.is_everything());
    for (place, _) in rules.ip_blacklist.iter().enumerate().filter(|(_, text)| everybody(text)) {
        judge.reasons.push(format!("ip_blacklist[{place}]: would ban everybody, which is what emergency_mode is for"));
    }
    judge.countries("blocked_countries", &rules.blocked_countries);
    judge.countries("whitelist_countries", &rules.whitelist_countries);
    let clouds = judge.clouds(&rules.blocked_cloud_providers);
    let ban_window = u32::try_from(rules.ip_ban_duration).ok().and_then(Window::new);
    if rules.emergency_mode && rules.emergency_whitelist.is_empty() {
        judge.warnings.push("emergency_mode is on and emergency_whitelist is empty, so nobody passes".to_owned());
    }
    let Judge { mut reasons, warnings } = judge;
    let Some(ban_window) = ban_window.filter(|_| reasons.is_empty()) else {
        let more = reasons.len().saturating_sub(REASONS_MAX);
        reasons.truncate(REASONS_MAX);
        reasons.extend((0 < more).then(|| format!("and {more} more")));
        return Err(BadDocument(reasons));
    };
    Ok(Checked { rules, bans, unbans, ban_window, emergency_whitelist, clouds, warnings })
}

struct Judge {
    reasons: Vec<String>,
    warnings: Vec<String>,
}

impl Judge {
    fn sizes(&mut self, rules: &Rules) {
        let addresses = [
            ("ip_blacklist", &rules.ip_blacklist),
            ("ip_whitelist", &rules.ip_whitelist),
            ("emergency_whitelist", &rules.emergency_whitelist),
        ];
        let others = [
            ("blocked_countries", &rules.blocked_countries),
            ("whitelist_countries", &rules.whitelist_countries),
            ("blocked_user_agents", &rules.blocked_user_agents),
            ("suspicious_patterns", &rules.suspicious_patterns),
        ];
        for (name, length, most) in addresses
            .iter()
            .map(|(name, list)| (*name, list.len(), ADDRESSES_MAX))
            .chain(others.iter().map(|(name, list)| (*name, list.len(), ENTRIES_MAX)))
            .chain([
                ("endpoint_rate_limits", rules.endpoint_rate_limits.len(), ADDRESSES_MAX),
                ("blocked_cloud_providers", rules.blocked_cloud_providers.len(), ENTRIES_MAX),
            ])
        {
            if most < length {
                self.reasons.push(format!("{name}: has {length} entries; {most} are allowed"));
            }
        }
        let texts = addresses.iter().chain(&others).flat_map(|(name, list)| list.iter().map(move |text| (*name, text)));
        let paths = rules.endpoint_rate_limits.keys().map(|path| ("endpoint_rate_limits", path));
        let long = |text: &str| TEXT_CHARS_MAX < text.chars().count();
        for (name, _) in texts.chain(paths).chain([("rule_id", &rules.rule_id)]).filter(|(_, text)| long(text)) {
            self.reasons.push(format!("{name}: holds a text of more than {TEXT_CHARS_MAX} characters"));
        }
        for (name, list) in
            [("blocked_user_agents", &rules.blocked_user_agents), ("suspicious_patterns", &rules.suspicious_patterns)]
        {
            if list.iter().any(String::is_empty) {
                self.reasons.push(format!("{name}: holds an empty pattern, which would match everything"));
            }
        }
    }

    fn numbers(&mut self, rules: &Rules) {
        for (name, number) in [
            ("ip_ban_duration", Some(rules.ip_ban_duration)),
            ("global_rate_limit", rules.global_rate_limit),
            ("global_rate_window", rules.global_rate_window),
            ("auto_ban_threshold", rules.auto_ban_threshold),
            ("auto_ban_duration", rules.auto_ban_duration),
        ] {
            if number.is_some_and(|number| !is_positive(number)) {
                self.reasons.push(format!("{name}: is not between 1 and {}", u32::MAX));
            }
        }
        for (path, (requests, window)) in &rules.endpoint_rate_limits {
            if !path.starts_with('/') || !is_positive(*requests) || !is_positive(*window) {
                let shown: String = path.chars().take(80).collect();
                self.reasons.push(format!(
                    "endpoint_rate_limits: `{shown}` is no path with [requests, window], both between 1 and {}",
                    u32::MAX
                ));
            }
        }
        if rules.global_rate_window.is_some() && rules.global_rate_limit.is_none() {
            self.warnings.push("global_rate_window has no effect without global_rate_limit".to_owned());
        }
    }

    fn addresses(&mut self, name: &str, texts: &[String]) -> Vec<IpEntry> {
        let mut entries = Vec::with_capacity(texts.len());
        for (place, text) in texts.iter().enumerate() {
            match text.trim().parse() {
                Ok(entry) => entries.push(narrowed(entry)),
                Err(_) => self.reasons.push(format!("{name}[{place}]: is no address and no network")),
            }
        }
        entries
    }

    fn countries(&mut self, name: &str, codes: &[String]) {
        for (place, code) in codes.iter().enumerate() {
            if code.len() != 2 || !code.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                self.reasons.push(format!("{name}[{place}]: is no country code of two letters"));
            }
        }
    }

    /// What is known; an unknown provider is left out, as in the configuration.
    fn clouds(&mut self, selectors: &BTreeSet<String>) -> BTreeSet<String> {
        let is_known = |selector: &&String| CloudSelectors::parse([selector.as_str()]).1.is_empty();
        let (known, unknown): (Vec<_>, Vec<_>) = selectors.iter().partition(is_known);
        for selector in unknown {
            let shown: String = selector.chars().take(80).collect();
            self.warnings.push(format!("blocked_cloud_providers: `{shown}` is no known provider and left out"));
        }
        known.into_iter().cloned().collect()
    }
}

fn is_positive(number: i64) -> bool {
    (1..=i64::from(u32::MAX)).contains(&number)
}

/// A network of one address is that address: only such a ban is seen by applications that embed guard-core.
fn narrowed(entry: IpEntry) -> IpEntry {
    match entry {
        IpEntry::Net(net) if net.prefix_len() == net.max_prefix_len() => IpEntry::Addr(net.addr().into()),
        IpEntry::Net(_) | IpEntry::Addr(_) => entry,
    }
}

impl Checked {
    /// When it ends; never without a time.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.rules.expires_at.as_ref().is_some_and(|end| end.timestamp() <= now)
    }

    /// True when `newer` is not to be applied after this one: the same id, and no higher version.
    #[must_use]
    pub fn covers(&self, newer: &Self) -> bool {
        self.rules.rule_id == newer.rules.rule_id && newer.rules.version <= self.rules.version
    }

    /// The configuration under these rules, and what of them has no effect there. `knows_countries` tells whether
    /// countries can be found out at all.
    #[must_use]
    pub fn over(&self, base: &Config, knows_countries: bool) -> (Config, Vec<String>) {
        let (rules, mut config, mut warnings) = (&self.rules, base.clone(), self.warnings.clone());
        let security = &mut config.security;
        if knows_countries {
            for (codes, setting) in [
                (&rules.blocked_countries, &mut security.blocked_countries),
                (&rules.whitelist_countries, &mut security.whitelist_countries),
            ] {
                if !codes.is_empty() {
                    *setting = codes.iter().map(|code| code.to_ascii_uppercase()).collect();
                }
            }
        } else if !rules.blocked_countries.is_empty() || !rules.whitelist_countries.is_empty() {
            warnings.push("countries have no effect: there is no country database".to_owned());
        }
        if let Some(limit) = number(rules.global_rate_limit) {
            security.rate_limit = limit;
            security.rate_limit_window = number(rules.global_rate_window).unwrap_or(security.rate_limit_window);
        }
        if !rules.endpoint_rate_limits.is_empty() {
            let limits = rules.endpoint_rate_limits.iter();
            let limits = limits.filter_map(|(path, (requests, window))| {
                Some((path.clone(), (number(Some(*requests))?, number(Some(*window))?)))
            });
            security.endpoint_rate_limits = limits.collect();
        }
        if !self.clouds.is_empty() {
            security.block_cloud_providers = Some(self.clouds.iter().cloned().collect());
        }
        if !rules.blocked_user_agents.is_empty() {
            security.blocked_user_agents.clone_from(&rules.blocked_user_agents);
        }
        for pattern in &rules.suspicious_patterns {
            if !config.detection.custom_patterns.contains(pattern) {
                config.detection.custom_patterns.push(pattern.clone());
            }
        }
        for (switch, setting) in [
            (rules.enable_penetration_detection, &mut security.enable_penetration_detection),
            (rules.enable_ip_banning, &mut security.enable_ip_banning),
            (rules.enable_rate_limiting, &mut security.enable_rate_limiting),
            (rules.enable_rate_limit_auto_ban, &mut security.enable_rate_limit_auto_ban),
        ] {
            *setting = switch.unwrap_or(*setting);
        }
        security.auto_ban_threshold = number(rules.auto_ban_threshold).unwrap_or(security.auto_ban_threshold);
        security.auto_ban_duration = number(rules.auto_ban_duration).unwrap_or(security.auto_ban_duration);
        if rules.emergency_mode {
            security.emergency_mode = true;
            security.emergency_whitelist.clone_from(&self.emergency_whitelist);
            security.auto_ban_threshold = (security.auto_ban_threshold / 2).max(1);
        }
        (config, warnings)
    }
}

fn number(number: Option<i64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

#[cfg(test)]
mod tests;
