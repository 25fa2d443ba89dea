//! The service as Envoy meets it: the real binary, real connections, a client that is not ours.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use hyper_util::rt::TokioIo;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::redis_servers::eventually;

/// Tries of 20 ms until the service counts as not coming up.
const TRIES: u32 = 1500;

/// The service as a process of its own, ended with the test.
struct Service {
    child: Child,
    grpc: SocketAddr,
    admin: SocketAddr,
    folder: tempfile::TempDir,
}

impl Service {
    /// Starts the service with these settings and waits until it answers.
    fn start(settings: &[&str]) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (grpc, admin, folder) = (free(), free(), tempfile::tempdir().unwrap());
        let socket = folder.path().join("guard.sock");
        let mut command = command();
        command.arg("serve");
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.args(["--set", "security.enable_redis=false"]);
        command.args(["--set", &format!("listeners.grpc={grpc}")]);
        command.args(["--set", &format!("listeners.unix={}", socket.display())]);
        command.args(["--set", &format!("admin.address={admin}")]);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut service = Self { child, grpc, admin, folder };
        for _ in 0..TRIES {
            if TcpStream::connect(grpc).is_ok() && TcpStream::connect(admin).is_ok() {
                return service;
            }
            if let Some(status) = service.child.try_wait().unwrap() {
                panic!("the service ended with {status}:\n{}", service.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the service did not come up:\n{}", service.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("guard.sock")
    }

    async fn tcp(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// One page of the admin port: status line and body.
    fn page(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
    }
}

/// The service's binary, without the variables of whoever runs the tests.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-guard"));
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("ENVOY_GUARD_")) {
        command.env_remove(key);
    }
    command.stdin(Stdio::null());
    command
}

fn question(path: &str, headers: &[(&str, &str)], body: &[u8]) -> CheckRequest {
    let socket = SocketAddress { address: "203.0.113.9".to_owned(), ..SocketAddress::default() };
    let address = Address { address: Some(address::Address::SocketAddress(socket)) };
    let http = HttpRequest {
        id: "17".to_owned(),
        method: if body.is_empty() { "GET" } else { "POST" }.to_owned(),
        path: path.to_owned(),
        host: "example.com".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        raw_body: body.to_vec(),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer { address: Some(address), ..Peer::default() }),
            request: Some(Request { time: None, http: Some(http) }),
            ..AttributeContext::default()
        }),
    }
}

/// Decision code, HTTP status (0 when allowed) and body.
fn answer(response: &CheckResponse) -> (i32, i32, &str) {
    let code = response.status.as_ref().map_or(-1, |status| status.code);
    match response.http_response.as_ref().unwrap() {
        HttpResponse::OkResponse(_) => (code, 0, ""),
        HttpResponse::DeniedResponse(reply) | HttpResponse::ErrorResponse(reply) => {
            (code, reply.status.map_or(0, |status| status.code), &reply.body)
        }
    }
}

async fn check(client: &mut AuthorizationClient<Channel>, question: CheckRequest) -> CheckResponse {
    client.check(question).await.unwrap().into_inner()
}

#[tokio::test]
async fn allows_and_denies_over_tcp_and_a_unix_socket() {
    let service = Service::start(&["security.blocked_user_agents=[\"evilbot\"]", "security.rate_limit=1000"]);
    let socket = service.socket();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);
    let unix = Endpoint::from_static("http://guard")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .unwrap();
    for channel in [service.tcp().await, unix] {
        let mut client = AuthorizationClient::new(channel);
        let allowed = check(&mut client, question("/", &[("user-agent", "Mozilla/5.0")], b"")).await;
        assert_eq!(answer(&allowed), (0, 0, ""));
        let Some(HttpResponse::OkResponse(ok)) = &allowed.http_response else { panic!("{allowed:?}") };
        let names: Vec<&str> =
            ok.response_headers_to_add.iter().map(|option| &*option.header.as_ref().unwrap().key).collect();
        assert!(names.contains(&"strict-transport-security"), "{names:?}");
        let fields = allowed.dynamic_metadata.unwrap().fields;
        assert!(fields.contains_key("decision") && fields.contains_key("client"), "{fields:?}");

        let denied = check(&mut client, question("/", &[("user-agent", "EvilBot/1")], b"")).await;
        assert_eq!(answer(&denied), (7, 403, "User-Agent not allowed"));
        assert!(matches!(denied.http_response, Some(HttpResponse::DeniedResponse(_))));
    }
    let (_, metrics) = service.page("/metrics");
    for series in [
        "envoy_guard_decisions_total{check=\"none\",verdict=\"allow\"} 2",
        "envoy_guard_decisions_total{check=\"user_agent\",verdict=\"deny\"} 2",
        "envoy_guard_decision_seconds_count 4",
        "envoy_guard_state_entries{family=\"windows\"} 1",
    ] {
        assert!(metrics.contains(series), "{series}\n{metrics}");
    }
    // Lines are written by a thread of their own.
    let denials = || service.log().lines().filter(|line| line.contains("verdict=\"deny\"")).count();
    eventually("a line for each denial", || denials() == 2);
}

#[tokio::test]
async fn what_cannot_be_decided_is_an_answer_and_a_failure() {
    let service = Service::start(&["limits.max_message_bytes=4096"]);
    let mut client = AuthorizationClient::new(service.tcp().await);
    let failed = |response: CheckResponse, name: &str| {
        assert_eq!(answer(&response), (13, 500, "Security check failed"), "{name}");
        assert!(matches!(response.http_response, Some(HttpResponse::ErrorResponse(_))), "{name}");
    };
    failed(check(&mut client, CheckRequest::default()).await, "an empty question");
    let tcp = CheckRequest { attributes: Some(AttributeContext::default()) };
    failed(check(&mut client, tcp).await, "a check of the network filter");
    let oversized = question("/", &[("x-envoy-auth-partial-body", "false")], &[b'a'; 5000]);
    failed(check(&mut client, oversized).await, "a message above the bound");
    for (name, bytes) in [
        ("garbage", &[0xff, 0xff, 0xff, 0xff][..]),
        ("a cut message", &[0x0a, 0x50, 0x22, 0x10]),
        ("text that is no UTF-8", &[0x0a, 0x07, 0x22, 0x05, 0x12, 0x03, 0x0a, 0x01, 0xff]),
    ] {
        failed(raw(service.tcp().await, bytes).await.unwrap(), name);
    }
    let fine = check(&mut client, question("/", &[], b"")).await;
    assert_eq!(answer(&fine).0, 0, "the connection lives on");
    let (_, metrics) = service.page("/metrics");
    assert!(metrics.contains("{check=\"unreadable\",verdict=\"fail\"} 6"), "{metrics}");
}

/// Sends bytes in place of a CheckRequest.
async fn raw(channel: Channel, bytes: &'static [u8]) -> Result<CheckResponse, tonic::Status> {
    /// Encodes nothing: the bytes are the message.
    #[derive(Default)]
    struct Raw;
    impl tonic::codec::Codec for Raw {
        type Encode = &'static [u8];
        type Decode = CheckResponse;
        type Encoder = Self;
        type Decoder = <tonic_prost::ProstCodec<CheckRequest, CheckResponse> as tonic::codec::Codec>::Decoder;
        fn encoder(&mut self) -> Self {
            Self
        }
        fn decoder(&mut self) -> Self::Decoder {
            tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default().decoder()
        }
    }
    impl tonic::codec::Encoder for Raw {
        type Item = &'static [u8];
        type Error = tonic::Status;
        fn encode(&mut self, item: &'static [u8], into: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
            bytes::BufMut::put_slice(into, item);
            Ok(())
        }
    }
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
    grpc.unary(tonic::Request::new(bytes), path, Raw).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn partial_bodies_reach_the_decision() {
    let service = Service::start(&["security.rate_limit=1000"]);
    let mut client = AuthorizationClient::new(service.tcp().await);
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("x-envoy-auth-partial-body", "true")];
    let attack = b"q=1%27%20UNION%20SELECT%20password%20FROM%20users--%20&rest=";
    let denied = check(&mut client, question("/search", &headers, attack)).await;
    assert_eq!(answer(&denied), (7, 400, "Suspicious activity detected"));
    let harmless = check(&mut client, question("/search", &headers, b"q=spring+shoes&rest=")).await;
    assert_eq!(answer(&harmless).0, 0);
}

#[tokio::test]
async fn health_flips_and_calls_in_flight_are_answered_on_a_stop() {
    let mut service = Service::start(&["limits.drain_seconds=5"]);
    let mut health = HealthClient::new(service.tcp().await);
    for name in ["", "envoy.service.auth.v3.Authorization"] {
        let status = health.check(HealthCheckRequest { service: name.to_owned() }).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "`{name}`");
    }
    let missing = health.check(HealthCheckRequest { service: "nobody".to_owned() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    // A call whose message arrives in two parts, the second one after the stop.
    let (sender, body) = tokio::sync::mpsc::channel::<CheckRequest>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(body);
    let mut grpc = tonic::client::Grpc::new(service.tcp().await);
    grpc.ready().await.unwrap();
    let call = tokio::spawn(async move {
        let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
        let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
        grpc.client_streaming(tonic::Request::new(stream), path, codec).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    service.signal("TERM");
    let flipped = tokio::time::timeout(Duration::from_secs(5), watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(flipped.status(), ServingStatus::NotServing);
    for _ in 0..TRIES {
        if TcpStream::connect(service.grpc).is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(TcpStream::connect(service.grpc).is_err(), "no new connections");
    assert!(service.page("/readyz").0.contains("503"), "not ready, and says so");
    sender.send(question("/", &[], b"")).await.unwrap();
    drop((sender, watch, health));
    let answered = call.await.unwrap().unwrap().into_inner();
    assert_eq!(answer(&answered).0, 0, "the call in flight was answered");
    let status = service.child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", service.log());
    assert!(!service.socket().exists(), "the socket file is gone");
}

#[tokio::test]
async fn a_drain_ends_when_its_time_is_up() {
    let mut service = Service::start(&["limits.drain_seconds=1"]);
    let mut health = HealthClient::new(service.tcp().await);
    // A watch never ends by itself.
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    service.signal("INT");
    let status = tokio::task::spawn_blocking(move || service.child.wait().map(|status| status.code()));
    let code = tokio::time::timeout(Duration::from_secs(10), status).await.unwrap().unwrap().unwrap();
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let service = Service::start(&[]);
    let mut client = ServerReflectionClient::new(service.tcp().await);
    let ask = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let questions = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("envoy.service.auth.v3.Authorization".to_owned())),
    ];
    let mut answers = client.server_reflection_info(tokio_stream::iter(questions)).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = first else { panic!("{first:?}") };
    let names: Vec<&str> = list.service.iter().map(|service| &*service.name).collect();
    for name in ["envoy.service.auth.v3.Authorization", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let second = answers.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(second, MessageResponse::FileDescriptorResponse(_)), "{second:?}");
}

#[tokio::test]
async fn unknown_methods_and_other_protocols_are_refused() {
    let service = Service::start(&[]);
    let mut grpc = tonic::client::Grpc::new(service.tcp().await);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Nothing");
    let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
    let error = grpc.unary(tonic::Request::new(CheckRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);

    // HTTP/1.1, as Envoy speaks it without http2_protocol_options, does not hang.
    let mut stream = TcpStream::connect(service.grpc).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap_or_default();
    assert!(!bytes.starts_with(b"HTTP/1.1 2"), "no success");
}

#[tokio::test]
async fn the_admin_port_shows_what_runs() {
    let service = Service::start(&["security.redis_url=redis://user:geheim@localhost:6379"]);
    assert_eq!(service.page("/healthz"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    let (status, body) = service.page("/readyz");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let ready: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&ready["ready"], &ready["version"]), (&true.into(), &1.into()), "{ready}");
    let (_, body) = service.page("/config");
    assert!(!body.contains("geheim"), "secrets stay out: {body}");
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["hash"].as_str().map(str::len), Some(64), "{shown}");
    assert_eq!(shown["config"]["security"]["rate_limit"], 10);
    let (_, metrics) = service.page("/metrics");
    assert!(metrics.contains(&format!("config_info{{hash={}}} 1", shown["hash"])), "{metrics}");
    assert!(service.page("/nothing").0.contains("404"));
    assert_eq!(ready["policy"]["passive"], false, "{ready}");
}

#[tokio::test]
async fn detection_is_measured_on_sampled_requests() {
    let service = Service::start(&["detection.log_only_categories=[xss]", "security.rate_limit=1000"]);
    let mut client = AuthorizationClient::new(service.tcp().await);
    for number in 0..40 {
        let path = format!("/items?id={number}&note=%3Cscript%3Ealert({number})%3C/script%3E");
        assert_eq!(answer(&check(&mut client, question(&path, &[], b"")).await).0, 0, "only logged");
    }
    let (_, metrics) = service.page("/metrics");
    for series in [
        "envoy_guard_detection_stage_seconds_count{stage=\"scan\"} ",
        "envoy_guard_threats_log_only_total{category=\"xss\"} 40",
        "envoy_guard_decisions_total{check=\"suspicious_activity\",verdict=\"report\"} 40",
    ] {
        assert!(metrics.contains(series), "{series}\n{metrics}");
    }
    assert!(!metrics.contains("detection_stage_seconds_count{stage=\"scan\"} 0\n"), "{metrics}");
    let (_, stats) = service.page("/stats");
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert!(0 < stats["performance"]["summary"]["total_executions"].as_u64().unwrap(), "{stats}");
    let slow = stats["performance"]["slow_patterns"].as_array().unwrap();
    assert!(slow.iter().any(|one| one["pattern"] == "overall_detection"), "{stats}");
    assert_eq!(stats["components"]["performance_monitor"], true);
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_from_the_admin_port() {
    use envoy_guard::server::admin::CONNECTIONS_MAX;
    let service = Service::start(&[]);
    let idle: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(service.admin).unwrap()).collect();
    assert_eq!(service.page("/healthz").0, "HTTP/1.1 200 OK", "answered once the idle ones are cut");
    drop(idle);
}

#[tokio::test]
async fn a_hangup_loads_the_configuration_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guard.yaml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (grpc, admin) = (free(), free());
    let head = format!("listeners: {{grpc: \"{grpc}\", workers: 2}}\nadmin: {{address: \"{admin}\"}}\n");
    let with = |security: &str| format!("{head}security: {{enable_redis: false, rate_limit: 1000, {security}}}\n");
    write(&with("blocked_user_agents: []"));
    let child = command().args(["serve", "--config"]).arg(&file).stdout(Stdio::null()).spawn().unwrap();
    let service = Service { child, grpc, admin, folder: tempfile::tempdir().unwrap() };
    for _ in 0..TRIES {
        if TcpStream::connect(grpc).is_ok() && TcpStream::connect(admin).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut client = AuthorizationClient::new(service.tcp().await);
    let bot = || question("/", &[("user-agent", "evilbot")], b"");
    assert_eq!(answer(&check(&mut client, bot()).await).0, 0);

    let until = async |counter: &str| {
        service.signal("HUP");
        for _ in 0..TRIES {
            let (_, metrics) = service.page("/metrics");
            // The file is watched too: whoever comes second counts as well.
            if metrics.lines().any(|line| line.strip_prefix(counter).is_some_and(|count| count != " 0")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no {counter}");
    };
    write(&with("blocked_user_agents: [evilbot]"));
    until("envoy_guard_reloads_total{result=\"success\"}").await;
    assert_eq!(answer(&check(&mut client, bot()).await), (7, 403, "User-Agent not allowed"), "on the same connection");

    write(&with("blocked_user_agent: []"));
    until("envoy_guard_reloads_total{result=\"failure\"}").await;
    assert_eq!(answer(&check(&mut client, bot()).await).0, 7, "the old policy stays");
    let (_, ready) = service.page("/readyz");
    assert!(ready.contains("blocked_user_agent"), "the reason is shown: {ready}");
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command().args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn commands_say_what_is_wrong_by_exit_code() {
    let (code, out, _) = run(&["check-config"]);
    assert_eq!(code, Some(0), "{out}");
    let (code, out, _) = run(&["check-config", "--set", "security.rate_limt=3"]);
    assert_eq!(code, Some(64), "{out}");
    assert!(out.contains("rate_limit"), "the nearest key is named: {out}");
    let (code, out, _) = run(&["check-config", "--json", "--set", "security.custom_request_check=1 +"]);
    assert_eq!(code, Some(64), "what only compiling shows counts too: {out}");
    assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["valid"] == false, "{out}");
    let (code, _, error) = run(&["serve", "--set", "security.rate_limit=0", "--set", "nonsense=1"]);
    assert_eq!(code, Some(64), "{error}");
    assert!(error.contains("rate_limit") && error.contains("nonsense"), "all mistakes together: {error}");
    assert_eq!(run(&["nonsense"]).0, Some(64));
    assert_eq!(run(&["version"]).1, format!("{}\n", env!("CARGO_PKG_VERSION")));
    let (code, out, _) = run(&["schema"]);
    assert_eq!(code, Some(0));
    assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["properties"]["security"].is_object());
}

#[test]
fn a_taken_address_or_socket_is_an_error_at_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("listeners.grpc={}", taken.local_addr().unwrap());
    let (code, _, error) = run(&["serve", "--set", &address, "--set", "security.enable_redis=false"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("listeners.grpc"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let unix = |path: &Path| format!("listeners.unix={}", path.display());
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let (code, _, error) = run(&["serve", "--set", &unix(&file), "--set", "listeners.grpc=127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("taken by something else"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious", "no file of others is removed");

    let alive = folder.path().join("alive");
    let _listener = std::os::unix::net::UnixListener::bind(&alive).unwrap();
    let (code, _, error) = run(&["serve", "--set", &unix(&alive), "--set", "listeners.grpc=127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("another process"), "{error}");
}

/// A socket file that a dead process left behind is replaced.
#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut child = command()
        .args(["serve", "--set", &format!("listeners.unix={}", path.display())])
        .args(["--set", &format!("listeners.grpc={free}"), "--set", "admin.address=null"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut connected = false;
    for _ in 0..TRIES {
        connected = std::os::unix::net::UnixStream::connect(&path).is_ok();
        if connected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(connected);
}
