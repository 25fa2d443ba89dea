//! The connection manager: what stands around the guard's filters, who the client is, which paths routes are chosen by.

use crate::lint::codes::*;
use crate::lint::examination::Examination;
use crate::lint::spot::Spot;
use crate::lint::survey::{Filter, Manager};

/// Filters that may change what the application gets, by a part of their type.
const REWRITING: &[&str] = &[".lua.", ".wasm.", ".header_mutation.", ".golang.", ".dynamic_modules."];
/// Envoy's own bound of silence when none is given, in milliseconds.
const IDLE_MILLIS: u64 = 300_000;

/// Where the guard's filters stand in one manager.
struct Seats {
    authz: Vec<usize>,
    proc: Vec<usize>,
}

impl Seats {
    fn first(&self) -> Option<usize> {
        self.authz.iter().chain(&self.proc).copied().min()
    }

    fn last(&self) -> Option<usize> {
        self.authz.iter().chain(&self.proc).copied().max()
    }
}

/// Looks at every connection manager.
pub(super) fn look(about: &mut Examination<'_>) {
    if about.survey.authz.is_empty() && about.survey.proc.is_empty() {
        about.push(EG4001, None, String::new());
        return;
    }
    let managers = std::mem::take(&mut about.survey.managers);
    let seats: Vec<Seats> = (0..managers.len()).map(|index| seats(about, index)).collect();
    let is_any_guarded = seats.iter().any(|seats| seats.first().is_some());
    for (manager, seats) in managers.iter().zip(&seats) {
        if seats.first().is_some() {
            order(about, manager, seats);
            client(about, manager, seats);
            paths(about, manager);
            patience(about, manager, seats);
        } else if is_any_guarded && !is_private(manager) {
            about.say(EG4016, manager.listener.unwrap_or(manager.config), "");
        }
    }
    upgrades(about, &managers, &seats);
    about.survey.managers = managers;
}

fn seats(about: &Examination<'_>, manager: usize) -> Seats {
    let authz = about.survey.authz.iter().filter_map(|ask| ask.post);
    let proc = about.survey.proc.iter().filter_map(|ask| ask.post);
    Seats {
        authz: authz.filter(|post| post.manager == manager).map(|post| post.index).collect(),
        proc: proc.filter(|post| post.manager == manager).map(|post| post.index).collect(),
    }
}

/// True for a listener that only this machine reaches.
fn is_private(manager: &Manager<'_>) -> bool {
    let Some(address) = manager.listener.map(|listener| listener.at("address")) else { return false };
    let socket = address.at("socket_address.address").text().and_then(|text| text.parse::<std::net::IpAddr>().ok());
    address.at("envoy_internal_address|pipe").exists() || socket.is_some_and(|address| address.is_loopback())
}

fn order(about: &mut Examination<'_>, manager: &Manager<'_>, seats: &Seats) {
    let (Some(first), Some(last)) = (seats.first(), seats.last()) else { return };
    if let (Some(authz), Some(proc)) = (seats.authz.first(), seats.proc.first())
        && proc < authz
        && let Some(filter) = manager.filters.get(*proc)
    {
        about.say(EG4003, filter.spot, "");
    }
    let router = manager.filters.iter().position(|filter| filter.kind == "Router");
    for (index, filter) in manager.filters.iter().enumerate() {
        let is_ours = seats.authz.contains(&index) || seats.proc.contains(&index);
        if is_ours && router.is_some_and(|router| router < index) {
            about.say(EG4002, filter.spot, "");
        }
        if last < index && rewrites(filter) {
            about.say(EG4004, filter.spot, name(filter));
        }
        if first < index && filter.kind == "JwtAuthentication" {
            about.say(EG4005, filter.spot, "");
        }
        if index < first && is_of(filter, ".cache.") {
            about.say(EG4006, filter.spot, "");
        }
    }
}

fn name(filter: &Filter<'_>) -> String {
    filter.spot.at("name").text().unwrap_or(filter.kind).to_owned()
}

fn is_of(filter: &Filter<'_>, part: &str) -> bool {
    filter.spot.at("typed_config").message().is_some_and(|message| message.contains(part))
}

fn rewrites(filter: &Filter<'_>) -> bool {
    REWRITING.iter().any(|part| is_of(filter, part)) || filter.kind == "ExternalProcessor"
}

/// Who the client is: what Envoy does with X-Forwarded-For, and what the guard expects.
fn client(about: &mut Examination<'_>, manager: &Manager<'_>, seats: &Seats) {
    let config = manager.config;
    let remote = config.at("use_remote_address");
    let hops_at = config.at("xff_num_trusted_hops");
    let hops = hops_at.number().unwrap_or_default();
    let is_found_otherwise = config.at("original_ip_detection_extensions").exists();
    let policy = about.config().map(|config| &config.security);
    let trusts = policy.map(|security| !security.trusted_proxies.is_empty());
    let depth = policy.map_or(0, |security| u64::from(security.trusted_proxy_depth));
    if seats.authz.is_empty() {
        if trusts == Some(true) && (!remote.is_true() || 0 < hops) {
            about.say(EG4010, remote, "");
        }
        if !remote.is_true() && hops == 0 && !is_found_otherwise {
            about.say(EG4011, remote, "");
        }
        return;
    }
    match trusts {
        Some(true) if 0 < hops && depth != hops + 1 => {
            about.say(EG4009, hops_at, format!("{hops} hops here, security.trusted_proxy_depth is {depth}"));
        }
        Some(true) if hops == 0 && depth == 1 && remote.is_true() && !config.at("skip_xff_append").is_true() => {
            about.say(EG4007, remote, "");
        }
        Some(false) if 0 < hops => about.say(EG4008, hops_at, ""),
        _ => {}
    }
}

fn paths(about: &mut Examination<'_>, manager: &Manager<'_>) {
    let config = manager.config;
    for (code, key) in [(EG4012, "normalize_path"), (EG4013, "merge_slashes")] {
        about.must_be_on(code, config.at(key));
    }
    let slashes = config.at("path_with_escaped_slashes_action");
    let is_kept = ["KEEP_UNCHANGED", "IMPLEMENTATION_SPECIFIC_DEFAULT"].iter().any(|word| slashes.is_word(word));
    let is_left_out = about.survey.overrides.iter().any(|route| route.config.at("disabled").is_true());
    if is_left_out && (is_kept || !slashes.exists()) {
        about.say(EG4014, slashes, "");
    }
    let underscores = config.at("common_http_protocol_options.headers_with_underscores_action");
    let is_safe = ["REJECT_REQUEST", "DROP_HEADER"].iter().any(|word| underscores.is_word(word));
    if relies_on_headers(about) && !is_safe {
        about.say(EG4015, underscores, "");
    }
}

fn relies_on_headers(about: &Examination<'_>) -> bool {
    let Some(config) = about.config() else { return false };
    config.routes.iter().any(|route| route.api_key_required || !route.required_headers.is_empty())
}

fn patience(about: &mut Examination<'_>, manager: &Manager<'_>, seats: &Seats) {
    let Some(limit) = about.config().map(|config| u64::from(config.limits.stream_idle_seconds) * 1000) else { return };
    let idle = manager.config.at("stream_idle_timeout");
    if !seats.proc.is_empty() && limit < idle.millis().unwrap_or(IDLE_MILLIS) {
        about.say(EG4017, idle, "");
    }
}

/// Upgrades below a filter that waits for bodies.
fn upgrades(about: &mut Examination<'_>, managers: &[Manager<'_>], seats: &[Seats]) {
    let waits = |index: usize| {
        let asks = about.survey.authz.iter().filter(|ask| ask.post.is_some_and(|post| post.manager == index));
        asks.into_iter().any(|ask| ask.config.at(ask.dialect.body).exists())
    };
    let waiting: Vec<bool> = (0..seats.len()).map(waits).collect();
    let goes_on = |route: Spot<'_>| {
        let own = about.survey.overrides.iter().filter(|settings| !settings.is_proc);
        own.into_iter().any(|settings| {
            settings.owner.place() == route.place()
                && (settings.config.at("disabled").is_true()
                    || settings.config.at("check_settings.disable_request_body_buffering").is_true())
        })
    };
    let mut held: Vec<Spot<'_>> = Vec::new();
    if waiting.contains(&true) {
        held.extend(
            about
                .survey
                .upgrades
                .iter()
                .filter(|route| !goes_on(**route))
                .map(|route| route.at("route.upgrade_configs")),
        );
    }
    for (manager, _) in managers.iter().zip(&waiting).filter(|(_, waits)| **waits) {
        let upgrades = manager.config.at("upgrade_configs");
        if upgrades.items().next().is_some() {
            held.push(upgrades);
        }
    }
    for spot in held {
        about.say(EG4018, spot, "");
    }
}
