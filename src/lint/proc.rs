//! ext_proc: which parts are sent, how long Envoy waits for each, what it does without an answer.

use crate::lint::codes::*;
use crate::lint::examination::{Examination, TIMEOUT_MILLIS_MAX};
use crate::lint::spot::Spot;
use crate::lint::survey::Proc;

/// Looks at everything that asks over ext_proc.
pub(super) fn look(about: &mut Examination<'_>) {
    let asks = std::mem::take(&mut about.survey.proc);
    for ask in &asks {
        outage(about, ask);
        client(about, ask);
        let is_behind = is_behind_authz(about, ask);
        requests(about, ask, is_behind);
        responses(about, ask, is_behind);
        decision(about, ask, is_behind);
        freedom(about, ask);
    }
    about.survey.proc = asks;
}

/// True when ext_authz has decided before; filters that stand in no chain are taken for one.
fn is_behind_authz(about: &Examination<'_>, ask: &Proc<'_>) -> bool {
    about.survey.authz.iter().any(|other| match (other.post, ask.post) {
        (Some(other), Some(own)) => other.manager == own.manager,
        (None, Some(_)) => false,
        (_, None) => true,
    })
}

fn lists(spot: Spot<'_>, word: &str) -> bool {
    spot.items().any(|item| item.text() == Some(word))
}

fn outage(about: &mut Examination<'_>, ask: &Proc<'_>) {
    let (config, dialect) = (ask.config, ask.dialect);
    let open = config.at(dialect.fail_open);
    if open.is_true() {
        about.say(EG3001, open, "");
    }
    if dialect.status.is_some_and(|status| !config.at(status).exists()) {
        about.say(EG3002, config, "");
    }
    let whole = config.at("grpc_service.timeout");
    if dialect.is_envoy && whole.millis().is_some_and(|time| 0 < time) {
        about.say(EG3003, whole, "");
    }
    let timeout = config.at(dialect.timeout);
    match timeout.millis() {
        None => about.say(EG3004, timeout, format!("`{}` is not set; the default is 200ms", dialect.timeout)),
        Some(time) if TIMEOUT_MILLIS_MAX < time => about.say(EG3004, timeout, format!("{time} ms")),
        Some(time) => {
            if let Some(deadline) = about.state_deadline().filter(|deadline| time <= *deadline) {
                about.say(EG3005, timeout, format!("{time} ms here, limits.state_deadline_ms is {deadline}"));
            }
        }
    }
    let observed = config.at(dialect.observe);
    if observed.is_true() {
        about.say(EG3014, observed, "");
    }
}

fn forwards(ask: &Proc<'_>) -> bool {
    ask.dialect.forwarding.is_some_and(|path| lists(ask.config.at(path), "envoy.filters.http.ext_authz"))
}

fn client(about: &mut Examination<'_>, ask: &Proc<'_>) {
    match ask.dialect.attributes.map(|path| ask.config.at(path)) {
        Some(attributes) if !lists(attributes, "source.address") => {
            about.say(EG3006, attributes, "`source.address` is not listed");
        }
        None if !forwards(ask) => {
            let detail = "this platform sends no attributes; let ext_authz decide, and forward its metadata";
            about.say(EG3006, ask.config, detail);
        }
        _ => {}
    }
}

fn requests(about: &mut Examination<'_>, ask: &Proc<'_>, is_behind: bool) {
    let mode = ask.config.at("processing_mode");
    let headers = mode.at("request_header_mode");
    let is_silent = if ask.dialect.has_modes { headers.is_word("SKIP") } else { !mode.at("request").exists() };
    if is_silent {
        about.say(EG3007, headers, "");
    }
    let (spot, body) = ask.body_mode();
    let seen_before = is_behind && about.survey.authz.iter().any(|ask| ask.config.at(ask.dialect.body).exists());
    match body.replace('_', "").to_ascii_uppercase().as_str() {
        "NONE" if about.wanted_body().is_some() && !seen_before => about.say(EG3008, spot, ""),
        "BUFFERED" | "BUFFEREDPARTIAL" => about.say(EG3009, spot, body),
        "STREAMED" | "FULLDUPLEXSTREAMED" if ask.dialect.has_modes => {
            let trailers = mode.at("request_trailer_mode");
            if !trailers.is_word("SEND") {
                about.say(EG3010, trailers, "");
            }
        }
        _ => {}
    }
    let rules = ask.config.at("forward_rules");
    if ask.dialect.is_envoy && rules.exists() {
        about.say(EG3020, rules, "");
    }
}

fn responses(about: &mut Examination<'_>, ask: &Proc<'_>, is_behind: bool) {
    let Some(config) = about.config() else { return };
    let security = &config.security;
    let mode = ask.config.at("processing_mode");
    let headers = mode.at("response_header_mode");
    let is_silent = if ask.dialect.has_modes { headers.is_word("SKIP") } else { !mode.at("response").exists() };
    let sets_headers = security.security_headers.is_some() || security.enable_cors;
    // ext_authz sets what does not depend on the response; modifiers do.
    if is_silent && ((sets_headers && !is_behind) || !security.custom_response_modifier.is_empty()) {
        about.say(EG3018, headers, "");
    }
    let body = if ask.dialect.has_modes { mode.at("response_body_mode") } else { mode.at("response.body") };
    let looks = !config.responses.rules.is_empty()
        || config.routes.iter().any(|route| route.response_rules.as_ref().is_some_and(|rules| !rules.is_empty()))
        || security.behavior_scan_response_body;
    if looks && body.text().is_none_or(|word| word.eq_ignore_ascii_case("none")) {
        about.say(EG3019, body, "");
    }
}

/// One decision for both filters.
fn decision(about: &mut Examination<'_>, ask: &Proc<'_>, is_behind: bool) {
    if is_behind && ask.dialect.forwarding.is_some() {
        if !forwards(ask) {
            about.say(EG3015, ask.config, "");
        } else if about.config().is_some_and(|config| !config.telemetry.metadata) {
            about.policy(EG3016, "telemetry.metadata", "");
        }
    }
    if let Some(receiving) = ask.dialect.receiving.map(|path| ask.config.at(path))
        && !lists(receiving, "envoy-guard")
    {
        about.say(EG3017, receiving, "");
    }
}

fn freedom(about: &mut Examination<'_>, ask: &Proc<'_>) {
    let config = ask.config;
    about.must_be_on(EG3011, config.at(ask.dialect.override_modes));
    if !ask.dialect.is_envoy {
        return;
    }
    let allowed = config.at("allowed_override_modes");
    if allowed.items().next().is_some() {
        about.say(EG3012, allowed, "");
    }
    for (code, key) in
        [(EG3013, "disable_immediate_response"), (EG3022, "send_body_without_waiting_for_header_response")]
    {
        let spot = config.at(key);
        if spot.is_true() {
            about.say(code, spot, "");
        }
    }
    let action = config.at("route_cache_action");
    if action.is_word("CLEAR") {
        about.say(EG3021, action, "");
    }
}
