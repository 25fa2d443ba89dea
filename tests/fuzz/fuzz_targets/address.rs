//! Addresses and networks, as configuration and headers write them; and who is asking, by what headers claim.
//!
//! An input is a network, a line end, the peer, a line end, and lines of X-Forwarded-For.
#![no_main]

use std::net::IpAddr;

use envoy_guard::model::addr::{Client, ClientAddr, IpEntry};
use envoy_guard::request::client::{Proxies, identify, is_secure, masked_chain};
use envoy_guard::request::headers::Headers;
use envoy_guard::request::{Body, Peer, Request, Target, Tls};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let (network, peer) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Ok(entry) = network.parse::<IpEntry>() else { return };
    contains_itself(network, entry);
    let chain: Vec<&str> = lines.collect();
    let proxies = |depth| Proxies { trusted: [&entry].into_iter().collect(), unix: false, depth, proto: true };
    let asks = |lines: &[&str], depth| {
        let request = request(peer, lines);
        let (identity, text) = (identify(&proxies(depth), &request), masked_chain(&request));
        (identity.client.to_string(), identity.spoofed, is_secure(&proxies(depth), &request), text)
    };
    let (alone, _, secure, _) = asks(&[], 1);
    assert!(!secure, "nobody said so");
    let is_trusted = match peer.parse::<IpAddr>() {
        Ok(address) => entry.contains(ClientAddr::from(address)),
        Err(_) => return,
    };
    for depth in 1..4 {
        let (client, spoofed, _, masked) = asks(&chain, depth);
        // A stranger is who the connection says, whatever is claimed; a trusted peer is no liar.
        assert!(is_trusted || client == alone, "{peer} passes for {client}");
        assert!(!(is_trusted && spoofed), "{peer} is trusted and a liar");
        assert!(!masked.contains(|letter: char| letter.is_control()), "{masked:?}");
        // Whatever a client put to the left of what the trusted hops wrote changes nothing.
        if let Some((first, rest)) = chain.split_first()
            && depth <= chain.len()
            && chain.iter().all(|line| line.parse::<IpAddr>().is_ok())
        {
            let forged = format!("192.0.2.66, junk, {first}");
            let lines: Vec<&str> = [forged.as_str()].into_iter().chain(rest.iter().copied()).collect();
            assert_eq!(asks(&lines, depth).0, client, "depth {depth}: {chain:?}");
        }
    }
});

/// Whatever is read contains the address it was written with.
fn contains_itself(text: &str, entry: IpEntry) {
    let (written, length) = text.trim().split_once('/').unwrap_or((text.trim(), "128"));
    let Ok(address) = written.parse::<IpAddr>() else { return };
    // `::ffff:192.0.2.1/90` is wider than IPv4: a network of IPv6, and no address of IPv4 is in it.
    let is_mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if is_mapped && length.parse::<u8>().is_ok_and(|length| length < 96) {
        return;
    }
    assert!(entry.contains(ClientAddr::from(address)) || entry.is_everything(), "{text}");
    let client = Client::Address(ClientAddr::from(address));
    assert_eq!(client.to_string().parse::<IpAddr>().map(ClientAddr::from), Ok(ClientAddr::from(address)));
}

fn request<'r>(peer: &'r str, chain: &[&'r str]) -> Request<'r> {
    let mut headers = Headers::default();
    chain.iter().for_each(|line| headers.push("x-forwarded-for", line.as_bytes()));
    Request {
        id: "",
        method: "GET",
        scheme: "http",
        host: "",
        target: Target::from("/"),
        protocol: "HTTP/1.1",
        headers,
        body: Body::Absent,
        peer: Peer::from(peer),
        route: None,
        tls: Tls::default(),
    }
}
