use crate::config::exclusions::Profile;
use crate::detect::extract::tests::{Given, LIMITS, body};
use crate::detect::{Limits, Scope};

const TYPE: &str = "multipart/form-data; boundary=b";

#[test]
fn parts_are_label_file_name_headers_and_payload() {
    let parts = "--b\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\n1'\r\n--b\r\n\
        Content-Disposition: form-data; name=\"up\"; filename=\"a\\\"b.php\"\r\nContent-Type: text/plain\r\n\r\n<?php\r\n\r\n?>\r\n--b--\r\n";
    assert_eq!(
        body(TYPE, parts.as_bytes()),
        [
            "Name note=note",
            "MultipartField note=1'",
            "Name up=up",
            "MultipartField up=filename=\"ab.php\"",
            "MultipartField up=Content-Type: text/plain",
            "MultipartField up=<?php\r\n\r\n?>",
        ]
    );
    let limits = Limits { profile: Profile::GuardCore, ..LIMITS };
    let headers: [(&str, &[u8]); 1] = [("content-type", TYPE.as_bytes())];
    let items = Given { headers: &headers, body: parts.as_bytes(), limits, ..Given::default() }.items();
    assert_eq!(items[3], "MultipartField note=Content-Disposition: form-data; name=\"note\"");
}

#[test]
fn tricks_with_parts_are_seen_through() {
    let payload = "MultipartField id=1' UNION".to_owned();
    for (content_type, parts) in [
        (
            "multipart/form-data; boundary=X7; boundary=Y8",
            "--X7\r\nContent-Disposition: form-data;\r\n name=id; filename*=utf-8''a\r\n\r\n1' UNION\r\n--X7--\r\n",
        ),
        (
            "multipart/form-data; boundary=X7; boundary=Y8",
            "--Y8\r\nContent-Disposition: form-data; name=id\r\n\r\n1' UNION\r\n--Y8--\r\n",
        ),
        (
            "multipart/form-data; boundary=\"b\"",
            "preamble\r\n--b\nContent-Disposition: form-data; name=id\n\n1' UNION\n--b--",
        ),
        (
            "multipart/form-data; boundary=b,c",
            "--b\r\nContent-Disposition: form-data; name=id\r\n\r\n1' UNION\r\n--b--",
        ),
        ("multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=id\r\n\r\n1' UNION"),
        ("multipart/form-data; boundary=b", "--b  \r\ncontent-disposition:form-data;name=id\r\n\r\n1' UNION\r\n--b"),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=id\r\nContent-Transfer-Encoding: base64\r\n\r\nMScgVU5JT04=\r\n--b--",
        ),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=id\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n1=27 UNI=\r\nON\r\n--b--",
        ),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=id\r\nContent-Type: text/plain; charset=utf-7\r\n\r\n1+ACc- UNION\r\n--b--",
        ),
        (
            "multipart/mixed; boundary=b",
            "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\nContent-Disposition: form-data; name=id\r\n\r\n1' UNION\r\n--c--\r\n--b--",
        ),
    ] {
        let items = body(content_type, parts.as_bytes());
        assert!(items.contains(&payload), "{content_type}: {items:?}");
    }
    let spilled = body(TYPE, b"before'\r\n--b\r\n\r\nx\r\n--b--\r\nafter'");
    assert_eq!(
        spilled,
        ["MultipartField =before'", "Name file=file", "MultipartField file=x", "MultipartField =after'"]
    );
    let longer = body(TYPE, b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n--bc\r\n--b--");
    assert_eq!(longer, ["Name a=a", "MultipartField a=--bc"]);
    let headless = body(TYPE, b"--b\r\nid=1'\r\n--b--");
    assert_eq!(headless, ["Name file=file", "MultipartField file=id=1'", "MultipartField file=id=1'"]);
}

#[test]
fn binary_files_show_their_islands() {
    let mut file =
        b"--b\r\nContent-Disposition: form-data; name=up; filename=x.bin\r\n\r\n\x89PNG\0\0\0\0\0\0\0".to_vec();
    file.extend_from_slice(b"<script>alert(1)</script>\0short\0\r\n--b--");
    assert_eq!(
        body(TYPE, &file),
        ["Name up=up", "MultipartField up=filename=\"x.bin\"", "Island up=<script>alert(1)</script>"]
    );
    let limits = Limits { island_min: 1, ..LIMITS };
    let headers: [(&str, &[u8]); 1] = [("content-type", TYPE.as_bytes())];
    let items = Given { headers: &headers, body: &file, limits, ..Given::default() }.items();
    assert!(items[4].starts_with("MultipartField up=\u{fffd}PNG"), "{items:?}");
}

#[test]
fn excluded_fields_are_left_out() {
    let scope = Scope { excluded_body_fields: vec!["secret".into()], ..Scope::default() };
    let headers: [(&str, &[u8]); 1] = [("content-type", TYPE.as_bytes())];
    let parts = b"--b\r\nContent-Disposition: form-data; name=Secret\r\n\r\n'\r\n--b\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--b--";
    let items = Given { headers: &headers, body: parts, scope, ..Given::default() }.items();
    assert_eq!(items[2..], ["Name a=a", "MultipartField a=b"]);
}
