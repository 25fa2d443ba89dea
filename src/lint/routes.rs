//! Routes: what Envoy's say about the guard, and whether the policy knows the names.

use crate::lint::codes::*;
use crate::lint::examination::Examination;
use crate::lint::survey::Override;

/// Looks at the settings of Envoy's routes, and at routes of the policy that wait to be named.
pub(super) fn look(about: &mut Examination<'_>) {
    names(about);
    let overrides = std::mem::take(&mut about.survey.overrides);
    for settings in &overrides {
        let config = settings.config;
        if config.at("disabled").is_true() && covers_everything(settings) {
            about.say(EG6002, config.at("disabled"), "");
        }
        let own = if settings.is_proc { config.at("overrides") } else { config.at("check_settings") };
        let open = own.at("failure_mode_allow");
        if open.is_true() {
            about.say(EG6003, open, "");
        }
        let headers = own.at("processing_mode.request_header_mode");
        if headers.is_word("SKIP") {
            about.say(EG6004, headers, "");
        }
        let body = own.at("with_request_body");
        if body.exists() {
            about.must_be_on(EG2007, body.at("pack_as_bytes"));
            about.must_be_on(EG2008, body.at("allow_partial_message"));
        }
    }
    about.survey.overrides = overrides;
}

/// A route for every path, or something that holds routes.
fn covers_everything(settings: &Override<'_>) -> bool {
    let matcher = settings.owner.at("match");
    if !matcher.exists() {
        return true;
    }
    let is_bare = !matcher.at("headers|query_parameters|grpc").exists();
    is_bare && matcher.at("prefix").text().is_some_and(|prefix| matches!(prefix, "" | "/"))
}

fn names(about: &mut Examination<'_>) {
    let Some(config) = about.config() else { return };
    let names = std::mem::take(&mut about.survey.names);
    for spot in &names {
        let name = spot.text().unwrap_or_default();
        if !config.routes.iter().any(|route| route.name == name) {
            about.say(EG6001, *spot, format!("`{name}`"));
        }
    }
    for (index, route) in config.routes.iter().enumerate() {
        let is_named = names.iter().any(|spot| spot.text() == Some(&route.name));
        if route.matches.is_empty() && !is_named {
            about.policy(EG6005, &format!("routes[{index}]"), format!("`{}`", route.name));
        }
    }
    about.survey.names = names;
}
