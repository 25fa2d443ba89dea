//! Rules across `redis:` and guard-core's `security.redis_*`.

use crate::config::Config;
use crate::config::check::Findings;
use crate::config::redis::{RedisConfig, RedisTopology};
use crate::config::rules::conflict;
use crate::config::values::RedisUrl;

/// Checks how Redis is to be reached.
pub(super) fn apply(config: &Config, out: &mut Findings) {
    let redis = &config.redis;
    topology(config, out);
    credentials(redis, out);
    tls(config, out);
    let used = config.security.enable_redis && config.security.redis_url.is_some();
    if !used && *redis != RedisConfig::default() {
        out.warn("redis", "has no effect without security.enable_redis and security.redis_url");
    }
}

fn topology(config: &Config, out: &mut Findings) {
    let redis = &config.redis;
    let only = |kind: RedisTopology, is_set: bool, key: &str, out: &mut Findings| {
        if is_set && redis.topology != kind {
            let word = if kind == RedisTopology::Sentinel { "sentinel" } else { "cluster" };
            conflict(&[key, "redis.topology"], &format!("needs redis.topology to be `{word}`"), out);
        }
    };
    only(RedisTopology::Sentinel, !redis.sentinels.is_empty(), "redis.sentinels", out);
    only(RedisTopology::Sentinel, redis.master.is_some(), "redis.master", out);
    only(RedisTopology::Sentinel, redis.sentinel_username.is_some(), "redis.sentinel_username", out);
    only(RedisTopology::Sentinel, redis.sentinel_password.is_some(), "redis.sentinel_password", out);
    only(RedisTopology::Sentinel, redis.sentinel_password_file.is_some(), "redis.sentinel_password_file", out);
    only(RedisTopology::Cluster, !redis.nodes.is_empty(), "redis.nodes", out);
    if redis.topology == RedisTopology::Sentinel {
        if redis.sentinels.is_empty() {
            conflict(&["redis.sentinels", "redis.topology"], "the topology `sentinel` needs URLs of sentinels", out);
        }
        if redis.master.is_none() {
            conflict(&["redis.master", "redis.topology"], "the topology `sentinel` needs the master's name", out);
        }
    }
    if redis.topology == RedisTopology::Cluster && redis.database.is_some_and(|database| database != 0) {
        conflict(&["redis.database", "redis.topology"], "a Cluster has the database 0 only", out);
    }
    if redis.topology != RedisTopology::Standalone {
        let local = |url: &RedisUrl| !url.expose().starts_with("redis://") && !url.expose().starts_with("rediss://");
        let named = redis.sentinels.iter().map(|url| ("redis.sentinels", url));
        let named = named.chain(redis.nodes.iter().map(|url| ("redis.nodes", url)));
        let main = config.security.redis_url.iter().map(|url| ("security.redis_url", url));
        for (key, _) in named.chain(main).filter(|(_, url)| local(url)) {
            conflict(&[key, "redis.topology"], "sentinels and Clusters are reached over TCP", out);
        }
    }
}

fn credentials(redis: &RedisConfig, out: &mut Findings) {
    if redis.password.is_some() && redis.password_file.is_some() {
        conflict(&["redis.password_file", "redis.password"], "excludes redis.password", out);
    }
    if redis.sentinel_password.is_some() && redis.sentinel_password_file.is_some() {
        let fields = ["redis.sentinel_password_file", "redis.sentinel_password"];
        conflict(&fields, "excludes redis.sentinel_password", out);
    }
    if redis.username.is_some() && redis.password.is_none() && redis.password_file.is_none() {
        out.warn("redis.username", "has no password here; the one of the URL is used, if there is one");
    }
}

fn tls(config: &Config, out: &mut Findings) {
    let (redis, tls) = (&config.redis, &config.redis.tls);
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        let fields = ["redis.tls.cert_file", "redis.tls.key_file"];
        conflict(&fields, "cert_file and key_file need each other", out);
    }
    let mut urls = redis.sentinels.iter().chain(&redis.nodes).chain(&config.security.redis_url);
    let is_used = urls.any(|url| url.expose().starts_with("rediss://"));
    if *tls != Default::default() && !is_used {
        let fields = ["redis.tls", "security.redis_url", "redis.nodes", "redis.sentinels"];
        conflict(&fields, "is set, and no URL starts with rediss://, so nothing would be encrypted", out);
    }
    let options = config.security.redis_url.iter().filter_map(|url| url.expose().split_once('?'));
    let options = options.flat_map(|(_, options)| options.split('&')).map(str::to_ascii_lowercase);
    for option in options.filter(|option| is_lax(option)) {
        let message = format!("`{option}` lets others pose as Redis; they can read and change bans and counts");
        out.warn("security.redis_url", &message);
    }
    if tls.insecure_accept_any_certificate {
        let message = "is on: ANY CERTIFICATE IS ACCEPTED, so anybody on the way to Redis can read and change bans, \
                       counts and the password. Never in production";
        out.warn("redis.tls.insecure_accept_any_certificate", message);
        if tls.ca_file.is_some() {
            let fields = ["redis.tls.ca_file", "redis.tls.insecure_accept_any_certificate"];
            conflict(&fields, "means nothing while any certificate is accepted", out);
        }
    }
}

/// An option of guard-core's client that gives up a part of what certificates are for.
fn is_lax(option: &str) -> bool {
    let off = ["false", "no", "n", "0"];
    option == "ssl_cert_reqs=none"
        || option.strip_prefix("ssl_check_hostname=").is_some_and(|value| off.contains(&value))
}
