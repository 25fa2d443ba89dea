//! Where Redis is and how long we wait for it: guard-core's `redis_*` fields, made usable.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deadpool_redis::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::config::Config;
use crate::config::redis::{RedisTls, RedisTopology};
use crate::config::values::{RedisUrl, Secret};
use crate::state::StateError;
use crate::state::memory::CLIENTS_DEFAULT;

/// Connections at most, whatever the number of threads.
const LINKS_MAX: usize = 16;

/// Which kind of Redis.
#[derive(Clone, Debug)]
pub enum Topology {
    /// One server, or whatever answers at one address.
    Standalone,
    /// The master that the sentinels name; user, password, database and TLS come from the URL.
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

/// Who we are. What is absent comes from the URL.
#[derive(Clone, Default)]
pub struct Credentials {
    /// ACL user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
}

impl Credentials {
    /// `info` with these instead of its own.
    pub(super) fn over(&self, info: ConnectionInfo) -> ConnectionInfo {
        let mut redis = info.redis_settings().clone();
        if let Some(username) = &self.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &self.password {
            redis = redis.set_password(password);
        }
        info.set_redis_settings(redis)
    }
}

/// How TLS is spoken where the URL asks for it.
#[derive(Clone, Default)]
pub struct Tls {
    /// PEM text of the authorities; those of the system when absent.
    pub ca: Option<Vec<u8>>,
    /// PEM texts of our certificate and key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// Name in every server's certificate, when it is not the host it is reached by.
    pub server_name: Option<String>,
    /// Take a certificate for any name that an authority vouches for.
    pub any_name: bool,
    /// Take any certificate.
    pub insecure: bool,
}

/// How to reach and use Redis.
#[derive(Clone)]
pub struct Settings {
    /// `redis://`, `rediss://` or `unix://` URL.
    pub url: String,
    /// Which kind of Redis.
    pub topology: Topology,
    /// Who we are.
    pub credentials: Credentials,
    /// Who we are at the sentinels.
    pub sentinel_credentials: Credentials,
    /// The database, instead of the URL's.
    pub database: Option<u32>,
    /// How TLS is spoken.
    pub tls: Tls,
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
            credentials: Credentials::default(),
            sentinel_credentials: Credentials::default(),
            database: None,
            tls: Tls::default(),
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
            patterns_interval: Duration::from_secs(5),
            clients: CLIENTS_DEFAULT,
        }
    }

    /// Settings from guard-core's fields and the section `redis`. Reads the files that it names.
    pub(in crate::state) fn from_config(url: &str, config: &Config) -> Result<Self, StateError> {
        let (security, redis) = (&config.security, &config.redis);
        let time = |seconds: Option<f64>| seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let health = Duration::from_secs(security.redis_health_check_interval.into());
        let texts = |urls: &[RedisUrl]| urls.iter().map(|url| url.expose().to_owned()).collect::<Vec<_>>();
        let topology = match redis.topology {
            RedisTopology::Standalone => Topology::Standalone,
            RedisTopology::Sentinel => Topology::Sentinel {
                sentinels: texts(&redis.sentinels),
                master: redis.master.clone().unwrap_or_default(),
            },
            RedisTopology::Cluster if redis.nodes.is_empty() => Topology::Cluster { nodes: vec![url.to_owned()] },
            RedisTopology::Cluster => Topology::Cluster { nodes: texts(&redis.nodes) },
        };
        Ok(Self {
            topology,
            credentials: credentials(
                &redis.username,
                &redis.password,
                ("redis.password_file", redis.password_file.as_deref()),
            )?,
            sentinel_credentials: credentials(
                &redis.sentinel_username,
                &redis.sentinel_password,
                ("redis.sentinel_password_file", redis.sentinel_password_file.as_deref()),
            )?,
            database: redis.database,
            tls: tls(&redis.tls)?,
            prefix: security.redis_prefix.clone(),
            deadline: Duration::from_millis(config.limits.state_deadline_ms.into()),
            connect_timeout: time(security.redis_socket_connect_timeout),
            timeout: time(security.redis_socket_timeout),
            health_interval: Some(health).filter(|time| !time.is_zero()),
            connections: security.redis_max_connections,
            retries: security.redis_retries,
            ban_cache: Duration::from_millis(redis.ban_cache_ms.into()),
            clean_cache: Duration::from_millis(redis.clean_cache_ms.into()),
            networks_interval: Duration::from_millis(redis.networks_interval_ms.into()),
            clients: usize::try_from(config.limits.memory_clients).unwrap_or(CLIENTS_DEFAULT),
            ..Self::new(url)
        })
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
        let (mut certificate, mut key) = (None, None);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = unquoted(value);
            match name {
                "ssl_certfile" => certificate = Some(url_pem(name, &value, CERTIFICATE)?),
                "ssl_keyfile" => key = Some(url_pem(name, &value, KEY)?),
                _ => info = self.apply(info, name, &value)?,
            }
        }
        if let Some(certificate) = certificate {
            // One file may hold both.
            let key = key.unwrap_or_else(|| certificate.clone());
            self.tls.client = Some((certificate, key));
        }
        info = self.credentials.over(info);
        if let Some(database) = self.database {
            let redis = info.redis_settings().clone().set_db(database.into());
            info = info.set_redis_settings(redis);
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
            "ssl_ca_certs" => self.tls.ca = Some(url_pem(name, value, CERTIFICATE)?),
            "ssl_cert_reqs" => self.tls.insecure = value == "none",
            "ssl_check_hostname" => {
                self.tls.any_name = ["false", "no", "n", "0"].contains(&value.to_ascii_lowercase().as_str());
            }
            // Known to guard-core's client and without a counterpart here.
            "socket_read_size" | "socket_keepalive" | "retry_on_timeout" | "client_name" | "protocol" => {}
            name if name.starts_with("ssl_") => {}
            _ => return Err(StateError::Refused(format!("redis_url: unknown option `{name}`"))),
        }
        Ok(info)
    }
}

/// The user and password of a section; the password may lie in a file.
fn credentials(
    username: &Option<String>,
    password: &Option<Secret>,
    (key, file): (&str, Option<&Path>),
) -> Result<Credentials, StateError> {
    let read = file.map(|path| -> Result<String, StateError> {
        let bytes = read_file(key, path)?;
        let text = String::from_utf8(bytes).map_err(|_| StateError::Refused(format!("{key}: is not UTF-8 text")))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    });
    let password = password.as_ref().map(|secret| secret.expose().to_owned());
    Ok(Credentials { username: username.clone(), password: read.transpose()?.or(password) })
}

fn tls(tls: &RedisTls) -> Result<Tls, StateError> {
    let read =
        |key: &str, path: &Option<PathBuf>, what: &str| path.as_deref().map(|path| pem(key, path, what)).transpose();
    let certificate = read("redis.tls.cert_file", &tls.cert_file, CERTIFICATE)?;
    let key = read("redis.tls.key_file", &tls.key_file, KEY)?;
    Ok(Tls {
        ca: read("redis.tls.ca_file", &tls.ca_file, CERTIFICATE)?,
        client: certificate.zip(key),
        server_name: tls.server_name.clone(),
        any_name: false,
        insecure: tls.insecure_accept_any_certificate,
    })
}

/// What a file of certificates holds at least.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// What a file of a key holds at least.
const KEY: &str = "PRIVATE KEY-----";

/// The bytes of a PEM file. The library takes one without any `what` for an empty list, and then trusts nobody or shows
/// nothing.
fn pem(key: &str, path: &Path, what: &str) -> Result<Vec<u8>, StateError> {
    let bytes = read_file(key, path)?;
    if String::from_utf8_lossy(&bytes).contains(what) {
        return Ok(bytes);
    }
    Err(StateError::Refused(format!("{key}: holds no `{what}`")))
}

/// A PEM file that an option of the URL names.
fn url_pem(option: &str, path: &str, what: &str) -> Result<Vec<u8>, StateError> {
    pem(&format!("redis_url: {option}"), Path::new(path), what)
}

/// The value of an option, percent-encoding undone where it makes sense.
fn unquoted(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let decoded = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Secrets and certificates are small; anything larger is another file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

fn read_file(key: &str, path: &Path) -> Result<Vec<u8>, StateError> {
    let failed = |error: std::io::Error| StateError::Refused(format!("{key}: cannot be read: {error}"));
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(StateError::Refused(format!("{key}: is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
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
        let (settings, _) =
            resolved("rediss://localhost?ssl_check_hostname=False&ssl_cert_reqs=required&password=a%2Fb%zz").unwrap();
        assert!(settings.tls.any_name && !settings.tls.insecure);
        assert_eq!(unquoted("a%2Fb%zz%4"), "a/b%zz%4");
        assert!(resolved("rediss://localhost?ssl_cert_reqs=none").unwrap().0.tls.insecure);
        let error = resolved("rediss://localhost?ssl_ca_certs=/missing").err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("ssl_ca_certs: cannot be read")));
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
