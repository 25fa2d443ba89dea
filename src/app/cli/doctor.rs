//! `doctor`: what an operator on call looks at first, one line each: whether it is well, why not, and what to do.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::app::cli::http::{Admin, Call, CallError, Secrets, runtime};
use crate::clock;
use crate::grpc::probe::{self, Seen};
use crate::net::client::{Client, Options, Protocol, Request, Through};

/// A certificate that ends within so many seconds is worth a word: two weeks.
const CERTIFICATE_SECONDS_MIN: f64 = 14.0 * 86_400.0;
/// Clocks that are this far apart let bans end and windows move at the wrong time.
const CLOCK_SECONDS_MAX: f64 = 2.0;
/// A Redis that takes longer than this for nothing at all is too far away, in milliseconds.
const ANSWER_MS_MAX: f64 = 20.0;
/// A feed that was not current for so many seconds is old: three days.
const FEED_SECONDS_MAX: f64 = 3.0 * 86_400.0;
/// Time for one question over the port for Envoy.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Somebody who is nobody's proxy, and whom it claims to speak for.
const STRANGER: &str = "203.0.113.199";
const CLAIMED: &str = "198.51.100.199";

/// How Envoy reaches the service, where the configuration does not tell.
#[derive(Debug, Args)]
pub(in crate::app) struct Port {
    /// Port for Envoy: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`; as configured when it is not given.
    #[arg(long, value_name = "URL")]
    grpc: Option<String>,
    /// Name that the certificate of that port has to hold, when it is not the host's.
    #[arg(long, value_name = "NAME")]
    grpc_name: Option<String>,
}

/// One finding.
struct Finding {
    what: &'static str,
    is_good: bool,
    detail: String,
    /// What to do; empty when all is well.
    todo: &'static str,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, is_good: true, detail: detail.into(), todo: "" }
    }

    fn bad(what: &'static str, detail: impl Into<String>, todo: &'static str) -> Self {
        Self { what, is_good: false, detail: detail.into(), todo }
    }
}

/// Asks the service about its parts. The second value is true when all are well.
pub(super) fn examine(admin: &Admin, port: &Port, secrets: &Secrets) -> Result<(Value, bool), CallError> {
    let status = admin.send(&Call::new("GET", "/api/v1/status"))?;
    let config = admin.send(&Call::new("GET", "/api/v1/config"))?;
    let diagnosis = admin.send(&Call::new("GET", "/api/v1/diagnosis"))?;
    let metrics = admin.page("/metrics")?;
    let mut findings = vec![ready(&status), state(&status)];
    findings.extend(redis(&diagnosis));
    findings.extend([clock_of_service(&diagnosis), reload(&status), certificates(&metrics)]);
    findings.extend(feeds(&status));
    findings.extend([processor(&diagnosis), log(&metrics)]);
    findings.extend(envoy(&config, port, secrets)?);
    let is_well = findings.iter().all(|finding| finding.is_good);
    let shown: Vec<Value> = findings.iter().map(shown).collect();
    Ok((json!({ "checks": shown, "well": is_well }), is_well))
}

fn shown(finding: &Finding) -> Value {
    let todo = (!finding.todo.is_empty()).then_some(finding.todo);
    json!({ "check": finding.what, "ok": finding.is_good, "detail": finding.detail, "todo": todo })
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool) == Some(true)
}

fn ready(status: &Value) -> Finding {
    match (is(status, "/ready"), is(status, "/draining")) {
        (true, _) => Finding::good("service", "decides requests"),
        (false, true) => Finding::bad("service", "is draining: it is about to stop", "wait for its successor"),
        (false, false) => Finding::bad("service", "waits for its first data", "see the feeds below"),
    }
}

fn state(status: &Value) -> Finding {
    let backend = text(status, "/state_detail/backend");
    let hears = is(status, "/state_detail/hears_other_replicas");
    match (text(status, "/state") == "well", backend) {
        (true, "memory") => Finding::good("state", "in memory: replicas do not share bans and limits"),
        (true, _) if !hears => {
            Finding::good("state", format!("{backend} answers; changes by other replicas are not heard at once"))
        }
        (true, _) => Finding::good("state", format!("{backend} answers, and other replicas are heard")),
        (false, _) => Finding::bad(
            "state",
            format!("{backend} is lost, memory stands in or requests fail"),
            "look at the server and the network to it; docs/failure-modes.md",
        ),
    }
}

/// What each Redis server says about itself.
fn redis(diagnosis: &Value) -> Vec<Finding> {
    const WHAT: &str = "redis";
    if let Some(error) = diagnosis.pointer("/redis/error").and_then(Value::as_str) {
        return vec![Finding::bad(WHAT, error, "is security.redis_url right, and does the server run?")];
    }
    let servers = diagnosis.pointer("/redis/servers").and_then(Value::as_array);
    servers.into_iter().flatten().map(server).collect()
}

fn server(server: &Value) -> Finding {
    const WHAT: &str = "redis";
    let number = |key: &str| server.get(key).and_then(Value::as_f64);
    let (role, address) = (text(server, "/role"), text(server, "/address"));
    let ahead = number("clock_ahead");
    let (took, name) =
        (number("answer_ms").unwrap_or_default(), if address.is_empty() { "the server" } else { address });
    let clock =
        ahead.map_or_else(|| "its clock is unknown".to_owned(), |ahead| format!("its clock is {ahead:+.3} s off"));
    let detail = format!("{name} is a {role}, answers within {took:.1} ms, {clock}");
    if !matches!(role, "master" | "unknown") {
        return Finding::bad(
            WHAT,
            detail,
            "point security.redis_url at the master, or use Sentinel: docs/shared-state.md",
        );
    }
    if ahead.is_some_and(|ahead| CLOCK_SECONDS_MAX < ahead.abs()) {
        return Finding::bad(WHAT, detail, "let NTP set both clocks: bans and windows use the time of the service");
    }
    if ANSWER_MS_MAX < took {
        return Finding::bad(WHAT, detail, "a server nearby, or a larger limits.state_deadline_ms");
    }
    if server.get("when_full").and_then(Value::as_str).is_some_and(|rule| rule.starts_with("allkeys")) {
        let todo = "set maxmemory-policy to noeviction or volatile-ttl: bans must not be forgotten";
        return Finding::bad(WHAT, format!("{detail}, and it forgets any key when full"), todo);
    }
    Finding::good(WHAT, detail)
}

/// Our clock against that of the machine where this command runs.
fn clock_of_service(diagnosis: &Value) -> Finding {
    let theirs = diagnosis.get("now").and_then(Value::as_f64).unwrap_or_default();
    let off = theirs - clock::now().0;
    let detail = format!("{off:+.1} s against this machine");
    if CLOCK_SECONDS_MAX < off.abs() {
        return Finding::bad("clock", detail, "let NTP set both clocks");
    }
    Finding::good("clock", detail)
}

fn reload(status: &Value) -> Finding {
    let error = text(status, "/reload/error");
    if error.is_empty() {
        return Finding::good("configuration", "the latest configuration is in force");
    }
    Finding::bad("configuration", error, "correct it; the last good one stays in force: docs/reload.md")
}

fn certificates(metrics: &str) -> Finding {
    const WHAT: &str = "certificates";
    let ends = metrics.lines().filter(|line| line.contains("tls_certificate_expires{"));
    let ends = ends.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    let left = ends.map(|end| end - clock::now().0).fold(f64::INFINITY, f64::min);
    if left.is_infinite() {
        return Finding::good(WHAT, "no TLS on our ports");
    }
    let detail = format!("the first one ends in {} days", (left / 86_400.0).floor());
    if left < CERTIFICATE_SECONDS_MIN {
        return Finding::bad(WHAT, detail, "put a new one in its place; it is seen without a restart");
    }
    Finding::good(WHAT, detail)
}

/// How old the facts about addresses are.
fn feeds(status: &Value) -> Vec<Finding> {
    let rows = status.get("feeds").and_then(Value::as_object);
    let finding = |(name, row): (&String, &Value)| {
        let number = |key: &str| row.get(key).and_then(Value::as_f64).unwrap_or_default();
        let (entries, last, error) = (number("entries"), number("last_success"), text(row, "/error"));
        let age = clock::now().0 - last;
        let todo = "is the server to be reached from here, and is there a proxy to name? docs/feeds.md";
        match (last <= 0.0, error.is_empty()) {
            (true, true) => Finding::bad("feed", format!("{name} was not loaded yet"), todo),
            (true, false) => Finding::bad("feed", format!("{name} was never loaded: {error}"), todo),
            (false, _) if FEED_SECONDS_MAX < age => {
                let days = (age / 86_400.0).floor();
                Finding::bad("feed", format!("{name} is {days} days old: {error}"), todo)
            }
            (false, is_fine) => {
                let note = if is_fine { String::new() } else { format!("; the latest attempt failed: {error}") };
                Finding::good(
                    "feed",
                    format!("{name} holds {entries} entries, {} minutes old{note}", (age / 60.0).floor()),
                )
            }
        }
    };
    rows.into_iter().flatten().map(finding).collect()
}

/// What Hyperscan wants of the processor that the service runs on.
fn processor(diagnosis: &Value) -> Finding {
    const WHAT: &str = "processor";
    let (kind, threads) = (text(diagnosis, "/processor/architecture"), diagnosis.pointer("/processor/threads"));
    let threads = threads.and_then(Value::as_u64).unwrap_or_default();
    let has = |name: &str| is(diagnosis, &format!("/processor/{name}"));
    match kind {
        "x86_64" if !has("ssse3") => Finding::bad(
            WHAT,
            "no SSSE3: Hyperscan does not run here",
            "another machine, or another model of CPU for the VM",
        ),
        "x86_64" if !has("avx2") => {
            Finding::good(WHAT, format!("{threads} threads, SSSE3 but no AVX2: detection is slower than it could be"))
        }
        "x86_64" if has("avx512vbmi") => Finding::good(WHAT, format!("{threads} threads, AVX-512 VBMI")),
        "x86_64" => Finding::good(WHAT, format!("{threads} threads, AVX2")),
        other => Finding::good(WHAT, format!("{threads} threads, {other}")),
    }
}

fn log(metrics: &str) -> Finding {
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("envoy_guard_log_lines_dropped_total{} "));
    match dropped.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default() {
        0 => Finding::good("log", "no line was dropped"),
        lines => Finding::bad("log", format!("{lines} lines were dropped"), "a larger telemetry.queue, or fewer lines"),
    }
}

/// Asks over the port for Envoy as Envoy does, and looks whom the service takes for the client.
fn envoy(config: &Value, port: &Port, secrets: &Secrets) -> Result<Vec<Finding>, CallError> {
    let Some(door) = Door::of(config, port)? else {
        let detail = "no port is configured, and none was named";
        return Ok(vec![Finding::bad("envoy handshake", detail, "set listeners.grpc or listeners.unix")]);
    };
    let options = Options { through: door.through.clone(), protocol: Protocol::Http2, ..Options::default() };
    let client = Client::new(&secrets.fill(options)?).map_err(|error| CallError::Usage(error.to_string()))?;
    let runtime = runtime()?;
    let ask = |peer: &str| {
        let question = probe::question(peer, &[("x-forwarded-for", CLAIMED)]);
        let url = format!("{}{}", door.base, probe::PATH);
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let request = Request { headers: &headers, timeout: PROBE_TIMEOUT, ..Request::post(&url, &question) };
        let answer = runtime.block_on(client.send(&request)).map_err(|error| error.to_string())?;
        let failed = || answer.header("grpc-message").map_or_else(|| "no gRPC answer".to_owned(), str::to_owned);
        probe::answer(&answer.body).ok_or_else(failed)
    };
    Ok(match ask(STRANGER) {
        Err(_) if door.wants_certificate && !secrets.has_identity() && door.base.starts_with("https://") => {
            let detail = format!("{} lets nobody in without a certificate, as configured", door.base);
            vec![Finding::good("envoy handshake", detail + "; give --cert-file and --key-file to look further")]
        }
        Err(error) => {
            let todo =
                "does Envoy's cluster use this address, HTTP/2, and the right certificates? docs/envoy.md, docs/tls.md";
            vec![Finding::bad("envoy handshake", format!("{}: {error}", door.base), todo)]
        }
        Ok(seen) => {
            let by = seen.check.as_deref().map(|check| format!(" by {check}")).unwrap_or_default();
            let detail = format!("{} answers a Check: {}{by}", door.base, seen.verdict);
            let handshake = match seen.verdict {
                "fail" => Finding::bad("envoy handshake", detail, "it cannot decide: see its log of this moment"),
                _ => Finding::good("envoy handshake", detail),
            };
            vec![handshake, client_address(config, &seen, &ask)]
        }
    })
}

/// A stranger must not be believed about the client, a trusted proxy must be.
fn client_address(config: &Value, seen: &Seen, ask: &impl Fn(&str) -> Result<Seen, String>) -> Finding {
    const WHAT: &str = "client address";
    const TODO: &str =
        "compare security.trusted_proxies and trusted_proxy_depth with the proxies in front: docs/envoy.md";
    let Some(client) = &seen.client else {
        return Finding::good(WHAT, "not looked at: telemetry.metadata is off");
    };
    if client != STRANGER {
        return Finding::bad(WHAT, format!("anybody may claim to be anybody: {STRANGER} was taken for {client}"), TODO);
    }
    let proxies = config.pointer("/config/security/trusted_proxies").and_then(Value::as_array);
    let proxy = proxies.into_iter().flatten().filter_map(Value::as_str).find_map(|entry| {
        let (address, _) = entry.split_once('/').unwrap_or((entry, ""));
        address.parse::<std::net::IpAddr>().ok().map(|address| address.to_string())
    });
    let Some(proxy) = proxy else {
        return Finding::good(WHAT, "the connection's peer counts; X-Forwarded-For is believed from nobody");
    };
    match ask(&proxy).map(|seen| seen.client) {
        Ok(Some(client)) if client == CLAIMED => {
            Finding::good(WHAT, format!("X-Forwarded-For is believed from {proxy}, and from no stranger"))
        }
        Ok(client) => {
            let client = client.unwrap_or_else(|| "nobody".to_owned());
            let detail = format!("behind the trusted {proxy}, one hop, {CLAIMED} was taken for {client}");
            // More hops than one cannot be shown with one address.
            let depth = config.pointer("/config/security/trusted_proxy_depth").and_then(Value::as_u64);
            if depth.is_some_and(|depth| 1 < depth) {
                Finding::good(WHAT, detail)
            } else {
                Finding::bad(WHAT, detail, TODO)
            }
        }
        Err(error) => Finding::bad(WHAT, error, TODO),
    }
}

/// Where Envoy connects to.
struct Door {
    base: String,
    through: Through,
    wants_certificate: bool,
}

impl Door {
    fn of(config: &Value, port: &Port) -> Result<Option<Self>, CallError> {
        let listeners = |key: &str| config.pointer(&format!("/config/listeners/{key}"));
        let tls = listeners("tls").filter(|tls| !tls.is_null());
        let wants_certificate = tls.is_some_and(|tls| {
            let has_authorities = tls.get("client_ca_file").is_some_and(|file| !file.is_null());
            has_authorities && tls.get("require_client_certificate").and_then(Value::as_bool) != Some(false)
        });
        let configured = || {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let tcp =
                listeners("grpc").and_then(Value::as_str).map(|address| format!("{scheme}://{}", reachable(address)));
            tcp.or_else(|| listeners("unix").and_then(Value::as_str).map(|path| format!("unix:{path}")))
        };
        let Some(url) = port.grpc.clone().or_else(configured) else { return Ok(None) };
        if let Some(path) = url.strip_prefix("unix:") {
            let through = Through::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path)));
            return Ok(Some(Self { base: "http://localhost".to_owned(), through, wants_certificate: false }));
        }
        let Some(name) = &port.grpc_name else {
            return Ok(Some(Self { base: url, through: Through::Direct, wants_certificate }));
        };
        let bad =
            || CallError::Usage(format!("--grpc takes http://HOST:PORT, https://HOST:PORT or unix:PATH, not `{url}`"));
        let (scheme, authority) = url.split_once("://").ok_or_else(bad)?;
        let address = authority.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(bad)?;
        let base = format!("{scheme}://{name}:{}", address.port());
        Ok(Some(Self { base, through: Through::Address(address), wants_certificate }))
    }
}

/// An address that listens on all interfaces is reached on this machine.
fn reachable(address: &str) -> String {
    match address.parse::<std::net::SocketAddr>() {
        Ok(socket) if socket.ip().is_unspecified() && socket.is_ipv4() => format!("127.0.0.1:{}", socket.port()),
        Ok(socket) if socket.ip().is_unspecified() => format!("[::1]:{}", socket.port()),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_a_verdict_a_reason_and_what_to_do() {
        let server_of = |role: &str, ahead: f64, took: f64, rule: &str| {
            server(&json!({ "address": "", "role": role, "clock_ahead": ahead, "answer_ms": took, "when_full": rule }))
        };
        for (name, finding, expected) in [
            ("a master", server_of("master", 0.01, 0.3, "noeviction"), true),
            ("a replica", server_of("slave", 0.01, 0.3, "noeviction"), false),
            ("a clock ahead", server_of("master", 3.0, 0.3, "noeviction"), false),
            ("a clock behind", server_of("master", -3.0, 0.3, "noeviction"), false),
            ("far away", server_of("master", 0.0, 50.0, "noeviction"), false),
            ("forgets bans", server_of("master", 0.0, 0.3, "allkeys-lru"), false),
            ("a service that drains", ready(&json!({ "ready": false, "draining": true })), false),
            ("a lost Redis", state(&json!({ "state": "degraded" })), false),
            ("a broken file", reload(&json!({ "reload": { "error": "no" } })), false),
            ("an old clock", clock_of_service(&json!({ "now": 1.0 })), false),
            ("a poor processor", processor(&json!({ "processor": { "architecture": "x86_64" } })), false),
            ("a slow log", log("envoy_guard_log_lines_dropped_total{} 3"), false),
            ("a certificate that ends", certificates("envoy_guard_tls_certificate_expires{} 5"), false),
        ] {
            assert_eq!(finding.is_good, expected, "{name}: {}", finding.detail);
            assert!(!finding.detail.is_empty() && finding.todo.is_empty() == expected, "{name}");
        }
        let now = clock::now().0;
        let rows = json!({ "feeds": {
            "a": { "entries": 5, "last_success": now - 60.0, "error": "" },
            "b": { "entries": 5, "last_success": now - 4.0 * 86_400.0, "error": "gone" },
            "c": { "entries": 0, "last_success": 0.0, "error": "no server" },
        } });
        assert_eq!(feeds(&rows).iter().map(|finding| finding.is_good).collect::<Vec<_>>(), [true, false, false]);
    }
}
