//! Routes for every way to send bodies, in the shipped Envoy file.

/// Request bodies, response bodies.
pub(crate) const MODES: [&str; 5] = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED"];
/// Whether trailers are sent.
pub(crate) const TRAILERS: [&str; 2] = ["SEND", "SKIP"];

/// One way to send the bodies of an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) request: &'static str,
    pub(crate) response: &'static str,
    pub(crate) trailers: &'static str,
}

impl Way {
    /// All ways that Envoy takes: duplex bodies need their trailers.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let bodies = MODES.iter().flat_map(|request| MODES.iter().map(move |response| (*request, *response)));
        let ways = bodies.flat_map(|(request, response)| TRAILERS.map(|trailers| Self { request, response, trailers }));
        ways.filter(|way| way.trailers == "SEND" || ![way.request, way.response].contains(&"FULL_DUPLEX_STREAMED"))
    }

    /// Where requests of this way go: the first part of their path.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/{}/{}/{}/{rest}", self.request, self.response, self.trailers)
    }

    /// True when the guard sees request bodies.
    pub(crate) fn inspects(&self) -> bool {
        self.request != "NONE"
    }

    /// True when the request reaches the application before it has ended.
    pub(crate) fn streams_requests(&self) -> bool {
        !self.request.starts_with("BUFFERED")
    }

    /// True when the response reaches the client before it has ended.
    pub(crate) fn streams_responses(&self) -> bool {
        !self.response.starts_with("BUFFERED")
    }

    /// A route for paths that go on with `rest`, with this `action`.
    fn route(&self, rest: &str, action: &str) -> String {
        let Self { request, response, trailers } = self;
        format!(
            r#"
                        - match: {{ prefix: "{path}" }}
                          route: {{ timeout: 0s, {action} }}
                          typed_per_filter_config:
                            envoy.filters.http.ext_proc:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                              overrides:
                                processing_mode:
                                  request_header_mode: SEND
                                  response_header_mode: SEND
                                  request_body_mode: {request}
                                  response_body_mode: {response}
                                  request_trailer_mode: {trailers}
                                  response_trailer_mode: {trailers}"#,
            path = self.path(rest)
        )
    }
}

/// The shipped text with routes for all ways before the others: paths that go on with a name of `actions` take its
/// action, all others go to the application. An outage is not what these tests are about.
pub(crate) fn with_ways(text: &str, actions: &[(&str, &str)]) -> String {
    let last = [("", "cluster: application, upgrade_configs: [{ upgrade_type: websocket }]")];
    let routes: String = Way::all()
        .flat_map(|way| actions.iter().chain(&last).map(move |(rest, action)| way.route(rest, action)))
        .collect();
    text.replacen("                      routes:\n", &format!("                      routes:{routes}\n"), 1)
        .replace("message_timeout: 0.5s", "message_timeout: 5s")
}

/// The text with one more cluster on this machine.
pub(crate) fn with_cluster(text: &str, name: &str, port: u16, is_http2: bool) -> String {
    let protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let http2 = format!(
        "      typed_extension_protocol_options: {{ {protocol}: {{ \"@type\": type.googleapis.com/{protocol}, \
         explicit_http_config: {{ http2_protocol_options: {{}} }} }} }}\n"
    );
    let cluster = format!(
        "    - name: {name}\n      type: STATIC\n      connect_timeout: 1s\n{}      load_assignment: {{ cluster_name: \
         {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, \
         port_value: {port} }} }} }} }}] }}] }}\n",
        if is_http2 { &http2 } else { "" }
    );
    text.replacen("  clusters:\n", &format!("  clusters:\n{cluster}"), 1)
}
