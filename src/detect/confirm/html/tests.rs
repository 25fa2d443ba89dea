use proptest::prelude::*;

use super::*;
use crate::detect::confirm::testing::{body, query};

#[track_caller]
fn check(confirm: crate::detect::confirm::Confirm, cases: &[(&str, bool)]) {
    for (text, expected) in cases {
        assert_eq!(confirm(&query(text)).is_some(), *expected, "{text}");
    }
}

#[test]
fn a_tag_is_live_when_it_would_run_or_load() {
    check(
        live_tag,
        &[
            ("<img src=x onerror=run()>", true),
            ("<img/src/onerror='run()'", true),
            ("<IMG SRC=`x:x`onerror=run(1)>", true),
            ("<\0img src=x onerror=\"run(1)\">", true),
            ("<body onload!#$%&=run(1)>", true),
            ("<details open\u{b}ontoggle=run(1)>", true),
            ("<p title=\"<svg onload=run()>\">", true),
            ("<p title='</noscript><img src=x onerror=run()>'>", true),
            ("<a href=\"java\tscr\nipt:run(1)\">x</a>", true),
            ("<a href=' \u{1}javascript:run(1)'>x</a>", true),
            ("<a href=data:text/html;base64,PHN2Zz4=>x</a>", true),
            ("<form><button formaction=javascript:run(1)>x", true),
            ("<svg><animate attributeName=href values=javascript:run(1) />", true),
            ("<svg><set attributeName=onmouseover to=run(1)>", true),
            ("<iframe srcdoc='<svg onload=run()>'>", true),
            ("<script>run(document.cookie)</script>", true),
            ("<h:script xmlns:h='http://www.w3.org/1999/xhtml'>run()</h:script>", true),
            ("<script/x src=//elsewhere.example/x.js>", true),
            ("<base href=//elsewhere.example/>", true),
            ("<meta http-equiv=refresh content='0;url=//elsewhere.example'>", true),
            ("<style>@import '//elsewhere.example/x.css'</style>", true),
            ("<p style='width:expression(run())'>", true),
            ("<object data=x.swf></object>", true),
            ("<b>bold</b> and <i>italic</i>", false),
            ("<a href=\"https://example.com/a?on=1\">link</a>", false),
            ("<a href='javascript:void(0)'>menu</a>", false),
            ("<img src=\"data:image/png;base64,iVBORw0\" alt='onerror=run()'>", false),
            ("<button onClick={handleClick}>save</button>", false),
            ("<button onClick={() => save(1)}>save</button>", false),
            ("<my-list :items=\"rows\" @click=\"open(row)\"></my-list>", false),
            ("<script type=\"application/ld+json\">{\"a\":[f(1)]}</script>", false),
            ("how does the <script> tag (and its friends) work?", false),
            ("a < b && onerror = c > d", false),
            ("List<String> onload = x", false),
            ("1 <2 and <onfoo=1>", false),
        ],
    );
}

#[test]
fn frames_of_other_sites_are_ordinary_in_rich_text_only() {
    let embed = "<iframe src=\"https://video.example/embed/1\"></iframe>";
    let page = format!("<p>{}</p>{embed}", "word ".repeat(60));
    assert!(live_tag(&query(embed)).is_some());
    assert!(live_tag(&body(&page)).is_none());
    let evil = page.replace("https://video", "//video");
    assert!(live_tag(&body(&evil)).is_some());
}

#[test]
fn handlers_break_out_of_attributes() {
    check(
        attribute_breakout,
        &[
            ("\" onfocus=run(1) autofocus x=\"", true),
            ("'onmouseover='run(1)", true),
            ("x onerror=alert(1) y", true),
            ("\"\tONCLICK\n=\n\"run`1`", true),
            ("window.onload = function () { start(); }", false),
            ("the option onload = 3 is new", false),
            ("\" onfoo=run(1)", false),
            ("weapon=axe(2)", false),
        ],
    );
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "(<|[a-z]|=|\"|'|/|>|on|\\PC|[\\x00-\\x20]){0,80}") {
        for found in [live_tag(&query(&text)), attribute_breakout(&body(&text))].into_iter().flatten() {
            prop_assert!(found.end <= text.len());
        }
    }
}

#[test]
fn markup_with_attributes_belongs_into_documents() {
    check(
        injected_markup,
        &[
            ("<input type=password name=p>", true),
            ("x <div id=\"1\">", true),
            ("how to center a <div> in css", false),
            ("<GITHUB_LOGIN>", false),
            ("a <b and c = d", false),
            ("<user name=x>", false),
        ],
    );
    assert!(injected_markup(&body("<div id=\"1\">")).is_none());
    assert!(ELEMENTS.is_sorted());
}
