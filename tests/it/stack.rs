//! Real processes on loopback: the service, a real Envoy with the files we ship, and an application behind both.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Tries of 50 ms each until a process counts as not coming up.
const READY_TRIES: u32 = 600;

/// The Envoy binary, or a test failure that says what to do.
pub(crate) fn envoy_binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("TEST_ENVOY").map_or_else(|| root.join(".cache/envoy/1.40/envoy"), PathBuf::from);
    assert!(path.exists(), "no Envoy at {}: run `make deps` first", path.display());
    path
}

/// The second number of Envoy's version: 40 of 1.40.0.
pub(crate) fn envoy_minor() -> u32 {
    let output = Command::new(envoy_binary()).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`, after the path of the program.
    let version = text.split("version: ").nth(1).and_then(|rest| rest.split('/').nth(1));
    let minor = version.and_then(|version| version.split('.').nth(1)?.parse().ok());
    minor.unwrap_or_else(|| panic!("no version in {text}"))
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A child that dies with the test.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    name: &'static str,
}

impl Process {
    /// Starts `command` with its output in `folder`.
    pub(crate) fn start(name: &'static str, folder: &Path, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { child, log, name }
    }

    /// Its process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `ready` says so; fails with the log when the process ends or takes too long.
    #[track_caller]
    pub(crate) fn wait(&mut self, mut ready: impl FnMut(&Self) -> bool) {
        for _ in 0..READY_TRIES {
            if ready(self) {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} was not ready:\n{}", self.name, self.log());
    }

    /// Sends a signal by name (`TERM`, `KILL`, `STOP`, `CONT`, `HUP`).
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill -{name} {}", self.name);
    }

    /// False once it has ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end and returns its exit code.
    pub(crate) fn exit(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In wire order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The first header called `name`.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// One request, written byte for byte.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Sent as chunks instead of `body` when there are any.
    chunks: Vec<Vec<u8>>,
}

impl Call {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new(), chunks: Vec::new() }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Says in X-Forwarded-For who the client is; the test policies trust loopback.
    pub(crate) fn from(self, client: &str) -> Self {
        self.header("x-forwarded-for", client)
    }

    pub(crate) fn body(mut self, media: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("content-type", media)
    }

    /// A body of unknown length, in chunks that are written one by one.
    pub(crate) fn chunks(mut self, media: &str, chunks: &[&[u8]]) -> Self {
        self.chunks = chunks.iter().map(|chunk| chunk.to_vec()).collect();
        self.header("content-type", media).header("transfer-encoding", "chunked")
    }

    /// A body without a media type.
    pub(crate) fn raw_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it and reads the whole answer. `Err` when the connection breaks.
    pub(crate) fn try_send(&self, port: u16) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut head = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str("host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        // The other side may answer before it has read everything.
        drop(stream.write_all(&self.body));
        for chunk in &self.chunks {
            drop(write!(stream, "{:x}\r\n", chunk.len()).and_then(|()| stream.write_all(chunk)));
            drop(stream.write_all(b"\r\n").and_then(|()| stream.flush()));
        }
        if !self.chunks.is_empty() {
            drop(stream.write_all(b"0\r\n\r\n"));
        }
        read_answer(&mut BufReader::new(stream), &self.method)
    }

    /// Sends it; a broken connection fails the test.
    #[track_caller]
    pub(crate) fn send(&self, port: u16) -> Answer {
        self.try_send(port).unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.target))
    }
}

fn read_answer(stream: &mut impl BufRead, method: &str) -> std::io::Result<Answer> {
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status line"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or_else(|| bad("bad header"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: String::new() };
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(answer);
    }
    let mut body = Vec::new();
    if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| bad("bad chunk"))?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = answer.header("content-length").and_then(|text| text.parse().ok()) {
        body.resize(length, 0);
        stream.read_exact(&mut body)?;
    } else {
        stream.read_to_end(&mut body)?;
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    Ok(answer)
}

/// An application that answers 200 with the request's head and counts what it saw. Paths `/status/N` answer N; the header
/// `x-answer: N` makes it answer N and "ok".
pub(crate) struct Application {
    pub(crate) port: u16,
    seen: Arc<AtomicU64>,
}

impl Application {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || drop(serve(stream, &counter)));
            }
        });
        Self { port, seen }
    }

    /// Requests that got through.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, seen: &AtomicU64) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (mut head, mut length, mut chunked) = (String::new(), 0, false);
        loop {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            let line = head[start..].trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            length = line.strip_prefix("content-length: ").and_then(|text| text.parse().ok()).unwrap_or(length);
            chunked |= line == "transfer-encoding: chunked";
        }
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            seen.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")?;
            // From here on an echo.
            std::io::copy(&mut reader, &mut stream)?;
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        while chunked {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            chunked = size != 0;
        }
        seen.fetch_add(1, Ordering::SeqCst);
        let target = head.split(' ').nth(1).unwrap_or("/");
        let asked = head.lines().find_map(|line| line.strip_prefix("x-answer: "));
        let status = asked.or_else(|| target.strip_prefix("/status/")?.get(..3)).and_then(|text| text.parse().ok());
        let status = status.unwrap_or(200_u16);
        let answer = if asked.is_some() { "ok".to_owned() } else { format!("{head}body-bytes: {}\n", body.len()) };
        let length = answer.len();
        let leak = if target.starts_with("/leak") { "x-powered-by: php\r\nvary: Accept\r\n" } else { "" };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: text/plain\r\n{leak}content-length: {length}\r\n\r\n");
        // In one piece: the network would hold back the second until the first is acknowledged.
        stream.write_all((head + &answer).as_bytes())?;
    }
}

/// Envoy, the service and the application, wired with the shipped `envoy/*.yaml`.
pub(crate) struct Stack {
    pub(crate) envoy: Process,
    pub(crate) guard: Process,
    pub(crate) application: Application,
    pub(crate) port: u16,
    pub(crate) admin: u16,
    pub(crate) envoy_admin: u16,
    grpc: u16,
    folder: tempfile::TempDir,
}

impl Stack {
    /// Starts all three. `security` is YAML for the inside of `security:`; `rest` for the top level.
    #[track_caller]
    pub(crate) fn start(security: &str, rest: &str) -> Self {
        Self::with_envoy(security, rest, |text| text)
    }

    /// The same, with the shipped Envoy file changed by `edit` first.
    #[track_caller]
    pub(crate) fn with_envoy(security: &str, rest: &str, edit: impl Fn(String) -> String) -> Self {
        Self::with_policy_edit(security, rest, edit, |policy| policy)
    }

    /// The same, with the policy file changed too.
    #[track_caller]
    pub(crate) fn with_policy_edit(
        security: &str,
        rest: &str,
        edit: impl Fn(String) -> String,
        edit_policy: impl Fn(String) -> String,
    ) -> Self {
        Self::of("ext_authz.yaml", &edit_policy(policy(security, rest, 0, 0)), edit)
    }

    /// The shipped Envoy `file`, changed by `edit`, and a policy file whose ports are written as 0.
    #[track_caller]
    pub(crate) fn of(file: &str, policy: &str, edit: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let application = Application::start();
        let (port, admin, grpc, envoy_admin) = (free_port(), free_port(), free_port(), free_port());
        let policy = policy
            .replace("grpc: 127.0.0.1:0", &format!("grpc: 127.0.0.1:{grpc}"))
            .replace("address: 127.0.0.1:0", &format!("address: 127.0.0.1:{admin}"));
        let guard = guard(folder.path(), &policy, admin);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy").join(file);
        let text = edit(std::fs::read_to_string(shipped).unwrap())
            // All clients are on this machine; Envoy must not add itself to what they say about themselves.
            .replace("use_remote_address: true", "use_remote_address: true\n                skip_xff_append: true")
            // A test machine may be slow; an outage is not what most tests are about.
            .replace("timeout: 0.5s", "timeout: 5s")
            .replace("port_value: 10000", &format!("port_value: {port}"))
            .replace("port_value: 10080", &format!("port_value: {}", application.port))
            .replace("port_value: 50051", &format!("port_value: {grpc}"))
            .replace("port_value: 9901", &format!("port_value: {envoy_admin}"));
        let file = folder.path().join("envoy.yaml");
        std::fs::write(&file, text).unwrap();
        let mut envoy = Process::start(
            "envoy",
            folder.path(),
            Command::new(envoy_binary())
                .args(["--log-level", "warning", "--concurrency", "1", "--use-dynamic-base-id"])
                .args(["--file-flush-interval-msec", "20", "-c"])
                .arg(&file),
        );
        envoy.wait(|_| is_ready(envoy_admin, "/ready"));
        // Ready means that the listener is open; the guard's cluster is healthy once /clusters says so.
        envoy.wait(|_| Call::get("/clusters").try_send(envoy_admin).is_ok_and(|a| is_guard_healthy(&a.body)));
        Self { envoy, guard, application, port, admin, envoy_admin, grpc, folder }
    }

    /// The folder with the files of all three.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The port of the service.
    pub(crate) fn grpc(&self) -> u16 {
        self.grpc
    }

    /// Sends one request through Envoy.
    #[track_caller]
    pub(crate) fn send(&self, call: &Call) -> Answer {
        call.send(self.port)
    }

    /// Ends the service and starts it again with another policy file, on the same ports.
    #[track_caller]
    pub(crate) fn restart_guard(&mut self, policy: impl Fn(&Path, u16, u16) -> String) {
        if self.guard.is_running() {
            self.guard.signal("KILL");
            self.guard.exit();
        }
        self.guard = guard(self.folder.path(), &policy(self.folder.path(), self.grpc, self.admin), self.admin);
        self.wait_for_guard();
    }

    /// Waits until Envoy has a working connection to the service.
    #[track_caller]
    pub(crate) fn wait_for_guard(&mut self) {
        let (port, admin) = (self.port, self.envoy_admin);
        self.envoy.wait(|_| {
            Call::get("/clusters").try_send(admin).is_ok_and(|a| is_guard_healthy(&a.body))
                && Call::new("HEAD", "/").from("192.0.2.254").try_send(port).is_ok_and(|a| a.status != 503)
        });
    }

    /// Waits for the access log line number `index` (from 0) and returns it as JSON.
    #[track_caller]
    pub(crate) fn access_log(&mut self, index: usize) -> serde_json::Value {
        let mut found = None;
        self.envoy.wait(|envoy| {
            found = envoy.log().lines().filter(|line| line.starts_with('{')).nth(index).map(str::to_owned);
            found.is_some()
        });
        serde_json::from_str(&found.unwrap()).unwrap()
    }
}

/// The text of a policy file for tests: loopback is a trusted proxy, state is in memory.
pub(crate) fn policy(security: &str, rest: &str, grpc: u16, admin: u16) -> String {
    let indented: String = security.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "security:\n  enable_redis: false\n  trusted_proxies: [\"127.0.0.1\"]\n{indented}\
         listeners:\n  grpc: 127.0.0.1:{grpc}\nadmin:\n  address: 127.0.0.1:{admin}\n{rest}\n"
    )
}

/// Starts the service alone and waits until it is ready.
#[track_caller]
pub(crate) fn guard(folder: &Path, policy: &str, admin: u16) -> Process {
    let file = folder.join("guard.yaml");
    std::fs::write(&file, policy).unwrap();
    let mut guard = Process::start(
        "guard",
        folder,
        Command::new(env!("CARGO_BIN_EXE_envoy-guard")).args(["serve", "--config"]).arg(&file),
    );
    guard.wait(|_| is_ready(admin, "/readyz"));
    guard
}

/// What Envoy says of its clusters: the application's says `healthy` without being asked.
fn is_guard_healthy(clusters: &str) -> bool {
    clusters.lines().any(|line| line.starts_with("envoy-guard::") && line.ends_with("::health_flags::healthy"))
}

fn is_ready(port: u16, path: &str) -> bool {
    Call::get(path).try_send(port).is_ok_and(|answer| answer.status == 200)
}
