use super::*;
use crate::model::addr::IpEntry;

fn proxies(trusted: &[&str], depth: usize) -> Proxies {
    let entries: Vec<IpEntry> = trusted.iter().filter_map(|entry| entry.parse().ok()).collect();
    Proxies { trusted: entries.iter().collect(), unix: trusted.contains(&"unix"), depth, proto: true }
}

fn request<'r>(peer: &'r str, lines: &[&'r str]) -> Request<'r> {
    let mut headers = Headers::default();
    for line in lines {
        headers.push("x-forwarded-for", line.as_bytes());
    }
    Request {
        id: "",
        method: "GET",
        scheme: "http",
        host: "example.com",
        target: "/".into(),
        protocol: "HTTP/1.1",
        headers,
        body: crate::request::Body::Absent,
        peer: peer.into(),
        route: None,
        tls: crate::request::Tls::default(),
    }
}

#[test]
fn identity_truth_table() {
    const T: &[&str] = &["10.0.0.1"];
    // (peer, chain lines, trusted, depth, identity)
    for (peer, lines, trusted, depth, expected) in [
        ("203.0.113.9", &["1.1.1.1"][..], &[][..], 1, "203.0.113.9"),
        ("203.0.113.9", &["1.1.1.1"], T, 1, "203.0.113.9"),
        ("10.0.0.1", &[], T, 1, "10.0.0.1"),
        ("10.0.0.1", &[""], T, 1, "10.0.0.1"),
        ("10.0.0.1", &["9.9.9.9, 1.1.1.1"], T, 1, "1.1.1.1"),
        ("10.0.0.1", &["9.9.9.9", "1.1.1.1"], T, 1, "1.1.1.1"),
        ("10.0.0.1", &["9.9.9.9,1.1.1.1:443"], T, 1, "1.1.1.1"),
        ("10.0.0.1", &["[2001:DB8::1]:443"], T, 1, "2001:db8::1"),
        ("10.0.0.1", &["[2001:DB8::1]"], T, 1, "2001:db8::1"),
        ("10.0.0.1", &["::ffff:1.2.3.4"], T, 1, "1.2.3.4"),
        ("10.0.0.1", &["unknown"], T, 1, "10.0.0.1"),
        ("10.0.0.1", &["1.1.1.1,"], T, 1, "10.0.0.1"),
        ("10.0.0.1", &["001.1.1.1"], T, 1, "10.0.0.1"),
        ("10.0.0.1", &["1.1.1.1:abc"], T, 1, "10.0.0.1"),
        ("10.0.0.1", &["1.1.1.1, 10.0.0.1"], T, 1, "10.0.0.1"),
        ("10.0.0.1", &["1.1.1.1, 10.0.0.1"], T, 2, "1.1.1.1"),
        ("10.0.0.1", &["1.1.1.1", "10.0.0.1"], T, 2, "1.1.1.1"),
        ("10.0.0.1", &["1.1.1.1"], T, 2, "10.0.0.1"),
        ("10.0.0.1", &["9.9.9.9, 1.1.1.1, 8.8.8.8"], T, 2, "8.8.8.8"),
        // The walk skips the proxy on the right and stops at the first stranger.
        ("10.0.0.1", &["9.9.9.9, 1.1.1.1, 10.0.0.1"], T, 3, "1.1.1.1"),
        ("10.0.0.1", &["junk, 10.0.0.1"], T, 2, "10.0.0.1"),
        ("10.0.0.1", &["fe80::1%eth0"], T, 1, "fe80::1%eth0"),
        ("10.0.0.1", &["fe80::1%*"], T, 1, "10.0.0.1"),
        // Decision 21 changes the next four rows: guard-core compares the raw text of the peer and trusts none of them.
        ("::ffff:10.0.0.1", &["1.1.1.1"], T, 1, "1.1.1.1"),
        ("::ffff:10.0.0.1", &["1.1.1.1"], &["10.0.0.0/8"], 1, "1.1.1.1"),
        ("2001:DB8:0::1", &["1.1.1.1"], &["2001:db8::1"], 1, "1.1.1.1"),
        ("[2001:db8::1]", &["1.1.1.1"], &["2001:db8::1"], 1, "1.1.1.1"),
        ("::ffff:10.0.0.1", &["1.1.1.1"], &["::ffff:0:0/96"], 1, "1.1.1.1"),
        ("::ffff:a00:1", &["1.1.1.1"], &["::ffff:10.0.0.1"], 1, "1.1.1.1"),
        ("testclient", &["1.1.1.1"], T, 1, "testclient"),
        ("", &["1.1.1.1"], T, 1, "unknown"),
        ("", &["1.1.1.1"], &["unix"], 1, "1.1.1.1"),
        ("", &["1.1.1.1, 2.2.2.2"], &["unix"], 2, "2.2.2.2"),
        ("", &["1.1.1.1, 2.2.2.2"], &["unix", "2.2.2.2"], 2, "1.1.1.1"),
        ("", &[], &["unix"], 1, "unknown"),
    ] {
        let identity = identify(&proxies(trusted, depth), &request(peer, lines));
        assert_eq!(identity.client.to_string(), expected, "{peer:?} {lines:?} {trusted:?} {depth}");
    }
}

#[test]
fn spoofing_is_a_claim_by_a_stranger() {
    for (name, peer, lines, trusted, expected) in [
        ("a stranger claims another address", "203.0.113.9", &["1.1.1.1"][..], &["10.0.0.1"][..], true),
        ("Envoy appended the stranger itself", "203.0.113.9", &["203.0.113.9"], &["10.0.0.1"], false),
        ("no header", "203.0.113.9", &[], &["10.0.0.1"], false),
        ("an empty header", "203.0.113.9", &[""], &["10.0.0.1"], false),
        ("a trusted peer", "10.0.0.1", &["1.1.1.1"], &["10.0.0.1"], false),
        ("nobody is trusted, so nobody is believed", "203.0.113.9", &["1.1.1.1"], &[], false),
    ] {
        assert_eq!(identify(&proxies(trusted, 1), &request(peer, lines)).spoofed, expected, "{name}");
    }
}

#[test]
fn reports_of_the_chain_mask_what_is_no_address() {
    let request = request("203.0.113.9", &["1.1.1.1, <script>", "2.2.2.2:80"]);
    assert_eq!(masked_chain(&request), "1.1.1.1, [REDACTED], 2.2.2.2:80");
}

#[test]
fn the_scheme_is_envoys_word_or_a_trusted_peers() {
    for (name, scheme, peer, header, trusted, proto, expected) in [
        ("Envoy says https", "https", "1.1.1.1", None, &[][..], false, true),
        ("scheme is compared exactly", "HTTPS", "1.1.1.1", None, &[], false, false),
        ("a trusted peer says https", "http", "10.0.0.1", Some("HTTPS"), &["10.0.0.0/8"], true, true),
        ("a list of schemes is not https", "http", "10.0.0.1", Some("https,http"), &["10.0.0.0/8"], true, false),
        ("a stranger says https", "http", "1.1.1.1", Some("https"), &["10.0.0.0/8"], true, false),
        ("the option is off", "http", "10.0.0.1", Some("https"), &["10.0.0.0/8"], false, false),
        ("a Unix peer is never believed", "http", "", Some("https"), &["unix"], true, false),
        ("text that is no address is never trusted", "http", "junk", Some("https"), &["10.0.0.0/8"], true, false),
    ] {
        let mut request = request(peer, &[]);
        request.scheme = scheme;
        if let Some(header) = header {
            request.headers.push("x-forwarded-proto", header.as_bytes());
        }
        let proxies = Proxies { proto, ..proxies(trusted, 1) };
        assert_eq!(is_secure(&proxies, &request), expected, "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn no_chain_panics_or_names_a_client_that_is_no_address(chain in ".{0,60}", depth in 1usize..5) {
        let identity = identify(&proxies(&["10.0.0.1"], depth), &request("10.0.0.1", &[&chain]));
        let is_address = matches!(identity.client, Client::Address(_) | Client::Zoned { .. });
        proptest::prop_assert!(is_address);
    }
}
