use proptest::prelude::*;

use super::*;
use crate::detect::confirm::testing::{body, candidate, query};

#[track_caller]
fn check(confirm: crate::detect::confirm::Confirm, cases: &[(&str, bool)]) {
    for (text, expected) in cases {
        assert_eq!(confirm(&query(text)).is_some(), *expected, "{text}");
    }
}

#[test]
fn steps_up_are_counted_in_every_spelling() {
    check(
        escapes_root,
        &[
            ("../../secret", true),
            ("..\\..\\secret", true),
            (".//..//./..//secret", true),
            ("....//....//secret", true),
            ("..;/manager", true),
            ("a/..;x=1/..;/b", true),
            ("..0x2f..0x2fsecret", true),
            ("..2f..2fsecret", true),
            ("\u{fffd}.\u{fffd}./x", true),
            ("../settings.inc", true),
            ("../../../x.png", true),
            ("../logo.png", false),
            ("../ in relative urls", false),
            ("see [a](../a) and [b](../../b) for more", false),
            ("wait... what/why", false),
            ("1../2", false),
            ("a..b/c", false),
        ],
    );
    let path = |text| escapes_root(&candidate(text, Source::Path, Kind::Value)).is_some();
    assert!(path("/app/../admin") && path("/app/..;/admin") && path("/app/..") && !path("/app/a..b/c...d/"));
}

#[test]
fn relative_links_are_ordinary_in_documents() {
    assert!(escapes_root(&body("../../components/button")).is_none());
    assert!(escapes_root(&body("../../../../components/button")).is_some());
}

#[test]
fn secret_files_are_known_by_name() {
    check(
        secret_file,
        &[
            ("/etc/passwd", true),
            ("etc/passwd", true),
            ("/etc//./passwd\0.png", true),
            ("./\\/././\\/./etc/shadow", true),
            ("..\u{f025}..\u{f025}boot.ini", true),
            ("C:\\WINDOWS\\win.ini", true),
            ("/proc/self/environ", true),
            ("....\\\\WEB-INF\\\\web.xml", true),
            ("what is /etc/passwd for", false),
            ("/articles/etc-passwd", false),
            ("fetch/passwords", false),
            ("https://example.com/etc/passwd-explained", false),
            ("/sketch/hosting", false),
        ],
    );
}

#[test]
fn roots_of_the_machine_are_no_parameters() {
    check(
        machine_path,
        &[
            ("/etc/exports", true),
            ("file:///etc/exports", true),
            ("/proc/17/maps", true),
            ("C:\\xampp\\apache\\conf\\x.conf", true),
            ("/etc/exports\0.html", true),
            ("/usr/share/icons/x.png", false),
            ("/home/dashboard", false),
            ("/etc/, /proc/ and so on", false),
            ("etc/x", false),
        ],
    );
    assert!(machine_path(&body("/etc/secret-volume")).is_none());
    assert!(machine_path(&body("/etc/passwd")).is_some());
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "(\\.|/|\\\\|0x2f|%2e|etc/passwd|;|\\PC|[\\x00-\\x20]){0,80}") {
        for confirm in [escapes_root, secret_file, machine_path] {
            if let Some(found) = confirm(&query(&text)) {
                prop_assert!(found.start <= found.end && found.end <= text.len());
            }
        }
    }

    #[test]
    fn one_walk_finds_the_secrets_that_searches_find(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "etc/passwd", "etc/", "/", ".", "proc/self/", "web-inf/", "win.ini", ".ssh/", "id_rsa", "php.ini", "e", "w", "passwd", "x", "\u{e9}",
        ]), 0..12),
    ) {
        let text = pieces.concat();
        let found = secrets_within(text.as_bytes());
        for (index, secret) in SECRETS.iter().enumerate() {
            prop_assert_eq!(found >> index & 1 == 1, text.contains(secret), "{} in {}", secret, text);
        }
    }
}
