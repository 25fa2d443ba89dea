"""Inputs to begin with, from this repository's own lists: seeds.py ROOT FOLDER writes FOLDER/<target>/<number>.

Most targets read a byte or two that choose the place, the type or the profile before the text itself; see each target.
"""

import itertools
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


def inputs(root):
    """Pairs of a target and an input."""
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
