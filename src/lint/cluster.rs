//! The cluster over which the guard is asked: the protocol, who it really is, how much it takes.

use std::net::IpAddr;

use crate::config::Config;
use crate::lint::codes::*;
use crate::lint::examination::Examination;
use crate::lint::spot::Spot;

/// The number of requests at once that Envoy allows a cluster by default.
const REQUESTS_DEFAULT: u64 = 1024;

/// Looks at each cluster that one of our filters names.
pub(super) fn look(about: &mut Examination<'_>) {
    let targets = about.survey.authz.iter().filter(|ask| ask.dialect.is_envoy).filter_map(|ask| ask.target);
    let more = about.survey.proc.iter().filter(|ask| ask.dialect.is_envoy).filter_map(|ask| ask.target);
    let targets: Vec<Spot<'_>> = targets.chain(more).collect();
    let clusters = std::mem::take(&mut about.survey.clusters);
    let mut seen: Vec<&str> = Vec::new();
    for target in targets {
        let Some(name) = target.text() else { continue };
        match clusters.iter().find(|cluster| cluster.at("name").text() == Some(name)) {
            // A mesh makes its clusters itself.
            None if clusters.is_empty() || name.contains('|') => {}
            None => about.say(EG5001, target, format!("`{name}`")),
            Some(_) if seen.contains(&name) => {}
            Some(cluster) => {
                seen.push(name);
                protocol(about, *cluster);
                room(about, *cluster);
                identity(about, *cluster);
                address(about, *cluster);
            }
        }
    }
    about.survey.clusters = clusters;
}

/// Addresses of a cluster.
pub(super) fn endpoints<'n>(cluster: Spot<'n>) -> Vec<Spot<'n>> {
    let localities = cluster.at("load_assignment.endpoints").items();
    let endpoints = localities.flat_map(|locality| locality.at("lb_endpoints").items().collect::<Vec<_>>());
    endpoints.map(|endpoint| endpoint.at("endpoint.address")).collect()
}

fn tls(cluster: Spot<'_>) -> Option<Spot<'_>> {
    let socket = cluster.at("transport_socket.typed_config");
    socket.is_message(".UpstreamTlsContext").then_some(socket)
}

fn protocol(about: &mut Examination<'_>, cluster: Spot<'_>) {
    let options = cluster.at("typed_extension_protocol_options").pairs().map(|(_, options)| options);
    let options = options.into_iter().find(|options| options.is_message(".HttpProtocolOptions"));
    let explicit = options.map(|options| options.at("explicit_http_config.http2_protocol_options"));
    let http2 = explicit.filter(|http2| http2.exists());
    let http2 = http2.or_else(|| Some(cluster.at("http2_protocol_options")).filter(|http2| http2.exists()));
    let is_negotiated = options.is_some_and(|options| options.at("auto_config").exists()) && tls(cluster).is_some();
    match http2 {
        None if !is_negotiated => about.say(EG5002, cluster.at("name"), ""),
        Some(http2) if !http2.at("connection_keepalive").exists() => about.say(EG5010, http2, ""),
        _ => {}
    }
    if cluster.at("health_checks").items().next().is_none() {
        about.say(EG5009, cluster.at("name"), "");
    }
}

fn room(about: &mut Examination<'_>, cluster: Spot<'_>) {
    let breakers = cluster.at("circuit_breakers");
    let first = breakers.at("thresholds").items().next();
    let requests = first.map(|threshold| threshold.at("max_requests"));
    let most = requests.and_then(Spot::number).unwrap_or(REQUESTS_DEFAULT);
    if most <= REQUESTS_DEFAULT {
        let place = requests.filter(|spot| spot.exists()).unwrap_or(breakers);
        about.say(EG5003, place, format!("{most} at once"));
    }
}

fn identity(about: &mut Examination<'_>, cluster: Spot<'_>) {
    let is_pipe = endpoints(cluster).iter().any(|address| address.at("pipe").exists());
    let served = about.config().map(|config| config.listeners.tls.as_ref().filter(|_| !is_pipe));
    let Some(context) = tls(cluster) else {
        let is_other = cluster.at("transport_socket").exists();
        if matches!(served, Some(Some(_))) && !is_other {
            about.say(EG5004, cluster.at("name"), "the guard has listeners.tls, this cluster no transport_socket");
        }
        return;
    };
    if served == Some(None) {
        about.say(EG5004, cluster.at("transport_socket"), "the guard has no listeners.tls there");
    }
    let common = context.at("common_tls_context");
    let validation = common.at("validation_context");
    let is_elsewhere = common.at("validation_context_sds_secret_config|combined_validation_context").exists();
    let names = validation.at("match_typed_subject_alt_names|match_subject_alt_names");
    if !is_elsewhere && !validation.at("trusted_ca|system_root_certs").exists() {
        about.say(EG5005, common, "no trusted_ca");
    } else if !is_elsewhere && names.items().next().is_none() {
        about.say(EG5005, validation, "no match_typed_subject_alt_names");
    }
    if !common.at("alpn_protocols").items().any(|protocol| protocol.text() == Some("h2")) {
        about.say(EG5006, common, "");
    }
    let shows = common.at("tls_certificates|tls_certificate_sds_secret_configs").exists();
    if served.flatten().is_some_and(|tls| tls.demands_certificate()) && !shows {
        about.say(EG5007, common, "");
    }
}

/// On this machine the addresses of both sides can be compared.
fn address(about: &mut Examination<'_>, cluster: Spot<'_>) {
    let Some(config) = about.config() else { return };
    for address in endpoints(cluster) {
        if is_reachable(config, address) == Some(false) {
            about.say(EG5008, address, "");
        }
    }
}

/// `None` where nothing can be said.
fn is_reachable(config: &Config, address: Spot<'_>) -> Option<bool> {
    if let Some(path) = address.at("pipe.path").text() {
        return Some(config.listeners.unix.as_ref().is_some_and(|own| own.as_os_str() == path));
    }
    let ip: IpAddr = address.at("socket_address.address").text()?.parse().ok()?;
    let port = address.at("socket_address.port_value").number()?;
    let own = config.listeners.grpc;
    ip.is_loopback().then(|| own.is_some_and(|own| u64::from(own.port()) == port))
}
