//! Who is asking: the client address behind trusted proxies, and whether the connection was secure.
//!
//! Nothing here allocates and nothing trusts a header that a stranger sent. With one trusted proxy in front, the
//! right-most entry of X-Forwarded-For is the client; see [`Proxies::depth`] for longer chains.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::model::addr::{Client, ClientAddr};
use crate::model::nets::IpSet;
use crate::request::headers::Headers;
use crate::request::{Peer, Request};

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Lines of X-Forwarded-For that are looked at without allocating.
const LINES_INLINE: usize = 8;

/// Which peers may speak for clients, compiled from the configuration.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Addresses and networks of trusted peers.
    pub trusted: IpSet,
    /// Peers without an address (a Unix socket) are trusted.
    pub unix: bool,
    /// How many hops append to X-Forwarded-For: the client is the entry at this position from the right. At least 1.
    pub depth: usize,
    /// A trusted peer may state the scheme in X-Forwarded-Proto.
    pub proto: bool,
}

impl Proxies {
    /// True when no peer is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trusted.is_empty() && !self.unix
    }
}

/// The identity of a request, and what was odd about how it was claimed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity<'r> {
    /// Who is asking.
    pub client: Client<'r>,
    /// An untrusted peer sent X-Forwarded-For; it was ignored.
    pub spoofed: bool,
}

/// Finds out who is asking.
#[must_use]
pub fn identify<'r>(proxies: &Proxies, request: &Request<'r>) -> Identity<'r> {
    let peer = peer(request.peer);
    let plain = Identity { client: peer, spoofed: false };
    if proxies.is_empty() {
        return plain;
    }
    let is_trusted = match peer {
        Client::Unknown => proxies.unix,
        _ => proxies.trusted.covers(peer),
    };
    if !is_trusted {
        // Envoy itself appends the peer to the header; an entry that repeats the peer claims nothing.
        let claims = entries(&request.headers).any(|entry| !entry.is_empty() && canonical(strip_port(entry)) != peer);
        return Identity { spoofed: claims && peer != Client::Unknown, ..plain };
    }
    match forwarded(proxies, &request.headers) {
        Some(client) => Identity { client, spoofed: false },
        None => plain,
    }
}

/// The client that trusted hops vouch for, or `None` when the chain names nobody usable.
fn forwarded<'r>(proxies: &Proxies, headers: &Headers<'r>) -> Option<Client<'r>> {
    let lines = lines(headers);
    let depth = proxies.depth.max(1);
    let is_trusted = |entry: &&[u8]| proxies.trusted.covers(canonical(strip_port(entry)));
    let from_right = || lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',').map(trim));
    // The walk never goes further than `depth` entries, however long the chain is.
    let chosen = from_right().nth(depth - 1)?;
    let unlisted = from_right().take(depth - 1).find(|entry| !is_trusted(entry));
    plain(canonical(strip_port(unlisted.unwrap_or(chosen))))
}

/// The lines of the chain, without empty ones (an empty header says nothing).
fn lines<'r>(headers: &Headers<'r>) -> SmallVec<[&'r [u8]; LINES_INLINE]> {
    headers.all(FORWARDED_FOR).filter(|line| !trim(line).is_empty()).collect()
}

/// All entries of the chain, in order.
fn entries<'a, 'r: 'a>(headers: &'a Headers<'r>) -> impl Iterator<Item = &'r [u8]> + 'a {
    headers.all(FORWARDED_FOR).flat_map(|line| line.split(|byte| *byte == b',').map(trim))
}

/// Whether the client's connection was encrypted: Envoy says so, or a trusted peer may and does.
#[must_use]
pub fn is_secure(proxies: &Proxies, request: &Request<'_>) -> bool {
    if request.scheme == "https" {
        return true;
    }
    // A peer on a Unix socket is never believed here: it has no address that could be listed.
    proxies.proto
        && proxies.trusted.covers(peer(request.peer))
        && request.headers.get(FORWARDED_PROTO).is_some_and(|value| value.eq_ignore_ascii_case(b"https"))
}

/// The chain as text for reports: entries that are no addresses are masked.
#[must_use]
pub fn masked_chain(request: &Request<'_>) -> String {
    let mut text = String::new();
    for entry in entries(&request.headers).take(MASKED_ENTRIES_MAX) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        match plain(canonical(strip_port(entry))) {
            Some(_) => text.push_str(std::str::from_utf8(entry).unwrap_or(MASK)),
            None => text.push_str(MASK),
        }
    }
    text
}

/// Entries shown of a chain.
const MASKED_ENTRIES_MAX: usize = 20;
const MASK: &str = "[REDACTED]";

/// The peer in canonical form.
#[must_use]
pub fn peer(peer: Peer<'_>) -> Client<'_> {
    match peer {
        Peer::Address(addr) => Client::Address(addr),
        Peer::Text(text) => canonical(text.as_bytes()),
        Peer::Absent => Client::Unknown,
    }
}

/// Reads an address: one pair of surrounding brackets goes, IPv4-mapped IPv6 folds, a zone is kept.
/// Text that is no address stays text; bytes that are no text are the empty text, which is no address either.
fn canonical(bytes: &[u8]) -> Client<'_> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Client::Text("") };
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = inner.parse::<IpAddr>() {
        return Client::Address(ClientAddr::from(ip));
    }
    let zoned = inner.split_once('%').filter(|(_, zone)| !zone.is_empty() && !zone.contains('%'));
    match zoned.map(|(addr, zone)| (addr.parse(), zone)) {
        Some((Ok(addr), zone)) => Client::Zoned { addr, zone },
        _ => Client::Text(text),
    }
}

/// The client when it may stand in a chain: an address, without wildcards in its zone.
fn plain(client: Client<'_>) -> Option<Client<'_>> {
    match client {
        Client::Address(_) => Some(client),
        Client::Zoned { zone, .. } => (!zone.contains(['*', '?', '[', ']', '\\'])).then_some(client),
        Client::Text(_) | Client::Unknown => None,
    }
}

/// Takes the port off: `[v6]:port` and `[v6]` become v6, `host:port` with one colon and a decimal port becomes host.
fn strip_port(entry: &[u8]) -> &[u8] {
    if let Some(rest) = entry.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', rest) else { return entry };
        let (inner, after) = rest.split_at(end);
        return match after {
            [b']'] => inner,
            [b']', b':', port @ ..] if is_port(port) => inner,
            _ => entry,
        };
    }
    let mut colons = memchr::memchr_iter(b':', entry);
    match (colons.next(), colons.next()) {
        (Some(at), None) => match entry.split_at(at) {
            (host, [_, port @ ..]) if is_port(port) => host,
            _ => entry,
        },
        _ => entry,
    }
}

fn is_port(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

fn trim(entry: &[u8]) -> &[u8] {
    entry.trim_ascii()
}

#[cfg(test)]
mod tests;
