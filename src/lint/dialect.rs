//! How each platform calls the settings of the two filters, and what it does where nothing is said.

/// Settings of ext_authz.
pub(super) struct AuthzDialect {
    /// Who is asked.
    pub(super) target: &'static str,
    pub(super) timeout: &'static str,
    /// What counts when no timeout is given, where that is known.
    pub(super) timeout_default: Option<&'static str>,
    pub(super) fail_open: &'static str,
    /// `None` where the platform has no such setting.
    pub(super) status: Option<&'static str>,
    pub(super) raw_headers: Option<&'static str>,
    pub(super) body: &'static str,
    /// True where cut bodies may be sent.
    pub(super) can_cut: bool,
    /// True where the form of bodies is chosen.
    pub(super) can_pack: bool,
    /// The settings that choose headers.
    pub(super) headers: &'static [&'static str],
    /// True for Envoy's own filter, which has many more settings.
    pub(super) is_envoy: bool,
}

/// Envoy.
pub(super) static ENVOY_AUTHZ: AuthzDialect = AuthzDialect {
    target: "grpc_service.envoy_grpc.cluster_name",
    timeout: "grpc_service.timeout",
    timeout_default: Some("200ms"),
    fail_open: "failure_mode_allow",
    status: Some("status_on_error"),
    raw_headers: Some("encode_raw_headers"),
    body: "with_request_body",
    can_cut: true,
    can_pack: true,
    headers: &["allowed_headers", "disallowed_headers"],
    is_envoy: true,
};

/// Istio's `envoyExtAuthzGrpc`.
pub(super) static ISTIO: AuthzDialect = AuthzDialect {
    target: "service",
    timeout: "timeout",
    timeout_default: Some("600s"),
    fail_open: "failOpen",
    raw_headers: None,
    status: Some("statusOnError"),
    body: "includeRequestBodyInCheck",
    headers: &[],
    is_envoy: false,
    ..ENVOY_AUTHZ
};

/// `extAuth` of Envoy Gateway's SecurityPolicy.
pub(super) static GATEWAY_AUTHZ: AuthzDialect = AuthzDialect {
    target: "grpc.backendRefs",
    timeout: "timeout",
    timeout_default: Some("10s"),
    body: "bodyToExtAuth",
    can_cut: false,
    can_pack: false,
    headers: &["headersToExtAuth"],
    ..ISTIO
};

/// `authorization` of Contour's HTTPProxy.
pub(super) static CONTOUR: AuthzDialect = AuthzDialect {
    target: "extensionRef.name",
    timeout: "responseTimeout",
    timeout_default: None,
    status: None,
    body: "withRequestBody",
    ..ISTIO
};

/// `extAuth` of kgateway's GatewayExtension.
pub(super) static KGATEWAY_AUTHZ: AuthzDialect = AuthzDialect {
    target: "grpcService.backendRef.name",
    timeout: "grpcService.requestTimeout",
    timeout_default: None,
    body: "withRequestBody",
    headers: &["headersToForward"],
    ..ISTIO
};

/// Settings of ext_proc.
pub(super) struct ProcDialect {
    /// Who is asked.
    pub(super) target: &'static str,
    pub(super) timeout: &'static str,
    pub(super) fail_open: &'static str,
    pub(super) status: Option<&'static str>,
    pub(super) override_modes: &'static str,
    pub(super) observe: &'static str,
    /// Where attributes of requests are listed; `None` where the platform has no such setting.
    pub(super) attributes: Option<&'static str>,
    /// True where all six modes are stated by name, as Envoy does.
    pub(super) has_modes: bool,
    /// Where the namespaces are listed that the guard may write.
    pub(super) receiving: Option<&'static str>,
    /// Where the namespaces are listed that the guard may read.
    pub(super) forwarding: Option<&'static str>,
    /// True for Envoy's own filter, which has many more settings.
    pub(super) is_envoy: bool,
}

/// Envoy.
pub(super) static ENVOY_PROC: ProcDialect = ProcDialect {
    target: "grpc_service.envoy_grpc.cluster_name",
    timeout: "message_timeout",
    fail_open: "failure_mode_allow",
    status: Some("status_on_error"),
    override_modes: "allow_mode_override",
    observe: "observability_mode",
    attributes: Some("request_attributes"),
    has_modes: true,
    receiving: Some("metadata_options.receiving_namespaces.untyped"),
    forwarding: Some("metadata_options.forwarding_namespaces.untyped"),
    is_envoy: true,
};

/// `extProc` of Envoy Gateway's EnvoyExtensionPolicy.
pub(super) static GATEWAY_PROC: ProcDialect = ProcDialect {
    target: "backendRefs",
    timeout: "messageTimeout",
    fail_open: "failOpen",
    status: None,
    override_modes: "processingMode.allowModeOverride",
    observe: "shadowMode",
    attributes: Some("processingMode.request.attributes"),
    has_modes: false,
    receiving: Some("metadata.writableNamespaces"),
    forwarding: Some("metadata.accessibleNamespaces"),
    is_envoy: false,
};

/// `extProc` of kgateway's GatewayExtension.
pub(super) static KGATEWAY_PROC: ProcDialect = ProcDialect {
    target: "grpcService.backendRef.name",
    override_modes: "allowProcessingModeOverride",
    observe: "observabilityMode",
    attributes: None,
    has_modes: true,
    receiving: None,
    forwarding: Some("metadataOptions.forwarding.untyped"),
    ..GATEWAY_PROC
};
