use serde_json::{Value, json};

use crate::engine::tests::testing::{Ask, lit, once, policy, wrong};

fn table() -> Value {
    lit!({"routes": [
        {"name": "early-prefix", "match": [{"prefix": "/shop/vip"}]},
        {"name": "exact", "match": [{"path": "/shop/vip"}, {"path": "/exact/"}]},
        {"name": "posts", "match": [{"path": "/exact2", "methods": ["post"]}]},
        {"name": "host", "match": [{"hosts": ["api.example.org", "*.wild.org"]}]},
        {"name": "template", "match": [{"template": "/users/{id}/posts/{post}"}]},
        {"name": "rest", "match": [{"template": "/files/{path...}"}]},
        {"name": "regex", "match": [{"regex": "/v[0-9]+/.*"}]},
        {"name": "any-first", "match": [{"template": "/{tenant}/settings"}]},
        {"name": "late-prefix", "match": [{"prefix": "/shop"}]},
        {"name": "named-only"}
    ]})
}

#[test]
fn the_first_match_wins() {
    let policy = policy(table());
    for (method, host, target, expected) in [
        ("GET", "example.com", "/shop/vip", Some("early-prefix")),
        ("GET", "example.com", "/shop/vip/x", Some("early-prefix")),
        ("GET", "example.com", "/shop/vipx", Some("late-prefix")),
        ("GET", "example.com", "/shop", Some("late-prefix")),
        ("GET", "example.com", "/shopping", None),
        ("GET", "example.com", "/exact", Some("exact")),
        ("GET", "example.com", "/exact/?q=/shop", Some("exact")),
        ("GET", "example.com", "/exact/x", None),
        ("GET", "example.com", "/%65xact", Some("exact")),
        ("GET", "example.com", "/a/../exact", Some("exact")),
        ("GET", "example.com", "//exact", Some("exact")),
        ("GET", "example.com", "/exact2", None),
        ("POST", "example.com", "/exact2", Some("posts")),
        ("GET", "API.example.org:8080", "/any/thing", Some("host")),
        ("GET", "a.wild.org", "/", Some("host")),
        ("GET", "a.b.WILD.org", "/", Some("host")),
        ("GET", "wild.org", "/", None),
        ("GET", "evilwild.org", "/", None),
        ("GET", "example.com", "/users/1/posts/2", Some("template")),
        ("GET", "example.com", "/users/1/posts", None),
        ("GET", "example.com", "/users/1/posts/2/3", None),
        ("GET", "example.com", "/files/a/b/c", Some("rest")),
        ("GET", "example.com", "/files", Some("rest")),
        ("GET", "example.com", "/v12/x", Some("regex")),
        ("GET", "example.com", "/api/v12/x", None),
        ("GET", "example.com", "/acme/settings", Some("any-first")),
        ("GET", "example.com", "/shop/settings", Some("any-first")),
        ("GET", "example.com", "/shop/%ff", Some("late-prefix")),
    ] {
        let mut request = Ask { method, target, ..Ask::default() }.request();
        request.host = host;
        let normal = crate::request::path::normalise(request.target.path);
        let resolved = policy.routes.resolve(&request, &normal.path);
        let name = resolved.route.and_then(|id| policy.routes.name(id));
        assert_eq!(name, expected, "{method} {host} {target}");
        assert_eq!(resolved.unresolved, expected.is_none(), "{method} {host} {target}");
    }
}

#[test]
fn a_name_from_envoy_beats_the_table() {
    let policy = policy(table());
    let named = |route| once(&policy, Ask { target: "/shop", route: Some(route), ..Ask::default() }).route;
    assert_eq!(named("named-only"), Some("named-only"));
    assert_eq!(named("exact"), Some("exact"));
    assert_eq!(named("no-such-route"), Some("late-prefix"), "protections of the table are not lost");
}

#[test]
fn bad_routes_are_reported_together() {
    let text = lit!({"routes": [
        {"name": "a", "match": [{"path": "/a", "prefix": "/a"}]},
        {"name": "a", "match": [{"path": "a"}, {"prefix": "/%ff"}]},
        {"name": "", "match": [{"template": "/{}"}, {"template": "/{a...}/b"}, {"template": "/a{b}"}]},
        {"name": "b", "match": [{"regex": "("}, {"hosts": ["*"]}, {"hosts": ["a.*"]}]},
        {"name": "c", "bypassed_checks": ["everything"]}
    ]});
    assert_eq!(
        wrong(text),
        [
            "routes[0].match[0].path",
            "routes[1].name",
            "routes[1].match[0].path",
            "routes[1].match[1].prefix",
            "routes[2].name",
            "routes[2].match[0].template",
            "routes[2].match[1].template",
            "routes[2].match[2].template",
            "routes[3].match[0].regex",
            "routes[3].match[1].hosts",
            "routes[3].match[2].hosts",
            "routes[4].bypassed_checks",
        ]
    );
}

#[test]
fn hundreds_of_routes_resolve_like_a_list() {
    let routes: Vec<Value> = (0..400)
        .map(|n| match n % 4 {
            0 => json!({"name": format!("r{n}"), "match": [{"path": format!("/a{}/b", n / 8)}]}),
            1 => json!({"name": format!("r{n}"), "match": [{"prefix": format!("/a{}", n / 8)}]}),
            2 => json!({"name": format!("r{n}"), "match": [{"template": format!("/a{}/{{x}}", n / 16)}]}),
            _ => json!({"name": format!("r{n}"), "match": [{"template": format!("/{{x}}/c{n}")}]}),
        })
        .collect();
    let policy = policy(json!({"routes": routes}));
    let slow = |path: &str| {
        (0..400).find(|n| match n % 4 {
            0 => path == format!("/a{}/b", n / 8),
            1 => path == format!("/a{}", n / 8) || path.starts_with(&format!("/a{}/", n / 8)),
            2 => path.strip_prefix(&format!("/a{}/", n / 16)).is_some_and(|x| !x.is_empty() && !x.contains('/')),
            _ => path
                .strip_suffix(&format!("/c{n}"))
                .is_some_and(|x| x.get(1..).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))),
        })
    };
    for number in 0..60 {
        for tail in ["", "/b", "/x", "/b/c", "/c3", "/c399"] {
            let path = format!("/a{number}{tail}");
            let request = Ask { target: &path, ..Ask::default() };
            let request = request.request();
            let found = policy.routes.resolve(&request, &path).route.map(crate::engine::routes::RouteId::index);
            assert_eq!(found, slow(&path), "{path}");
        }
    }
}
