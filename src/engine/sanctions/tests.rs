use super::*;
use crate::engine::testing::{lit, policy};

#[test]
fn a_categorys_own_threshold_is_tried_first_and_in_the_order_found() {
    let policy = policy(lit!({"security": {
        "auto_ban_threshold": 10,
        "auto_ban_duration": 100,
        "threat_ban_config": {
            "xss": {"threshold": 3, "duration": 30},
            "sqli": {"threshold": 2, "duration": 20}
        }
    }}));
    let seconds = |categories: &[Category], counts: &[(Category, u64)], total| {
        let suspicion = Suspicion { by_category: counts.iter().copied().collect(), total };
        let sentence = policy.sanctions.judge(categories, &suspicion)?;
        Some((sentence.category, sentence.duration.seconds()))
    };
    let (xss, sqli, ldap) = (Category::XSS, Category::SQLI, Category::LDAP);
    for (name, categories, counts, total, expected) in [
        ("below both", &[xss][..], &[(xss, 2)][..], 9, None),
        ("at its own", &[xss], &[(xss, 3)], 3, Some((Some(xss), 30))),
        ("the first found wins", &[sqli, xss], &[(xss, 3), (sqli, 2)], 5, Some((Some(sqli), 20))),
        ("only categories of this request count", &[ldap], &[(ldap, 1)], 9, None),
        ("the sum over all", &[ldap], &[(ldap, 1)], 10, Some((None, 100))),
        ("its own before the sum", &[xss], &[(xss, 3)], 10, Some((Some(xss), 30))),
        ("the sum when its own is not reached", &[xss], &[(xss, 2)], 10, Some((None, 100))),
    ] {
        assert_eq!(seconds(categories, counts, total), expected, "{name}");
    }
}

#[test]
fn some_are_never_banned() {
    let policy = policy(lit!({"security": {"trusted_proxies": ["10.0.0.0/8", "unix"]}}));
    for (text, expected) in [
        ("203.0.113.7", true),
        ("127.0.0.1", false),
        ("127.8.8.8", false),
        ("::1", false),
        ("10.1.2.3", false),
        ("::ffff:10.1.2.3", false),
        ("fe80::1%eth0", false),
        ("testclient", false),
        ("", false),
    ] {
        let client = crate::request::client::peer(text.into());
        assert_eq!(policy.sanctions.target(client).is_some(), expected, "{text}");
    }
}
