//! Real redis-server processes on free loopback ports, alone, watched by sentinels, or as a Cluster.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use envoy_guard::state::redis::Redis;
use envoy_guard::state::redis::settings::{Settings, Topology};
use tempfile::TempDir;
use tokio::time::Instant;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One redis-server, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    arguments: Vec<String>,
    /// The authority, when the only port speaks TLS.
    ca: Option<PathBuf>,
    _folder: TempDir,
}

impl Server {
    /// Starts a server with further arguments and waits until it answers.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_at(free_port(), arguments)
    }

    /// Starts a server whose only port speaks TLS, which its arguments say.
    pub(crate) fn start_tls(port: u16, arguments: &[String], ca: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let mut all: Vec<String> =
            ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir"].map(str::to_owned).to_vec();
        all.push(folder.path().display().to_string());
        all.extend(arguments.iter().cloned());
        let child = spawn(0, &all);
        let server = Self { child, port, arguments: all, ca: Some(ca.to_owned()), _folder: folder };
        server.wait();
        server
    }

    pub(crate) fn start_at(port: u16, arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let mut all: Vec<String> =
            ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir"].map(str::to_owned).to_vec();
        all.push(folder.path().display().to_string());
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let child = spawn(port, &all);
        let server = Self { child, port, arguments: all, ca: None, _folder: folder };
        server.wait();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the process, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the killed process again, empty, on the same port.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.arguments);
        self.wait();
    }

    /// Sends the process a signal by name (`STOP`, `CONT`).
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// Runs a command with redis-cli and returns its output.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]);
        if let Some(ca) = &self.ca {
            command.args(["--tls", "--cacert"]).arg(ca);
        }
        let output = command.args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The same on whichever node of a Cluster has the key.
    pub(crate) fn cli_cluster(&self, arguments: &[&str]) -> String {
        self.cli(&[&["-c"], arguments].concat())
    }

    fn wait(&self) {
        eventually("redis-server answers", || {
            let answer = self.cli(&["ping"]);
            answer == "PONG" || answer.starts_with("NOAUTH")
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(port: u16, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string()])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Waits, bounded, until `holds`.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Settings with a deadline that a busy machine can keep.
pub(crate) fn settings(url: &str, prefix: &str) -> Settings {
    Settings { prefix: prefix.to_owned(), deadline: Duration::from_secs(5), ..Settings::new(url) }
}

/// State on one server.
pub(crate) fn standalone(server: &Server, prefix: &str) -> Redis {
    Redis::new(settings(&server.url(), prefix)).unwrap()
}

/// A master, a replica and three sentinels.
pub(crate) struct Sentinels {
    pub(crate) master: Server,
    pub(crate) replica: Server,
    sentinels: Vec<Server>,
}

impl Sentinels {
    pub(crate) fn start() -> Self {
        let master = Server::start(&["--repl-diskless-sync-delay", "0"]);
        let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
        // First: sentinels ask for replicas when they start, and then every ten seconds.
        eventually("the replica follows", || replica.cli(&["info", "replication"]).contains("master_link_status:up"));
        let sentinels: Vec<Server> = (0..3).map(|_| start_sentinel(master.port)).collect();
        eventually("the sentinels know each other and the replica", || {
            sentinels.iter().all(|sentinel| {
                let seen = sentinel.cli(&["sentinel", "master", "fleet"]).replace('\n', " ");
                seen.contains("num-other-sentinels 2") && seen.contains("num-slaves 1")
            })
        });
        Self { master, replica, sentinels }
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }

    pub(crate) fn settings(&self, prefix: &str) -> Settings {
        let sentinels = self.urls();
        let topology = Topology::Sentinel { sentinels, master: "fleet".to_owned() };
        Settings { topology, ..settings(&self.master.url(), prefix) }
    }
}

fn start_sentinel(master: u16) -> Server {
    let lines = format!(
        "sentinel monitor fleet 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds fleet 500\n\
         sentinel failover-timeout fleet 2000\n"
    );
    start_sentinel_with(&lines, None)
}

/// A sentinel with these lines of configuration; with an authority, its only port speaks TLS.
pub(crate) fn start_sentinel_with(lines: &str, ca: Option<&Path>) -> Server {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("sentinel.conf");
    let port = free_port();
    let (plain, tls) = if ca.is_some() { (0, port) } else { (port, 0) };
    std::fs::write(&file, format!("port {plain}\ntls-port {tls}\n{lines}")).unwrap();
    let child = Command::new("redis-server")
        .args([file.to_str().unwrap(), "--sentinel", "--bind", "127.0.0.1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { child, port, arguments: Vec::new(), ca: ca.map(Path::to_owned), _folder: folder };
    server.wait();
    server
}

/// Three masters that share the slots.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let nodes: Vec<Server> = (0..3)
            .map(|_| {
                let bus = free_port().to_string();
                Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"])
            })
            .collect();
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-yes"])
            .output()
            .unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        eventually("the cluster is well", || {
            nodes.iter().all(|node| node.cli(&["cluster", "info"]).contains("cluster_state:ok"))
        });
        Self { nodes }
    }

    /// Moves so many slots, with their keys, from the first node to the second.
    pub(crate) fn reshard(&self, slots: u32) {
        let id = |node: &Server| node.cli(&["cluster", "myid"]);
        let moved = Command::new("redis-cli")
            .args(["--cluster", "reshard", &format!("127.0.0.1:{}", self.nodes[0].port)])
            .args(["--cluster-from", &id(&self.nodes[0]), "--cluster-to", &id(&self.nodes[1])])
            .args(["--cluster-slots", &slots.to_string(), "--cluster-yes"])
            .output()
            .unwrap();
        assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stdout));
    }

    pub(crate) fn settings(&self, prefix: &str) -> Settings {
        let nodes = self.nodes.iter().map(Server::url).collect();
        Settings { topology: Topology::Cluster { nodes }, ..settings(&self.nodes[0].url(), prefix) }
    }
}
