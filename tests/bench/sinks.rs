//! What telemetry costs, when nobody takes it and when somebody does: the same load with all sinks off, with sinks whose
//! other side accepts connections and never answers, and with sinks whose other side takes everything, in turn.
//! `BENCH_SINKS_SECONDS` says how long each of them is under load, 5 without it.
//!
//! Two processes of one build differ by more than what is measured here: their tables begin with seeds of their own. So each
//! is under load without sinks first, and the ratios are of what changed when the sinks were turned on by a reload.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::frame;
use crate::load::{DEFAULT, Server, free_port, guard_from};
use crate::table::{Report, Row};

const CALLS: u32 = 10_000;
const STREAMS: u32 = 32;
const SECONDS: u64 = 5;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A load, and what is different about the policy that gets it.
struct Case {
    input: &'static str,
    both: &'static [&'static str],
    /// The configuration of the sinks; `PORT` is the other side.
    sinks: &'static str,
}

const CASES: [Case; 2] = [
    Case {
        input: "every Check refused, an event each",
        both: &["security.blocked_user_agents=[\"Mozilla\"]"],
        sinks: r#"{"security": {"enable_otel": true, "otel_exporter_endpoint": "http://127.0.0.1:PORT",
            "on_block": {"url": "http://127.0.0.1:PORT/"}, "enable_agent": true, "agent_api_key": "bench",
            "agent_endpoint": "http://127.0.0.1:PORT", "agent_install_id": "bench"},
            "telemetry": {"webhook": {"url": "http://127.0.0.1:PORT/"}, "otel": {"traces": false}}}"#,
    },
    Case {
        input: "every Check allowed, a span each",
        both: &[],
        sinks: r#"{"security": {"enable_otel": true, "otel_exporter_endpoint": "http://127.0.0.1:PORT"}}"#,
    },
];

/// Runs all.
pub fn run(binary: &Path, report: &mut Report) -> Outcome<()> {
    let file = std::env::temp_dir().join(format!("envoy-guard-bench-{}-sinks", std::process::id()));
    std::fs::write(&file, frame::grpc(&frame::check_request(true)))?;
    let seconds = std::env::var("BENCH_SINKS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let ports = [black_hole()?, receiver()?];
    for case in &CASES {
        measure(binary, case, (&file, ports, Duration::from_secs(seconds)), report)?;
    }
    std::fs::remove_file(&file)?;
    Ok(())
}

/// What one of the servers came to: CPU microseconds a call, and the time that one call in a hundred takes longer than.
#[derive(Clone, Copy)]
struct Arm {
    us: f64,
    p99_us: u64,
}

impl Arm {
    /// CPU and time beside another's.
    fn beside(self, other: Self) -> [f64; 2] {
        [self.us / other.us, self.p99_us as f64 / other.p99_us.max(1) as f64]
    }
}

/// All servers under load in turn, each of them for so long.
fn rounds(servers: &[Server; 3], file: &Path, length: Duration) -> Outcome<[Arm; 3]> {
    let mut cpu = [0.0; 3];
    let mut times: [Vec<u64>; 3] = Default::default();
    let (start, mut rounds) = (Instant::now(), 0_u32);
    while start.elapsed() < length.saturating_mul(3) || rounds < 2 {
        for ((server, cpu), times) in servers.iter().zip(&mut cpu).zip(&mut times) {
            let (us, mut own) = timed(server, file)?;
            *cpu += us;
            times.append(&mut own);
        }
        rounds += 1;
    }
    let mut arms = cpu.map(|cpu| Arm { us: cpu / f64::from(rounds), p99_us: 0 });
    for (arm, times) in arms.iter_mut().zip(&mut times) {
        times.sort_unstable();
        arm.p99_us = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    }
    Ok(arms)
}

fn measure(
    binary: &Path,
    case: &Case,
    (file, ports, length): (&PathBuf, [u16; 2], Duration),
    report: &mut Report,
) -> Outcome<()> {
    let settings: Vec<&str> = DEFAULT.iter().chain(case.both).copied().collect();
    let configs = [0, 1, 2].map(|index| file.with_extension(format!("{index}.json")));
    let admins = [free_port()?, free_port()?, free_port()?];
    let start = |index: usize| -> Outcome<Server> {
        std::fs::write(&configs[index], "{}")?;
        guard_from(binary, Some(&configs[index]), &settings, admins[index])
    };
    let servers = [start(0)?, start(1)?, start(2)?];
    for server in &servers {
        server.drive(file, 2 * CALLS)?;
    }
    let before = rounds(&servers, file, length / 2)?;
    // What a reload changes by itself happens to all of them.
    let [stalled, taken] = ports.map(|port| case.sinks.replace("PORT", &port.to_string()));
    let without = r#"{"telemetry": {"decisions": {"entries": 999}}}"#.to_owned();
    for (index, text) in [without, stalled, taken].into_iter().enumerate() {
        std::fs::write(&configs[index], text)?;
        servers[index].reload()?;
        // It watches the file, too: there may be two.
        loop {
            let page = page(admins[index])?;
            if !page.contains("envoy_guard_reloads_total{result=\"failure\"} 0") {
                return Err("the sinks cannot be turned on".into());
            }
            if !page.contains("envoy_guard_reloads_total{result=\"success\"} 0") {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // Fills the queues; the one without sinks gets as much.
    for server in &servers {
        server.drive(file, 2 * CALLS)?;
    }
    let after = rounds(&servers, file, length)?;
    configs.iter().try_for_each(std::fs::remove_file)?;
    report.add(Row { what: "sinks off".into(), input: case.input.into(), us: after[0].us, rps: None, ratio: None });
    for (index, what) in [(1, "sinks stalled"), (2, "sinks taken from")] {
        let (apart, now) = (before[index].beside(before[0]), after[index].beside(after[0]));
        let [cpu, p99] = [now[0] / apart[0], now[1] / apart[1]];
        let (input, lost) = (case.input, dropped(admins[index])?);
        let us = after[index].us;
        report.add(Row { what: what.into(), input: input.into(), us, rps: None, ratio: Some((cpu, "sinks off")) });
        if index == 1 && lost == 0 {
            return Err("the queues of stalled sinks never filled".into());
        }
        let (off, on) = (after[0].p99_us, after[index].p99_us);
        report.fact(
            format!(
                "{input}: p99 {off} us with sinks off, {on} us with {what}; without sinks the two were {:.3} apart: ratio \
                 {p99:.3}; {lost} dropped",
                apart[1]
            ),
            json!({"what": what, "input": input, "off_p99_us": off, "p99_us": on, "apart": apart[1], "ratio": p99,
                   "cpu_apart": apart[0], "cpu_ratio": cpu, "dropped": lost}),
        );
    }
    Ok(())
}

/// CPU microseconds a call, and the time of each, in microseconds.
fn timed(server: &Server, frame: &Path) -> Outcome<(f64, Vec<u64>)> {
    let log = frame.with_extension("log");
    let (us, _) = server.drive_with(frame, CALLS, STREAMS, &[&format!("--log-file={}", log.display())])?;
    // Start, status and time, with tabs between.
    let text = std::fs::read_to_string(&log)?;
    std::fs::remove_file(&log)?;
    Ok((us, text.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect()))
}

/// A port that takes whatever comes and says nothing.
fn black_hole() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            held.push(stream);
        }
    });
    Ok(port)
}

/// A port that says yes to whatever comes.
fn receiver() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks is the sink's to open again.
            std::thread::spawn(move || agree(stream).unwrap_or_default());
        }
    });
    Ok(port)
}

/// Answers every request of a connection.
fn agree(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut length, mut line) = (0, String::new());
        while 2 < {
            line.clear();
            reader.read_line(&mut line)?
        } {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        if line.is_empty() {
            return Ok(());
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")?;
    }
}

/// What the service counts.
fn page(admin: u16) -> Outcome<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// Items that all sinks lost.
fn dropped(admin: u16) -> Outcome<u64> {
    let page = page(admin)?;
    let counts = page.lines().filter_map(|line| line.strip_prefix("envoy_guard_telemetry_dropped_total{"));
    Ok(counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
}
