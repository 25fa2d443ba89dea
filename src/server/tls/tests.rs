//! Handshakes over memory: who gets in, who does not and why, and what an exchange of terms does.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000.0);

/// An authority with files in a folder.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate with these names, and its key, as PEM texts.
    fn issue(&self, names: Vec<SanType>, until: i32) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// A server's files, and the clients' authority.
struct World {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("first") };
        world.write("ca.pem", &world.authority.pem);
        world.serve_as("guard.test", 2099);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn serve_as(&self, name: &str, until: i32) {
        let (certificate, key) = self.authority.issue(vec![dns(name)], until);
        self.write("tls.crt", &certificate);
        self.write("tls.key", &key);
    }

    fn settings(&self, names: &[&str]) -> ServerTls {
        ServerTls {
            cert_file: self.path("tls.crt"),
            key_file: self.path("tls.key"),
            client_ca_file: Some(self.path("ca.pem")),
            require_client_certificate: true,
            client_names: names.iter().map(|name| name.parse().unwrap()).collect(),
            min_version: TlsVersion::V1_2,
        }
    }

    fn read(&self, tls: &ServerTls) -> Result<Arc<Terms>, TlsError> {
        Terms::read("listeners.tls", tls, b"h2", clock::now()).map(Arc::new)
    }

    fn tls(&self, names: &[&str]) -> Tls {
        Tls::new("grpc", Some(self.read(&self.settings(names)).unwrap()))
    }

    /// A client that trusts the authority and shows `identity`.
    fn client(&self, identity: Option<(String, String)>) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// How a handshake with `client` ended, as the counts have it.
async fn shake(tls: &Tls, client: TlsConnector) -> (&'static str, Option<String>) {
    let before: Vec<u64> = tls.ends().map(|(_, count)| count).collect();
    let (ours, theirs) = duplex(64 * 1024);
    let calling = tokio::spawn(async move {
        let mut stream = client.connect(ServerName::try_from("guard.test").unwrap(), theirs).await?;
        // With TLS 1.3 a client learns of its refusal when it reads.
        stream.read_u8().await
    });
    let secured = tls.secure(ours, Some(Ipv4Addr::LOCALHOST.into())).await;
    let peer = secured.as_ref().and_then(Secured::peer);
    if let Some(Secured::Tls(mut stream)) = secured {
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream.write_u8(7).await.unwrap();
        assert_eq!(calling.await.unwrap().unwrap(), 7);
    } else {
        assert!(calling.await.unwrap().is_err(), "a refused client is not connected");
    }
    let changed: Vec<&'static str> =
        tls.ends().zip(before).filter(|((_, count), before)| *count == before + 1).map(|((end, _), _)| end).collect();
    assert_eq!(changed.len(), 1, "one end is counted: {changed:?}");
    (changed[0], peer)
}

#[tokio::test]
async fn only_those_with_a_certificate_and_a_name_get_in() {
    let world = World::new();
    let other = Authority::new("other");
    let tls = world.tls(&["envoy.test", "spiffe://mesh/ns/edge/*"]);
    for (name, identity, expected) in [
        ("a DNS name", Some(world.authority.issue(vec![dns("envoy.test")], 2099)), "done"),
        ("a SPIFFE identity", Some(world.authority.issue(vec![uri("spiffe://mesh/ns/edge/sa/envoy")], 2099)), "done"),
        ("another name", Some(world.authority.issue(vec![dns("app.test")], 2099)), "wrong_name"),
        (
            "another trust domain",
            Some(world.authority.issue(vec![uri("spiffe://evil/ns/edge/sa/envoy")], 2099)),
            "wrong_name",
        ),
        (
            "two identities at once",
            Some(world.authority.issue(vec![uri("spiffe://mesh/ns/edge/x"), uri("spiffe://evil/x")], 2099)),
            "wrong_name",
        ),
        ("no name", Some(world.authority.issue(vec![], 2099)), "wrong_name"),
        ("expired", Some(world.authority.issue(vec![dns("envoy.test")], 2021)), "expired"),
        ("a foreign authority", Some(other.issue(vec![dns("envoy.test")], 2099)), "unknown_authority"),
        ("no certificate", None, "no_certificate"),
    ] {
        assert_eq!(shake(&tls, world.client(identity)).await.0, expected, "{name}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_only_wished_for_names_its_holder() {
    let world = World::new();
    let mut settings = world.settings(&[]);
    settings.require_client_certificate = false;
    let terms = world.read(&settings).unwrap();
    assert!(!terms.demands_certificate);
    let tls = Tls::new("admin", Some(terms));
    let identity = world.authority.issue(vec![dns("ops.test")], 2099);
    assert_eq!(shake(&tls, world.client(Some(identity))).await, ("done", Some("ops.test".to_owned())));
    assert_eq!(shake(&tls, world.client(None)).await, ("done", None));
}

#[tokio::test]
async fn who_speaks_no_tls_is_refused() {
    let world = World::new();
    let tls = world.tls(&[]);
    for (spoken, expected) in [
        (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], "plaintext"),
        (&b"GET / HTTP/1.1\r\n"[..], "plaintext"),
        (b"", "gone"),
    ] {
        let (ours, mut theirs) = duplex(1024);
        theirs.write_all(spoken).await.unwrap();
        if spoken.is_empty() {
            drop(theirs);
        }
        assert!(tls.secure(ours, None).await.is_none());
        assert!(tls.ends().any(|(end, count)| end == expected && count != 0), "{expected}");
    }
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let world = World::new();
    let tls = Tls { patience: Duration::from_millis(20), ..world.tls(&[]) };
    let (ours, _theirs) = duplex(1024);
    assert!(tls.secure(ours, None).await.is_none());
    assert!(tls.ends().any(|end| end == ("late", 1)));
    // Who waits for a place is late too.
    let _all = tls.room.acquire_many(u32::try_from(HANDSHAKES_MAX).unwrap()).await.unwrap();
    let (ours, _theirs) = duplex(1024);
    assert!(tls.secure(ours, None).await.is_none());
    assert!(tls.ends().any(|end| end == ("late", 2)));
}

#[tokio::test]
async fn new_handshakes_go_by_the_new_terms() {
    let world = World::new();
    let tls = world.tls(&["envoy.test"]);
    let identity = || Some(world.authority.issue(vec![dns("envoy.test")], 2099));
    assert_eq!(shake(&tls, world.client(identity())).await.0, "done");
    world.serve_as("guard.test", 2098);
    let next = world.read(&world.settings(&["nobody.test"])).unwrap();
    assert!(next.expires < tls.terms().unwrap().expires);
    tls.exchange(Some(next));
    assert_eq!(shake(&tls, world.client(identity())).await.0, "wrong_name");
    tls.exchange(None);
    let (ours, _theirs) = duplex(64);
    assert!(matches!(tls.secure(ours, None).await, Some(Secured::Plain(_))));
}

#[test]
fn files_that_do_not_fit_are_refused_by_their_key() {
    let world = World::new();
    let refused = |name: &str, text: &str, key: &str, hit: &str| {
        let good = std::fs::read(world.path(name)).unwrap();
        world.write(name, text);
        let error = world.read(&world.settings(&[])).unwrap_err();
        assert!(error.key.ends_with(key) && error.message.contains(hit), "{name}: {error}");
        std::fs::write(world.path(name), good).unwrap();
    };
    let (past, _) = world.authority.issue(vec![dns("guard.test")], 2021);
    refused("tls.crt", "", "cert_file", "holds no certificate");
    refused("tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cert_file", "cannot be read");
    refused("tls.crt", &past, "cert_file", "ended on");
    refused("tls.key", "", "key_file", "holds no key");
    let (_, foreign) = world.authority.issue(vec![], 2099);
    refused("tls.key", &foreign, "key_file", "");
    refused("ca.pem", "nothing", "client_ca_file", "holds no certificate");
    refused("tls.crt", &"x".repeat(1024 * 1024 + 1), "cert_file", "larger than");
    assert!(world.read(&world.settings(&[])).is_ok(), "the good files were put back");
    let early = Terms::read("listeners.tls", &world.settings(&[]), b"h2", Timestamp(NOW.0 - 1e9)).unwrap_err();
    assert!(early.message.contains("begins on"), "{early}");
}
