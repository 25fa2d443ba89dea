use proptest::prelude::*;

use super::*;
use crate::detect::Source;
use crate::detect::confirm::testing;

#[test]
fn addresses_are_read_as_old_resolvers_read_them() {
    for (host, expected) in [
        ("127.0.0.1", Some(0x7f00_0001)),
        ("127.1", Some(0x7f00_0001)),
        ("0177.1", Some(0x7f00_0001)),
        ("0x7f000001", Some(0x7f00_0001)),
        ("2130706433", Some(0x7f00_0001)),
        ("10.0.258", Some(0x0a00_0102)),
        ("0", Some(0)),
        ("8080", None),
        ("089.1", None),
        ("256.1", None),
        ("1.2.3.256", None),
        ("1.2.3.4.5", None),
        ("4294967296", None),
    ] {
        assert_eq!(address(host.as_bytes()), expected, "{host}");
    }
    for (address, expected) in [(0x0a00_0001, true), (0x6464_64c8, true), (0x6464_64c9, false), (0xac20_0000, false)] {
        assert_eq!(is_internal(address), expected, "{address:x}");
    }
}

#[test]
fn dates_are_told_from_arithmetic() {
    for (text, expected) in [
        ("{{ 2020-01-02 }}", false),
        ("{{ 7*7 }}", true),
        ("{{ 2020-1-2 {{ 3*3 }}", true),
        ("{{ 2020-1-2 {{ x }}", false),
        ("{{ 12020-01-02 }}", true),
    ] {
        assert_eq!(not_only_date(&testing::query(text), &(0..text.len())), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_check_panic(
        text in "[a-cORS(){}`$'\"@=*?&|!.,:;/#0-9x <>~\\-\n\0é]{0,60}",
        start in 0_usize..60,
        length in 0_usize..60,
    ) {
        let start = text.floor_char_boundary(start);
        let end = text.floor_char_boundary((start + length).max(start));
        for (name, check) in CHECKS {
            for source in [Source::Query, Source::Body] {
                check(&testing::candidate(&text, source, crate::detect::Kind::Value), &(start..end));
            }
            prop_assert!(!name.is_empty());
        }
    }
}
