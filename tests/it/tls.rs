//! TLS between a real Envoy and the service: who gets in, and certificates that change under load.

use std::process::{Command, Stdio};

use crate::certificates::Authority;
use crate::load::{Kind, Load, Shot};
use crate::redis_servers::eventually;
use crate::stack::{Call, Stack};

/// The shipped Envoy file, with TLS to the service.
pub(crate) fn with_tls(envoy: &str, authority: &Authority, client: &str) -> String {
    let (ca, crt, key) =
        (authority.path("ca.pem"), authority.path(&format!("{client}.crt")), authority.path(&format!("{client}.key")));
    let socket = format!(
        r#"    - name: envoy-guard
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: guard.test
          common_tls_context:
            alpn_protocols: [h2]
            # As a client Envoy stops at 1.2 by itself.
            tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
            tls_certificates:
              - certificate_chain: {{ filename: "{}" }}
                private_key: {{ filename: "{}" }}
            validation_context:
              trusted_ca: {{ filename: "{}" }}
              match_typed_subject_alt_names: [{{ san_type: DNS, matcher: {{ exact: guard.test }} }}]
"#,
        crt.display(),
        key.display(),
        ca.display()
    );
    let edited = envoy.replacen("    - name: envoy-guard\n", &socket, 1);
    assert_ne!(edited, envoy, "the cluster was found");
    edited
}

/// The `listeners` part of a policy file with TLS.
pub(crate) fn demanding(policy: &str, authority: &Authority) -> String {
    let folder = authority.folder().display();
    policy.replacen(
        "listeners:\n",
        &format!(
            "listeners:\n  tls:\n    cert_file: {folder}/guard.crt\n    key_file: {folder}/guard.key\n    client_ca_file: \
             {folder}/ca.pem\n    client_names: [\"spiffe://mesh.test/ns/edge/*\"]\n    min_version: TLSv1.3\n"
        ),
        1,
    )
}

fn metric(admin: u16, name: &str) -> u64 {
    let page = Call::get("/metrics").send(admin).body;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

fn ends(admin: u16, end: &str) -> u64 {
    metric(admin, &format!("envoy_guard_tls_handshakes_total{{end=\"{end}\"}}"))
}

/// Tries a handshake as a client with these files; how it went is read from the service's counts.
fn try_as(authority: &Authority, port: u16, client: Option<&str>) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-alpn", "h2", "-connect", &format!("127.0.0.1:{port}"), "-CAfile"]);
    command.arg(authority.path("ca.pem"));
    if let Some(client) = client {
        command.arg("-cert").arg(authority.path(&format!("{client}.crt")));
        command.arg("-key").arg(authority.path(&format!("{client}.key")));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
}

#[test]
fn an_envoy_with_the_right_identity_gets_in_and_a_rotation_fails_no_request() {
    let authority = Authority::new();
    authority.write("guard", "guard.test", 2090);
    authority.write("envoy", "spiffe://mesh.test/ns/edge/sa/envoy", 2090);
    authority.write("wrong", "spiffe://mesh.test/ns/other/sa/app", 2090);
    authority.write("expired", "spiffe://mesh.test/ns/edge/sa/envoy", 2021);
    let stack = Stack::with_policy_edit(
        "rate_limit: 1000000",
        // Connections end after a second, so that every rotation is met by new ones.
        "limits: { max_connection_age: 1 }",
        |envoy| with_tls(&envoy, &authority, "envoy"),
        |policy| demanding(&policy, &authority),
    );
    assert_eq!(stack.send(&Call::get("/").from("192.0.2.1")).status, 200);
    assert!(ends(stack.admin, "done") != 0, "Envoy came through TLS");

    for (client, end) in [(Some("wrong"), "wrong_name"), (Some("expired"), "expired"), (None, "no_certificate")] {
        try_as(&authority, stack.grpc(), client);
        eventually("the refusal is counted", || ends(stack.admin, end) == 1);
    }
    drop(Call::get("/").try_send(stack.grpc()));
    eventually("plaintext is counted", || ends(stack.admin, "plaintext") == 1);
    // Lines are written by a thread of their own.
    for reason in ["wrong_name", "expired", "no_certificate", "plaintext"] {
        eventually("the log says why", || stack.guard.log().contains(&format!("reason=\"{reason}\"")));
    }
    let log = stack.guard.log();
    assert!(log.contains("spiffe://mesh.test/ns/other/sa/app"), "whose name was wrong: {log}");

    let load = Load::start(stack.port, |number| Shot {
        kind: Kind::Clean,
        client: format!("198.51.100.{}", number % 200),
        path: "/",
    });
    let expires = || metric(stack.admin, "envoy_guard_tls_certificate_expires{}");
    for year in [2080, 2081, 2082] {
        let before = (expires(), ends(stack.admin, "done"));
        authority.write("guard", "guard.test", year);
        stack.guard.signal("HUP");
        eventually("the new certificate is used", || expires() != before.0 && before.1 < ends(stack.admin, "done"));
    }
    let (before, failures) = (expires(), reload_failures(stack.admin));
    authority.write("guard", "guard.test", 2021);
    stack.guard.signal("HUP");
    eventually("an expired certificate is refused", || failures < reload_failures(stack.admin));
    assert_eq!(expires(), before, "the old one stays");
    assert!(stack.guard.log().contains("listeners.tls.cert_file: the certificate ended on"), "{}", stack.guard.log());
    let tally = load.stop();
    assert_eq!(tally.count(Kind::Clean, |status| status != 200), 0, "{:?}", tally.statuses);
}

fn reload_failures(admin: u16) -> u64 {
    metric(admin, "envoy_guard_reloads_total{result=\"failure\"}")
}
