{{- /* The Envoy of the sidecar mode: one listener, one application, the guard behind a Unix socket. */}}
{{- define "envoy-guard.bootstrap" -}}
admin:
  address: { socket_address: { address: 127.0.0.1, port_value: {{ .Values.sidecar.adminPort }} } }
static_resources:
  listeners:
    - name: http
      address: { socket_address: { address: 0.0.0.0, port_value: {{ .Values.sidecar.port }} } }
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: ingress
                use_remote_address: true
                normalize_path: true
                merge_slashes: true
                access_log:
                  - name: envoy.access_loggers.stdout
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
                      log_format:
                        json_format:
                          status: "%RESPONSE_CODE%"
                          method: "%REQ(:METHOD)%"
                          path: "%REQ(:PATH)%"
                          flags: "%RESPONSE_FLAGS%"
                          details: "%RESPONSE_CODE_DETAILS%"
                          guard: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%"
                http_filters:
                  # Probes of the load balancer in front; never the guard's business.
                  - name: envoy.filters.http.health_check
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
                      pass_through_mode: false
                      headers: [{ name: ":path", string_match: { exact: /envoy-ready } }]
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      grpc_service: { envoy_grpc: { cluster_name: envoy-guard }, timeout: 0.5s }
                      failure_mode_allow: false
                      status_on_error: { code: ServiceUnavailable }
                      encode_raw_headers: true
                      with_request_body: { max_request_bytes: 1048576, allow_partial_message: true, pack_as_bytes: true }
                      include_tls_session: true
                      validate_mutations: true
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: { prefix: "/" }
                          route: { cluster: application }
  clusters:
    - name: application
      type: STRICT_DNS
      connect_timeout: 1s
      load_assignment:
        cluster_name: application
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address:
                      address: {{ required "sidecar.upstream.host is needed with sidecar.enabled" .Values.sidecar.upstream.host }}
                      port_value: {{ .Values.sidecar.upstream.port }}
    - name: envoy-guard
      type: STATIC
      connect_timeout: 1s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: { http2_protocol_options: {} }
      circuit_breakers:
        thresholds: [{ max_requests: 100000, max_pending_requests: 100000 }]
      load_assignment:
        cluster_name: envoy-guard
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { pipe: { path: /run/envoy-guard/guard.sock } } }
{{- end }}
