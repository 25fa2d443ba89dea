//! `redis:`: what guard-core's `redis_*` fields do not reach.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::formats;
use crate::config::values::{RedisUrl, Secret};

/// `redis:`: which kind of Redis, who we are there, and how its connections are secured. Where it is, the prefix, the
/// timeouts and the number of connections are guard-core's `security.redis_*`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// One server, a master that sentinels name, or a Cluster.
    pub topology: RedisTopology,
    /// URLs of sentinels, with their own user information if they need it. `security.redis_url` says then only whether
    /// the master speaks TLS (`rediss://`) and which user and database are used there; its host is not asked.
    #[schemars(with = "Vec<formats::RedisLocation>")]
    pub sentinels: Vec<RedisUrl>,
    /// The name under which the sentinels know the master.
    #[schemars(with = "Option<formats::Name>")]
    pub master: Option<String>,
    /// User at the sentinels.
    pub sentinel_username: Option<String>,
    /// Password at the sentinels.
    pub sentinel_password: Option<Secret>,
    /// File that holds the password at the sentinels; one newline at its end is left out.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub sentinel_password_file: Option<PathBuf>,
    /// URLs of some nodes of a Cluster; `security.redis_url` when empty.
    #[schemars(with = "Vec<formats::RedisLocation>")]
    pub nodes: Vec<RedisUrl>,
    /// ACL user; overrules the URL's.
    pub username: Option<String>,
    /// Password; overrules the URL's. Better in the variable `ENVOY_GUARD_REDIS__PASSWORD` or in a file.
    pub password: Option<Secret>,
    /// File that holds the password, as secrets are mounted; one newline at its end is left out.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub password_file: Option<PathBuf>,
    /// Database; overrules the URL's.
    #[schemars(range(min = 0, max = 65535))]
    pub database: Option<u32>,
    /// TLS of every connection whose URL starts with `rediss://`.
    pub tls: RedisTls,
    /// Milliseconds for which a ban that is known here is not looked up again. Bounds how late an unban by an
    /// application that embeds guard-core is seen; our replicas tell each other at once.
    #[schemars(range(min = 0, max = 3600000))]
    pub ban_cache_ms: u32,
    /// Milliseconds for which a client known to be clean is not looked up again while pushes arrive. Bounds how late a
    /// ban by such an application is seen where no exact limit asks Redis anyway. 0 looks up always.
    #[schemars(range(min = 0, max = 60000))]
    pub clean_cache_ms: u32,
    /// Milliseconds between readings of the banned networks, for changes that nobody pushed.
    #[schemars(range(min = 100, max = 3600000))]
    pub networks_interval_ms: u32,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            topology: RedisTopology::Standalone,
            sentinels: Vec::new(),
            master: None,
            sentinel_username: None,
            sentinel_password: None,
            sentinel_password_file: None,
            nodes: Vec::new(),
            username: None,
            password: None,
            password_file: None,
            database: None,
            tls: RedisTls::default(),
            ban_cache_ms: 2000,
            clean_cache_ms: 500,
            networks_interval_ms: 5000,
        }
    }
}

/// Which kind of Redis.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedisTopology {
    /// One server, or whatever answers at one address.
    #[default]
    Standalone,
    /// The master that the sentinels name.
    Sentinel,
    /// A Cluster.
    Cluster,
}

/// `redis.tls:`: whom we trust, and who we are.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisTls {
    /// PEM file of the authorities that may vouch for the server; those of the system when absent.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate, its chain included; needs `key_file`.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub cert_file: Option<PathBuf>,
    /// PEM file of our key; needs `cert_file`.
    #[schemars(with = "Option<formats::NonBlank>")]
    pub key_file: Option<PathBuf>,
    /// Name that the certificates of all servers (sentinels, their master, nodes of a Cluster) must hold, when it is not the
    /// host or address that they are reached by. A Cluster announces addresses unless it is told to announce names
    /// (`cluster-announce-hostname`, `cluster-preferred-endpoint-type hostname`); sentinels do the same
    /// (`sentinel resolve-hostnames`, `sentinel announce-hostnames`).
    #[schemars(with = "Option<formats::Host>")]
    pub server_name: Option<String>,
    /// DANGER: takes any certificate of anybody, so that whoever is on the way can read and change everything. Warned of
    /// at every start.
    pub insecure_accept_any_certificate: bool,
}
