"""Inputs to begin with, from this repository's own lists: seeds.py ROOT FOLDER writes FOLDER/<target>/<number>.

Most targets read a byte or two that choose the place, the type or the profile before the text itself; see each target.
"""

import ipaddress
import itertools
import json
import pathlib
import sys


def values(root):
    """Every value of the verdict lists, with the signs for line ends and the like put back."""
    signs = {"␊": "\n", "␍": "\r", "␉": "\t", "␀": "\0"}
    for path in sorted((root / "tests" / "data" / "verdicts").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith(("== ", "## ")):
                yield "".join(signs.get(char, char) for char in line).encode()


def field(number, value):
    """One field of a protobuf message: text, bytes or an encoded message."""
    length, encoded = len(value), bytearray()
    while 127 < length:
        encoded.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2]) + bytes(encoded) + bytes([length]) + value


def question(value):
    """Envoy's question about a request with `value` in its path, a header and its body."""
    pair = lambda name, text: field(3, field(1, name) + field(2, text))
    raw = lambda name, text: field(1, field(1, name) + field(3, text))
    http = field(2, b"POST") + pair(b"cookie", value) + field(4, b"/a?q=" + value) + field(5, b"example.com")
    http += field(6, b"https") + field(10, b"HTTP/2") + field(12, value)
    http += field(13, raw(b"x-raw", value) + raw(b"x-envoy-auth-partial-body", b"true"))
    address = field(1, field(1, b"\x12\x09203.0.113.9"[2:]) + b"\x18\x50")
    return field(1, field(1, field(1, address)) + field(4, field(2, http)) + field(10, field(1, b"k") + field(2, b"v")))


def request(number, value):
    """A request with `value` in one place or another, as HTTP/1.1 writes it down; the first byte chooses the detector."""
    line = value.replace(b"\n", b" ").replace(b"\r", b" ")
    spaceless = line.replace(b" ", b"+")
    places = [
        b"GET /search?q=" + spaceless + b"&page=2 HTTP/1.1\nhost: example.com\ncookie: sid=1; note=" + line + b"\n\n",
        b"POST /api/items HTTP/1.1\ncontent-type: application/json\nauthorization: Bearer abc\npeer: 203.0.113.9\n\n"
        + json.dumps({"items": [{"note": value.decode(errors="replace")}], "id": 7}).encode(),
        b"POST /form HTTP/1.1\ncontent-type: application/x-www-form-urlencoded\nreferer: https://example.com/?r="
        + spaceless + b"\n\na=1&b=" + spaceless,
        b"GET /users/" + spaceless + b"/files/a HTTP/1.1\nuser-agent: " + line + b"\nx-forwarded-for: 192.0.2.1, 198.51.100.2"
        + b"\npeer: 198.51.100.1\n\n",
        b"POST /graphql HTTP/1.1\ncontent-type: application/json\n\n"
        + json.dumps({"query": "query { a(b: " + json.dumps(value.decode(errors="replace")) + ") { c } }"}).encode(),
        b"POST /upload HTTP/1.1\ncontent-type: multipart/form-data; boundary=x\n\n--x\r\nContent-Disposition: form-data; "
        + b"name=\"a\"; filename=\"b.txt\"\r\n\r\n" + value + b"\r\n--x--\r\n",
        b"POST /note HTTP/1.1\ncontent-type: text/plain\naccept: text/html, */*\n\n~" + value,
    ]
    return bytes([number % 4]) + places[number % len(places)]


def requests():
    """Requests for the checks that read more than values."""
    report = {"csp-report": {"document-uri": "https://a/", "violated-directive": "script-src", "blocked-uri": "inline"}}
    yield b"POST /csp HTTP/1.1\ncontent-type: application/csp-report\n\n" + json.dumps(report).encode()
    listed = [{"type": "csp-violation", "body": {"documentURL": "https://a/", "effectiveDirective": "img-src"}}]
    yield b"POST /csp HTTP/1.1\ncontent-type: application/reports+json\n\n" + json.dumps(listed).encode()
    yield b"GET /basic HTTP/1.1\nauthorization: Basic Ym9iOnB3\nx-api-key: k\nx-tenant: t\n\n"
    yield b"OPTIONS /api/a HTTP/1.1\norigin: https://app.example.com\naccess-control-request-method: POST\n\n"
    yield b"POST /api/a HTTP/1.1\norigin: https://evil.example\nreferer: https://example.com/\nx-odd: yes\n\nwebsite=1"
    yield b"GET /v1/a;p=1/%2e%2e/b HTTP/1.1\nx-forwarded-proto: https\npeer: unix\n\n"


def database(records):
    """A database of networks of IPv4 in the format of MaxMind, with a record of nested texts and numbers for each."""
    data, nodes = bytearray(), [[None, None]]
    for network, record in records.items():
        network, at = ipaddress.ip_network(network), 0
        bits = f"{int(network.network_address):032b}"[: network.prefixlen]
        for bit in bits[:-1]:
            if nodes[at][int(bit)] is None:
                nodes.append([None, None])
                nodes[at][int(bit)] = len(nodes) - 1
            at = nodes[at][int(bit)]
        nodes[at][int(bits[-1])] = ("data", len(data))
        data += packed(record)
    place = lambda side: len(nodes) if side is None else len(nodes) + 16 + side[1] if isinstance(side, tuple) else side
    tree = b"".join(place(side).to_bytes(3, "big") for node in nodes for side in node)
    about = {"binary_format_major_version": 2, "binary_format_minor_version": 0, "build_epoch": 1, "database_type": "Test",
             "description": {}, "ip_version": 4, "languages": [], "node_count": len(nodes), "record_size": 24}
    return tree + bytes(16) + bytes(data) + b"\xab\xcd\xefMaxMind.com" + packed(about)


def packed(value):
    """A value in the notation of those databases."""
    if isinstance(value, str):
        return bytes([2 << 5 | len(value)]) + value.encode()
    if isinstance(value, dict):
        return bytes([7 << 5 | len(value)]) + b"".join(packed(key) + packed(inner) for key, inner in value.items())
    if isinstance(value, list):
        return bytes([len(value), 4]) + b"".join(map(packed, value))
    return bytes([6 << 5 | 4]) + value.to_bytes(4, "big")


def documents():
    """Pairs of a kind and a document."""
    yield 0, b"# a list\n192.0.2.1\n198.51.100.0/24 ; SBL1\n2001:db8::/32, 3\n\n203.0.113.7#x\r\nnonsense\n"
    ranges = [
        {"prefixes": [{"ip_prefix": "192.0.2.0/24", "service": "AMAZON", "region": "eu-west-1"}],
         "ipv6_prefixes": [{"ipv6_prefix": "2001:db8::/32", "service": "AMAZON"}]},
        {"prefixes": [{"ipv4Prefix": "192.0.2.0/24", "scope": "europe-west1"}, {"ipv6Prefix": "2001:db8::/32"}]},
        {"values": [{"name": "AzureCloud", "properties": {"addressPrefixes": ["192.0.2.0/24", "2001:db8::/32"]}}]},
        {"subnets": [{"ip_prefix": "192.0.2.0/24", "alpha2code": "DE"}]},
    ]
    for provider, document in zip((0, 1, 2, 5), ranges):
        yield 1 + 8 * provider, json.dumps(document).encode()
    for provider in range(6):
        yield 1 + 8 * provider, b"192.0.2.0/24\n198.51.100.0/24|eu-west-1\n192.0.2.128/25,US,US-CA,Fremont,\n"
    for record in ({"country": {"iso_code": "DE"}}, {"country": "DE", "asn": "AS64500", "as_name": "A"},
                   {"country_code": "DE"}, {"autonomous_system_number": 64500, "autonomous_system_organization": "A"}):
        for kind in (2, 3):
            yield kind, database({"203.0.113.0/24": record, "192.0.2.1/32": record})
    rules = {"rule_id": "r", "version": 2, "timestamp": "2026-01-31T08:30:00Z", "expires_at": None, "ttl": 60,
             "ip_blacklist": ["192.0.2.1", "198.51.100.0/24"], "ip_whitelist": ["2001:db8::1"], "ip_ban_duration": 60,
             "blocked_countries": ["DE"], "whitelist_countries": [], "global_rate_limit": 5, "global_rate_window": 60,
             "endpoint_rate_limits": {"/a": [1, 2]}, "blocked_cloud_providers": ["AWS"], "blocked_user_agents": ["bot"],
             "suspicious_patterns": ["evil[0-9]+"], "enable_penetration_detection": True, "emergency_mode": False,
             "emergency_whitelist": ["192.0.2.9"]}
    yield 4, json.dumps(rules).encode()
    yield 4, b"null"
    yield 5, json.dumps(["192.0.2.0/24|eu-west-1", "2001:db8::/32"]).encode()
    yield 5, json.dumps({"schema_version": 1, "rules": rules}).encode()
    yield 5, b"192.0.2.0/24,198.51.100.0/24"
    record = {"id": 7, "method": "POST", "path": "/a?b=c", "headers": {"Host": "x", "Cookie": ["a=1"]}, "body_b64": "aGk=",
              "client_ip": "192.0.2.1", "partial": True}
    yield 6, json.dumps(record).encode()
    yield 6, b'{"path": "/", "headers": [["a", "b"]], "body": "x"}'
    yield 7, b"curl -sX PUT 'https://u:p@h:8443/x?y=1' -H 'A: b' --data-raw '{\"a\": 1}' --compressed"
    yield 7, b"curl -G h/x --data-urlencode 'q=a b' -b a=1 -u me:pw $'-d' $'a\\nb'"
    yield 7, b"curl -F 'f=@a.php' -F n=1 -I h"


PATTERNS = [
    ("needle[0-9]+", "a needle42"), ("^a.*b$", "x\nacb\ny"), ("(?i:union)\\s+select", "UNION  select"), ("a{2,5}b?c+", "aaac"),
    ("(?<!good)bot", "badbot"), ("(foo|bar)=\\1", "foo=foo"), ("(?=.*x)y", "xy"), ("\\bword\\b", "a word"), ("[[:alpha:]]+9", "ab9"),
    ("[^]a]z\\Z", "bz"), ("(?P<n>a)(?:b|c)", "ab"), ("\\p{L}+\\d", "\u00e41"), ("a|", ""), ("(((a*)*)*)b", "aaaa"), ("\\x41\\u0042", "AB"),
]
EXPRESSIONS = [
    "request.method == 'POST' && request.headers['x-text'] != ''", "request.path.startsWith('/a')", "true", "null", "1 / 0 == 1",
    "{'status': 451, 'body': 'no', 'headers': {'x-a': 'b'}}", "request.query['q'].exists(v, v == '2')", "size(request.body) > 3",
    "client.ip == '203.0.113.9' ? {'status': 302} : null", "request.headers['x-text'].matches('a+')", "[1, 2].map(x, x * 2)[0] == 2",
    "now.getHours() > 3", "has(request.country) || request.nothing", "route.id + 'x'", "string(1.5) + \"\\n\"",
]


def stream(value):
    """Parts of an exchange with `value` in them; the first byte says how the bytes are cut."""
    part = lambda kind, content: bytes([kind, min(len(content), 255)]) + content[:255]
    line = value.replace(b"\n", b" ")
    named = b'filter_metadata { key: "envoy-guard" value { fields { key: "guard_route" value { string_value: "a" } } } }'
    opening = part(0, b"/a?q=" + line[:40] + b"\napplication/json\nh\n" + named)
    streamed = part(0x20, b"/a\ntext/plain\n" + line[:60] + b"\n")
    yield b"\x07" + opening + part(0x12, value)
    yield b"\x01" + streamed + part(2, value[:20]) + part(2, value[20:]) + part(0x12, b"") + part(7, b"text/html") + part(0x18, b"x")
    yield b"\x20" + part(0x80, b"/a\napplication/json\n\n") + part(2, value) + part(6, b"") + part(0x17, b"a/b") + part(10, b"")
    yield b"\x00" + part(1, b"/a?q=" + line) + part(15, b"\0\0\0") + part(11, value)


def inputs(root):
    """Pairs of a target and an input."""
    for number, value in enumerate(values(root)):
        yield "request", request(number, value)
        if number % 16 == 0:
            yield from (("stream", made) for made in stream(value))
    yield from (("request", bytes([number % 4]) + made) for number, made in enumerate(requests()))
    yield from (("documents", bytes([kind]) + document) for kind, document in documents())
    yield from (("pattern", b"\0" + f"{pattern}\n{text}".encode()) for pattern, text in PATTERNS)
    yield from (("pattern", bytes([1 + 2 * place]) + source.encode() + b"\naaa") for source in EXPRESSIONS for place in (0, 1))
    for network, peer in (("10.0.0.0/8", "10.1.2.3"), ("2001:db8::/32", "2001:db8::1"), ("192.0.2.1", "203.0.113.9")):
        for chain in ("198.51.100.7", "192.0.2.66, 10.0.0.1", "[2001:db8::2]:443\n10.9.9.9", "unknown,,\n::ffff:10.0.0.2"):
            yield "address", f"{network}\n{peer}\n{chain}".encode()
    for number, value in enumerate(values(root)):
        place = bytes([number % 16])
        yield "value", place + value
        yield "view", place + value
        yield "target", place + b"/search?q=" + value + b"\nsid=" + value + b"\nhttps://example.com/?r=" + value
        if number % 2 == 0:
            yield "check_request", question(value)
        # The kind of body by the first byte, coding and profile by the second.
        yield "body", bytes([number % 24, number & 1]) + value
    for kind, body in [
        (1, b'{"a":[1,{"b":"c\\u0041"},null],"$ne":1,"a":"d"}'),
        (2, b'{"a":1}\n{"b":[2]}\n'),
        (3, b"a=1&b[]=2&a=%27+or+1&c"),
        (5, b'--x\r\nContent-Disposition: form-data; name="a"; filename="b.txt"\r\n\r\nc\r\n--x--\r\n'),
        (9, b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a d="e"><![CDATA[f]]>&b;</a>'),
        (13, b'query Q($a: Int = 4) { b(c: "d", e: [$a]) { f } }'),
        (14, b"\0\0\0\0\x07\x0a\x05hello"),
        (17, b"\x0a\x05hello\x12\x06\x0a\x04deep\x1a\x02\x08\x01"),
    ]:
        yield from (("body", bytes([kind, rest]) + body) for rest in (0, 1))
    for suffix, name in ((0, "full.yaml"),):
        yield "config", bytes([suffix]) + (root / "tests" / "data" / "config" / name).read_bytes()
    for text in (b"security.rate_limit=4", b"listeners.workers=2", b"SECURITY__FAIL_SECURE=false"):
        yield from (("config", bytes([selector]) + text) for selector in (3, 7))
    for text in (b"203.0.113.9", b"2001:db8::/32", b"::ffff:192.0.2.1/120", b"0.0.0.0/0", b" 10.0.0.0/8 "):
        yield "address", text
    for modes, parts in itertools.product(range(0, 128, 9), (b"\x00\x11\x12EVIL\x03", b"\x00\x05\x21\x01\x02\x03\x04")):
        yield "session", bytes([modes, modes]) + parts


def main():
    root, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for number, (target, data) in enumerate(inputs(root)):
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / f"{number:05}").write_bytes(data)


if __name__ == "__main__":
    main()
