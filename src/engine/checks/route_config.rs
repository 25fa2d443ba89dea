//! Check 1: a request whose route cannot be resolved is refused when the policy is strict about it.

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection};
use crate::engine::policy::Compiling;
use crate::model::check::Check;
use crate::model::event::EventType;

const CHECK: Check = Check::RouteConfig;
const REASON: &str = "Route resolution failed; per-route decorator config could not be applied";

#[derive(Debug)]
pub(crate) struct Settings {
    strict: bool,
}

impl Settings {
    pub(crate) const fn compile(compiling: &Compiling<'_>) -> Self {
        Self { strict: compiling.config.security.route_resolution_strict }
    }
}

pub(crate) fn evaluate<'p>(cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    if !(cx.policy.checks.route_config.strict && cx.unresolved) {
        return Ok(None);
    }
    cx.report(CHECK, EventType::RouteUnresolved, REASON.to_owned(), Vec::new());
    cx.suspect(CHECK, REASON.to_owned(), String::new());
    Ok(Some(Objection::new(500, "Route resolution failed")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::engine::tests::testing::{Ask, check, lit};

    #[test]
    fn strict_policies_refuse_what_they_cannot_route() {
        let one = |strict: bool| json!({"security": {"route_resolution_strict": strict}, "routes": [{"name": "a", "match": [{"path": "/a"}]}]});
        let named = |route| Ask { route: Some(route), ..Ask::default() };
        check(&[
            ("no route matches", one(true), Ask::default(), 500, "Route resolution failed"),
            ("a name that is no route", one(true), named("b"), 500, "Route resolution failed"),
            ("a name that is a route", one(true), named("a"), 0, ""),
            ("a match", one(true), Ask { target: "/a", ..Ask::default() }, 0, ""),
            ("lenient", one(false), named("b"), 0, ""),
            (
                "no routes, nothing to lose",
                lit!({"security": {"route_resolution_strict": true}}),
                Ask::default(),
                0,
                "",
            ),
        ]);
    }
}
