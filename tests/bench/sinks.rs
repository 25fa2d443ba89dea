//! What telemetry costs when nobody takes it: the same load with all sinks off and with sinks whose other side accepts
//! connections and never answers, in turn. `BENCH_SINKS_SECONDS` says how long each of them is under load, 5 without it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::frame;
use crate::load::{DEFAULT, Server, free_port, guard, guard_at};
use crate::table::{Report, Row};

const CALLS: u32 = 10_000;
const STREAMS: u32 = 32;
const SECONDS: u64 = 5;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A load, and what is different about the policy that gets it.
struct Case {
    input: &'static str,
    both: &'static [&'static str],
    /// Settings of the sinks; `PORT` is where nobody answers.
    sinks: &'static [&'static str],
}

const CASES: [Case; 2] = [
    Case {
        input: "every Check refused, an event each",
        both: &["security.blocked_user_agents=[\"Mozilla\"]"],
        sinks: &[
            "telemetry.webhook={url: \"http://127.0.0.1:PORT/\"}",
            "security.on_block={url: \"http://127.0.0.1:PORT/\"}",
            "security.enable_otel=true",
            "telemetry.otel={traces: false}",
            "security.otel_exporter_endpoint=http://127.0.0.1:PORT",
        ],
    },
    Case {
        input: "every Check allowed, a span each",
        both: &[],
        sinks: &["security.enable_otel=true", "security.otel_exporter_endpoint=http://127.0.0.1:PORT"],
    },
];

/// Runs all.
pub fn run(binary: &Path, report: &mut Report) -> Outcome<()> {
    let file = std::env::temp_dir().join(format!("envoy-guard-bench-{}-sinks", std::process::id()));
    std::fs::write(&file, frame::grpc(&frame::check_request(true)))?;
    let seconds = std::env::var("BENCH_SINKS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let hole = black_hole()?;
    for case in &CASES {
        measure(binary, case, (&file, hole, Duration::from_secs(seconds)), report)?;
    }
    std::fs::remove_file(&file)?;
    Ok(())
}

fn measure(
    binary: &Path,
    case: &Case,
    (file, hole, length): (&PathBuf, u16, Duration),
    report: &mut Report,
) -> Outcome<()> {
    let common: Vec<&str> = DEFAULT.iter().chain(case.both).copied().collect();
    let sinks: Vec<String> = case.sinks.iter().map(|text| text.replace("PORT", &hole.to_string())).collect();
    let stalled: Vec<&str> = common.iter().copied().chain(sinks.iter().map(String::as_str)).collect();
    let admin = free_port()?;
    let servers = [guard(binary, &common)?, guard_at(binary, &stalled, admin)?];
    // Fills the queues, too.
    for server in &servers {
        server.drive(file, 2 * CALLS)?;
    }
    let mut times: [Vec<u64>; 2] = Default::default();
    let mut cpu = [0.0; 2];
    let (start, mut rounds) = (Instant::now(), 0_u32);
    while start.elapsed() < length.saturating_mul(2) || rounds < 2 {
        for ((server, times), cpu) in servers.iter().zip(&mut times).zip(&mut cpu) {
            let (us, mut own) = timed(server, file)?;
            *cpu += us;
            times.append(&mut own);
        }
        rounds += 1;
    }
    let p99 = times.each_mut().map(|times| {
        times.sort_unstable();
        times.get(times.len() * 99 / 100).copied().unwrap_or_default()
    });
    let [off_us, stalled_us] = cpu.map(|cpu| cpu / f64::from(rounds));
    let [off, stalled] = p99;
    let (input, ratio) = (case.input, stalled as f64 / off.max(1) as f64);
    report.add(Row { what: "sinks off".into(), input: input.into(), us: off_us, rps: None, ratio: None });
    let against = Some((stalled_us / off_us, "sinks off"));
    report.add(Row { what: "sinks stalled".into(), input: input.into(), us: stalled_us, rps: None, ratio: against });
    let dropped = dropped(admin)?;
    if dropped == 0 {
        return Err("the queues of stalled sinks never filled".into());
    }
    report.fact(
        format!(
            "{input}: p99 {off} us with sinks off, {stalled} us with sinks stalled, ratio {ratio:.3}; {dropped} dropped"
        ),
        json!({"what": "sinks stalled", "input": input, "off_p99_us": off, "stalled_p99_us": stalled, "ratio": ratio,
               "cpu_ratio": stalled_us / off_us, "dropped": dropped, "rounds": rounds}),
    );
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

/// Items that all sinks lost.
fn dropped(admin: u16) -> Outcome<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let counts = page.lines().filter_map(|line| line.strip_prefix("envoy_guard_telemetry_dropped_total{"));
    Ok(counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
}
