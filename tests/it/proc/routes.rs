//! Which route of the policy an exchange gets, by each way that Envoy has to say so; and trials without answers.

use crate::stack::{Call, Stack, policy};

const ROUTES: &str = "routes:\n  - name: admin\n    required_headers: { x-operator: required }\n  \
    - name: shop\n    match: [{ prefix: /metadata/of-nobody }]\n    require_https: true\n";

const FILTER: &str = "envoy.filters.http.ext_proc";
const PER_ROUTE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";

/// The shipped text with routes that name the guard's in each way.
fn with_names(text: &str) -> String {
    let metadata =
        |name: &str| format!("metadata: {{ filter_metadata: {{ envoy-guard: {{ guard_route: {name} }} }} }}");
    let called = |name: &str| {
        format!(
            "typed_per_filter_config: {{ {FILTER}: {{ \"@type\": {PER_ROUTE}, overrides: {{ grpc_initial_metadata: \
             [{{ key: guard-route, value: {name} }}] }} }} }}"
        )
    };
    let mut routes = String::new();
    for (path, more) in [
        ("/called", called("admin")),
        ("/metadata/plain", metadata("admin")),
        ("/metadata/of-nobody", metadata("nobody")),
        ("/both", format!("{}, {}", called("admin"), metadata("shop"))),
        ("/named", "name: admin".to_owned()),
        ("/other-name", "name: catalogue".to_owned()),
    ] {
        routes.push_str(&format!(
            "                        - {{ match: {{ prefix: \"{path}\" }}, route: {{ cluster: application }}, {more} }}\n"
        ));
    }
    text.replacen("                      routes:\n", &format!("                      routes:\n{routes}"), 1)
        .replace("request_attributes: [", "request_attributes: [xds.route_metadata, xds.route_name, ")
}

#[test]
fn envoy_names_the_route_in_each_way() {
    let stack = Stack::of("ext_proc.yaml", &policy("rate_limit: 100000", ROUTES, 0, 0), |text| with_names(&text));
    let get = |path: &str| Call::get(path).from("198.51.100.7");
    for (path, status, body) in [
        ("/plain", 200, "GET /plain"),
        ("/called", 400, "Missing required header: x-operator"),
        ("/metadata/plain", 400, "Missing required header: x-operator"),
        ("/both", 400, "Missing required header: x-operator"),
        ("/named", 400, "Missing required header: x-operator"),
        ("/other-name", 200, "GET /other-name"),
        // A name that the policy does not know: its own table still applies.
        ("/metadata/of-nobody", 301, ""),
    ] {
        let answer = stack.send(&get(path));
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.starts_with(body), "{path}: {answer:?}");
        // What the client says about routes is nothing but a header.
        if status == 200 {
            let claimed = stack.send(&get(path).header("guard-route", "admin"));
            assert_eq!(claimed.status, 200, "{path}: {claimed:?}");
        }
    }
    assert_eq!(stack.send(&get("/named").header("x-operator", "me")).status, 200);
}

/// A trial: Envoy shows everything and takes no answer; what would have been refused is logged and counted.
#[test]
fn a_trial_changes_nothing_and_says_what_would_have_been() {
    let mut stack =
        Stack::of("ext_proc.yaml", &policy("rate_limit: 2\nblacklist: [\"198.51.100.66\"]", "", 0, 0), |text| {
            text.replace("allow_mode_override: true", "observability_mode: true")
        });
    let hostile =
        Call::new("POST", "/a").from("198.51.100.7").body("application/json", "{\"a\": \"<script>alert(1)</script>\"}");
    for call in [hostile, Call::get("/").from("198.51.100.66"), Call::get("/").from("198.51.100.8")] {
        let answer = stack.send(&call);
        assert_eq!((answer.status, answer.header("x-frame-options")), (200, None), "{answer:?}");
    }
    let admin = stack.admin;
    for series in [
        "envoy_guard_decisions_total{check=\"suspicious_activity\",verdict=\"report\"} 1\n",
        "envoy_guard_decisions_total{check=\"ip_security\",verdict=\"report\"} 1\n",
    ] {
        stack.guard.wait(|_| Call::get("/metrics").send(admin).body.contains(series));
    }
    assert!(stack.guard.log().contains("report"), "{}", stack.guard.log());
}
