//! Through a real Envoy: what both filters add to the time of a request, and how fast large bodies pass.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::{DEFAULT, Server, free_port, guard};
use crate::proc::stock;
use crate::table::Report;

/// Requests one after the other, for latency without a queue.
const REQUESTS: u32 = 4_000;
const ROUNDS: usize = 5;
/// Bytes of a large body.
const BYTES: usize = 30 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Runs all.
pub fn run(binary: &Path, report: &mut Report) -> Outcome<()> {
    let Some(envoy) = envoy_binary() else {
        report.fact("no Envoy in .cache: nothing was measured through it".to_owned(), json!({"what": "no Envoy"}));
        return Ok(());
    };
    let port = free_port()?;
    let (stock, guard) = (stock(port)?, guard(binary, DEFAULT)?);
    latency(&envoy, (&stock, &guard), report)?;
    throughput(&envoy, &guard, report)
}

fn envoy_binary() -> Option<PathBuf> {
    let version = std::env::var("ENVOY_VERSION").unwrap_or_else(|_| "1.40".to_owned());
    let path =
        std::env::var_os("TEST_ENVOY").map_or_else(|| format!(".cache/envoy/{version}/envoy").into(), PathBuf::from);
    path.exists().then_some(path)
}

/// An Envoy with a shipped file, in front of `guard`; it answers by itself, or asks `application`.
fn envoy(
    binary: &Path,
    file: &str,
    guard: u16,
    application: Option<u16>,
    edit: impl Fn(String) -> String,
) -> Outcome<Server> {
    let (port, admin) = (free_port()?, free_port()?);
    let own = "                        - match: { prefix: \"/\" }\n                          ";
    let text = std::fs::read_to_string(Path::new("envoy").join(file))?;
    let text = match application {
        Some(application) => text.replace("port_value: 10080", &format!("port_value: {application}")),
        None => text.replace(
            &format!("{own}route: {{ cluster: application }}"),
            &format!("{own}direct_response: {{ status: 200, body: {{ inline_string: ok }} }}"),
        ),
    };
    let text = edit(text)
        .replace("port_value: 10000", &format!("port_value: {port}"))
        .replace("port_value: 50051", &format!("port_value: {guard}"))
        .replace("port_value: 9901", &format!("port_value: {admin}"));
    let path = std::env::temp_dir().join(format!("envoy-guard-bench-{}-{port}.yaml", std::process::id()));
    std::fs::write(&path, text)?;
    let mut command = Command::new(binary);
    command.args(["--log-level", "off", "--concurrency", "1", "--use-dynamic-base-id", "-c"]).arg(&path);
    let server = Server::start(&mut command, port)?;
    for _ in 0..200 {
        // The guard's cluster is not asked before it is healthy.
        if status(port).is_some_and(|status| status == 200) {
            std::fs::remove_file(&path)?;
            return Ok(server);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("Envoy with {file} lets nothing pass").into())
}

fn status(port: u16) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}

/// The p50 of requests one after the other, in turn through each Envoy; the least of the rounds counts.
fn latency(binary: &Path, guards: (&Server, &Server), report: &mut Report) -> Outcome<()> {
    let (stock, ours) = guards;
    let same = |text: String| text;
    // The stock service has no health to ask about.
    let unasked = |text: String| without_part(&text, "      health_checks:", "      load_assignment:");
    let envoys = [
        ("no-op ext_authz", envoy(binary, "ext_authz.yaml", stock.port, None, unasked)?),
        ("ext_authz", envoy(binary, "ext_authz.yaml", ours.port, None, same)?),
        ("ext_proc", envoy(binary, "ext_proc.yaml", ours.port, None, same)?),
        ("ext_authz and ext_proc", envoy(binary, "both.yaml", ours.port, None, same)?),
    ];
    let mut best = vec![u64::MAX; envoys.len()];
    for _ in 0..ROUNDS {
        for ((_, server), best) in envoys.iter().zip(&mut best) {
            *best = (*best).min(p50(server.port)?);
        }
    }
    let floor = best.first().copied().unwrap_or_default();
    for ((what, _), p50) in envoys.iter().zip(&best) {
        let added = i128::from(*p50) - i128::from(floor);
        report.fact(
            format!("through Envoy with {what}: p50 {p50} us, {added:+} us to the no-op ext_authz"),
            json!({"what": format!("Envoy with {what}"), "latency_p50_us": p50, "added_p50_us": added as i64}),
        );
    }
    Ok(())
}

/// The text without what stands from the first `from` up to the next `to`.
fn without_part(text: &str, from: &str, to: &str) -> String {
    let Some((before, rest)) = text.split_once(from) else { return text.to_owned() };
    let Some((_, after)) = rest.split_once(to) else { return text.to_owned() };
    format!("{before}{to}{after}")
}

fn p50(port: u16) -> Outcome<u64> {
    let log = std::env::temp_dir().join(format!("envoy-guard-bench-{}-{port}.log", std::process::id()));
    let output = Command::new("h2load")
        .args(["-t1", "-c1", "-m1", &format!("-n{REQUESTS}"), &format!("--log-file={}", log.display())])
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !text.contains(&format!("{REQUESTS} 2xx")) {
        return Err(format!("h2load: not every request passed:\n{text}").into());
    }
    // Start, status and time, with tabs between.
    let lines = std::fs::read_to_string(&log)?;
    std::fs::remove_file(&log)?;
    let mut times: Vec<u64> = lines.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().ok_or_else(|| "h2load logged nothing".into())
}

/// Megabytes a second of a body that goes up and comes back, with each filter and without any.
fn throughput(binary: &Path, guard: &Server, report: &mut Report) -> Outcome<()> {
    let application = bulk()?;
    let streamed = |text: String| {
        text.replace("response_body_mode: NONE", "response_body_mode: STREAMED")
            .replace("allow_mode_override: true", "allow_mode_override: false")
    };
    let filter = |name: &str| format!("                  - name: envoy.filters.http.{name}");
    let without = |text: String| without_part(&text, &filter("ext_proc"), &filter("router"));
    let envoys = [
        ("no filter", envoy(binary, "ext_proc.yaml", guard.port, Some(application), without)?),
        ("ext_proc, requests STREAMED", envoy(binary, "ext_proc.yaml", guard.port, Some(application), |text| text)?),
        ("ext_proc, both STREAMED", envoy(binary, "ext_proc.yaml", guard.port, Some(application), streamed)?),
    ];
    let mut best = vec![Duration::MAX; envoys.len()];
    for _ in 0..ROUNDS {
        for ((_, server), best) in envoys.iter().zip(&mut best) {
            *best = (*best).min(exchange(server.port)?);
        }
    }
    let speed = |took: &Duration| 2.0 * BYTES as f64 / 1e6 / took.as_secs_f64();
    let floor = best.first().map_or(1.0, speed);
    for ((what, _), took) in envoys.iter().zip(&best) {
        let (speed, ratio) = (speed(took), speed(took) / floor);
        report.fact(
            format!("30 MiB up and 30 MiB down through Envoy with {what}: {speed:.0} MB/s, {ratio:.2} of no filter"),
            json!({"what": format!("large bodies, {what}"), "mb_per_second": speed, "ratio": ratio}),
        );
    }
    Ok(())
}

/// An application that takes a body of any length and sends as many bytes back.
fn bulk() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(take_and_send(stream)));
        }
    });
    Ok(port)
}

fn take_and_send(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(PIECE, stream.try_clone()?);
    let (_, length) = head(&mut reader)?;
    let mut left = match length {
        Some(length) => std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?,
        None => chunks(&mut reader)?,
    };
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n\r\n")?;
    let piece = [b'y'; PIECE];
    while left != 0 {
        left -= stream.write(piece.get(..PIECE.min(left as usize)).unwrap_or_default())? as u64;
    }
    Ok(())
}

/// The first line of a message, and the length of its body when the head says it. Zero for neither length nor chunks.
fn head(reader: &mut impl BufRead) -> std::io::Result<(String, Option<u64>)> {
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    let mut length = Some(0);
    while reader.read_line(&mut line)? != 0 && line != "\r\n" {
        let text = line.trim_end().to_ascii_lowercase();
        if let Some(value) = text.strip_prefix("content-length: ") {
            length = value.parse().ok();
        }
        if text.starts_with("transfer-encoding: ") {
            length = None;
        }
        line.clear();
    }
    Ok((first, length))
}

/// Reads a body in chunks; returns its length.
fn chunks(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let (mut line, mut total) = (String::new(), 0);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).unwrap_or(0);
        std::io::copy(&mut reader.by_ref().take(size + 2), &mut std::io::sink())?;
        total += size;
        if size == 0 {
            return Ok(total);
        }
    }
}

fn exchange(port: u16) -> Outcome<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "POST /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/octet-stream\r\ncontent-length: {BYTES}\r\n\r\n"
    )?;
    let piece = [b'x'; PIECE];
    for _ in 0..BYTES / PIECE {
        stream.write_all(&piece)?;
    }
    let mut reader = BufReader::with_capacity(PIECE, stream);
    let (first, length) = head(&mut reader)?;
    let back = match length {
        Some(length) => std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?,
        None => chunks(&mut reader)?,
    };
    match back == BYTES as u64 {
        true => Ok(start.elapsed()),
        false => Err(format!("{back} bytes came back: {first}").into()),
    }
}
