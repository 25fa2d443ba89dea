//! Tables of good, odd and bad texts for every format.

use super::*;

#[track_caller]
fn opinions(format: &str, good: &[&str], odd: &[&str], bad: &[&str]) {
    let check = check(format).unwrap_or_else(|| panic!("no format {format}"));
    for text in good {
        assert_eq!(check(text), Good, "{format}: {text:?}");
    }
    for text in odd {
        let opinion = check(text);
        assert!(matches!(opinion, Odd(_) | Dropped(_)), "{format}: {text:?} gives {opinion:?}");
    }
    for text in bad {
        let opinion = check(text);
        assert!(matches!(opinion, Bad(_) | Unknown(..)), "{format}: {text:?} gives {opinion:?}");
    }
}

#[test]
fn addresses_and_places() {
    let bad = ["", " 1.2.3.4", "1.2.3", "1.2.3.4/33", "unix", "example.com", "1.2.3.4/", "::1/129", "fe80::1%eth0"];
    opinions(
        "address",
        &["1.2.3.4", "10.0.0.1/8", "::1", "2001:DB8::/32", "::ffff:1.2.3.4"],
        &["0.0.0.0/0", "::/0"],
        &bad,
    );
    opinions("proxy", &["1.2.3.4", "unix", "10.0.0.0/8"], &["0.0.0.0/0"], &["UNIX", "", "proxy"]);
    opinions("country", &["DE", "de"], &["DEU", "D1", "Germany"], &[""]);
    opinions("country-or-any", &["*", "DE"], &["**"], &[""]);
    opinions(
        "cloud",
        &["AWS", "GCP", "Azure", "DigitalOcean", "Linode", "Vultr", "AWS:!eu-west-1"],
        &["aws", "Hetzner", "AWS:eu-west-1", "AWS:", "AWS:!", "Azure:!north", ""],
        &[],
    );
    opinions("socket", &["127.0.0.1:80", "[::1]:80"], &[], &["localhost:80", "127.0.0.1", ":80", "1.2.3.4:70000"]);
    opinions(
        "redis-url",
        &["redis://h:1", "rediss://u:p@h/0", "unix:///s", "redis+unix:///s"],
        &[],
        &["", "http://h", "redis://", "h"],
    );
    opinions(
        "url",
        &["http://h", "https://h/x?y"],
        &[],
        &["", "h", "ftp://h", "https://", "https:///x", "https://a b"],
    );
    opinions(
        "host",
        &["example.com", "*.example.com", "localhost", "*", "10.0.0.1", "[::1]"],
        &[],
        &["", "a:80", "http://a", "a..b", "*.*.b", "a b"],
    );
    opinions(
        "referrer",
        &["example.com", "https://example.com/x", "example.com:8443"],
        &[],
        &["", "https://", "a b", "/x"],
    );
}

#[test]
fn words() {
    opinions("category", &["xss", "deserialization"], &[], &["", "XSS", "rate_limit", "custom"]);
    opinions("ban-category", &["xss", "rate_limit"], &[], &["", "custom", "uncategorized"]);
    opinions("check", &["ip_security", "custom_request"], &[], &["", "ip", "rate-limit"]);
    opinions("event", &["ip_banned", "access_denied"], &[], &["", "banned"]);
    opinions("metric", &["response_time", "request_count", "error_rate"], &[], &["", "latency"]);
    opinions("bypass", &["all", "ip_ban", "ip", "clouds", "rate_limit", "penetration"], &[], &["", "All", "cloud"]);
    opinions("method", &["GET", "get", "M-SEARCH", "*"], &[], &["", "G T", "GET,POST"]);
    opinions("scheme", &["bearer", "Basic", "Digest"], &[], &["", "Bearer token"]);
    opinions("header-name", &["X-API-Key", "x", "*"], &[], &["", "x y", "x:", "é"]);
    opinions(
        "media-type",
        &["application/json", "Text/HTML", "text/plain; charset=utf-8", "*/*"],
        &[],
        &["", "json", "a/", "/b", "a/b/c"],
    );
    opinions("name", &["api", "a b"], &[], &["", " ", " a", "a\n"]);
    opinions("non-blank", &["x"], &[], &["", " \t"]);
}

#[test]
fn values() {
    let long = "x".repeat(HEADER_VALUE_MAX);
    let longer = "x".repeat(HEADER_VALUE_MAX + 1);
    opinions("header-value", &["", "a\tb", "ä", &long], &["a\u{1}b", "\u{7f}"], &["a\nb", "a\rb", "a\0b", &longer]);
    opinions(
        "clock",
        &["00:00", "09:30", "23:59"],
        &[],
        &["", "9:00", "24:00", "12:60", "12:5", "12:00:00", "ab:cd", "+1:00"],
    );
    opinions("zone", &["UTC", "Europe/Paris", "America/New_York"], &[], &["", "Paris", "Mars/Base", "+01:00"]);
    opinions("file-mode", &["660", "0660", "0777"], &[], &["", "0o660", "888", "66", "00660"]);
    let hash = format!("sha256:{}", "0aF9".repeat(16));
    opinions("credential", &[&hash], &[], &["", "sha256:", hash.get(..70).unwrap(), &hash.replace('F', "g"), "secret"]);
    opinions(
        "status",
        &["400", "403", "500"],
        &["418", "425", "451", "200", "301", "404"],
        &["", "99", "600", "-1", "x", "70000"],
    );
    let cel = "x".repeat(EXPRESSION_MAX);
    opinions("cel", &["true", &cel], &[], &["", " ", &(cel.clone() + "x")]);
    opinions("log-filter", &["info", "info,envoy_guard=debug"], &[], &[""]);
}

#[test]
fn regular_expressions_and_paths() {
    let long = "x".repeat(8193);
    let bad = ["", "(", "[a", "*", "(?<!", &long, "(?:a{1000}){1000}{1000}"];
    opinions("user-agent-pattern", &["curl", "^bad", "(?!x)y", r"(a)\1"], &[".*", "x?"], &bad);
    opinions("pattern", &["union.+select", "(?<=a)b", ".*"], &[], &bad);
    opinions("path-regex", &["/api/.*", "^/x$"], &[], &["", "(", "(?=x)", r"(a)\1"]);
    opinions(
        "template",
        &["/", "/a/{id}", "/a/{id}/{rest...}", "/a/"],
        &[],
        &["", "a", "/{id", "/x{id}", "/{}", "/{a b}", "/{r...}/x", "/{a}/{a}", "//a"],
    );
    opinions("path", &["/", "/a/b", "/%41"], &[], &["", "a", "/a?b", "/a#b", "/%ff", "/%2525252541"]);
    opinions("exclude-path", &["/docs", "docs", "/a/../b"], &["/"], &["", "/..", "//", "/%ff", "/%2525252541"]);
    opinions(
        "return-pattern",
        &["status:404", "json:a.b==c", "regex:win|lose", "win", "json:a=="],
        &[],
        &["", "status:", "status:abc", "status:99", "json:a", "json:==x", "regex:(", "regex:"],
    );
}

#[test]
fn a_credential_or_url_is_never_quoted() {
    for (format, text) in [("credential", "hunter2"), ("url", "hunter2"), ("redis-url", "redis://hunter2 x")] {
        let check = check(format).unwrap();
        assert!(!format!("{:?}", check(text)).contains("hunter2"), "{format}");
    }
}

/// The list that Envoy's `StatusCode` enumeration holds (envoy/type/v3/http_status.proto).
#[test]
fn only_codes_of_envoys_enumeration_can_be_sent() {
    let known = [
        100, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402,
        403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 424, 426, 428, 429,
        431, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
    ];
    for code in 0..1000 {
        assert_eq!(sendable(code), known.contains(&code), "{code}");
    }
}
