//! Whole servers under the same load, in turn, several rounds each; the median counts.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::frame;
use crate::table::{Report, Row};

const ROUNDS: usize = 5;
const CALLS: u32 = 60_000;
const WARM_UP: u32 = 10_000;
const STREAMS: u32 = 32;
/// Clock ticks per second of /proc/PID/stat on Linux.
const TICKS: f64 = 100.0;
/// The methods that are called.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
pub(crate) const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    pub(crate) fn start(command: &mut Command, port: u16) -> Result<Self, Box<dyn std::error::Error>> {
        let server = Self { child: command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?, port };
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("the server on port {port} does not come up").into())
    }

    /// Tells it to read its configuration again.
    pub(crate) fn reload(&self) -> Result<(), Box<dyn std::error::Error>> {
        let status = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err("it cannot be signalled".into()) }
    }

    /// CPU seconds used so far.
    fn cpu(&self) -> Result<f64, Box<dyn std::error::Error>> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(')').ok_or("no stat")?.1;
        let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|text| text.parse().ok()).collect();
        Ok(ticks.iter().sum::<f64>() / TICKS)
    }

    /// Drives `calls` Checks and returns (CPU microseconds per Check, Checks per second).
    pub(crate) fn drive(&self, frame: &Path, calls: u32) -> Result<(f64, f64), Box<dyn std::error::Error>> {
        self.drive_with(frame, calls, STREAMS, &[])
    }

    /// The same with so many calls at once and further options of h2load.
    pub(crate) fn drive_with(
        &self,
        frame: &Path,
        calls: u32,
        streams: u32,
        options: &[&str],
    ) -> Result<(f64, f64), Box<dyn std::error::Error>> {
        self.drive_at(CHECK, frame, (calls, streams), options)
    }

    /// The same with calls of another method: so many, and so many of them at once.
    pub(crate) fn drive_at(
        &self,
        method: &str,
        frame: &Path,
        (calls, streams): (u32, u32),
        options: &[&str],
    ) -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let (cpu, clock) = (self.cpu()?, Instant::now());
        let output = Command::new("h2load")
            .args(["-t1", "-c1", &format!("-m{streams}"), &format!("-n{calls}"), "-d"])
            .arg(frame)
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(options)
            .arg(format!("http://127.0.0.1:{}{method}", self.port))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !text.contains(&format!("{calls} succeeded")) {
            return Err(format!("h2load: not every call succeeded:\n{text}").into());
        }
        let wall = clock.elapsed().as_secs_f64();
        Ok(((self.cpu()? - cpu) * 1e6 / f64::from(calls), f64::from(calls) / wall))
    }
}

pub(crate) fn free_port() -> Result<u16, std::io::Error> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(crate) fn guard(binary: &Path, settings: &[&str]) -> Result<Server, Box<dyn std::error::Error>> {
    guard_at(binary, settings, free_port()?)
}

/// The same with a certain port for operators.
pub(crate) fn guard_at(binary: &Path, settings: &[&str], admin: u16) -> Result<Server, Box<dyn std::error::Error>> {
    guard_from(binary, None, settings, admin)
}

/// The same with a file that says more, and may be changed.
pub(crate) fn guard_from(
    binary: &Path,
    file: Option<&Path>,
    settings: &[&str],
    admin: u16,
) -> Result<Server, Box<dyn std::error::Error>> {
    let port = free_port()?;
    let mut command = Command::new(binary);
    command.arg("serve");
    if let Some(file) = file {
        command.arg("--config").arg(file);
    }
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.args(["--set", &format!("listeners.grpc=127.0.0.1:{port}"), "--set", "listeners.workers=1"]);
    command.args(["--set", &format!("admin.address=127.0.0.1:{admin}")]);
    Server::start(&mut command, port)
}

/// The default policy, in memory; the limit is lifted because one client sends everything.
pub(crate) const DEFAULT: &[&str] = &["security.enable_redis=false", "security.rate_limit=100000000"];

/// Runs all servers.
pub fn run(binary: &Path, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    for (input, raw) in [("Check 14 headers, map", false), ("Check 14 headers, raw", true)] {
        let message = frame::check_request(raw);
        let file = std::env::temp_dir().join(format!("envoy-guard-bench-{}-{raw}", std::process::id()));
        std::fs::write(&file, frame::grpc(&message))?;
        let port = free_port()?;
        let servers = [
            (
                "(a) stock tonic + prost, always allows",
                Server::start(Command::new(std::env::current_exe()?).args(["stock", &port.to_string()]), port)?,
            ),
            ("(b) envoy-guard, default policy", guard(binary, DEFAULT)?),
        ];
        let mut figures: Vec<Vec<(f64, f64)>> = vec![Vec::new(); servers.len()];
        for (_, server) in &servers {
            server.drive(&file, WARM_UP)?;
        }
        for _ in 0..ROUNDS {
            for ((_, server), own) in servers.iter().zip(&mut figures) {
                own.push(server.drive(&file, CALLS)?);
            }
        }
        std::fs::remove_file(&file)?;
        let input = format!("{input}, {} B", message.len());
        let medians: Vec<(f64, f64)> = figures.into_iter().map(median).collect();
        let floor = medians.first().map_or(1.0, |(us, _)| *us);
        for ((what, _), (us, rps)) in servers.iter().zip(medians) {
            let ratio = what.starts_with("(b)").then_some((us / floor, "(a)"));
            report.add(Row { what: (*what).into(), input: input.clone(), us, rps: Some(rps), ratio });
        }
    }
    Ok(())
}

pub(crate) fn median(mut rounds: Vec<(f64, f64)>) -> (f64, f64) {
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}
