//! `doctor`: what an operator on call looks at first, one line each, with what to do about it.

use serde_json::{Value, json};

use crate::app::cli::http::{Admin, Call, CallError};
use crate::clock;

/// A certificate that ends within so many seconds is worth a word: two weeks.
const CERTIFICATE_SECONDS_MIN: f64 = 14.0 * 86_400.0;

/// One finding.
struct Finding {
    what: &'static str,
    is_good: bool,
    detail: String,
}

/// Asks the service about its parts. The second value is true when all are well.
pub(super) fn examine(admin: &Admin) -> Result<(Value, bool), CallError> {
    let status = admin.send(&Call::new("GET", "/api/v1/status"))?;
    let config = admin.send(&Call::new("GET", "/api/v1/config"))?;
    let metrics = admin.page("/metrics")?;
    let findings = [
        ready(&status),
        state(&status),
        reload(&status),
        certificates(&metrics),
        client_address(&config),
        processor(),
        log(&metrics),
    ];
    let is_well = findings.iter().all(|finding| finding.is_good);
    let shown: Vec<Value> = findings
        .iter()
        .map(|finding| json!({ "check": finding.what, "ok": finding.is_good, "detail": finding.detail }))
        .collect();
    Ok((json!({ "checks": shown, "well": is_well }), is_well))
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn ready(status: &Value) -> Finding {
    let is_good = status.pointer("/ready").and_then(Value::as_bool) == Some(true);
    let detail = if is_good { "decides requests" } else { "is draining: it is about to stop" };
    Finding { what: "service", is_good, detail: detail.to_owned() }
}

fn state(status: &Value) -> Finding {
    let is_good = text(status, "/state") == "well";
    let backend = text(status, "/state_detail/backend");
    let hears = status.pointer("/state_detail/hears_other_replicas").and_then(Value::as_bool) == Some(true);
    let detail = match (is_good, backend) {
        (true, "memory") => "in memory: replicas do not share bans and limits".to_owned(),
        (true, _) if !hears => format!("{backend} answers; changes by other replicas are not heard at once"),
        (true, _) => format!("{backend} answers, and other replicas are heard"),
        (false, _) => format!("{backend} is lost, memory stands in: see docs/failure-modes.md"),
    };
    Finding { what: "state", is_good, detail }
}

fn reload(status: &Value) -> Finding {
    let error = text(status, "/reload/error");
    let detail = if error.is_empty() { "the latest configuration is in force".to_owned() } else { error.to_owned() };
    Finding { what: "configuration", is_good: error.is_empty(), detail }
}

fn certificates(metrics: &str) -> Finding {
    let ends = metrics.lines().filter(|line| line.contains("tls_certificate_expires{"));
    let ends = ends.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    let left = ends.map(|end| end - clock::now().0).fold(f64::INFINITY, f64::min);
    if left.is_infinite() {
        return Finding { what: "certificates", is_good: true, detail: "no TLS on our ports".to_owned() };
    }
    let days = (left / 86_400.0).floor();
    Finding { what: "certificates", is_good: CERTIFICATE_SECONDS_MIN < left, detail: format!("end in {days} days") }
}

/// Behind a proxy that is not trusted every client looks like that proxy.
fn client_address(config: &Value) -> Finding {
    let proxies = config.pointer("/config/security/trusted_proxies").and_then(Value::as_array);
    let count = proxies.map_or(0, Vec::len);
    let depth = config.pointer("/config/security/trusted_proxy_depth").and_then(Value::as_u64).unwrap_or_default();
    let detail = match count {
        0 => "the connection's peer counts; X-Forwarded-For is not believed".to_owned(),
        _ => format!("X-Forwarded-For is believed from {count} entries, {depth} hops deep"),
    };
    Finding { what: "client address", is_good: true, detail }
}

/// What Hyperscan wants of the processor that this command runs on.
fn processor() -> Finding {
    #[cfg(target_arch = "x86_64")]
    let (is_good, detail) = match (std::is_x86_feature_detected!("ssse3"), std::is_x86_feature_detected!("avx2")) {
        (false, _) => (false, "no SSSE3: Hyperscan does not run here"),
        (true, false) => (true, "SSSE3 but no AVX2: detection is slower than it could be"),
        (true, true) => (true, "AVX2"),
    };
    #[cfg(not(target_arch = "x86_64"))]
    let (is_good, detail) = (true, "not x86-64");
    Finding { what: "processor", is_good, detail: detail.to_owned() }
}

fn log(metrics: &str) -> Finding {
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("envoy_guard_log_lines_dropped_total{} "));
    let dropped = dropped.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
    let detail = if dropped == 0 { "no line was dropped".to_owned() } else { format!("{dropped} lines were dropped") };
    Finding { what: "log", is_good: dropped == 0, detail }
}
