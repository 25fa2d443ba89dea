//! What the files hold that concerns the guard, wherever it stands in them: a bootstrap, a dump, resources of xDS, objects
//! of Kubernetes, or a single filter.

use crate::config::tree::Node;
use crate::lint::dialect::{self, AuthzDialect, ProcDialect};
use crate::lint::spot::Spot;

/// All that was found.
#[derive(Default)]
pub(super) struct Survey<'n> {
    pub(super) managers: Vec<Manager<'n>>,
    pub(super) authz: Vec<Authz<'n>>,
    pub(super) proc: Vec<Proc<'n>>,
    pub(super) clusters: Vec<Spot<'n>>,
    pub(super) overrides: Vec<Override<'n>>,
    pub(super) objects: Vec<Object<'n>>,
    /// Where a route of the policy is named.
    pub(super) names: Vec<Spot<'n>>,
    /// Routes that take upgrades, such as WebSockets.
    pub(super) upgrades: Vec<Spot<'n>>,
    /// Names of Istio's providers.
    pub(super) providers: Vec<&'n str>,
    /// True when `meshConfig` is among the files.
    pub(super) has_mesh: bool,
}

/// An HTTP connection manager.
pub(super) struct Manager<'n> {
    pub(super) config: Spot<'n>,
    pub(super) listener: Option<Spot<'n>>,
    pub(super) filters: Vec<Filter<'n>>,
}

/// One of its filters.
#[derive(Clone, Copy)]
pub(super) struct Filter<'n> {
    pub(super) spot: Spot<'n>,
    /// The last part of its configuration's type, or of its name.
    pub(super) kind: &'n str,
}

/// Where a filter stands in a chain.
#[derive(Clone, Copy)]
pub(super) struct Post {
    pub(super) manager: usize,
    pub(super) index: usize,
}

/// Something that asks over ext_authz.
pub(super) struct Authz<'n> {
    pub(super) config: Spot<'n>,
    pub(super) dialect: &'static AuthzDialect,
    pub(super) target: Option<Spot<'n>>,
    pub(super) post: Option<Post>,
}

/// Something that asks over ext_proc.
pub(super) struct Proc<'n> {
    pub(super) config: Spot<'n>,
    pub(super) dialect: &'static ProcDialect,
    pub(super) target: Option<Spot<'n>>,
    pub(super) post: Option<Post>,
}

impl<'n> Proc<'n> {
    /// How the body of a request is sent: where that stands, and the word.
    pub(super) fn body_mode(&self) -> (Spot<'n>, &'n str) {
        let own = if self.dialect.has_modes { "request_body_mode" } else { "request.body" };
        let spot = self.config.at("processing_mode").at(own);
        (spot, spot.text().unwrap_or("NONE"))
    }

    /// True when bodies of requests are sent.
    pub(super) fn sees_bodies(&self) -> bool {
        !self.body_mode().1.eq_ignore_ascii_case("none")
    }
}

/// Settings of a route for one of the filters.
pub(super) struct Override<'n> {
    pub(super) config: Spot<'n>,
    pub(super) is_proc: bool,
    /// The route, virtual host or route configuration.
    pub(super) owner: Spot<'n>,
}

/// An object of Kubernetes.
#[derive(Clone, Copy)]
pub(super) struct Object<'n> {
    pub(super) spot: Spot<'n>,
    pub(super) kind: &'n str,
    pub(super) name: &'n str,
    pub(super) namespace: &'n str,
}

#[derive(Clone, Copy, Default)]
struct Around<'n> {
    listener: Option<Spot<'n>>,
    manager: Option<usize>,
    index: Option<usize>,
}

impl<'n> Survey<'n> {
    /// Looks through `documents`; what asks somebody else than the guard is left out.
    pub(super) fn of(documents: &'n [Node]) -> Self {
        let mut survey = Self::default();
        for document in documents {
            survey.walk(Spot::of(document), Around::default());
        }
        survey.keep_ours();
        survey
    }

    /// Where several services are asked, ours is the one that is called so.
    fn keep_ours(&mut self) {
        let is_ours = |target: Option<Spot<'_>>| {
            target.and_then(Spot::text).is_some_and(|name| name.to_ascii_lowercase().contains("guard"))
        };
        if self.authz.iter().any(|ask| is_ours(ask.target)) || self.proc.iter().any(|ask| is_ours(ask.target)) {
            self.authz.retain(|ask| is_ours(ask.target));
            self.proc.retain(|ask| is_ours(ask.target));
        }
    }

    /// `spot` is nested `foreign::DEPTH_MAX` levels at most.
    fn walk(&mut self, spot: Spot<'n>, around: Around<'n>) {
        let around = self.notice(spot, around);
        let is_manager = spot.is_message(".HttpConnectionManager");
        for (key, below) in spot.pairs() {
            if is_manager && matches!(key, "http_filters" | "httpFilters") {
                for (index, filter) in below.items().enumerate() {
                    self.walk(filter, Around { index: Some(index), ..around });
                }
                continue;
            }
            self.walk(below, around);
        }
        for item in spot.items() {
            self.walk(item, around);
        }
    }

    /// Takes down what `spot` is.
    fn notice(&mut self, spot: Spot<'n>, around: Around<'n>) -> Around<'n> {
        if spot.at("filter_chains|default_filter_chain").exists() {
            return Around { listener: Some(spot), ..around };
        }
        if spot.is_message(".HttpConnectionManager") {
            let filters = spot.at("http_filters").items().map(Filter::of).collect();
            self.managers.push(Manager { config: spot, listener: around.listener, filters });
            return Around { manager: Some(self.managers.len() - 1), ..around };
        }
        let post = around.manager.zip(around.index).map(|(manager, index)| Post { manager, index });
        if spot.is_message("filters.http.ext_authz.v3.ExtAuthz") {
            let dialect = &dialect::ENVOY_AUTHZ;
            let target = spot.at(dialect.target);
            // Over HTTP it is somebody else who is asked.
            if target.exists() || spot.at("grpc_service").exists() {
                self.authz.push(Authz { config: spot, dialect, target: Some(target), post });
            }
        } else if spot.is_message("filters.http.ext_proc.v3.ExternalProcessor") {
            let dialect = &dialect::ENVOY_PROC;
            if spot.at("grpc_service").exists() {
                self.proc.push(Proc { config: spot, dialect, target: Some(spot.at(dialect.target)), post });
            }
        } else if is_cluster(spot) {
            self.clusters.push(spot);
        } else if spot.at("apiVersion").exists() && spot.at("kind").exists() {
            self.object(spot);
        }
        for (_, config) in spot.at("typed_per_filter_config").pairs() {
            let is_proc = config.is_message(".ExtProcPerRoute");
            if is_proc || config.is_message(".ExtAuthzPerRoute") {
                self.overrides.push(Override { config, is_proc, owner: spot });
            }
        }
        self.names(spot);
        if spot.at("route.upgrade_configs").items().next().is_some() {
            self.upgrades.push(spot);
        }
        let providers = spot.at("extensionProviders");
        if providers.exists() {
            self.mesh(providers);
        }
        around
    }

    /// `guard_route: NAME`, and the same as an entry of a list.
    fn names(&mut self, spot: Spot<'n>) {
        let own = spot.at("guard_route");
        if own.text().is_some() {
            self.names.push(own);
        }
        let is_entry = spot.at("key|name").text().is_some_and(|key| matches!(key, "guard_route" | "guard-route"));
        let value = spot.at("value");
        if is_entry && value.text().is_some() {
            self.names.push(value);
        }
    }

    fn mesh(&mut self, providers: Spot<'n>) {
        self.has_mesh = true;
        for provider in providers.items() {
            self.providers.extend(provider.at("name").text());
            let config = provider.at("envoyExtAuthzGrpc");
            if config.exists() {
                let dialect = &dialect::ISTIO;
                self.authz.push(Authz { config, dialect, target: Some(config.at(dialect.target)), post: None });
            }
        }
    }

    fn object(&mut self, spot: Spot<'n>) {
        let kind = spot.at("kind").text().unwrap_or_default();
        let name = spot.at("metadata.name").text().unwrap_or_default();
        let namespace = spot.at("metadata.namespace").text().unwrap_or("default");
        self.objects.push(Object { spot, kind, name, namespace });
        let spec = spot.at("spec");
        let mut authz = |config: Spot<'n>, dialect: &'static AuthzDialect| {
            if config.exists() {
                self.authz.push(Authz { config, dialect, target: target(config, dialect.target), post: None });
            }
        };
        match kind {
            "SecurityPolicy" if spec.at("extAuth.grpc").exists() => authz(spec.at("extAuth"), &dialect::GATEWAY_AUTHZ),
            "HTTPProxy" => authz(spec.at("virtualhost.authorization"), &dialect::CONTOUR),
            "GatewayExtension" => authz(spec.at("extAuth"), &dialect::KGATEWAY_AUTHZ),
            _ => {}
        }
        let (configs, dialect): (Vec<Spot<'n>>, _) = match kind {
            "EnvoyExtensionPolicy" => (spec.at("extProc").items().collect(), &dialect::GATEWAY_PROC),
            "GatewayExtension" => (vec![spec.at("extProc")], &dialect::KGATEWAY_PROC),
            _ => return,
        };
        for config in configs.into_iter().filter(|config| config.exists()) {
            self.proc.push(Proc { config, dialect, target: target(config, dialect.target), post: None });
        }
    }
}

/// The name at `path`; of a list of backends the first one's.
fn target<'n>(config: Spot<'n>, path: &str) -> Option<Spot<'n>> {
    let spot = config.at(path);
    Some(spot.items().next().map_or(spot, |first| first.at("name")))
}

fn is_cluster(spot: Spot<'_>) -> bool {
    let keys = "load_assignment|eds_cluster_config|lb_policy|circuit_breakers|typed_extension_protocol_options";
    spot.at("name").exists() && spot.at("connect_timeout|type|cluster_type").exists() && spot.at(keys).exists()
}

impl<'n> Filter<'n> {
    fn of(spot: Spot<'n>) -> Self {
        let config = spot.at("typed_config");
        let name = || spot.at("name").text().unwrap_or_default().rsplit('.').next();
        // A filter may be called anything; what it is its type says.
        let kind = config.message().and_then(|name| name.rsplit('.').next()).or_else(name).unwrap_or_default();
        Self { spot, kind }
    }
}
