use super::*;
use crate::engine::tests::testing::{lit, policy};

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

#[test]
fn a_prefix_bans_the_network_unless_that_would_hit_somebody_else() {
    let policy = policy(lit!({
        "security": {"trusted_proxies": ["203.0.113.200", "2001:db8:9::/48"]},
        "bans": {"ipv4_prefix": 24, "ipv6_prefix": 64}
    }));
    for (text, expected) in [
        ("198.51.100.7", Some("198.51.100.0/24")),
        ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1:2::/64")),
        ("203.0.113.7", None),
        ("2001:db8:9:1::7", None),
        ("::7", None),
        ("127.0.0.1", None),
        ("fe80::1%eth0", None),
    ] {
        let client = crate::request::client::peer(text.into());
        let target = policy.sanctions.target(client).map(|target| target.to_string());
        assert_eq!(target.as_deref(), expected, "{text}");
    }
    for (text, expected) in
        [("198.51.100.7", "198.51.100.0"), ("2001:db8:1:2:3::6", "2001:db8:1:2::"), ("testclient", "testclient")]
    {
        let client = crate::request::client::peer(text.into());
        assert_eq!(policy.sanctions.suspect(client).to_string(), expected);
    }
}

#[test]
fn offences_of_a_network_add_up_and_ban_it() {
    use crate::engine::tests::testing::{Ask, NOON, at, short};
    let policy = policy(lit!({
        "security": {"auto_ban_threshold": 2, "enable_rate_limiting": false},
        "bans": {"ipv4_prefix": 24}
    }));
    let state = crate::state::memory::Memory::new(100);
    let attack = "/?q=1%27%20UNION%20SELECT%20password%20FROM%20users--";
    let ask = |peer, target| short(&at(&policy, &state, Ask { peer, target, ..Ask::default() }, NOON)).0;
    assert_eq!(ask("198.51.100.1", attack), 400);
    assert_eq!(ask("198.51.100.2", attack), 403, "the second of the network");
    assert_eq!(ask("198.51.100.3", "/"), 403);
    assert_eq!(ask("198.51.101.3", "/"), 0);
}
