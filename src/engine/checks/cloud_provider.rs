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
