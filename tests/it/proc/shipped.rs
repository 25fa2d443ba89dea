//! The Envoy configurations that we ship: each filter, and both, over TCP, a Unix socket and TLS with certificates on both
//! sides. The files for TCP are written by hand; the others are the same but for the way to the guard.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::certificates::Authority;
use crate::stack::{Call, Stack, envoy_binary, policy};

const FILES: [&str; 3] = ["ext_authz.yaml", "ext_proc.yaml", "both.yaml"];
const HOSTILE: &str = r#"{"text": "<img src=x onerror=alert(document.cookie)>"}"#;

/// The way to the guard in the files for TCP.
const TCP_ADDRESS: &str = "endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 50051 } } }";
const UNIX_ADDRESS: &str = "endpoint: { address: { pipe: { path: /run/envoy-guard/guard.sock } } }";

const TLS: &str = r#"      # Both sides show certificates. Files are read again when they change on disk with SDS only; see the README.
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: guard.example
          common_tls_context:
            # Without it the guard would not know that this is HTTP/2.
            alpn_protocols: [h2]
            # As a client Envoy stops at 1.2 by itself.
            tls_params: { tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3 }
            # Who this Envoy is; the guard lets in whom `listeners.tls.client_ca_file` vouches for.
            tls_certificates:
              - certificate_chain: { filename: /etc/envoy/tls/envoy.crt }
                private_key: { filename: /etc/envoy/tls/envoy.key }
            # Whom it takes for the guard.
            validation_context:
              trusted_ca: { filename: /etc/envoy/tls/ca.pem }
              match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: guard.example } }]
"#;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy")
}

fn shipped(file: &str) -> String {
    std::fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Replaces what must be there.
#[track_caller]
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "`{from}` once in\n{text}");
    text.replace(from, to)
}

fn over_unix(file: &str) -> String {
    let text = replaced(&shipped(file), TCP_ADDRESS, UNIX_ADDRESS);
    let picture = replaced(&text, "\\-> :50051 envoy-guard", "\\-> Unix socket, envoy-guard");
    format!("# Like ../{file}, over a Unix socket (`listeners.unix`). Made from it: change it there.\n#\n{picture}")
}

fn over_mtls(file: &str) -> String {
    let text = shipped(file);
    let protocol = "      # gRPC needs HTTP/2; without this every check fails.\n";
    let text = replaced(&text, protocol, &format!("{TLS}{protocol}"));
    let picture = replaced(&text, "\\-> :50051 envoy-guard", "\\-> :50051 (TLS) envoy-guard");
    format!(
        "# Like ../{file}, with TLS and certificates on both sides (`listeners.tls`). Made from it: change it there.\n#\n{picture}"
    )
}

#[test]
fn the_ways_to_the_guard_differ_in_nothing_else() {
    let rewrites = std::env::var_os("ENVOY_GUARD_BLESS").is_some();
    for file in FILES {
        for (way, expected) in [("unix", over_unix(file)), ("mtls", over_mtls(file))] {
            let path = folder().join(way).join(file);
            if rewrites {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &expected).unwrap();
            }
            let is = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(is, expected, "envoy/{way}/{file}; ENVOY_GUARD_BLESS=1 rewrites it");
        }
    }
}

/// An authority that vouches for both sides.
fn authority() -> Authority {
    let authority = Authority::new();
    authority.write("guard", "guard.example", 2050);
    authority.write("envoy", "envoy.example", 2050);
    authority
}

fn with_files(text: &str, authority: &Authority) -> String {
    text.replace("/etc/envoy/tls", &authority.folder().display().to_string())
}

#[test]
fn every_shipped_file_is_valid() {
    let authority = authority();
    let mut files: Vec<String> = FILES.iter().map(|file| (*file).to_owned()).collect();
    files.extend(["unix", "mtls"].iter().flat_map(|way| FILES.map(|file| format!("{way}/{file}"))));
    for file in files {
        let text = with_files(&shipped(&file), &authority);
        let path = authority.path("envoy.yaml");
        std::fs::write(&path, text).unwrap();
        let output = Command::new(envoy_binary()).args(["--mode", "validate", "-c"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Real requests: one that passes, a refused one, a refused body; the access log says who decided what.
fn works(file: &str, policy: &str, edit: impl Fn(String) -> String) {
    let mut stack = Stack::of(file, policy, edit);
    let from = "198.51.100.7";
    let passed = stack.send(&Call::get("/a").from(from));
    assert_eq!((passed.status, passed.header("x-frame-options")), (200, Some("SAMEORIGIN")), "{file}: {passed:?}");
    let refused = stack.send(&Call::get("/admin").from(from));
    assert_eq!((refused.status, refused.body.as_str()), (400, "Missing required header: x-operator"), "{file}");
    let found = stack.send(&Call::new("POST", "/c").from(from).body("application/json", HOSTILE));
    assert_eq!((found.status, found.body.as_str()), (400, "Suspicious activity detected"), "{file}");
    assert_eq!(stack.application.seen(), 1, "{file}");
    let (allowed, refused) = (stack.access_log(0), stack.access_log(1));
    assert_eq!(
        (&allowed["guard"]["decision"], &allowed["status"]),
        (&"allow".into(), &200.into()),
        "{file}: {allowed}"
    );
    let named = (&refused["guard"]["decision"], &refused["guard"]["check"], &refused["guard"]["route"]);
    assert_eq!(named, (&"deny".into(), &"required_headers".into(), &"admin".into()), "{file}: {refused}");
}

const ADMIN: &str = "routes:\n  - name: admin\n    required_headers: { x-operator: required }\n";

#[test]
fn every_shipped_file_works_over_a_unix_socket() {
    let sockets = tempfile::tempdir().unwrap();
    for file in FILES {
        let socket = sockets.path().join(file.replace(".yaml", ".sock"));
        let policy = policy("rate_limit: 100000", ADMIN, 0, 0);
        let policy = replaced(&policy, "listeners:\n", &format!("listeners:\n  unix: {}\n", socket.display()));
        works(&format!("unix/{file}"), &policy, |text| {
            text.replace("/run/envoy-guard/guard.sock", &socket.display().to_string())
        });
    }
}

#[test]
fn every_shipped_file_works_over_tls_with_certificates_on_both_sides() {
    let authority = authority();
    let folder = authority.folder().display();
    for file in FILES {
        let policy = policy("rate_limit: 100000", ADMIN, 0, 0);
        let tls = format!(
            "listeners:\n  tls: {{ cert_file: {folder}/guard.crt, key_file: {folder}/guard.key, client_ca_file: \
             {folder}/ca.pem, client_names: [envoy.example] }}\n"
        );
        works(&format!("mtls/{file}"), &replaced(&policy, "listeners:\n", &tls), |text| with_files(&text, &authority));
    }
}
