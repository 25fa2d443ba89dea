//! Clients of every kind through a real Envoy in every body mode: HTTP/2, gRPC, grpc-web, WebSocket, server-sent events.
//! (HTTP/1.1 is what the other tests speak.) One Envoy serves them all, once with the guard's own choice of modes and
//! once without it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::proc::h2::{Client, Heard, Said};
use crate::proc::modes::{Way, with_cluster, with_ways};
use crate::stack::{Process, Stack, envoy_minor, free_port, policy};

const HOSTILE: &str = "<img src=x onerror=alert(document.cookie)>";
const FOUND: &str = "Suspicious activity detected";
/// `google.rpc.Code`s.
const OK: i64 = 0;
const INVALID_ARGUMENT: i64 = 3;
const PERMISSION_DENIED: i64 = 7;

#[test]
fn every_client_in_every_mode() {
    everything(true);
}

#[test]
fn every_client_in_every_mode_that_the_guard_may_not_change() {
    everything(false);
}

fn everything(overridable: bool) {
    let (grpc, sockets) = (free_port(), free_port());
    let folder = tempfile::tempdir().unwrap();
    let mut talk =
        Process::start("talk", folder.path(), python().args(["serve", &grpc.to_string(), &sockets.to_string()]));
    talk.wait(|talk| talk.log().contains("ready"));
    let mut events = Events::start();
    let security = "rate_limit: 1000000\nauto_ban_threshold: 1000000\nblacklist: [\"198.51.100.66\"]";
    let stack = Stack::of("ext_proc.yaml", &policy(security, "", 0, 0), |text| {
        let text = with_ways(
            &text,
            &[
                ("talk/", "cluster: talk"),
                ("socket", "cluster: sockets, upgrade_configs: [{ upgrade_type: websocket }]"),
                ("events", "cluster: events"),
            ],
        );
        let text = with_cluster(&text, "talk", grpc, true);
        let text = with_cluster(&with_cluster(&text, "sockets", sockets, false), "events", events.port, false);
        with_grpc_web(&text).replace("allow_mode_override: true", &format!("allow_mode_override: {overridable}"))
    });
    let mut asker = Asker::start(stack.port);
    let mut server = Asker::start(grpc);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for way in Way::all() {
        runtime.block_on(http2(&stack, way, overridable));
        calls(&mut asker, &mut server, way, overridable);
        runtime.block_on(grpc_web(&stack, way));
        // What waits for the end of something endless waits for ever, unless the guard may ask for another mode.
        // 1.39 does not answer a handshake whose mode `STREAMED` it may not leave: docs/envoy.md has the table.
        let hangs = !overridable && envoy_minor() == 39 && way.request == "STREAMED";
        if !hangs && (overridable || way.streams_requests() && way.streams_responses()) {
            socket(&mut asker, way);
        }
        if overridable || way.streams_responses() {
            events.arrive_one_by_one(stack.port, &way.path("events"));
        }
    }
}

/// Text bodies over HTTP/2: whole, cut, empty, with trailers behind them.
async fn http2(stack: &Stack, way: Way, overridable: bool) {
    let mut client = Client::connect(stack.port).await;
    let fields = [("content-type", "application/json"), ("x-forwarded-for", "198.51.100.9")];
    let path = way.path("a");
    let passed = |heard: &Heard, bytes: usize| {
        assert_eq!(heard.status, 200, "{path}: {heard:?}");
        assert!(heard.text().ends_with(&format!("body-bytes: {bytes}\n")), "{path}: {heard:?}");
        assert_eq!(heard.header("x-frame-options"), Some("SAMEORIGIN"), "{path}");
    };
    passed(&client.send("GET", &path, &fields[1..], Said::new(&[])).await, 0);
    passed(&client.send("POST", &path, &fields, Said::new(&[b"{\"a\": ", b"\"fine\"}"])).await, 13);
    passed(&client.send("POST", &path, &fields, Said::new(&[b"{\"a\": \"fine\"}"]).with_trailers()).await, 13);
    let (first, second) = HOSTILE.as_bytes().split_at(20);
    for trailers in [false, true] {
        let seen = stack.application.seen();
        let said = Said::new(&[b"{\"text\": \"", first, second, b"\"}"]);
        let said = if trailers { said.with_trailers() } else { said };
        let heard = client.send("POST", &path, &fields, said).await;
        if !way.inspects() {
            passed(&heard, HOSTILE.len() + 12);
            continue;
        }
        assert_eq!((heard.status, heard.text().as_str()), (400, FOUND), "{path}, trailers: {trailers}");
        // Without trailers nobody tells the guard that the streamed body has ended, so the end goes on and the answer
        // does not.
        let is_late = trailers && way.request == "STREAMED" && way.trailers == "SKIP" && !overridable;
        assert!(is_late || stack.application.seen() == seen, "{path}, trailers: {trailers}: it arrived whole");
    }
}

/// The four shapes of a gRPC call, allowed and refused.
fn calls(asker: &mut Asker, server: &mut Asker, way: Way, overridable: bool) {
    let mut ask = |shape: &str, texts: &[&str], client: &str| {
        asker.ask(&json!({"path": way.path(&format!("talk/{shape}")), "texts": texts, "metadata": {"x-forwarded-for": client}}))
    };
    let before = server.hostile_seen();
    let client = "198.51.100.4";
    for (shape, texts, expected) in [
        ("Unary", &["fine"][..], &["fine"][..]),
        ("Gather", &["one", "two", "three"], &["one|two|three"]),
        ("Count", &["go"], &["0 go", "1 go", "2 go"]),
    ] {
        assert_eq!(ask(shape, texts, client), said(OK, "", expected), "{way:?} {shape}");
        let refused = ask(shape, texts, "198.51.100.66");
        assert_eq!(refused, said(PERMISSION_DENIED, "Forbidden", &[]), "{way:?} {shape}, from a blocked address");
    }
    for (shape, texts, passes) in
        [("Unary", &[HOSTILE][..], &[HOSTILE][..]), ("Gather", &["one", HOSTILE], &[&*format!("one|{HOSTILE}")])]
    {
        let expected = if way.inspects() { said(INVALID_ARGUMENT, FOUND, &[]) } else { said(OK, "", passes) };
        assert_eq!(ask(shape, texts, client), expected, "{way:?} {shape}");
    }
    if way.streams_requests() && (way.streams_responses() || overridable) {
        let texts = ["ping", "pong", "bye"];
        assert_eq!(ask("Talk", &texts, client), said(OK, "", &texts), "{way:?}: each is answered before the next");
        // 1.37 and 1.38 go on with a call that is refused after its first answer: docs/envoy.md has the table.
        let can_break = !matches!(envoy_minor(), 37 | 38);
        if way.inspects() && can_break {
            let broken = ask("Talk", &["ping", HOSTILE, "late"], client);
            assert_ne!(broken["code"], OK, "{way:?}: {broken}");
            assert_eq!(broken["texts"], json!(["ping"]), "{way:?}: {broken}");
        }
    }
    if way.inspects() {
        assert_eq!(server.hostile_seen(), before, "{way:?}: no hostile message arrived");
    }
}

/// The shipped text with Envoy's own filter for grpc-web in front.
fn with_grpc_web(text: &str) -> String {
    let filter = r#"                http_filters:
                  - name: envoy.filters.http.grpc_web
                    typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb }
"#;
    text.replacen("                http_filters:\n", filter, 1)
}

/// grpc-web, binary and text, that Envoy turns into gRPC before the guard sees it.
async fn grpc_web(stack: &Stack, way: Way) {
    let mut client = Client::connect(stack.port).await;
    let path = way.path("talk/Unary");
    for media in ["application/grpc-web+proto", "application/grpc-web-text+proto"] {
        for (text, address, status, message) in [
            ("fine", "198.51.100.4", OK, ""),
            ("fine", "198.51.100.66", PERMISSION_DENIED, "Forbidden"),
            (HOSTILE, "198.51.100.4", if way.inspects() { INVALID_ARGUMENT } else { OK }, FOUND),
        ] {
            let fields =
                [("content-type", media), ("accept", media), ("x-forwarded-for", address), ("x-grpc-web", "1")];
            let heard = client.send("POST", &path, &fields, Said::new(&[&asked(text, media)])).await;
            let call = Told::read(&heard);
            assert_eq!((heard.status, call.media.as_str()), (200, media), "{path} {media}: {heard:?}");
            assert_eq!(call.status, status.to_string(), "{path} {media}: {heard:?}");
            match status {
                OK => assert_eq!(call.messages, [packed(text)], "{path} {media}"),
                _ => {
                    assert_eq!((call.message.as_str(), call.messages.len()), (message, 0), "{path} {media}: {heard:?}")
                }
            }
        }
    }
}

/// Both filters, without Envoy's own for grpc-web and behind it: what a call is told does not depend on who refuses it,
/// nor on what its client accepts besides.
#[test]
fn a_call_understands_refusals_of_both_filters() {
    let security = "rate_limit: 1000000\nauto_ban_threshold: 1000000\nblacklist: [\"198.51.100.66\"]";
    for is_translated in [false, true] {
        let policy = policy(security, "responses:\n  bodies: negotiated", 0, 0);
        let stack = Stack::of("both.yaml", &policy, |text| if is_translated { with_grpc_web(&text) } else { text });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for media in ["application/grpc-web+proto", "application/grpc-web-text+proto", "application/grpc"] {
                // Envoy's filter knows a client that wants text only by this very word.
                let besides = if is_translated { "" } else { ", application/json" };
                refused_by_both(&stack, media, &format!("{media}{besides}")).await;
            }
        });
        assert_eq!(stack.application.seen(), 0);
    }
}

async fn refused_by_both(stack: &Stack, media: &str, accept: &str) {
    let mut client = Client::connect(stack.port).await;
    let hostile = "/a.B/C?q=%3Cimg%20src=x%20onerror=alert(1)%3E";
    // ext_authz refuses the first two, ext_proc the third.
    for (path, text, address, status, message) in [
        ("/a.B/C", "fine", "198.51.100.66", PERMISSION_DENIED, "Forbidden"),
        (hostile, "fine", "198.51.100.4", INVALID_ARGUMENT, FOUND),
        ("/a.B/C", HOSTILE, "198.51.100.4", INVALID_ARGUMENT, FOUND),
    ] {
        let mut fields =
            vec![("content-type", media), ("accept", accept), ("x-forwarded-for", address), ("te", "trailers")];
        if media.contains("web") {
            fields.push(("x-grpc-web", "1"));
        }
        let heard = client.send("POST", path, &fields, Said::new(&[&asked(text, media)])).await;
        let call = Told::read(&heard);
        assert_eq!((heard.status, call.media.as_str()), (200, media), "{media}: {heard:?}");
        assert_eq!((call.status, call.message.as_str()), (status.to_string(), message), "{media}: {heard:?}");
        assert_eq!(heard.header("x-frame-options"), Some("SAMEORIGIN"), "{media}: {heard:?}");
    }
}

/// A message with one text.
fn packed(text: &str) -> Vec<u8> {
    [&[0x0a, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// The body of a call.
fn asked(text: &str, media: &str) -> Vec<u8> {
    let message = packed(text);
    let frame = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat();
    if media.contains("text") { base64_simd::STANDARD.encode_to_string(frame).into_bytes() } else { frame }
}

/// What a grpc-web client makes of an answer.
#[derive(Debug, Default)]
struct Told {
    media: String,
    messages: Vec<Vec<u8>>,
    status: String,
    message: String,
}

impl Told {
    fn read(heard: &Heard) -> Self {
        let header = |name: &str| heard.header(name).unwrap_or_default().to_owned();
        // An answer without messages may have its trailers among the headers.
        let mut told = Self {
            media: header("content-type"),
            status: header("grpc-status"),
            message: header("grpc-message"),
            ..Self::default()
        };
        let bytes = if told.media.contains("text") { decoded(&heard.body) } else { heard.body.clone() };
        let mut rest = &bytes[..];
        while let Some((prefix, after)) = rest.split_at_checked(5) {
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
            let frame = &after[..length];
            rest = &after[length..];
            if prefix[0] & 0x80 == 0 {
                told.messages.push(frame.to_vec());
                continue;
            }
            assert_eq!(told.status, "", "one status: {heard:?}");
            for line in String::from_utf8(frame.to_vec()).unwrap().lines() {
                match line.split_once(':').unwrap() {
                    ("grpc-status", value) => told.status = value.trim().to_owned(),
                    ("grpc-message", value) => told.message = value.trim().to_owned(),
                    _ => {}
                }
            }
        }
        told.message = told.message.replace("%20", " ");
        told
    }
}

/// Base64 whose parts were each encoded for themselves.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|four| base64_simd::STANDARD.decode_to_vec(four).unwrap()).collect()
}

/// The application speaks first, then echoes. The handshake is decided; what is said later is not looked at.
fn socket(asker: &mut Asker, way: Way) {
    let mut ask = |query: &str, client: &str| {
        asker.ask(&json!({
            "websocket": true,
            "path": way.path(&format!("socket{query}")),
            "texts": ["hello", HOSTILE],
            "metadata": {"x-forwarded-for": client},
        }))
    };
    assert_eq!(ask("", "198.51.100.3"), said(101, "", &["welcome", "hello", HOSTILE]), "{way:?}");
    assert_eq!(ask("", "198.51.100.66"), said(403, "Forbidden", &[]), "{way:?}");
    let query = "?q=%3Cimg%20src=x%20onerror=alert(1)%3E";
    assert_eq!(ask(query, "198.51.100.3"), said(400, FOUND, &[]), "{way:?}");
}

/// An answer as the Python client writes it.
fn said(code: i64, message: &str, texts: &[&str]) -> Value {
    json!({"code": code, "message": message, "texts": texts})
}

/// The servers and clients that we did not write.
fn python() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("TEST_PYTHON").map_or_else(|| root.join(".cache/venv/bin/python"), PathBuf::from);
    let mut command = Command::new(python);
    command.arg(root.join("tests/tools/talk.py"));
    command
}

/// A client process, asked line by line.
struct Asker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Asker {
    fn start(port: u16) -> Self {
        let mut child = python()
            .args(["ask", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("no Python with grpcio: {error}; run `make deps` first"));
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    #[track_caller]
    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.input, "{question}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{question}: {error}: `{line}`; is grpcio there?"))
    }

    /// How many hostile messages the server behind this client has seen.
    fn hostile_seen(&mut self) -> Value {
        self.ask(&json!({"path": "/Hostile", "texts": [""]}))["texts"].clone()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An application that sends an event only after the one before it has arrived.
struct Events {
    port: u16,
    arrived: mpsc::Sender<()>,
}

const EVENTS: usize = 3;

impl Events {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (arrived, confirmed) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                drop(Self::send(stream, &confirmed));
            }
        });
        Self { port, arrived }
    }

    fn send(mut stream: TcpStream, confirmed: &mpsc::Receiver<()>) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while reader.read_line(&mut line)? != 0 && line != "\r\n" {
            line.clear();
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        for number in 0..EVENTS {
            let event = format!("data: {number}\n\n");
            stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
            if confirmed.recv().is_err() {
                return Ok(());
            }
        }
        stream.write_all(b"0\r\n\r\n")
    }

    /// Takes one event after the other; were they held back, the first would never come.
    #[track_caller]
    fn arrive_one_by_one(&mut self, port: u16, path: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 198.51.100.5\r\nconnection: close\r\n\r\n")
            .unwrap();
        let (mut text, mut bytes) = (String::new(), [0; 4096]);
        for number in 0..EVENTS {
            while !text.contains(&format!("data: {number}\n\n")) {
                let read = stream.read(&mut bytes).unwrap_or_else(|error| panic!("{path}: {error} after\n{text}"));
                assert_ne!(read, 0, "{path}: ended after\n{text}");
                text.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
            assert!(!text.contains(&format!("data: {}\n", number + 1)), "{path}");
            self.arrived.send(()).unwrap();
        }
        stream.read_to_end(&mut Vec::new()).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
        assert!(text.contains("x-frame-options"), "{path}: {text}");
    }
}
