//! Check 13: cloud selectors of the route, else of the policy.

use ipnet::IpNet;

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection, text, violation};
use crate::engine::policy::{Compiling, PerRoute};
use crate::model::check::Check;
use crate::model::decision::{Fact, FactValue};
use crate::model::event::EventType;
use crate::model::place::{CloudSelectors, Provider};

const CHECK: Check = Check::CloudProvider;

#[derive(Debug)]
pub(crate) struct Settings {
    by_route: PerRoute<Selected>,
}

#[derive(Debug)]
struct Selected {
    selectors: CloudSelectors,
    by_route: bool,
}

/// The provider an address belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Hit {
    provider: Provider,
    net: IpNet,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let global = compiling.config.security.block_cloud_providers.as_deref().unwrap_or_default();
        let by_route = compiling.per_route(|compiling, routed| {
            let own = routed.and_then(|routed| {
                let entries = routed.route.block_cloud_providers.as_deref()?;
                let (selectors, unknown) = CloudSelectors::parse(entries.iter().map(String::as_str));
                for entry in unknown {
                    compiling.warn(routed.key("block_cloud_providers"), format!("`{entry}` names no known provider"));
                }
                (!selectors.is_empty()).then_some(selectors)
            });
            match own {
                Some(selectors) => Selected { selectors, by_route: true },
                None => {
                    let (selectors, _) = CloudSelectors::parse(global.iter().map(String::as_str));
                    Selected { selectors, by_route: false }
                }
            }
        });
        by_route.any(|selected| !selected.selectors.is_empty()).then_some(Self { by_route })
    }
}

/// Looks the client up.
pub(crate) fn look(cx: &Cx<'_, '_, '_>) -> Option<Hit> {
    let settings = cx.policy.checks.cloud_provider.as_ref()?;
    let selectors = &settings.by_route.of(cx.route).selectors;
    let (provider, net) = selectors.find(&cx.policy.cloud, cx.client.address()?)?;
    Some(Hit { provider, net })
}

pub(crate) fn evaluate<'p>(settings: &Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    let Some(Hit { provider, net }) = cx.foreseen.cloud else { return Ok(None) };
    let (client, action) = (cx.client, cx.action());
    cx.record(Fact {
        event: EventType::CloudBlocked,
        action,
        check: CHECK,
        reason: format!("IP belongs to blocked cloud provider: {}", provider.name()),
        metadata: vec![("cloud_provider", text(provider.name())), ("network", text(net.to_string()))],
        handler: "cloud",
    });
    let selected = settings.by_route.of(cx.route);
    if selected.by_route {
        let mut metadata = violation("block_clouds", "cloud_provider");
        metadata.push(("blocked_providers", FactValue::List(selected.selectors.names().collect())));
        cx.report(CHECK, EventType::DecoratorViolation, format!("Cloud provider IP {client} blocked"), metadata);
    }
    cx.suspect(CHECK, format!("Blocked cloud provider IP: {client}"), String::new());
    Ok(Some(Objection::new(403, "Cloud provider IP not allowed")))
}

#[cfg(test)]
mod tests {
    use crate::engine::tests::testing::{Ask, check, events, lit, once, policy};

    const BODY: &str = "Cloud provider IP not allowed";

    #[test]
    fn selectors_of_the_route_refuse() {
        let route = |security: serde_json::Value, route: serde_json::Value| {
            let mut text = crate::engine::tests::testing::routed(route);
            text.as_object_mut().unwrap().insert("security".to_owned(), security);
            text
        };
        let own = || lit!({"block_cloud_providers": ["AWS"]});
        let bypassed = || lit!({"bypassed_checks": ["ip"]});
        let global = || lit!({"block_cloud_providers": ["AWS"]});
        check(&[
            ("inside", route(lit!({}), own()), Ask::from("3.1.1.1"), 403, BODY),
            ("outside", route(lit!({}), own()), Ask::from("5.1.1.1"), 0, ""),
            ("exempt", route(lit!({"exempt_ips": ["3.1.1.1"]}), own()), Ask::from("3.1.1.1"), 0, ""),
            ("whitelisted", route(lit!({"whitelist": ["3.1.1.1"]}), own()), Ask::from("3.1.1.1"), 0, ""),
            (
                "bypassed",
                route(lit!({}), lit!({"block_cloud_providers": ["AWS"], "bypassed_checks": ["clouds"]})),
                Ask::from("3.1.1.1"),
                0,
                "",
            ),
            (
                "the global set, where addresses are bypassed",
                route(global(), bypassed()),
                Ask::from("3.1.1.1"),
                403,
                BODY,
            ),
        ]);
        let policy = policy(route(lit!({}), own()));
        let decision = once(&policy, Ask::from("3.1.1.1"));
        assert_eq!(
            events(&decision),
            [("cloud_blocked", "request_blocked"), ("decorator_violation", "request_blocked")]
        );
        assert_eq!(decision.facts[1].reason, "Cloud provider IP 3.1.1.1 blocked");
    }
}
