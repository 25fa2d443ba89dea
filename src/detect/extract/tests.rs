use super::*;
use crate::config::exclusions::{Profile, Unreadable};
use crate::detect::{Context, Kind, Lens, Threat};
use crate::model::category::Category;
use crate::request::headers::Headers;
use crate::request::{Body, Peer, Target, Tls};

/// The default policy's bounds.
pub(super) const LIMITS: Limits = Limits {
    profile: Profile::Balanced,
    values_max: 512,
    chars_max: 65536,
    json_depth_max: 32,
    body_bytes_max: 262_144,
    island_min: 16,
    undecodable_body: Unreadable::Deny,
};

/// A request to take apart; what is not said is absent.
#[derive(Clone)]
pub(super) struct Given<'r> {
    pub(super) target: &'r str,
    pub(super) headers: &'r [(&'r str, &'r [u8])],
    pub(super) body: &'r [u8],
    pub(super) partial: bool,
    pub(super) scope: Scope,
    pub(super) limits: Limits,
}

impl Default for Given<'_> {
    fn default() -> Self {
        Self { target: "", headers: &[], body: b"", partial: false, scope: Scope::default(), limits: LIMITS }
    }
}

/// Calls a function for each item, and stops after some of them.
struct Look<F> {
    look: F,
    left: usize,
}

impl<F: FnMut(&Context<'_>, String, &str, Option<Lens<'_>>)> Look<F> {
    fn count(&mut self) -> Flow {
        self.left -= 1;
        if self.left == 0 { Flow::Break(()) } else { Flow::Continue(()) }
    }
}

impl<F: FnMut(&Context<'_>, String, &str, Option<Lens<'_>>)> Visit for Look<F> {
    fn value(&mut self, context: &Context<'_>, text: &str, lens: Lens<'_>) -> Flow {
        (self.look)(context, format!("{:?} {}={text}", context.kind, context.name), text, Some(lens));
        self.count()
    }

    fn threat(&mut self, context: &Context<'_>, threat: Threat) -> Flow {
        (self.look)(context, format!("{}: {}", threat.row, threat.matched), "", None);
        self.count()
    }

    fn partial(&mut self, reason: &'static str) -> Flow {
        (self.look)(&Context::parse("request_body"), format!("partial: {reason}"), "", None);
        self.count()
    }
}

impl Given<'_> {
    pub(super) fn request(&self) -> Request<'_> {
        Request {
            id: "",
            method: "POST",
            scheme: "https",
            host: "example.com",
            target: Target::from(self.target),
            protocol: "HTTP/1.1",
            headers: self.headers.iter().copied().collect::<Headers<'_>>(),
            body: match (self.body, self.partial) {
                (bytes, true) => Body::Partial(bytes),
                ([], false) => Body::Absent,
                (bytes, false) => Body::Complete(bytes),
            },
            peer: Peer::Absent,
            route: None,
            tls: Tls::default(),
        }
    }

    /// Shows every value to `look`.
    pub(super) fn each(&self, mut look: impl FnMut(&Context<'_>, &str, Lens<'_>)) {
        let look = |context: &Context<'_>, _: String, text: &str, lens: Option<Lens<'_>>| {
            if let Some(lens) = lens {
                look(context, text, lens);
            }
        };
        let flow = walk(&self.request(), &self.scope, &self.limits, &mut Look { look, left: usize::MAX });
        assert_eq!(flow, Flow::Continue(()));
    }

    /// The first `left` items as `kind name=text`, in order.
    pub(super) fn first(&self, left: usize) -> (Vec<String>, Flow) {
        let mut items = Vec::new();
        let look = |_: &Context<'_>, item: String, _: &str, _: Option<Lens<'_>>| items.push(item);
        let flow = walk(&self.request(), &self.scope, &self.limits, &mut Look { look, left });
        (items, flow)
    }

    /// Each item as `kind name=text`, in order.
    pub(super) fn items(&self) -> Vec<String> {
        let (items, flow) = self.first(usize::MAX);
        assert_eq!(flow, Flow::Continue(()));
        items
    }
}

/// The items of a body of this type.
#[track_caller]
pub(super) fn body(content_type: &str, body: &[u8]) -> Vec<String> {
    let headers = [("content-type", content_type.as_bytes())];
    let items = Given { headers: &headers, body, ..Given::default() }.items();
    items.into_iter().filter(|item| !item.contains(" content-type=")).collect()
}

#[test]
fn a_request_is_walked_in_order() {
    let given = Given {
        target: "/shop/item?id=7&q=a+b%21&id=8;x=9&flag",
        headers: &[("accept", b"*/*"), ("cookie", b"a=1; b=2 ;; "), ("x-latin", b"caf\xe9 \xc3\xa9")],
        body: b"note=1%202&=x",
        ..Given::default()
    };
    assert_eq!(
        given.items(),
        [
            "Name id=id",
            "Value id=7",
            "Name q=q",
            "Value q=a b!",
            "Name id=id",
            "Value id=8;x=9",
            "Name x=x",
            "Value x=9",
            "Name flag=flag",
            "Value =7,8;x=9",
            "Value =/shop/item",
            "Name accept=accept",
            "Value accept=*/*",
            "Name cookie=cookie",
            "Cookie cookie=a=1",
            "Cookie cookie=b=2",
            "Name x-latin=x-latin",
            "Value x-latin=café é",
            "Name note=note",
            "FormField note=1 2",
            "FormField =x",
            "Value =note=1%202&=x",
        ]
    );
}

#[test]
fn clean_text_is_borrowed_from_the_request() {
    let given = Given {
        target: "/shop/item?id=7&q=ab",
        headers: &[("accept", b"*/*"), ("content-type", b"application/json")],
        body: br#"{"a":"text"}"#,
        ..Given::default()
    };
    let within = |text: &str| {
        [given.target.as_bytes(), given.body]
            .into_iter()
            .chain(given.headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]))
            .any(|source| source.as_ptr_range().contains(&text.as_ptr()))
    };
    given.each(|_, text, _| assert!(within(text), "{text}"));
}

#[test]
fn the_visitor_may_stop_anywhere() {
    let given = Given { target: "/p?a=1&b=2", headers: &[("h", b"v")], body: b"x", ..Given::default() };
    let total = given.items().len();
    for stop in 1..=total {
        let (items, flow) = given.first(stop);
        assert_eq!((items.len(), flow), (stop, Flow::Break(())));
    }
}

#[test]
fn excluded_names_are_left_out_at_any_depth() {
    let scope = Scope {
        excluded_params: vec!["token".into()],
        excluded_body_fields: vec!["password".into(), "straße".into()],
        ..Scope::default()
    };
    let given = Given { target: "/?TOKEN=x&a=1", scope: scope.clone(), ..Given::default() };
    assert_eq!(given.items(), ["Name a=a", "Value a=1", "Value =/"]);
    let json = r#"{"a":{"PassWord":{"x":["'"]},"STRAßE":1,"b":"c"},"password":"s","z":2}"#;
    let headers: [(&str, &[u8]); 1] = [("content-type", b"application/json")];
    let given = Given { headers: &headers, body: json.as_bytes(), scope, ..Given::default() };
    assert_eq!(given.items()[2..], ["JsonKey a=a", "JsonKey b=b", "JsonLeaf b=c", "JsonKey z=z", "JsonLeaf z=2"]);
}

#[test]
fn json_bodies_are_walked_leaf_by_leaf() {
    for (text, expected) in [
        (r#"{"id":1,"id":"1\u0027"}"#, &["JsonKey id=id", "JsonLeaf id=1", "JsonLeaf id=1'"][..]),
        (r#"[{"$ne":null}]"#, &["NOS-OPERATOR: $ne", "JsonLeaf $ne=null"]),
        (r#"{"a":["x",["y"]]}"#, &["JsonKey a=a", "JsonLeaf a=x", "JsonLeaf a=y"]),
        (r#"{"a":""}"#, &["JsonKey a=a"]),
        (
            r#"{"s":"{\"u\":[\"v\"]}"}"#,
            &["JsonKey s=s", "EmbeddedJsonKey u=u", "EmbeddedJson s=v", r#"JsonLeaf s={"u":["v"]}"#],
        ),
        ("\"scalar\"", &["JsonLeaf =scalar", "Value =\"scalar\""]),
        ("nonsense", &["Value =nonsense"]),
        (r#"{"a":1,}"#, &["JsonKey a=a", "JsonLeaf a=1", r#"Value ={"a":1,}"#]),
        (r#"{"a":"b"#, &["JsonKey a=a", "JsonLeaf a=b", r#"Value ={"a":"b"#]),
    ] {
        assert_eq!(body("application/json; charset=utf-8", text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn json_beyond_the_depth_bound_is_text() {
    let limits = Limits { json_depth_max: 3, ..LIMITS };
    let headers: [(&str, &[u8]); 1] = [("content-type", b"application/json")];
    let given = |body| Given { headers: &headers, body, limits, ..Given::default() }.items()[2..].to_vec();
    assert_eq!(given(br#"[["x"]]"#), ["JsonLeaf =x"]);
    assert_eq!(given(br#"[[["x", {"a":1}],"y"]]"#), [r#"JsonLeaf =["x", {"a":1}]"#, "JsonLeaf =y"]);
    assert_eq!(given(br#"[[["cut"#), [r#"JsonLeaf =["cut"#, r#"Value =[[["cut"#]);
}

#[test]
fn places_spell_the_way_to_a_leaf() {
    let headers: [(&str, &[u8]); 1] = [("content-type", b"application/json")];
    let body = br#"{"items":[{"n\u006fte":"x"},[1]],"s":"{\"in\":[2]}"}"#;
    let given = Given { headers: &headers, body, ..Given::default() };
    let mut places = Vec::new();
    given.each(|context, text, Lens { place, .. }| {
        if matches!(context.kind, Kind::JsonLeaf | Kind::EmbeddedJson) {
            places.push(format!("{place}={text}"));
            assert_eq!(place.passes("NOTE"), text == "x");
            assert_eq!(place.is_at("items[].note"), text == "x");
            assert_eq!(place.is_at("s"), context.name == "s");
        }
    });
    assert_eq!(places, ["items[].note=x", "items[][]=1", "s.in[]=2", "s={\"in\":[2]}"]);
}

#[test]
fn reduced_headers_are_asked_less() {
    let given = Given {
        headers: &[
            ("host", b"localhost"),
            ("referer", b"http://localhost/"),
            ("forwarded", b"10.0.0.1, [::1]:80"),
            ("x-hop", b"10.0.0.1"),
            ("x-mine", b"10.0.0.1"),
            ("via", b"1.1 proxy"),
            ("x-quiet", b"words"),
            (":path", b"/"),
            ("x-envoy-auth-partial-body", b"false"),
        ],
        scope: Scope {
            excluded_headers: vec!["x-mine".into(), "via".into()],
            excluded_semantic_headers: vec!["x-quiet".into()],
            ..Scope::default()
        },
        ..Given::default()
    };
    let mut asked = Vec::new();
    given.each(|context, _, lens| {
        if context.kind == Kind::Value {
            let ssrf = lens.categories.contains(Category::SSRF);
            assert!(lens.categories.contains(Category::CMD_INJECTION));
            asked.push(format!("{} {ssrf} {}", context.name, lens.semantic));
        }
    });
    assert_eq!(
        asked,
        [
            "host false true",
            "referer true true",
            "forwarded false true",
            "x-hop true true",
            "x-mine false true",
            "via false true",
            "x-quiet true false",
        ]
    );
}

#[test]
fn the_path_is_as_sent_or_decoded_once() {
    let balanced = |target| Given { target, ..Given::default() }.items();
    assert_eq!(balanced("/..%2fx"), ["Value =/..%2fx"]);
    assert_eq!(
        balanced("/app/..;/m;x=%31/"),
        ["Value =/app/..;/m;x=%31/", "Value x=1", "Value =/app/../m/"],
        "parameters are values, and the path is seen without them"
    );
    let limits = Limits { profile: Profile::GuardCore, ..LIMITS };
    let guard_core = |target| Given { target, limits, ..Given::default() }.items();
    assert_eq!(guard_core("/..%2fx;a=b"), ["Value =/../x;a=b"]);
}

#[test]
fn repeated_names_are_joined() {
    let values = |target| {
        let items = Given { target, ..Given::default() }.items();
        items.into_iter().filter(|item| item.starts_with("Value =") && !item.ends_with("=/")).collect::<Vec<_>>()
    };
    assert_eq!(
        values("/?id=1%20union/*&id=*/select%201,2/*&id=*/from%20users"),
        ["Value =1 union/*,*/select 1,2/*,*/from users", "Value =1 union/**/select 1,2/**/from users"]
    );
    assert_eq!(values("/?id=1'&ID=2&i%64=3"), ["Value =1',3"], "names are compared decoded, and by case");
    assert!(values("/?id=1&id=2").is_empty(), "plain words hide nothing");
    assert!(values("/?a=1'&b=2'").is_empty());
}

#[test]
fn a_spent_budget_leaves_one_text_per_source() {
    let limits = Limits { values_max: 3, ..LIMITS };
    let target = "/?a=1&b=2&c=3";
    let given =
        Given { target, headers: &[("host", b"localhost"), ("x", b"y")], body: b"b", limits, ..Given::default() };
    assert_eq!(
        given.items(),
        [
            "Name a=a",
            "Value a=1",
            "Name b=b",
            "Value =2 , c , 3",
            "Value =/",
            "Value =host , localhost , x , y",
            "Value =b"
        ]
    );
    let mut asked = Vec::new();
    given.each(|_, _, lens| asked.push(lens.categories.contains(Category::SSRF)));
    assert_eq!(
        asked,
        [true, true, true, true, true, false, true],
        "joined headers are asked what all of them are asked"
    );
    let limits = Limits { chars_max: 3, ..LIMITS };
    let given = Given { target: "/?name=text&b=c", limits, ..Given::default() };
    assert_eq!(given.items(), ["Name name=name", "Value =text , b , c", "Value =/"]);
}

#[test]
fn text_beyond_the_budgets_and_the_rest_is_a_finding() {
    let limits = Limits { values_max: 1, body_bytes_max: 4, ..LIMITS };
    let given = Given { target: "/?a=123456789&b=c", limits, ..Given::default() };
    let items = given.items();
    assert_eq!(items[0], "Name a=a");
    assert_eq!(items[1], "Value =b , c");
    assert!(items[2].starts_with("scan_budget_exhausted"), "{items:?}");
}

#[test]
fn a_cut_body_is_reported_and_scanned() {
    let given = Given { body: b"text", partial: true, ..Given::default() };
    assert_eq!(given.items()[0], "partial: only the beginning of the body was sent for inspection");
    assert_eq!(given.items()[1], "Value =text");
    let given = Given { partial: true, ..Given::default() };
    assert_eq!(given.items(), ["partial: only the beginning of the body was sent for inspection"], "cut at its start");
    let limits = Limits { body_bytes_max: 10, ..LIMITS };
    for (length, gaps) in [(265, 0), (266, 0), (267, 1)] {
        let body = vec![b'a'; length];
        let items = Given { body: &body, limits, ..Given::default() }.items();
        assert_eq!(items.iter().filter(|item| item.starts_with("partial")).count(), gaps, "{length}");
    }
    let scope = Scope { scan_body: false, ..Scope::default() };
    assert!(Given { body: b"text", partial: true, scope, ..Given::default() }.items().is_empty());
}
