use proptest::prelude::*;

use super::*;
use crate::detect::confirm::testing::{body, candidate, query};

#[test]
fn hosts_inside_are_known_in_every_spelling() {
    for (text, expected) in [
        ("http://169.254.169.254/latest/", true),
        ("http://127.0.0.1/admin", true),
        ("http://127.1/", true),
        ("http://2130706433/", true),
        ("http://0x7f.0.0.1/", true),
        ("http://0177.0.0.01/", true),
        ("http://[::1]/", true),
        ("http://[::ffff:10.0.0.1]/", true),
        ("http://[fd00:ec2::254]/latest", true),
        ("http://localhost.:8080/", true),
        ("http://example.com@127.0.0.1/", true),
        ("http://10.0.0.1.nip.io/", true),
        ("gopher://localhost:6379/_x", true),
        ("http://metadata.google.internal/computeMetadata/", true),
        ("169.254.169.254/latest/meta-data", true),
        ("https://example.com/", false),
        ("https://8.8.8.8/", false),
        ("http://127.example.com/", false),
        ("see http://localhost:3000 in a browser", false),
        ("http://12345/", false),
        ("10.0.0.1", false),
    ] {
        assert_eq!(internal_target(&query(text)).is_some(), expected, "{text}");
    }
}

#[test]
fn what_tells_about_the_client_passes() {
    let mut context = query("").context.clone();
    context.name = "redirect_uri".into();
    let text = "http://localhost:8080/cb";
    assert!(internal_target(&Candidate { context: &context, ..query(text) }).is_none());
    context.source = Source::Header;
    context.name = "referer".into();
    assert!(internal_target(&Candidate { context: &context, ..query(text) }).is_none());
    assert!(internal_target(&body(text)).is_some());
    assert!(internal_target(&candidate(text, Source::Body, Kind::Value)).is_some());
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "(http://|[0-9]{1,12}|\\.|0x|@|\\[|\\]|:|/|\\PC){0,60}") {
        if let Some(found) = internal_target(&query(&text)) {
            prop_assert!(found.start <= found.end && found.end <= text.len());
        }
    }
}
