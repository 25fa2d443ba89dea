//! Check 8: hosts that a Referer must name.

use crate::engine::checks::Seen;
use crate::engine::cx::{Cx, Objection, text, violation};
use crate::engine::policy::{Compiling, PerRoute};
use crate::model::check::Check;
use crate::model::decision::FactValue;
use crate::model::event::EventType;

const CHECK: Check = Check::Referrer;

#[derive(Debug)]
pub(crate) struct Settings {
    by_route: PerRoute<Vec<Site>>,
}

#[derive(Debug)]
struct Site {
    /// As configured, for events.
    entry: String,
    /// Lower-case host, with a port if one was given.
    host: String,
}

impl Settings {
    pub(crate) fn compile(compiling: &mut Compiling<'_>) -> Option<Self> {
        let by_route = compiling.per_route(|compiling, routed| {
            let mut sites = Vec::new();
            let Some(routed) = routed else { return sites };
            for entry in routed.route.require_referrer.iter().flatten() {
                let host = match authority(entry) {
                    Some(authority) => authority,
                    None => entry.split('/').next().unwrap_or_default(),
                };
                if host.is_empty() {
                    compiling.error(routed.key("require_referrer"), format!("`{entry}` names no host"));
                }
                sites.push(Site { entry: entry.clone(), host: host.to_ascii_lowercase() });
            }
            sites
        });
        by_route.any(|sites| !sites.is_empty()).then_some(Self { by_route })
    }
}

/// Network location of a URL, user and port included; `None` without `://`.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?', '#']).next()
}

impl Site {
    fn covers(&self, host: &str) -> bool {
        let is_subdomain = || host.strip_suffix(self.host.as_str()).is_some_and(|labels| labels.ends_with('.'));
        host == self.host || is_subdomain()
    }
}

pub(crate) fn evaluate<'p>(settings: &'p Settings, cx: &mut Cx<'_, 'p, '_>) -> Seen<'p> {
    let sites = settings.by_route.of(cx.route);
    if sites.is_empty() {
        return Ok(None);
    }
    let sent = cx.request.headers.get("referer").unwrap_or_default();
    let url = String::from_utf8_lossy(sent);
    let (reason, hook, body) = if url.is_empty() {
        ("Missing referrer header".to_owned(), "Missing referrer header".to_owned(), "Referrer required")
    } else {
        let host = authority(&url).map(str::to_ascii_lowercase);
        if host.is_some_and(|host| sites.iter().any(|site| site.covers(&host))) {
            return Ok(None);
        }
        (format!("Referrer '{url}' not in allowed domains"), format!("Invalid referrer: {url}"), "Invalid referrer")
    };
    let mut metadata = violation("content_filtering", "require_referrer");
    let allowed = sites.iter().map(|site| site.entry.clone()).collect();
    metadata.push(("allowed_domains", FactValue::List(allowed)));
    if !url.is_empty() {
        metadata.push(("referrer", text(url)));
    }
    cx.report(CHECK, EventType::DecoratorViolation, reason, metadata);
    cx.suspect(CHECK, hook, String::new());
    Ok(Some(Objection::new(403, body)))
}

#[cfg(test)]
mod tests {
    use crate::engine::tests::testing::{Ask, check, lit, routed};

    #[test]
    fn the_referer_names_an_allowed_host() {
        let rule = || routed(lit!({"require_referrer": ["example.com", "https://app.example.org:8443/x"]}));
        for (referer, status) in [
            ("https://example.com/", 0),
            ("https://EXAMPLE.com", 0),
            ("http://a.b.example.com/path?x", 0),
            ("https://app.example.org:8443/", 0),
            ("https://app.example.org/", 403),
            ("https://example.com:8443/", 403),
            ("https://user@example.com/", 403),
            ("https://badexample.com/", 403),
            ("https://example.com.evil.net/", 403),
            ("https://example.com./", 403),
            ("example.com/", 403),
            ("https://evil.net/?https://example.com/", 403),
        ] {
            let body = if status == 0 { "" } else { "Invalid referrer" };
            check(&[(referer, rule(), Ask::with(&[("referer", referer)]), status, body)]);
        }
        check(&[
            ("missing", rule(), Ask::default(), 403, "Referrer required"),
            ("empty", rule(), Ask::with(&[("referer", "")]), 403, "Referrer required"),
        ]);
    }
}
