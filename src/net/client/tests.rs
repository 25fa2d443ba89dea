use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers every connection with the same bytes, and keeps what it was asked.
struct Server {
    url: String,
    asked: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Server {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// What a server does after its answer.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Hang,
    /// Writes the same bytes again and again.
    Repeat,
}

async fn server(answer: impl Into<Vec<u8>>, then: Then) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (answer, log) = (answer.into(), Arc::clone(&asked));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (answer, log) = (answer.clone(), Arc::clone(&log));
            tokio::spawn(async move {
                let mut question = Vec::new();
                while !question.windows(4).any(|end| end == b"\r\n\r\n") {
                    if socket.read_buf(&mut question).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                log.lock().unwrap().push(String::from_utf8_lossy(&question).into_owned());
                let mut alive = socket.write_all(&answer).await.is_ok();
                match then {
                    Then::Close => {}
                    Then::Hang => std::future::pending().await,
                    Then::Repeat => {
                        while alive {
                            alive = socket.write_all(&answer[answer.len() - 1000..]).await.is_ok();
                        }
                    }
                }
            });
        }
    });
    Server { url, asked }
}

fn client() -> Client {
    Client::new(&Options::default()).unwrap()
}

fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn fetched(answer: Vec<u8>, then: Then) -> Result<Vec<u8>, FetchError> {
    let server = server(answer, then).await;
    let request = Request { body_bytes_max: 5000, timeout: Duration::from_millis(500), ..Request::get(&server.url) };
    client().send(&request).await.map(|response| response.body)
}

#[tokio::test]
async fn answers_are_bounded_in_bytes_and_time() {
    let full = vec![b'x'; 5000];
    let late = Err(FetchError::Timeout(Duration::from_millis(500)));
    let endless = "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &"y".repeat(1000);
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for (name, answer, then, expected) in [
        ("a body at the bound", ok("", &full), Then::Close, Ok(full.clone())),
        ("one byte more", ok("", &vec![b'x'; 5001]), Then::Close, Err(FetchError::TooLarge(5000))),
        (
            "an announced size is believed before a byte is read",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n".to_vec(),
            Then::Hang,
            Err(FetchError::TooLarge(5000)),
        ),
        ("an endless body", endless.into_bytes(), Then::Repeat, Err(FetchError::TooLarge(5000))),
        ("silence", Vec::new(), Then::Hang, late.clone()),
        ("silence after the header", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345".to_vec(), Then::Hang, late),
        ("a chunked body", (chunks.clone() + "3\r\nabc\r\n0\r\n\r\n").into_bytes(), Then::Close, Ok(b"abc".to_vec())),
        ("gzip", ok("content-encoding: gzip\r\n", &gzip(b"abc")), Then::Close, Ok(b"abc".to_vec())),
        (
            "a bomb",
            ok("content-encoding: gzip\r\n", &gzip(&vec![0; 1 << 20])),
            Then::Close,
            Err(FetchError::TooLarge(5000)),
        ),
        ("a lie", ok("content-encoding: gzip\r\n", b"abc"), Then::Close, Err(FetchError::Coding)),
        ("an unknown coding", ok("content-encoding: zstd\r\n", b"abc"), Then::Close, Err(FetchError::Coding)),
    ] {
        assert_eq!(fetched(answer, then).await, expected, "{name}");
    }
}

#[tokio::test]
async fn answers_that_break_off_are_errors() {
    for (name, answer) in [
        ("a cut body", &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n123"[..]),
        ("a cut header", b"HTTP/1.1 200 OK\r\ncont"),
        ("a cut chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc"),
        ("nothing", b""),
        ("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    ] {
        let found = fetched(answer.to_vec(), Then::Close).await;
        assert!(matches!(found, Err(FetchError::Broken(_))), "{name}: {found:?}");
    }
    let flood = "HTTP/1.1 200 OK\r\n".to_owned() + &"a: b\r\n".repeat(200_000);
    let found = fetched(flood.into_bytes(), Then::Hang).await;
    assert!(matches!(found, Err(FetchError::Broken(_))), "a flood of header fields: {found:?}");
}

#[tokio::test]
async fn nobody_there_is_told_apart() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for url in [format!("http://{gone}/"), "http://does-not-exist.invalid/".to_owned()] {
        let found = client().send(&Request::get(&url)).await;
        assert!(matches!(found, Err(FetchError::Connect(_))), "{url}: {found:?}");
    }
    for url in ["", "nothing", "ftp://example.com/", "file:///etc/passwd", "http://"] {
        let found = client().send(&Request::get(url)).await;
        assert!(matches!(found, Err(FetchError::Url(_))), "{url}: {found:?}");
    }
}

#[tokio::test]
async fn redirects_are_followed_within_bounds() {
    let target = server(ok("", b"found"), Then::Close).await;
    let moved = |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    let away = server(moved(&target.url), Then::Close).await;
    let headers = [("authorization", "Bearer planted-secret")];
    let request = Request { headers: &headers, ..Request::get(&away.url) };
    assert_eq!(client().send(&request).await.unwrap().body, b"found");
    assert!(away.asked()[0].contains("planted-secret"), "whom it was meant for");
    assert!(!target.asked()[0].contains("planted-secret"), "nobody else");

    let request = Request { redirects_max: 0, ..Request::get(&away.url) };
    let answer = client().send(&request).await.unwrap();
    assert_eq!((answer.status, answer.header("location")), (302, Some(&*target.url)));
    let answer = client().send(&Request::post(&away.url, b"{}")).await.unwrap();
    assert_eq!(answer.status, 302, "a POST is never sent elsewhere");

    for (name, location, expected) in [
        ("in a circle", "/", "too often"),
        ("a file", "file:///etc/passwd", "to another scheme"),
        ("no URL", "http://[", "to nowhere"),
    ] {
        let server = server(moved(location), Then::Close).await;
        let found = client().send(&Request::get(&server.url)).await;
        assert_eq!(found.unwrap_err(), FetchError::Redirect(expected), "{name}");
        assert!(server.asked().len() <= 4, "{name}");
    }
}

#[tokio::test]
async fn known_answers_are_asked_for_by_their_tags() {
    let answer = "HTTP/1.1 304 Not Modified\r\netag: \"b\"\r\n\r\n";
    let server = server(answer, Then::Close).await;
    let known =
        Validators { etag: Some("\"a\"".to_owned()), last_modified: Some("Mon, 02 Nov 2026 10:00:00 GMT".to_owned()) };
    let request = Request { known: Some(&known), ..Request::get(&server.url) };
    let found = client().send(&request).await.unwrap().success().unwrap();
    assert!(found.is_not_modified());
    assert_eq!(found.validators().etag.as_deref(), Some("\"b\""));
    let asked = server.asked().remove(0);
    assert!(asked.contains("if-none-match: \"a\"\r\n"), "{asked}");
    assert!(asked.contains("if-modified-since: Mon, 02 Nov 2026 10:00:00 GMT\r\n"), "{asked}");
}

#[tokio::test]
async fn a_long_answer_to_a_post_is_cut() {
    let server = server(ok("content-type: text/plain\r\n", &vec![b'z'; 200_000]), Then::Close).await;
    let answer = client().send(&Request::post(&server.url, b"hello")).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 64 << 10));
    assert!(server.asked()[0].starts_with("POST / HTTP/1.1\r\n"), "{:?}", server.asked());
}

#[tokio::test]
async fn no_error_tells_a_secret() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://user:planted-password@{gone}/p?token=planted-token");
    let headers = [("authorization", "Bearer planted-header")];
    let error = client().send(&Request { headers: &headers, ..Request::get(&url) }).await.unwrap_err();
    let bad = client().send(&Request { headers: &[("x", "planted\nheader")], ..Request::get(&url) }).await.unwrap_err();
    assert_eq!(bad, FetchError::Header("x".to_owned()));
    for text in [error.to_string(), format!("{error:?}"), bad.to_string(), shown(&url)] {
        assert!(!text.contains("planted"), "{text}");
    }
    assert_eq!(shown(&url), format!("http://{gone}/p"));
    assert_eq!(shown("https://example.com/a?b#c"), "https://example.com/a");
    assert_eq!(shown("file:///data/AWS.json"), "file:/data/AWS.json");
}

#[tokio::test]
async fn only_trusted_authorities_vouch_for_a_server() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    choose_cryptography();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            count.fetch_add(1, Ordering::Relaxed);
            let mut question = vec![0; 4096];
            assert_ne!(stream.read(&mut question).await.unwrap(), 0);
            stream.write_all(&ok("connection: close\r\n", b"secure")).await.unwrap();
            stream.shutdown().await.unwrap_or_default();
        }
    });
    let error = client().send(&Request::get(&url)).await.unwrap_err();
    assert!(matches!(&error, FetchError::Connect(why) if why.contains("certificate")), "{error:?}");
    assert_eq!(accepted.load(Ordering::Relaxed), 0);
    let trusting = Options { authorities: cert.pem().into_bytes(), ..Options::default() };
    let answer = Client::new(&trusting).unwrap().send(&Request::get(&url)).await.unwrap();
    assert_eq!(answer.body, b"secure");

    for bad in [&b"no certificate"[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let options = Options { authorities: bad.to_vec(), ..Options::default() };
        assert!(matches!(Client::new(&options), Err(ClientError::Authorities(_))));
    }
}
