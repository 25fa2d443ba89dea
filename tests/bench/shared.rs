//! The same service with its state in memory and in a Redis of its own, in turn; Redis itself counts what it is asked.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::frame;
use crate::load::{DEFAULT, Server, free_port, guard, guard_at, median};
use crate::table::{Report, Row};

const ROUNDS: usize = 3;
const CALLS: u32 = 20_000;
const WARM_UP: u32 = 2_000;
/// Calls one after the other, for latency without a queue.
const SINGLE_CALLS: u32 = 3_000;
/// Patterns given to one replica, one after the other.
const PATTERNS: usize = 30;

/// Runs both.
pub fn run(binary: &Path, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join(format!("envoy-guard-bench-{}-shared", std::process::id()));
    std::fs::write(&file, frame::grpc(&frame::check_request(true)))?;
    let port = free_port()?;
    let mut redis = Command::new("redis-server");
    redis.args(["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]);
    let redis = Server::start(&mut redis, port)?;
    let url = format!("security.redis_url=redis://127.0.0.1:{port}");
    let shared = [url.as_str(), "security.enable_redis=true", "security.rate_limit=100000000"];
    let servers = [("state in memory", guard(binary, DEFAULT)?), ("state in Redis", guard(binary, &shared)?)];
    let mut figures: Vec<Vec<(f64, f64)>> = vec![Vec::new(); servers.len()];
    for (_, server) in &servers {
        server.drive(&file, WARM_UP)?;
    }
    ask(&redis, &["config", "resetstat"])?;
    for _ in 0..ROUNDS {
        for ((_, server), own) in servers.iter().zip(&mut figures) {
            own.push(server.drive(&file, CALLS)?);
        }
    }
    count(&redis, f64::from(CALLS) * ROUNDS as f64, report)?;
    let medians: Vec<(f64, f64)> = figures.into_iter().map(median).collect();
    let floor = medians.first().map_or(1.0, |(us, _)| *us);
    for ((what, server), (us, rps)) in servers.iter().zip(medians) {
        let ratio = what.ends_with("Redis").then_some((us / floor, "memory"));
        let input = "Check, ban and 1 limit".to_owned();
        report.add(Row { what: format!("envoy-guard, {what}"), input, us, rps: Some(rps), ratio });
        let (p50, p99) = latency(server, &file)?;
        report.fact(
            format!("envoy-guard, {what}: one Check at a time takes p50 {p50} us, p99 {p99} us (h2load's own log)"),
            json!({"what": what, "latency_p50_us": p50, "latency_p99_us": p99}),
        );
    }
    std::fs::remove_file(&file)?;
    drop(servers);
    spread(binary, &shared, report)
}

/// How long it takes until a pattern that operators give one replica is in force in another, compiled and swapped in.
fn spread(binary: &Path, settings: &[&str], report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let ports = [free_port()?, free_port()?];
    let [near, far] = ports.map(|port| format!("http://127.0.0.1:{port}/api/v1/patterns"));
    let _replicas = [guard_at(binary, settings, ports[0])?, guard_at(binary, settings, ports[1])?];
    let known = || -> Result<usize, Box<dyn std::error::Error>> {
        let page: serde_json::Value = serde_json::from_str(&curl(&[&format!("{far}?set=custom&limit=1")])?)?;
        Ok(page["total"].as_u64().and_then(|total| total.try_into().ok()).ok_or("no list of patterns")?)
    };
    let mut times = Vec::new();
    for number in 0..PATTERNS {
        let body = json!({"pattern": format!("zebra-{number}-[0-9]{{3,4}}")}).to_string();
        let start = Instant::now();
        curl(&["-X", "POST", "-H", "content-type: application/json", "-d", &body, &near])?;
        while known()? <= number {
            if Duration::from_secs(30) < start.elapsed() {
                return Err("a pattern did not reach the other replica".into());
            }
        }
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let (p50, max) = (times[PATTERNS / 2], times[PATTERNS - 1]);
    report.fact(
        format!(
            "a pattern given to one replica is in force in another after p50 {p50:.0} ms, at most {max:.0} ms \
             ({PATTERNS} patterns, the calls of curl included)"
        ),
        json!({"what": "pattern to another replica", "p50_ms": p50, "max_ms": max}),
    );
    Ok(())
}

fn curl(arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new("curl").args(["-sS", "--fail-with-body"]).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("curl: {}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout)).into())
}

/// What Redis was asked, by its own count: each EVALSHA or EVAL is one command and one round trip. The commands inside the
/// script are counted by Redis, too, and cross no network.
fn count(redis: &Server, checks: f64, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let stats = ask(redis, &["info", "commandstats"])?;
    let calls = |name: &str| -> f64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or_default()
    };
    let scripts = (calls("evalsha") + calls("eval")) / checks;
    let net = ask(redis, &["info", "stats"])?;
    let bytes = |name: &str| -> f64 {
        net.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
    };
    let (sent, received) = (bytes("total_net_input_bytes:") / checks, bytes("total_net_output_bytes:") / checks);
    report.fact(
        format!(
            "Redis counted {scripts:.3} commands and round trips a Check (INFO commandstats, EVALSHA and EVAL), \
             {sent:.0} bytes to it and {received:.0} back (INFO stats)"
        ),
        json!({"what": "round trips a Check", "commands": scripts, "bytes_in": sent, "bytes_out": received}),
    );
    Ok(())
}

fn ask(redis: &Server, command: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new("redis-cli").args(["-p", &redis.port.to_string()]).args(command).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// p50 and p99 in microseconds of calls made one after the other.
fn latency(server: &Server, frame: &Path) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let log = frame.with_extension("log");
    server.drive_with(frame, SINGLE_CALLS, 1, &[&format!("--log-file={}", log.display())])?;
    // Start, status and time, with tabs between.
    let text = std::fs::read_to_string(&log)?;
    std::fs::remove_file(&log)?;
    let mut times: Vec<u64> = text.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().ok_or("h2load logged nothing");
    Ok((at(50)?, at(99)?))
}
