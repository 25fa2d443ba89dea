//! Where Redis is and how long we wait for it: guard-core's `redis_*` fields, made usable.

use std::time::Duration;

use deadpool_redis::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::config::security::SecurityConfig;
use crate::config::server::LimitsConfig;
use crate::state::StateError;
use crate::state::memory::CLIENTS_DEFAULT;

/// Connections at most, whatever the number of threads.
const LINKS_MAX: usize = 16;

/// Which kind of Redis.
#[derive(Clone, Debug)]
pub enum Topology {
    /// One server, or whatever answers at one address.
    Standalone,
    /// The master that the sentinels name; user, password and database come from the URL.
    Sentinel {
        /// URLs of sentinels.
        sentinels: Vec<String>,
        /// The name under which they know the master.
        master: String,
    },
    /// A Cluster found through any of its nodes.
    Cluster {
        /// URLs of some nodes.
        nodes: Vec<String>,
    },
}

/// How to reach and use Redis.
#[derive(Clone)]
pub struct Settings {
    /// `redis://`, `rediss://` or `unix://` URL.
    pub url: String,
    /// Which kind of Redis.
    pub topology: Topology,
    /// Put before every key.
    pub prefix: String,
    /// Longest time for a request's questions.
    pub deadline: Duration,
    /// Longest time to open a connection.
    pub connect_timeout: Option<Duration>,
    /// Longest time for an operation outside requests.
    pub timeout: Option<Duration>,
    /// How often an idle server is asked whether it is well; `None` for never.
    pub health_interval: Option<Duration>,
    /// Connections; `None` means one for each core.
    pub connections: Option<u32>,
    /// How often a call is repeated on a new connection when its connection broke.
    pub retries: u32,
    /// For how long a ban that we know is not looked up again. Bounds how late an unban by guard-core is seen.
    pub ban_cache: Duration,
    /// For how long a client known to be clean is not looked up again while pushes arrive. Bounds how late a ban by
    /// guard-core is seen by a policy without rate limits.
    pub clean_cache: Duration,
    /// How often banned networks are read anew.
    pub networks_interval: Duration,
    /// How often custom patterns are compared with what they were, for changes that nobody pushed.
    pub patterns_interval: Duration,
    /// Clients whose bans are remembered here.
    pub clients: usize,
}

impl Settings {
    /// Settings for the server at `url` with guard-core's defaults.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            topology: Topology::Standalone,
            prefix: "guard_core:".to_owned(),
            deadline: Duration::from_millis(100),
            connect_timeout: Some(Duration::from_secs(2)),
            timeout: Some(Duration::from_secs(2)),
            health_interval: Some(Duration::from_secs(30)),
            connections: None,
            retries: 1,
            ban_cache: Duration::from_secs(2),
            clean_cache: Duration::from_millis(500),
            networks_interval: Duration::from_secs(5),
            patterns_interval: Duration::from_secs(30),
            clients: CLIENTS_DEFAULT,
        }
    }

    /// Settings from guard-core's fields.
    pub(in crate::state) fn from_config(url: &str, security: &SecurityConfig, limits: &LimitsConfig) -> Self {
        let time = |seconds: Option<f64>| seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let health = Duration::from_secs(security.redis_health_check_interval.into());
        Self {
            prefix: security.redis_prefix.clone(),
            deadline: Duration::from_millis(limits.state_deadline_ms.into()),
            connect_timeout: time(security.redis_socket_connect_timeout),
            timeout: time(security.redis_socket_timeout),
            health_interval: Some(health).filter(|time| !time.is_zero()),
            connections: security.redis_max_connections,
            retries: security.redis_retries,
            clients: usize::try_from(limits.memory_clients).unwrap_or(CLIENTS_DEFAULT),
            ..Self::new(url)
        }
    }

    /// How many connections are kept.
    pub(super) fn links(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let wanted = self.connections.map_or_else(cores, |wanted| usize::try_from(wanted).unwrap_or(LINKS_MAX));
        wanted.clamp(1, LINKS_MAX)
    }

    /// Reads the URL; options in it win over the fields. An unknown option or scheme is refused.
    pub(super) fn resolved(mut self) -> Result<(Self, ConnectionInfo), StateError> {
        let url = std::mem::take(&mut self.url);
        let (base, query) = url.split_once('?').unwrap_or((&url, ""));
        let mut info = connection_info(base)?;
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            info = self.apply(info, name, value)?;
        }
        self.url = base.to_owned();
        Ok((self, info))
    }

    fn apply(&mut self, info: ConnectionInfo, name: &str, value: &str) -> Result<ConnectionInfo, StateError> {
        let bad = || StateError::Refused(format!("redis_url: unusable value of option `{name}`"));
        let seconds = || {
            let seconds = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            seconds.filter(|time| !time.is_zero()).ok_or_else(bad)
        };
        let number = || value.parse::<u32>().map_err(|_| bad());
        let redis = info.redis_settings().clone();
        match name {
            "db" => return Ok(info.set_redis_settings(redis.set_db(number()?.into()))),
            "username" => return Ok(info.set_redis_settings(redis.set_username(value))),
            "password" => return Ok(info.set_redis_settings(redis.set_password(value))),
            "socket_connect_timeout" => self.connect_timeout = Some(seconds()?),
            "socket_timeout" | "timeout" => self.timeout = Some(seconds()?),
            "max_connections" => self.connections = Some(number()?.max(1)),
            "health_check_interval" => {
                self.health_interval = Some(Duration::from_secs(number()?.into())).filter(|time| !time.is_zero());
            }
            // Known to guard-core's client and without a counterpart here.
            "socket_read_size" | "socket_keepalive" | "retry_on_timeout" | "client_name" | "protocol" => {}
            name if name.starts_with("ssl_") => {}
            _ => return Err(StateError::Refused(format!("redis_url: unknown option `{name}`"))),
        }
        Ok(info)
    }
}

/// Names no secret: the URL is left out.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Host, port, user, password and database of a URL without options.
pub(super) fn connection_info(base: &str) -> Result<ConnectionInfo, StateError> {
    // The library's message may repeat the URL, secrets included.
    let unusable = || StateError::Refused("redis_url: not a usable redis://, rediss:// or unix:// URL".to_owned());
    let Some(local) = base.strip_prefix("redis+unix://").or_else(|| base.strip_prefix("unix://")) else {
        let known = base.starts_with("redis://") || base.starts_with("rediss://");
        return if known { base.into_connection_info().map_err(|_| unusable()) } else { Err(unusable()) };
    };
    let slash = local.find('/').ok_or_else(unusable)?;
    let (authority, path) = local.split_at(slash);
    let info = "redis://localhost".into_connection_info().map_err(|_| unusable())?;
    let mut redis = info.redis_settings().clone();
    if let Some(user) = authority.strip_suffix('@') {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        redis = if name.is_empty() { redis } else { redis.set_username(name) };
        redis = if password.is_empty() { redis } else { redis.set_password(password) };
    }
    Ok(info.set_addr(ConnectionAddr::Unix(path.into())).set_redis_settings(redis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(url: &str) -> Result<(Settings, ConnectionInfo), StateError> {
        Settings::new(url).resolved()
    }

    #[test]
    fn a_url_names_everything() {
        let (settings, info) = resolved("redis://app:s3cret@redis.internal:6380/4?socket_timeout=0.5").unwrap();
        assert_eq!(info.addr().to_string(), "redis.internal:6380");
        let redis = info.redis_settings();
        assert_eq!((redis.username(), redis.password(), redis.db()), (Some("app"), Some("s3cret"), 4));
        assert_eq!(settings.timeout, Some(Duration::from_millis(500)));
        let (_, info) = resolved("redis://localhost").unwrap();
        assert_eq!((info.addr().to_string().as_str(), info.redis_settings().db()), ("localhost:6379", 0));
        let (_, info) = resolved("unix://app:pw@/run/redis.sock?db=3").unwrap();
        assert_eq!(info.addr().to_string(), "/run/redis.sock");
        assert_eq!((info.redis_settings().username(), info.redis_settings().db()), (Some("app"), 3));
    }

    #[test]
    fn an_unusable_url_is_refused_without_repeating_it() {
        for url in [
            "http://s3cret@h",
            "s3cret",
            "redis://h?s3cret=1",
            "unix://s3cret",
            "redis://h?db=s3cret",
            "redis://h?timeout=-1",
        ] {
            let error = resolved(url).unwrap_err();
            assert!(matches!(error, StateError::Refused(_)), "{url}");
            assert!(url.contains("?s3cret") || !error.to_string().contains("s3cret"), "{error}");
        }
    }
}
