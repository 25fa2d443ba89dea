use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::config::exclusions::{Profile, Unreadable};
use crate::detect::Limits;
use crate::detect::extract::tests::{Given, LIMITS, body};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// The items of a body with these headers, header values left out.
#[track_caller]
fn coded(headers: &[(&str, &[u8])], body: &[u8], partial: bool) -> Vec<String> {
    let items = Given { headers, body, partial, ..Given::default() }.items();
    items.into_iter().skip(headers.len() * 2).collect()
}

#[test]
fn forms_are_read_field_by_field() {
    assert_eq!(
        body("application/x-www-form-urlencoded; charset=UTF-8", b"a=1+2&b=%27&&c&a=3'"),
        [
            "Name a=a",
            "FormField a=1 2",
            "Name b=b",
            "FormField b='",
            "Name c=c",
            "Name a=a",
            "FormField a=3'",
            "FormField =1 2,3'"
        ]
    );
}

#[test]
fn the_type_may_lie_about_the_body() {
    let json = br#"{"id":"1'"}"#;
    let leaf = "JsonLeaf id=1'".to_owned();
    for content_type in [
        "text/plain",
        "",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/csp-report",
    ] {
        assert!(body(content_type, json).contains(&leaf), "{content_type}");
    }
    let field = "FormField id=1' union select 1,2--".to_owned();
    for content_type in ["multipart/form-data", "text/plain", "", "application/json", "multipart/form-data; boundary=x"]
    {
        assert!(body(content_type, b"id=1'+union+select+1,2--").contains(&field), "{content_type}");
    }
    let parts = b"--b\r\nContent-Disposition: form-data; name=id\r\n\r\n1'\r\n--b--\r\n";
    for content_type in ["text/plain", "", "multipart/form-data", "multipart/form-data; boundary=other"] {
        assert!(body(content_type, parts).contains(&"MultipartField id=1'".to_owned()), "{content_type}");
    }
    let xml = b"<?xml version='1.0'?><a>un<![CDATA[ion]]></a>";
    assert!(body("text/plain", xml).contains(&"Xml a=union".to_owned()));
    assert_eq!(body("text/plain", b"a note: x = 1"), ["Value =a note: x = 1"]);
}

#[test]
fn several_content_types_are_one() {
    let headers: [(&str, &[u8]); 2] = [("content-type", b"text/plain"), ("content-type", b"application/json")];
    assert_eq!(coded(&headers, br#"{"a":"b"}"#, false), ["JsonKey a=a", "JsonLeaf a=b"]);
}

#[test]
fn lines_of_json_are_walked() {
    for content_type in ["application/x-ndjson", "application/jsonl", "application/json-seq"] {
        assert_eq!(
            body(content_type, b"{\"a\":\"1\"}\n{\"a\":\"2\"}\n"),
            ["JsonKey a=a", "JsonLeaf a=1", "JsonLeaf a=2"],
            "{content_type}"
        );
    }
    assert_eq!(body("application/json", b"[\"a\"] [\"b\"]").last().unwrap(), "Value =[\"a\"] [\"b\"]");
}

#[test]
fn compressed_bodies_are_read() {
    let form: (&str, &[u8]) = ("content-type", b"application/x-www-form-urlencoded");
    let body = gzip(b"id=1'");
    let fields = ["Name id=id", "FormField id=1'"];
    assert_eq!(coded(&[form, ("content-encoding", b"gzip")], &body, false), fields);
    assert_eq!(
        coded(&[form, ("content-encoding", b"gzip"), ("content-encoding", b"gzip")], &gzip(&body), false),
        fields
    );
    let cut = body.get(..body.len() - 4).unwrap();
    let partial = "partial: the compressed body ends in the middle".to_owned();
    assert_eq!(coded(&[form, ("content-encoding", b"gzip")], cut, false)[0], partial);
    let items = coded(&[form, ("content-encoding", b"gzip")], cut, true);
    assert_eq!(items.len(), 3, "a body known to be cut is reported once: {items:?}");
    assert_eq!(items[1..], fields);
    let items = coded(&[form, ("content-encoding", b"rot13")], b"id=1'", false);
    assert_eq!(items, ["undecodable_body: the content coding is not known", fields[0], fields[1]]);
    let items = coded(&[form, ("content-encoding", b"gzip")], b"id=1'", false);
    assert_eq!(items, ["undecodable_body: the compressed body is damaged", fields[0], fields[1]]);
    let limits = Limits { undecodable_body: Unreadable::Allow, ..LIMITS };
    let headers: [(&str, &[u8]); 1] = [("content-encoding", b"rot13")];
    assert_eq!(Given { headers: &headers, body: b"x", limits, ..Given::default() }.items().len(), 3);
}

#[test]
fn charsets_are_decoded_or_refused() {
    let field = "FormField id=1' union select 1--".to_owned();
    let ebcdic = b"%89%84=%F1%7D%40%A4%95%89%96%95%40%A2%85%93%85%83%A3%40%F1%60%60";
    assert!(body("application/x-www-form-urlencoded; charset=ibm037", ebcdic).contains(&field));
    let plain = b"id=1'+union+select+1--";
    assert!(
        body("application/x-www-form-urlencoded; charset=ibm037", plain).contains(&field),
        "the label may be ignored"
    );
    let wide: Vec<u8> = r#"{"id":"1'"}"#.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let leaf = ["JsonKey id=id", "JsonLeaf id=1'"];
    for content_type in ["application/json; charset=utf-16", "application/json", "application/json; charset=utf-16be"] {
        assert_eq!(body(content_type, &wide), leaf, "{content_type}");
    }
    assert!(body("text/plain; charset=utf-7", b"+ADw-script+AD4-").contains(&"Value =<script>".to_owned()));
    assert_eq!(body("text/plain; charset=iso-8859-1", b"caf\xe9"), ["Value =caf\u{e9}"]);
    assert_eq!(body("text/plain; charset=\"utf-8\"", b"\xef\xbb\xbfcaf\xc3\xa9"), ["Value =caf\u{e9}"]);
    assert_eq!(body("text/plain; charset=martian", b"x"), ["undecodable_body: the charset is not known", "Value =x"]);
}

#[test]
fn graphql_shows_its_strings() {
    let document = "query Q($id: ID) { user(name: \"o'neil\\u0021\", note: \"\"\" x \"\"\") { id # why\n } }";
    assert_eq!(
        body("application/graphql", document.as_bytes()),
        ["Value name=o'neil!", "Value note=x", "Value id=why"]
    );
    let json = serde_json::json!({"query": document, "variables": {"id": "1'"}}).to_string();
    assert_eq!(
        body("application/json", json.as_bytes()),
        [
            "JsonKey query=query",
            "JsonLeaf name=o'neil!",
            "JsonLeaf note=x",
            "JsonLeaf id=why",
            "JsonKey variables=variables",
            "JsonKey id=id",
            "JsonLeaf id=1'",
        ]
    );
    assert_eq!(body("application/graphql", b"' or 1=1"), ["Value =' or 1=1"]);
}

#[test]
fn messages_show_their_texts() {
    // 1: "text", 2: { 1: "inner", 2: 150 }, 3: fixed32, 4: bytes with an island
    let mut message = b"\x0a\x04text\x12\x0a\x0a\x05inner\x10\x96\x01\x1d\0\0\0\0\x22\x1a\xff\xfe".to_vec();
    message.extend_from_slice(b"an island of some length");
    let texts = ["Value =text", "Value =inner", "Island =an island of some length"];
    assert_eq!(body("application/x-protobuf", &message), texts);
    let frame = |flags: u8, message: &[u8]| {
        [&[flags][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    };
    let two = [frame(0, &message), frame(0x80, b"grpc-status:0\r\n")].concat();
    assert_eq!(body("application/grpc+proto", &two)[..3], texts);
    assert_eq!(body("application/grpc-web-text", base64_simd::STANDARD.encode_to_string(&two).as_bytes())[..3], texts);
    assert_eq!(body("application/grpc+json", &frame(0, br#"{"a":"b"}"#)), ["JsonKey a=a", "JsonLeaf a=b"]);
    let headers: [(&str, &[u8]); 2] = [("content-type", b"application/grpc"), ("grpc-encoding", b"gzip")];
    assert_eq!(coded(&headers, &frame(1, &gzip(&message)), false), texts);
    let cut = two.get(..20).unwrap();
    assert_eq!(body("application/grpc", cut)[0], "partial: a gRPC frame ends in the middle");
    let unreadable = coded(&headers, &frame(1, b"plain"), false);
    assert_eq!(unreadable[0], "undecodable_body: a compressed gRPC message cannot be read");
}

#[test]
fn binary_bodies_show_their_islands() {
    let mut bytes = vec![0xff; 40];
    bytes.extend_from_slice(b"GIF89a short\0<script>alert(1)</script>");
    for content_type in ["image/gif", "", "application/octet-stream", "text/plain"] {
        assert_eq!(body(content_type, &bytes), ["Island =<script>alert(1)</script>"], "{content_type}");
    }
    let limits = Limits { profile: Profile::GuardCore, ..LIMITS };
    let items = Given { body: &bytes, limits, ..Given::default() }.items();
    assert_eq!(items.len(), 1, "guard-core reads a whole body as one text");
    assert_eq!(items[0].chars().filter(|char| *char == '\u{fffd}').count(), 40, "one stand-in for each byte");
}

#[test]
fn a_text_is_a_form_when_it_looks_like_one() {
    for (text, expected) in [
        ("a=b", true),
        ("user[name]=%27&x", true),
        ("a=b\n", true),
        ("a=b c", false),
        ("=b", false),
        ("a", false),
        ("x > 1 = 2", false),
        ("", false),
    ] {
        assert_eq!(looks_like_form(text), expected, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_body_is_read_whatever_its_type(
        content_type in prop::sample::select(vec![
            "", "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b",
            "multipart/mixed", "application/xml", "image/svg+xml", "application/graphql", "application/grpc",
            "application/grpc-web-text", "application/x-protobuf", "image/png", "text/plain; charset=utf-16",
            "application/json; charset=ibm037", "text/plain; charset=utf-7; charset=utf-32", "application/x-ndjson",
        ]),
        coding in prop::sample::select(vec!["", "gzip", "br", "zstd", "deflate"]),
        pieces in prop::collection::vec(prop::sample::select(vec![
            &b"{"[..], b"}", b"[", b"]", b"\"", b"\\", b":", b",", b"\\u00", b"--b", b"\r\n", b"\n", b"--", b"&", b"=", b"%",
            b"%4", b"%c0%af", b";", b"<", b">", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<!ENTITY x '", b"&#x", b"a", b"\xff",
            b"\0", b"Content-Disposition: form-data; name=", b"Content-Type: multipart/mixed; boundary=c", b"--c", b"query",
            b"\x0a\x05", b"\0\0\0\0\x04", b"'", b"/*", b"+ADw-", b"\xef\xbb\xbf", b"Content-Transfer-Encoding: base64",
        ]), 0..60),
        partial in any::<bool>(),
    ) {
        let body = pieces.concat();
        let headers = [("content-type", content_type.as_bytes()), ("content-encoding", coding.as_bytes())];
        Given { headers: &headers, body: &body, partial, ..Given::default() }.items();
    }
}
