use proptest::prelude::*;

use crate::config::exclusions::Profile;
use crate::detect::Limits;
use crate::detect::extract::tests::{Given, LIMITS, body};

#[test]
fn texts_attributes_and_declarations_are_read() {
    for (text, expected) in [
        (
            "<?xml version=\"1.0\"?><r><id>1&#39; <![CDATA[un]]><![CDATA[ion sel]]>ect 1,2 &#x2d;-</id></r>",
            &["Xml id=1' union select 1,2 --"][..],
        ),
        ("<a>un<!-- note -->ion</a>", &["Xml a=note", "Xml a=union"]),
        ("<a b='x &lt; y' c = \"1>2\"/>", &["Xml b=x < y", "Xml c=1>2"]),
        ("<a><b>1</b>tail</a>", &["Xml b=1", "Xml b=tail"]),
        (
            "<!DOCTYPE r [<!ENTITY x \"io\"><!ENTITY y SYSTEM 'file:///etc/passwd'>]><r>un&x;n &y; &z;</r>",
            &["Xml =<!DOCTYPE r [<!ENTITY x \"io\"><!ENTITY y SYSTEM 'file:///etc/passwd'>]>", "Xml r=union &y; &z;"],
        ),
        ("<?xml-stylesheet href='x'?><a>b</a>", &["Xml =<?xml-stylesheet href='x'?>", "Xml a=b"]),
        ("<soap:Envelope xmlns:soap=\"urn:x\"><soap:Body/></soap:Envelope>", &["Xml xmlns:soap=urn:x"]),
        ("<a>{\"k\":\"v\"}</a>", &["EmbeddedJsonKey k=k", "EmbeddedJson a=v", "Xml a={\"k\":\"v\"}"]),
    ] {
        assert_eq!(body("application/xml", text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn what_is_not_well_formed_is_read_whole_too() {
    for text in [
        "<a>b",
        "a < b",
        "<a b></a>",
        "<a><![CDATA[x</a>",
        "</a>",
        "<a>1</a></a>",
        "plain",
        "<a x='1",
        "<a><!-- open",
        "<!DOCTYPE",
    ] {
        let items = body("text/xml", text.as_bytes());
        assert_eq!(items.last().unwrap(), &format!("Value ={text}"), "{items:?}");
    }
    let markup = body("image/svg+xml", b"<svg><script>alert(1)</script></svg>");
    assert_eq!(markup.last().unwrap(), "Value =<svg><script>alert(1)</script></svg>", "browsers run it");
    let limits = Limits { profile: Profile::GuardCore, ..LIMITS };
    let headers: [(&str, &[u8]); 1] = [("content-type", b"text/xml")];
    let items = Given { headers: &headers, body: b"<a>b</a>", limits, ..Given::default() }.items();
    assert_eq!(items.last().unwrap(), "Value =<a>b</a>");
}

#[test]
fn entities_expand_once_and_within_bounds() {
    let text =
        format!("<!DOCTYPE r [<!ENTITY a '{}'><!ENTITY b '&a;&a;'>]><r>{}</r>", "x".repeat(1000), "&a;".repeat(1000));
    let items = body("application/xml", text.as_bytes());
    let longest = items.iter().map(String::len).max().unwrap();
    assert!(longest < super::EXPANSION_MAX + 10_000, "{longest}");
}

proptest! {
    #[test]
    fn any_text_is_read(pieces in prop::collection::vec(prop::sample::select(vec![
        "<", ">", "<a", "</a>", "<a>", "/>", "<!", "<!--", "-->", "<![CDATA[", "]]>", "<?", "?>", "&", "&#", ";", "x", "\"",
        "'", "=", " ", "<!ENTITY", "[", "]", "é", "<!DOCTYPE",
    ]), 0..40)) {
        body("application/xml", pieces.concat().as_bytes());
    }
}
