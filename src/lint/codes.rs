//! Every code: how bad it is, what it means, why it matters, what to do. `docs/lint.md` is made from this table.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, and could be better.
    Advice,
    /// Probably not what was meant, or a risk.
    Warning,
    /// A hole, an outage, or something that does not work at all.
    Error,
}

impl Severity {
    /// The name shown to users.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Advice => "advice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What can be found. Numbers are never given anew: scripts and pages name them.
#[derive(Debug)]
pub struct Code {
    /// `EG` and four digits. The first says what is looked at: 0 loading, 1 the policy, 2 ext_authz, 3 ext_proc, 4 the
    /// connection manager and its filters, 5 the guard's cluster, 6 routes, 7 Kubernetes.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in a few words.
    pub title: &'static str,
    /// What comes of it.
    pub why: &'static str,
    /// What to do.
    pub fix: &'static str,
}

macro_rules! codes {
    ($($id:ident $severity:ident $title:literal $why:literal $fix:literal;)*) => {
        $(pub(crate) const $id: &Code = &Code {
            id: stringify!($id),
            severity: Severity::$severity,
            title: $title,
            why: $why,
            fix: $fix,
        };)*
        /// All codes, in order.
        pub const ALL: &[&Code] = &[$($id),*];
    };
}

codes! {
    EG0001 Error "the configuration cannot be used"
        "The service does not start with it, and a running one keeps the configuration it has."
        "Mend what the message names; `envoy-guard check-config` shows the same.";
    EG0002 Warning "the configuration says something odd"
        "A setting has no effect together with another one, or does something that surprises."
        "Read the message; it names the key and what results.";
    EG0003 Advice "a setting does nothing in this version"
        "It is taken for compatibility, and nothing comes of it."
        "Leave it out, or look in docs/configuration.md for what does the same.";

    EG1001 Warning "passive mode is on"
        "Everything is decided, counted and logged, and nothing is refused."
        "Set `security.passive_mode: false` once the log shows no false positives.";
    EG1002 Warning "what cannot be decided is skipped"
        "With `fail_secure: false` a check that fails is left out: whoever can make a check fail gets past it."
        "Set `security.fail_secure: true`, the default.";
    EG1003 Error "anyone may say who they are"
        "A trusted proxy covers all addresses, so every client's X-Forwarded-For is believed, and with it bans, lists and limits are evaded."
        "List the addresses of your proxies in `security.trusted_proxies`, and nothing from which clients can connect.";
    EG1004 Warning "an exemption covers a large part of the Internet"
        "Exempt addresses are not limited, and some checks leave them out."
        "List single addresses or the networks of your own.";
    EG1005 Warning "attack detection is off"
        "Requests, or their bodies, are not searched for attacks."
        "Turn on `security.enable_penetration_detection` and `security.detection_scan_body`; for trials use `detection.log_only_categories`.";
    EG1006 Warning "an exclusion lets more pass than a false positive"
        "Without a place (path, header, parameter, field) a whole kind of attack passes everywhere; without a row or category everything passes at that path."
        "Give the row and the place, as `envoy-guard explain` prints them.";
    EG1007 Warning "a route leaves protection out"
        "A route that bypasses all checks, or detection, is a way in for whatever it covers."
        "Bypass single checks, on the narrowest path, or use exclusions.";
    EG1008 Warning "replicas do not share what they know"
        "Without Redis each replica counts for itself: limits are multiplied by the replicas, and a ban holds on one of them."
        "Set `security.enable_redis` and `security.redis_url`, or run one replica.";
    EG1009 Advice "the gRPC port is open beyond this machine, without TLS"
        "Whoever reaches it may ask for decisions, which cost CPU and count, and reads the answers on the way."
        "Use `listeners.tls`, a Unix socket or loopback, or close the network around it (NetworkPolicy, mesh).";
    EG1010 Advice "TLS lets in more clients than Envoy"
        "Without `client_ca_file` anybody is answered; without `client_names` anybody whom the authority ever vouched for."
        "Set `listeners.tls.client_ca_file` and `client_names`.";
    EG1011 Warning "a secret stands in the file"
        "Files are committed, copied and mounted where many can read them."
        "Use the variable of the same key (`ENVOY_GUARD_ADMIN__TOKEN`), or the key that names a file (`token_file`, `password_file`).";
    EG1012 Error "every user of the machine may use a socket"
        "The mode lets others write: any process may ask for decisions, or operate the service through the admin socket."
        "Use `0660` and a group for `listeners.unix_mode`, `0600` for `admin.unix_mode`.";
    EG1013 Warning "the password of Redis travels in the clear"
        "Who sees the traffic can read bans, lift them and reset counts."
        "Use `rediss://` and `redis.tls`.";
    EG1014 Warning "the largest body that is inspected does not fit into a message"
        "A check that carries such a body is larger than `limits.max_message_bytes` and fails."
        "Raise `limits.max_message_bytes` above `security.detection_max_body_inspect_bytes` and 64 KiB for the headers.";
    EG1015 Warning "the emergency mode is on"
        "Only `security.emergency_whitelist` passes."
        "Set `security.emergency_mode: false` when the emergency is over.";
    EG1016 Error "every path is excluded"
        "Requests below an excluded path get the reduced set of checks: no detection, no credentials, no rules of routes."
        "Name the subtrees that are meant in `security.exclude_paths`, never `/`.";
    EG1017 Warning "a route can never be reached"
        "An earlier route covers everything that this one matches, and the first match wins."
        "Put the narrower route first.";
    EG1018 Advice "something is only watched"
        "A limit in shadow, or what is in `detection.log_only_categories` and `detection.log_only_rows`, is reported and never refused."
        "Take it out when the trial is over.";
    EG1019 Advice "bodies that cannot be read pass"
        "A client that compresses or codes its body in a way that is not known here is not inspected."
        "Set `detection.undecodable_body: deny`, the default.";
    EG1020 Advice "pages of any origin may read answers"
        "With the origin `*` every page that a user visits may read what the service answers without credentials."
        "List the origins in `security.cors_allow_origins`.";

    EG2001 Error "requests pass while the guard cannot be asked"
        "Whoever can overload or cut off the guard gets in unchecked. A refusal is never affected by this setting, an outage always."
        "Set `failure_mode_allow: false` (`failOpen: false`).";
    EG2002 Warning "an outage looks like a refusal"
        "Without `status_on_error` Envoy answers 403 when the guard cannot be asked: clients and operators take it for the policy."
        "Set `status_on_error: { code: ServiceUnavailable }` (`statusOnError: 503`).";
    EG2003 Warning "the time for a decision is not chosen, or too long"
        "The default is 200 ms in Envoy, 10 s in Envoy Gateway and 600 s in Istio: too short for a first look at a large body, or so long that a guard that hangs hangs every request."
        "Set the timeout to about 0.5 s, and not above 5 s.";
    EG2004 Error "Envoy stops waiting before the guard does"
        "The guard may wait `limits.state_deadline_ms` for Redis before memory answers; Envoy has given up by then, so an outage of Redis becomes one of yours."
        "Make Envoy's timeout at least twice `limits.state_deadline_ms`, or lower that.";
    EG2005 Warning "headers arrive merged"
        "Without `encode_raw_headers` Envoy joins headers of one name, sorts them, and replaces bytes that are no UTF-8: what is hidden there is not seen."
        "Set `encode_raw_headers: true`.";
    EG2006 Warning "bodies are not sent"
        "Detection is on, and no filter shows the guard what is in a body."
        "Set `with_request_body`, or put an ext_proc filter with `request_body_mode: STREAMED` behind it; or turn `security.detection_scan_body` off.";
    EG2007 Error "bodies arrive garbled"
        "Without `pack_as_bytes` each byte that is no UTF-8 becomes `!`: uploads, compressed and other binary bodies are not what the application gets."
        "Set `pack_as_bytes: true`.";
    EG2008 Warning "Envoy refuses longer bodies by itself"
        "Without `allow_partial_message` a body above `max_request_bytes` is answered with 413 by Envoy, without the guard, also on routes that take uploads."
        "Set `allow_partial_message: true`; `detection.partial_body: deny` refuses here, by policy.";
    EG2009 Warning "less of a body is sent than the policy inspects"
        "What is not sent cannot be inspected: padding before an attack hides it."
        "Set `max_request_bytes` to `security.detection_max_body_inspect_bytes` + 256, or more.";
    EG2010 Error "a full body does not fit into a message"
        "The guard takes messages up to `limits.max_message_bytes`; a larger check is a failure, which a client can cause at will."
        "Lower `max_request_bytes`, or raise `limits.max_message_bytes` above it and 64 KiB for the headers.";
    EG2011 Warning "the listener's buffer is smaller than the body"
        "`per_connection_buffer_limit_bytes` (1 MiB by default) also bounds the body that Envoy may hold: longer ones are answered with 413."
        "Raise it to `max_request_bytes` at least.";
    EG2012 Warning "the guard does not see every header"
        "Attacks in headers that are left out are not found, and rules that look at them do not match."
        "Leave `allowed_headers` and `disallowed_headers` unset.";
    EG2013 Warning "routes are chosen anew after the decision"
        "The guard decided about the route that was chosen first; with `clear_route_cache` another one may serve the request."
        "Set `clear_route_cache: false`: the guard does not change routing.";
    EG2014 Warning "the filter only watches"
        "In `shadow_mode` Envoy refuses nothing that the guard refuses."
        "Take `shadow_mode` out when the trial is over; `security.passive_mode` does the same, and says so in the guard's log.";
    EG2015 Warning "the filter is off for some requests"
        "`filter_enabled` and `filter_enabled_metadata` let requests pass that were never asked about."
        "Take them out, or set `deny_at_disable`; for a trial use `security.passive_mode`.";
    EG2016 Error "an interface that is not spoken here"
        "The guard speaks version 3 of ext_authz; with another `transport_api_version` every check fails."
        "Set `transport_api_version: V3`.";
    EG2017 Advice "headers are not checked where they are set"
        "Without `validate_mutations` a header that cannot be sent fails the request further on, with a misleading status."
        "Set `validate_mutations: true`.";
    EG2018 Advice "the guard is asked more than twice for one request"
        "Retries share the one timeout, and add load when the guard is slow. A repeated message counts once, within a second."
        "Allow one retry at most.";
    EG2019 Advice "statistics of two filters are one"
        "Two ext_authz filters of a chain count into the same counters: refusals cannot be told apart."
        "Give each a `stat_prefix`.";

    EG3001 Error "requests pass while the guard cannot be asked"
        "Whoever can overload or cut off the guard gets in unchecked, or with a body that nobody looked at."
        "Set `failure_mode_allow: false` (`failOpen: false`).";
    EG3002 Advice "the status of an outage is not chosen"
        "Without `status_on_error` Envoy answers 500 when the guard cannot be asked: it looks like a fault of the application."
        "Set `status_on_error: { code: ServiceUnavailable }`.";
    EG3003 Error "a timeout bounds the whole exchange"
        "`grpc_service.timeout` ends the stream, and with it every request, download and WebSocket that lasts longer."
        "Leave `grpc_service.timeout` out; `message_timeout` bounds each answer.";
    EG3004 Warning "the time for an answer is not chosen, or too long"
        "The default of 200 ms may be too short for a large body; a long one lets a guard that hangs hang every request."
        "Set `message_timeout` to about 0.5 s, and not above 5 s.";
    EG3005 Error "Envoy stops waiting before the guard does"
        "The guard may wait `limits.state_deadline_ms` for Redis before memory answers; Envoy has given up by then, so an outage of Redis becomes one of yours."
        "Make `message_timeout` at least twice `limits.state_deadline_ms`, or lower that.";
    EG3006 Error "nobody says who the client is"
        "Without the attribute `source.address` the client is unknown, and every request is refused."
        "Set `request_attributes: [source.address, request.protocol, connection.requested_server_name]`.";
    EG3007 Error "requests are not sent"
        "With `request_header_mode: SKIP` (in Envoy Gateway without `processingMode.request`) the guard decides nothing."
        "Send the request's headers.";
    EG3008 Warning "bodies are not sent"
        "Detection is on, and no filter shows the guard what is in a body."
        "Set `request_body_mode: STREAMED`, or turn `security.detection_scan_body` off.";
    EG3009 Warning "Envoy's buffer bounds the body"
        "`BUFFERED` answers 413 to bodies above Envoy's buffer and holds up streams; of `BUFFERED_PARTIAL` the rest passes unseen."
        "Use `STREAMED` or `FULL_DUPLEX_STREAMED`.";
    EG3010 Error "the end of a body is not seen"
        "A body may end in trailers: without `request_trailer_mode: SEND` the guard sees no end before the response comes, and duplex bodies cannot work."
        "Set `request_trailer_mode: SEND`.";
    EG3011 Advice "the guard may not leave parts out"
        "With `allow_mode_override: false` bodies of exempt clients, WebSockets and responses that stay as they are are sent for nothing."
        "Set `allow_mode_override: true`.";
    EG3012 Advice "overrides are compared with a list"
        "`allowed_override_modes` compares whole modes; an override that is not listed is ignored, silently."
        "Leave it out, or list what docs/envoy.md says the guard sends.";
    EG3013 Error "refusals are errors"
        "With `disable_immediate_response` a refusal fails the request in another way, and passes it with `failure_mode_allow`."
        "Leave `disable_immediate_response` out.";
    EG3014 Warning "the filter only watches"
        "In observability mode (shadow mode) the guard's answers are not heard."
        "Take it out when the trial is over.";
    EG3015 Warning "each request is decided twice"
        "ext_authz and ext_proc both ask, and ext_proc is not told what ext_authz decided: everything is counted twice, so limits are halved."
        "Set `metadata_options: { forwarding_namespaces: { untyped: [envoy.filters.http.ext_authz] } }`.";
    EG3016 Error "the decision that ext_proc waits for is not sent"
        "With `telemetry.metadata: false` ext_authz's answer carries no metadata: ext_proc decides again, and counts again."
        "Set `telemetry.metadata: true`, the default.";
    EG3017 Advice "the access log does not learn what was found"
        "Envoy drops the guard's metadata unless its namespace may be received."
        "Set `metadata_options: { receiving_namespaces: { untyped: [envoy-guard] } }`.";
    EG3018 Warning "responses stay as they are"
        "The policy sets headers of responses, and responses are not sent."
        "Set `response_header_mode: SEND`, or let ext_authz set them as well.";
    EG3019 Warning "bodies of responses are not sent"
        "The policy has rules that look into them."
        "Set `response_body_mode: STREAMED` or `BUFFERED_PARTIAL`.";
    EG3020 Warning "the guard does not see every header"
        "Attacks in headers that are left out are not found, and rules that look at them do not match."
        "Leave `forward_rules` out.";
    EG3021 Warning "routes are chosen anew after the decision"
        "The guard decided about the route that was chosen first; another one may serve the request."
        "Leave `route_cache_action` at its default, or set `RETAIN`.";
    EG3022 Warning "bodies go on before the headers are decided"
        "With `send_body_without_waiting_for_header_response` Envoy ignores mode overrides, and parts of a body are sent for requests that are refused."
        "Leave it out.";

    EG4001 Error "nothing asks the guard"
        "None of the files holds an ext_authz or ext_proc filter, or a resource that makes one, over gRPC: requests pass unchecked."
        "Put the filter of envoy/ext_authz.yaml before the router; or name the right files.";
    EG4002 Error "the filter never runs"
        "It stands behind the router, which ends the chain."
        "Put it before `envoy.filters.http.router`.";
    EG4003 Warning "ext_proc runs before ext_authz"
        "ext_proc decides without knowing what ext_authz will say, and its work is lost on requests that ext_authz refuses."
        "Put ext_authz first.";
    EG4004 Warning "the request is changed after it was inspected"
        "A filter behind the guard rewrites or decodes requests: the application gets something that nobody inspected."
        "Put it before the guard, if it can be.";
    EG4005 Warning "tokens are verified after the decision"
        "Requests without a valid token cost a decision, count against limits, and routes that need an identity do not know it."
        "Put `envoy.filters.http.jwt_authn` before the guard.";
    EG4006 Error "a cache answers before the guard"
        "What is cached is served without a decision: to banned clients, and without limits."
        "Put the cache behind the guard.";
    EG4007 Error "every client looks like the proxy in front"
        "With `use_remote_address: true` Envoy appends its own peer to X-Forwarded-For, so the entry that `trusted_proxy_depth: 1` counts is the proxy's: one ban or limit hits everybody."
        "Set `security.trusted_proxy_depth: 2` (one more for each further proxy), or `skip_xff_append: true`.";
    EG4008 Warning "Envoy trusts proxies that the guard does not know"
        "ext_authz is told the address of the connection. Behind a load balancer that is the balancer's, for every client."
        "List the proxies in `security.trusted_proxies`, and set `security.trusted_proxy_depth`.";
    EG4009 Warning "Envoy and the guard count hops differently"
        "With `xff_num_trusted_hops: N` the client is entry N + 1 from the right; another `trusted_proxy_depth` picks a proxy, or an entry that the client wrote."
        "Set `security.trusted_proxy_depth` to N + 1.";
    EG4010 Warning "X-Forwarded-For is read twice"
        "ext_proc is told the client as Envoy has already found it in X-Forwarded-For; that address is no proxy of yours, or should not be."
        "Leave `security.trusted_proxies` empty, or set `use_remote_address: true` without hops.";
    EG4011 Warning "any client may say who it is"
        "Without `use_remote_address` and `xff_num_trusted_hops` Envoy takes the last entry of X-Forwarded-For for the client, and ext_proc is told that one."
        "Set `use_remote_address: true` where clients connect, `xff_num_trusted_hops` behind proxies.";
    EG4012 Warning "paths are not normalised"
        "Envoy chooses routes by `/a/../b` as it is written, the guard and most applications by `/b`: a route that leaves the guard out can be reached by another name."
        "Set `normalize_path: true`.";
    EG4013 Warning "double slashes are not merged"
        "Envoy chooses routes by `//admin` as it is written, the guard and most applications by `/admin`."
        "Set `merge_slashes: true`.";
    EG4014 Advice "escaped slashes choose another route"
        "A route leaves the guard out by its path. Envoy compares `%2F` as it is written, the application may decode it."
        "Set `path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT` or `REJECT_REQUEST`.";
    EG4015 Advice "headers with underscores reach the application"
        "The policy relies on a header. Many applications take `X_Operator` for `X-Operator`; the guard does not."
        "Set `common_http_protocol_options: { headers_with_underscores_action: REJECT_REQUEST }`.";
    EG4016 Warning "a listener does not ask the guard"
        "Another listener of the same Envoy serves HTTP without the filter: a way around."
        "Put the filter there too, or make sure that clients cannot reach that listener.";
    EG4017 Warning "the guard gives a silent stream up before Envoy does"
        "A stream without parts for `limits.stream_idle_seconds` ends in an error, and the request with it."
        "Set `limits.stream_idle_seconds` above `stream_idle_timeout`.";
    EG4018 Warning "an upgrade waits for a body that does not end"
        "Envoy asks when the body is complete or long enough; a WebSocket has none of both."
        "Set `check_settings: { disable_request_body_buffering: true }` on the route.";

    EG5001 Error "the guard's cluster is not there"
        "The filter names a cluster that these files do not define: Envoy refuses the configuration, or every check fails."
        "Define it, or name the one that is defined.";
    EG5002 Error "the guard is asked over HTTP/1.1"
        "gRPC needs HTTP/2: without it every check fails, and failures look like refusals."
        "Set `explicit_http_config: { http2_protocol_options: {} }` in the cluster's HttpProtocolOptions.";
    EG5003 Warning "a burst becomes an outage"
        "The circuit breaker of the guard's cluster allows 1024 requests at once by default; one more is an error. With ext_proc each request under way counts."
        "Set `circuit_breakers: { thresholds: [{ max_requests: 100000, max_pending_requests: 100000 }] }`.";
    EG5004 Error "one side speaks TLS and the other does not"
        "Every connection fails, and with it every check."
        "Set `transport_socket` of the cluster and `listeners.tls` of the guard, or neither.";
    EG5005 Error "anybody may be the guard"
        "Without a trusted authority and a name Envoy takes any certificate: whoever is on the way decides, and reads what is asked."
        "Set `trusted_ca` and `match_typed_subject_alt_names`.";
    EG5006 Error "TLS without HTTP/2"
        "The guard knows HTTP/2 by ALPN; without `h2` the connection is refused."
        "Set `alpn_protocols: [h2]`.";
    EG5007 Error "Envoy shows no certificate"
        "The guard demands one (`listeners.tls.client_ca_file`): every connection is refused."
        "Set `tls_certificates`, or SDS, in the cluster's TLS context.";
    EG5008 Warning "the guard does not listen there"
        "The cluster's address on this machine is none of `listeners`."
        "Make `listeners.grpc` or `listeners.unix` and the cluster's address the same.";
    EG5009 Advice "a replica that drains is still asked"
        "Without a health check Envoy learns that a guard is going or stuck only from failed checks."
        "Set `health_checks` with `grpc_health_check: { service_name: envoy.service.auth.v3.Authorization }`.";
    EG5010 Advice "a connection that died is noticed late"
        "Without keepalive a connection through a gateway that forgot it swallows checks until they time out."
        "Set `connection_keepalive: { interval: 30s, timeout: 5s }` in `http2_protocol_options`.";

    EG6001 Error "Envoy names a route that the policy does not have"
        "The request gets no route's rules, and 500 with `security.route_resolution_strict`."
        "Name a route of `routes`, or add it.";
    EG6002 Warning "the guard is left out for everything"
        "A route for all paths, or a virtual host, has the filter disabled."
        "Disable it on exact paths only, or use `security.exclude_paths`, which keeps bans and limits.";
    EG6003 Error "a route lets requests pass while the guard cannot be asked"
        "The route overrules the filter: whoever can overload or cut off the guard gets in there."
        "Take `failure_mode_allow` out of the route.";
    EG6004 Error "a route sends the guard nothing"
        "With `request_header_mode: SKIP` nothing is decided there."
        "Use `disabled: true` where that is meant, or send the headers.";
    EG6005 Warning "a route of the policy is never chosen"
        "It has no matchers, so Envoy has to name it, and none of these files does."
        "Give it a `match`, or name it with `context_extensions: { guard_route: NAME }`.";

    EG7001 Error "a policy names a provider that the mesh does not have"
        "Istio then refuses every request of the workload."
        "Name an entry of `meshConfig.extensionProviders`.";
    EG7002 Error "a policy names an extension that is not there"
        "The gateway refuses the policy or every request, or lets all pass, depending on its version."
        "Name an extension of these files, with its namespace.";
    EG7003 Warning "a reference into another namespace is not granted in these files"
        "Without a grant the gateway ignores the backend: every check fails, or with `failOpen` every request passes."
        "Add a ReferenceGrant in the namespace of the Service.";
    EG7004 Error "the port of the Service does not say that it is gRPC"
        "Meshes and gateways speak HTTP/1.1 to a port that says nothing: every check fails."
        "Name the port `grpc`, or set `appProtocol: kubernetes.io/h2c`.";
}

/// The code called `id`.
#[must_use]
pub fn find(id: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|code| code.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_in_order_and_say_what_to_do() {
        assert!(ALL.windows(2).all(|pair| pair[0].id < pair[1].id));
        for code in ALL {
            assert!(code.id.len() == 6 && code.why.ends_with('.') && code.fix.ends_with('.'), "{}", code.id);
            assert!(
                !code.title.ends_with('.') && !code.title.starts_with(char::is_uppercase)
                    || code.title.starts_with(['X', 'T', 'E']),
                "{}",
                code.id
            );
            assert_eq!(find(code.id).map(|found| found.title), Some(code.title));
        }
    }
}
