//! Addresses that point back inside: loopback, private and metadata hosts in every spelling that resolvers take.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::detect::confirm::Candidate;
use crate::detect::confirm::scan::{Folded, at, has, is_blank, part, skip};
use crate::detect::{Kind, Source, work};

/// What judging a host costs besides its bytes.
const HOST_COST: usize = 64;
/// Bytes of one authority.
const AUTHORITY_BYTES_MAX: usize = 255;

/// A URL whose host is inside, where a server would fetch it.
pub(crate) fn internal_target(candidate: &Candidate<'_>) -> Option<Range<usize>> {
    let text = candidate.text.as_bytes();
    if is_about_the_client(candidate) {
        return None;
    }
    let is_whole = !part(text, 0, text.len()).trim_ascii().iter().any(|byte| is_blank(*byte));
    let mut from = 0;
    while candidate.work.goes_on() {
        let Some(colon) = memchr::memchr(b':', text.get(from..)?).map(|offset| from + offset) else { break };
        from = colon + 1;
        let start = skip(text, from, 6, |byte| matches!(byte, b'/' | b'\\'));
        if start < from + 2 {
            continue;
        }
        work::read(HOST_COST);
        let end = skip(text, start, AUTHORITY_BYTES_MAX, |byte| {
            !is_blank(byte) && !matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b')' | b',' | b'|')
        });
        let convicts = match Reach::of(part(text, start, end)).max(behind_fragment(text, end)) {
            Reach::Outside => false,
            Reach::Metadata | Reach::Disguised => true,
            Reach::Plain => is_whole && !names_a_return(candidate.name()),
        };
        if convicts {
            return Some(colon..end);
        }
        from = end.max(from);
    }
    bare_metadata(text, is_whole)
}

/// `http://example.com#@127.0.0.1/`: a host that some parsers read behind the sign at `sign`, and others do not.
fn behind_fragment(text: &[u8], sign: usize) -> Reach {
    if !matches!(at(text, sign), b'#' | b'?') || at(text, sign + 1) != b'@' {
        return Reach::Outside;
    }
    let start = sign + 2;
    let end = skip(text, start, AUTHORITY_BYTES_MAX, |byte| !is_blank(byte) && !matches!(byte, b'/' | b'?' | b'#'));
    match Reach::of_host(part(text, start, end)) {
        Reach::Outside => Reach::Outside,
        Reach::Plain | Reach::Disguised => Reach::Disguised,
        Reach::Metadata => Reach::Metadata,
    }
}

/// Where a host is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Reach {
    Outside,
    /// Loopback or private, written as everybody writes it.
    Plain,
    /// Inside, in a spelling that hides it.
    Disguised,
    /// A cloud's metadata service or a cluster's own names.
    Metadata,
}

impl Reach {
    fn of(authority: &[u8]) -> Self {
        let user_end = memchr::memrchr(b'@', authority);
        let host = part(authority, user_end.map_or(0, |at_sign| at_sign + 1), authority.len());
        let reach = Self::of_host(host);
        // Another host's name in front of the real one.
        let hides = user_end.is_some_and(|at_sign| {
            part(authority, 0, at_sign).iter().any(|byte| matches!(byte, b'.' | b'@' | b'\\' | b'&'))
        });
        if reach == Self::Plain && hides { Self::Disguised } else { reach }
    }

    fn of_host(host: &[u8]) -> Self {
        if at(host, 0) == b'[' {
            let inner = part(host, 1, memchr::memchr(b']', host).unwrap_or(host.len()));
            return std::str::from_utf8(inner)
                .ok()
                .and_then(|text| text.parse().ok())
                .map_or(Self::Outside, Self::of_v6);
        }
        // Browsers and many libraries take a backslash for a slash.
        // A NUL ends a name in programs written in C.
        let name_end = memchr::memchr3(b':', b'\\', 0, host).unwrap_or(host.len());
        let folded = dotted(part(host, 0, name_end));
        let mut name = folded.bytes();
        while let Some(short) = name.strip_suffix(b".") {
            name = short;
        }
        let ends = |suffix: &[u8]| name.ends_with(suffix);
        if name == b"localhost" || name == b"localhost.localdomain" || name == b"ip6-localhost" {
            return Self::Plain;
        }
        if name == b"metadata"
            || name == b"instance-data"
            || name == b"metadata.goog"
            || ends(b".ec2.internal")
            || ends(b"metadata.google.internal")
            || ends(b"metadata.azure.internal")
            || name == b"kubernetes.default"
            || name == b"kubernetes.default.svc"
            || ends(b".svc.cluster.local")
        {
            return Self::Metadata;
        }
        let rebinds = [
            &b".nip.io"[..],
            b".xip.io",
            b".sslip.io",
            b".1u.ms",
            b".rbndr.us",
            b"localtest.me",
            b"lvh.me",
            b"vcap.me",
            b".localhost",
            b"lacolhost.com",
            b".nip.direct",
        ]
        .iter()
        .any(|suffix| ends(suffix));
        if rebinds {
            return Self::Disguised;
        }
        match inet_aton(name) {
            Some((address, is_plain)) => Self::of_v4(address, is_plain),
            None => Self::Outside,
        }
    }

    fn of_v4(address: Ipv4Addr, is_plain: bool) -> Self {
        let [a, b, c, d] = address.octets();
        let is_metadata = [a, b, c, d] == [169, 254, 169, 254]
            || [a, b, c, d] == [100, 100, 100, 200]
            || [a, b, c, d] == [169, 254, 170, 2]
            || [a, b, c, d] == [192, 0, 0, 192];
        if is_metadata {
            Self::Metadata
        } else if address.is_loopback() || address.is_private() || address.is_link_local() || a == 0 {
            if is_plain { Self::Plain } else { Self::Disguised }
        } else {
            Self::Outside
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if let Some(v4) = address.to_ipv4_mapped() {
            return Self::of_v4(v4, false);
        }
        let first = address.segments().first().copied().unwrap_or(0);
        if address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
            Self::Metadata
        } else if address.is_loopback()
            || address.is_unspecified()
            || first & 0xfe00 == 0xfc00
            || first & 0xffc0 == 0xfe80
        {
            Self::Plain
        } else {
            Self::Outside
        }
    }
}

/// A host's name in lower case. Full stops of other scripts separate labels too.
fn dotted(name: &[u8]) -> Folded<128> {
    let stop = "\u{3002}".as_bytes();
    let mut folded = Folded::new();
    let mut index = 0;
    while index < name.len().min(256) {
        let is_stop = name.get(index..).is_some_and(|rest| rest.starts_with(stop));
        let byte = if is_stop { b'.' } else { at(name, index) };
        if !byte.is_ascii_control() {
            folded.push(byte);
        }
        index += if is_stop { stop.len() } else { 1 };
    }
    folded
}

/// One to four numbers, each decimal, octal or hexadecimal, as old resolvers read them; `true` when it is four plain decimals.
fn inet_aton(name: &[u8]) -> Option<(Ipv4Addr, bool)> {
    let mut parts = [0u64; 4];
    let mut count = 0;
    let mut is_plain = true;
    for text in name.split(|byte| *byte == b'.') {
        let (digits, radix) = if has(text, 0, b"0x") {
            (part(text, 2, text.len()), 16)
        } else if 1 < text.len() && at(text, 0) == b'0' {
            (part(text, 1, text.len()), 8)
        } else {
            (text, 10)
        };
        is_plain &= radix == 10;
        if digits.is_empty() && radix == 10 || 12 < digits.len() && !digits.iter().all(|digit| *digit == b'0') {
            return None;
        }
        let mut number = 0u64;
        for digit in digits.iter().take(16) {
            number = number * u64::from(radix) + u64::from(char::from(*digit).to_digit(radix)?);
        }
        *parts.get_mut(count)? = number;
        count += 1;
    }
    let last = *parts.get(count.checked_sub(1)?)?;
    let room = 1u64 << (8 * (5 - count));
    let fits = last < room && parts.iter().take(count - 1).all(|number| *number < 256);
    // A lone small number is a number.
    if !fits || count == 1 && last < 1 << 24 && !(is_plain && last == 0) {
        return None;
    }
    let mut address = last;
    for (index, number) in parts.iter().take(count - 1).enumerate() {
        address |= number << (24 - 8 * index);
    }
    u32::try_from(address).ok().map(|bits| (Ipv4Addr::from(bits), is_plain && count == 4))
}

/// A metadata address without a scheme, as a whole value.
fn bare_metadata(text: &[u8], is_whole: bool) -> Option<Range<usize>> {
    let start = skip(text, 0, 4, |byte| byte == b'/');
    let names = [&b"169.254.169.254"[..], b"metadata.google.internal", b"100.100.100.200/"];
    (is_whole && names.iter().any(|name| has(text, start, name))).then_some(start..text.len())
}

/// Values that tell where a client came from or is to go back to, which browsers fill with development hosts.
fn names_a_return(name: &str) -> bool {
    let name = Folded::<32>::of(name.as_bytes());
    [
        &b"redirect"[..],
        b"return",
        b"callback",
        b"origin",
        b"refer",
        b"back",
        b"next",
        b"location",
        b"page",
        b"href",
        b"issuer",
        b"audience",
    ]
    .iter()
    .any(|word| memchr::memmem::find(name.bytes(), word).is_some())
        || matches!(name.bytes(), b"ref" | b"iss" | b"aud" | b"dl" | b"dr" | b"from")
}

/// Headers and paths that hold addresses by design.
fn is_about_the_client(candidate: &Candidate<'_>) -> bool {
    let context = candidate.context;
    let is_own_header = context.source == Source::Header
        && context.kind != Kind::Cookie
        && [
            "host",
            "referer",
            "origin",
            "x-forwarded-host",
            "x-forwarded-for",
            "x-forwarded-server",
            "x-real-ip",
            "forwarded",
            "via",
            "user-agent",
            "x-original-url",
            "x-envoy-original-path",
        ]
        .contains(&candidate.name());
    is_own_header || matches!(context.kind, Kind::Name | Kind::JsonKey)
}

#[cfg(test)]
mod tests;
