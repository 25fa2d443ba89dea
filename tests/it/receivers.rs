//! The other side of every telemetry sink: `tests/tools/receivers.py`, and what tests ask of it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::certificates::Authority;
use crate::stack::{Call, Process, free_port};

/// A text that must never leave the service.
pub(crate) const SECRET: &str = "geheim7";

/// The other side of every sink.
pub(crate) struct Receivers {
    pub(crate) process: Process,
    pub(crate) http: u16,
    /// OTLP over gRPC.
    pub(crate) grpc: u16,
    /// The same over TLS; its certificate is `authority`'s.
    pub(crate) grpc_tls: u16,
    pub(crate) authority: Authority,
    _folder: tempfile::TempDir,
}

impl Receivers {
    pub(crate) fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".cache/venv/bin/python");
        assert!(python.exists(), "no Python at {}: run `make deps` first", python.display());
        let (http, grpc, grpc_tls) = (free_port(), free_port(), free_port());
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        authority.write("otlp", "localhost", 2040);
        let mut command = Command::new(python);
        command.arg(root.join("tests/tools/receivers.py")).args([http.to_string(), grpc.to_string()]);
        command.arg(grpc_tls.to_string()).arg(authority.path("otlp.crt")).arg(authority.path("otlp.key"));
        let mut process = Process::start("receivers", folder.path(), &mut command);
        process.wait(|_| Call::get("/").try_send(http).is_ok_and(|answer| answer.status == 200));
        Self { process, http, grpc, grpc_tls, authority, _folder: folder }
    }

    /// Makes the next `times` answers of `path` something else than a success.
    pub(crate) fn refuse(&self, path: &str, status: u16, times: u32) {
        self.script(&format!("path={path}&status={status}&times={times}"));
    }

    /// Makes the next message of `path` lose as many items.
    pub(crate) fn reject(&self, path: &str, items: u32) {
        self.script(&format!("path={path}&status=0&times=1&rejected={items}"));
    }

    fn script(&self, query: &str) {
        let asked = Call::get(&format!("/answer?{query}")).send(self.http);
        assert_eq!(asked.status, 200);
    }

    /// Everything that came so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a line satisfies `is_it`, and returns it.
    #[track_caller]
    pub(crate) fn wait(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        self.process.wait(|process| {
            let lines = process.log();
            let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            found = lines.find(|line| is_it(line));
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until the agent's server has an event of this type about this address.
    #[track_caller]
    pub(crate) fn wait_for_event(&mut self, kind: &str, address: &str) -> Value {
        let is_it = |event: &Value| event["event_type"] == kind && event["ip_address"] == address;
        let line = self.wait(|line| line["kind"] == "agent" && events(line).any(is_it));
        events(&line).find(|event| is_it(event)).unwrap().clone()
    }
}

/// The events of a batch.
pub(crate) fn events(line: &Value) -> impl Iterator<Item = &Value> {
    line["body"]["events"].as_array().into_iter().flatten()
}

/// A number of the metrics page.
pub(crate) fn metric(admin: u16, series: &str) -> f64 {
    let page = Call::get("/metrics").send(admin).body;
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
}
