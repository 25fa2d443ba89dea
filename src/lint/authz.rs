//! ext_authz: what the filter sends, how long it waits, what it does without an answer.

use crate::lint::codes::*;
use crate::lint::examination::{Examination, OVERHEAD_BYTES, TIMEOUT_MILLIS_MAX};
use crate::lint::survey::{Authz, Proc};

/// Envoy's buffer of a connection when none is given.
const BUFFER_BYTES: u64 = 1024 * 1024;
/// Retries beyond which the guard is asked more than twice.
const RETRIES_MAX: u64 = 1;

/// Looks at everything that asks over ext_authz.
pub(super) fn look(about: &mut Examination<'_>) {
    let asks = std::mem::take(&mut about.survey.authz);
    for ask in &asks {
        outage(about, ask);
        body(about, ask);
        headers(about, ask);
        if ask.dialect.is_envoy {
            own(about, ask);
        }
    }
    about.survey.authz = asks;
}

fn outage(about: &mut Examination<'_>, ask: &Authz<'_>) {
    let (config, dialect) = (ask.config, ask.dialect);
    let open = config.at(dialect.fail_open);
    if open.is_true() {
        about.say(EG2001, open, "");
    }
    if let Some(status) = dialect.status.filter(|status| !config.at(status).exists()) {
        about.say(EG2002, config, format!("`{status}` is not set"));
    }
    let timeout = config.at(dialect.timeout);
    match timeout.millis() {
        None => {
            let default = dialect.timeout_default.map(|time| format!("; the default is {time}")).unwrap_or_default();
            about.say(EG2003, timeout, format!("`{}` is not set{default}", dialect.timeout));
        }
        Some(time) if TIMEOUT_MILLIS_MAX < time => about.say(EG2003, timeout, format!("{time} ms")),
        Some(time) => {
            if let Some(deadline) = about.state_deadline().filter(|deadline| time <= *deadline) {
                about.say(EG2004, timeout, format!("{time} ms here, limits.state_deadline_ms is {deadline}"));
            }
        }
    }
}

fn body(about: &mut Examination<'_>, ask: &Authz<'_>) {
    let body = ask.config.at(ask.dialect.body);
    if !body.exists() {
        let is_streamed = about.survey.proc.iter().any(Proc::sees_bodies);
        if about.wanted_body().is_some() && !is_streamed {
            about.say(EG2006, ask.config, format!("`{}` is not set", ask.dialect.body));
        }
        return;
    }
    sizes(about, ask);
    if ask.dialect.can_pack {
        about.must_be_on(EG2007, body.at("pack_as_bytes"));
    }
    if ask.dialect.can_cut {
        about.must_be_on(EG2008, body.at("allow_partial_message"));
    }
}

fn sizes(about: &mut Examination<'_>, ask: &Authz<'_>) {
    let spot = ask.config.at(ask.dialect.body).at("max_request_bytes");
    let Some(bytes) = spot.number() else { return };
    if let Some(wanted) = about.wanted_body().filter(|wanted| bytes < *wanted) {
        about.say(EG2009, spot, format!("{bytes} bytes here, {wanted} are inspected"));
    }
    let room = about.config().map(|config| u64::from(config.limits.max_message_bytes));
    if let Some(room) = room.filter(|room| *room < bytes.saturating_add(OVERHEAD_BYTES)) {
        about.say(EG2010, spot, format!("{bytes} bytes here, limits.max_message_bytes is {room}"));
    }
    let manager = ask.post.and_then(|post| about.survey.managers.get(post.manager));
    if let Some(listener) = manager.and_then(|manager| manager.listener) {
        let limit = listener.at("per_connection_buffer_limit_bytes").number().unwrap_or(BUFFER_BYTES);
        if limit < bytes {
            about.say(EG2011, spot, format!("{bytes} bytes here, the listener holds {limit}"));
        }
    }
}

fn headers(about: &mut Examination<'_>, ask: &Authz<'_>) {
    if let Some(raw) = ask.dialect.raw_headers.map(|key| ask.config.at(key)).filter(|raw| !raw.is_true()) {
        about.say(EG2005, raw, "");
    }
    for key in ask.dialect.headers {
        let chosen = ask.config.at(key);
        if chosen.exists() {
            about.say(EG2012, chosen, "");
        }
    }
}

/// What only Envoy's own filter has.
fn own(about: &mut Examination<'_>, ask: &Authz<'_>) {
    let config = ask.config;
    for (code, key) in [(EG2013, "clear_route_cache"), (EG2014, "shadow_mode")] {
        let spot = config.at(key);
        if spot.is_true() {
            about.say(code, spot, "");
        }
    }
    let denies = config.at("deny_at_disable.default_value").is_true();
    for key in ["filter_enabled", "filter_enabled_metadata"] {
        let spot = config.at(key);
        let whole = spot.at("default_value.numerator").number() == Some(100)
            && !spot.at("default_value.denominator").exists()
            && !spot.at("runtime_key").exists();
        if spot.exists() && !whole && !denies {
            about.say(EG2015, spot, "");
        }
    }
    let version = config.at("transport_api_version");
    if !version.is_word("V3") {
        about.say(EG2016, version, "");
    }
    about.must_be_on(EG2017, config.at("validate_mutations"));
    for key in ["grpc_service.retry_policy", "grpc_service.envoy_grpc.retry_policy"] {
        let policy = config.at(key);
        let retries = policy.at("num_retries");
        if let Some(number) = retries.number().filter(|number| RETRIES_MAX < *number) {
            about.say(EG2018, retries, format!("{number} retries"));
        }
    }
    let Some(post) = ask.post else { return };
    let chain = about.survey.managers.get(post.manager).map_or(&[][..], |manager| &manager.filters);
    let count = chain.iter().filter(|filter| filter.kind == "ExtAuthz").count();
    if 1 < count && !config.at("stat_prefix").exists() {
        about.say(EG2019, config, "");
    }
}
