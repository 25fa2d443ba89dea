//! `serve`: from a configuration to a running service, and back to nothing.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::app::build::{Inputs, Refusal};
use crate::app::control::Operations;
use crate::app::keeper::{Change, Keeper, Mailbox, remark};
use crate::app::rules::{self, Follower, RulesStatus};
use crate::app::{facts, herald, patterns, reload};
use crate::clock;
use crate::config::Sources;
use crate::config::redacted::redacted_json;
use crate::feeds::board::Board;
use crate::feeds::plan::Plan;
use crate::feeds::refresh;
use crate::grpc::DESCRIPTORS;
use crate::grpc::authz::{self, Authz};
use crate::grpc::desk::Desk;
use crate::grpc::proc::{self, Proc};
use crate::grpc::repeat::Repeats;
use crate::live::{Live, Ruling, Snapshot};
use crate::server::admin::{self, Doors, Report};
use crate::server::gate::Gate;
use crate::server::listen::{ListenError, Listeners};
use crate::server::service::Services;
use crate::server::worker::{Limits, Worker};
use crate::state::Backend;
use crate::telemetry::bus::Bus;
use crate::telemetry::exporters::{ExporterError, Exporters};
use crate::telemetry::levels::Levels;
use crate::telemetry::metrics::{Metrics, Sample};
use crate::telemetry::queue::Queue;
use crate::telemetry::recent::Recent;
use crate::telemetry::{Recorder, report_panics, start_logging};

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] Refusal),
    /// A listener cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The process lacks something.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    /// Telemetry cannot be sent as the configuration demands.
    #[error(transparent)]
    Telemetry(#[from] ExporterError),
    /// The reflection descriptors do not fit together.
    #[error("cannot start reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves until SIGTERM or SIGINT. SIGHUP loads the configuration again.
pub fn serve(sources: Sources) -> Result<(), ServeError> {
    let inputs = Inputs::read(&sources)?;
    let snapshot = inputs.compile(None)?;
    let (log, levels) = start_logging(&snapshot.config)?;
    report_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(run(sources, (inputs, snapshot), (&log, levels)));
    log.flush();
    served
}

/// The parts that outlive one snapshot.
pub(in crate::app) struct House {
    pub(in crate::app) live: Arc<Live>,
    pub(in crate::app) state: Arc<Backend>,
    feeds: Arc<Board>,
    repeats: Arc<Repeats>,
    rules: Arc<rules::Board>,
    pub(in crate::app) recent: Arc<Recent>,
    pub(in crate::app) levels: Levels,
    gate: Arc<Gate>,
    draining: AtomicBool,
}

async fn run(sources: Sources, first: (Inputs, Snapshot), (log, levels): (&Queue, Levels)) -> Result<(), ServeError> {
    let (inputs, snapshot) = first;
    let state = Backend::new(&snapshot.config).map_err(|error| ServeError::Config(Refusal(vec![error.to_string()])))?;
    let live = Live::new(snapshot);
    let gate = Gate::new(inputs.credentials.clone());
    let house = Arc::new(House {
        live: Arc::clone(&live),
        state: Arc::new(state),
        feeds: Arc::default(),
        repeats: Arc::default(),
        rules: Arc::default(),
        recent: Arc::default(),
        levels,
        gate: Arc::clone(&gate),
        draining: AtomicBool::new(false),
    });
    let first = live.snapshot();
    let config = &first.config;
    remark(&first);

    refresh::expect(&Plan::of(config), &house.feeds, clock::now());
    let listeners = Listeners::open(&config.listeners, Arc::clone(&gate.grpc)).await?;
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let bus = Arc::new(Bus::default());
    let exporters = Arc::new(Exporters::start(herald::plan(&first), Arc::clone(&bus), Arc::clone(&metrics))?);
    let (health, routes) = common_services().await?;
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let doors = Doors::open(&config.admin, Arc::clone(&gate)).await?;
    let kept = Arc::clone(&house.state);
    let maintenance = tokio::spawn(async move { kept.maintain(clock::now).await });
    let (shared, custom) = (Arc::clone(&house.state), Arc::clone(first.policy.detector.custom()));
    let following = tokio::spawn(async move { patterns::follow(&*shared, &custom).await });
    let (keeper, mailbox) = Keeper::new(sources.clone(), inputs, Arc::clone(&live), Arc::clone(&gate));
    let keeping = tokio::spawn(keeper.run());
    let watching = tokio::spawn(reload::follow(sources.file.clone(), Arc::clone(&live), mailbox.clone()));
    let admin = doors.map(|doors| {
        let control = Operations { house: Arc::clone(&house), mailbox: mailbox.clone(), bus: Arc::clone(&bus) };
        let pages = admin::pages(Arc::clone(&house), Arc::new(control), Arc::clone(&metrics), gate);
        tokio::spawn(admin::serve(doors, pages, ended))
    });
    let mut follower = Follower::new(
        (Arc::clone(&house.state), Arc::clone(&live)),
        mailbox.clone(),
        Arc::clone(&house.rules),
        herald::listener(&bus),
    );
    // Before anybody is served: a lockdown holds through a restart.
    follower.hydrate().await;
    let following_rules = tokio::spawn(follower.run());
    let (shared, board) = (Arc::clone(&house.state), Arc::clone(&house.feeds));
    let informing = tokio::spawn(facts::run(Arc::clone(&live), shared, board, mailbox.clone()));
    let workers = start_workers(&house, (&metrics, &bus), &routes, &stopped)?;
    count_house(&metrics, &house, log);
    herald::count_sinks(&metrics, &bus);
    let told = (Arc::clone(&bus), Arc::clone(&exporters));
    let levelling = tokio::spawn(follow_levels(Arc::clone(&house)));
    let watched = (Arc::clone(&house.state), Arc::clone(&house.feeds));
    let heralding = tokio::spawn(herald::watch(Arc::clone(&live), watched, told));
    tracing::info!(
        grpc = listeners.tcp_address().map(tracing::field::display),
        unix = config.listeners.unix.as_ref().map(|path| tracing::field::display(path.display())),
        workers = workers.len(),
        config = first.hash,
        "ready"
    );
    let connections_max = usize::try_from(config.limits.max_connections).unwrap_or(usize::MAX);
    let accept = listeners.accept(&workers, connections_max, stopped);
    let stop = async {
        let signal = wait_for_stop(&mailbox, log).await?;
        tracing::info!(signal, "stopping");
        house.draining.store(true, Ordering::Relaxed);
        health.set_service_status("", ServingStatus::NotServing).await;
        health.set_service_status(authz::SERVICE, ServingStatus::NotServing).await;
        health.set_service_status(proc::SERVICE, ServingStatus::NotServing).await;
        stop.send_replace(true);
        Ok::<_, io::Error>(())
    };
    let ((), stopped) = tokio::join!(accept, stop);
    stopped?;
    // The admin port still answers while the workers drain.
    let drained = tokio::task::spawn_blocking(move || workers.into_iter().for_each(Worker::join)).await;
    maintenance.abort();
    following.abort();
    following_rules.abort();
    informing.abort();
    keeping.abort();
    watching.abort();
    levelling.abort();
    heralding.abort();
    // The task has ended for certain before its exporters are taken back.
    drop(heralding.await);
    if let Some(exporters) = Arc::into_inner(exporters) {
        tokio::task::spawn_blocking(move || exporters.stop()).await.map_err(io::Error::other)?;
    }
    end.send_replace(true);
    if let Some(admin) = admin {
        admin.await.map_err(io::Error::other)?;
    }
    tracing::info!("stopped");
    drained.map_err(|error| ServeError::Io(io::Error::other(error)))
}

/// How often it is looked whether an operator's log levels are over.
const LEVELS_LOOK: Duration = Duration::from_millis(500);

/// Takes over the log filter of each new configuration, and ends an operator's in time. Never returns.
async fn follow_levels(house: Arc<House>) {
    loop {
        house.levels.configure(&house.live.snapshot().config.telemetry.log_filter);
        if house.levels.expire(clock::now()) {
            tracing::info!("the log levels of the configuration are in force again");
        }
        tokio::time::sleep(LEVELS_LOOK).await;
    }
}

/// Health and reflection, and the reporter that changes health.
async fn common_services() -> Result<(HealthReporter, Routes), ServeError> {
    let (health, service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_service_status(authz::SERVICE, ServingStatus::Serving).await;
    health.set_service_status(proc::SERVICE, ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(authz::SERVICE)
        .with_service_name(proc::SERVICE)
        .with_service_name("grpc.health.v1.Health")
        .build_v1()?;
    Ok((health, Routes::new(service).add_service(reflection).prepare()))
}

fn start_workers(
    house: &Arc<House>,
    (metrics, bus): (&Metrics, &Arc<Bus>),
    routes: &Routes,
    stop: &watch::Receiver<bool>,
) -> io::Result<Vec<Worker>> {
    let snapshot = house.live.snapshot();
    let config = &snapshot.config;
    let count = match config.listeners.workers {
        0 => std::thread::available_parallelism()?.get(),
        workers => usize::from(workers),
    };
    (0..count)
        .map(|index| {
            let (house, routes, recorder) =
                (Arc::clone(house), routes.clone(), Recorder::new(metrics, Arc::clone(bus), Arc::clone(&house.recent)));
            Worker::spawn(index, Limits::from(&config.limits), stop.clone(), move || {
                let (desk, recorder) = (Desk::new(&house.live), Rc::new(recorder));
                let (state, repeats) = (Arc::clone(&house.state), Arc::clone(&house.repeats));
                let authz = Authz::new(Rc::clone(&desk), Arc::clone(&state), repeats, Rc::clone(&recorder));
                let proc = Rc::new(Proc::new(desk, state, recorder));
                let services = Rc::new(Services { authz, proc, others: routes });
                move |call| Rc::clone(&services).call(call)
            })
        })
        .collect()
}

/// Waits for a signal to stop; takes every SIGUSR1 as word that the log file was moved away, and every SIGHUP on the way as a request to load the configuration again.
async fn wait_for_stop(mailbox: &Mailbox, log: &Queue) -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reload = signal(SignalKind::hangup())?;
    let mut rotate = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok("SIGTERM"),
            _ = interrupt.recv() => return Ok("SIGINT"),
            _ = rotate.recv() => log.reopen(),
            // The keeper says how it went.
            _ = reload.recv() => drop(mailbox.change(Change::Config).await),
        }
    }
}

impl Report for House {
    fn readiness(&self) -> (bool, Value) {
        let (snapshot, draining) = (self.live.snapshot(), self.draining.load(Ordering::Relaxed));
        let health = self.state.health();
        let is_informed = self.feeds.is_ready(clock::now());
        let is_ready = !draining && is_informed;
        let details = json!({
            "ready": is_ready,
            "draining": draining,
            "informed": is_informed,
            "feeds": self.feeds.rows(),
            // A lost Redis degrades the service; it does not take it out of rotation.
            "state": if health.is_well { "well" } else { "degraded" },
            "state_detail": {
                "backend": health.backend,
                "hears_other_replicas": health.is_listening,
                "failures": health.counts.failures,
                "stand_ins": health.stood_in.calls,
                "times_lost": health.counts.breaker_opened,
            },
            "version": snapshot.version,
            "hash": snapshot.hash,
            "reload": *self.live.status(),
            "dynamic_rules": { "in_force": snapshot.ruling, "status": self.rules.read() },
            "policy": {
                "passive": snapshot.policy.is_passive(),
                "routes": snapshot.config.routes.len(),
                "patterns": snapshot.policy.detector.default_patterns().len(),
                "custom_patterns": snapshot.policy.detector.custom_patterns().len(),
                "warnings": snapshot.notices.warnings.len(),
                "inactive_settings": snapshot.notices.inactive.len(),
            },
        });
        (is_ready, details)
    }

    fn stats(&self) -> Value {
        let snapshot = self.live.snapshot();
        let detector = &snapshot.policy.detector;
        json!({
            "performance": detector.stats(),
            "decisions": self.recent.fill(),
            // guard-core's names; the compiler and the preprocessor are always there.
            "components": {
                "compiler": true,
                "preprocessor": true,
                "semantic_analyzer": 0.0 < detector.semantic_threshold(),
                "performance_monitor": true,
            },
            "semantic_threshold": detector.semantic_threshold(),
            "patterns": detector.default_patterns().len(),
            "custom_patterns": detector.custom_patterns().len(),
            "database_bytes": detector.database_bytes(),
        })
    }

    fn config(&self) -> Value {
        let snapshot = self.live.snapshot();
        json!({
            "version": snapshot.version,
            "hash": snapshot.hash,
            "warnings": snapshot.notices.warnings,
            "inactive": snapshot.notices.inactive,
            "dynamic_rules": { "in_force": snapshot.ruling, "status": self.rules.read() },
            "config": redacted_json(&snapshot.config),
        })
    }
}

/// Numbers that are read when they are asked for.
fn count_house(metrics: &Metrics, house: &Arc<House>, log: &Queue) {
    let (house, log) = (Arc::clone(house), log.clone());
    metrics.source(move || {
        let plain = |name, help, is_counter, value| Sample { name, help, is_counter, label: None, value };
        let status = house.live.status();
        let snapshot = house.live.snapshot();
        let reload = |result: &str, value| Sample {
            name: "reloads",
            help: "Attempts to load the configuration again",
            is_counter: true,
            label: Some(("result", result.to_owned())),
            value,
        };
        let mut samples = vec![
            plain("log_lines_dropped", "Log lines that found the queue full", true, log.dropped()),
            plain(
                "state_degraded",
                "1 while Redis is lost and memory stands in",
                false,
                u64::from(!house.state.is_well()),
            ),
            plain("checks_repeated", "Checks that Envoy sent again and that counted once", true, house.repeats.count()),
            plain("custom_patterns", "Custom patterns in use", false, snapshot.policy.detector.custom_count() as u64),
            plain("policy_version", "Snapshots of this process so far", false, snapshot.version),
            Sample {
                name: "config_info",
                help: "The configuration in force",
                is_counter: false,
                label: Some(("hash", snapshot.hash.clone())),
                value: 1,
            },
            plain(
                "pattern_compiles",
                "Times that rows were compiled, the first time included",
                true,
                status.patterns_compiled,
            ),
            reload("success", status.succeeded),
            reload("failure", status.failed),
        ];
        samples.extend(count_rules(
            &house.rules.read(),
            snapshot.ruling.as_ref(),
            snapshot.config.security.emergency_mode,
        ));
        samples.extend(count_tls(&house.gate));
        samples.extend(count_redis(&house.state));
        samples.extend(count_feeds(&house.feeds));
        let family = |name: &str| Some(("family", name.to_owned()));
        let sizes = house.state.sizes().families();
        samples.extend(sizes.iter().map(|(name, size)| Sample {
            name: "state_entries",
            help: "Entries of the state held in this process",
            is_counter: false,
            label: family(name),
            value: size.used as u64,
        }));
        samples.extend(sizes.iter().map(|(name, size)| Sample {
            name: "state_evicted",
            help: "Entries that had to go before their time",
            is_counter: true,
            label: family(name),
            value: size.evicted,
        }));
        samples
    });
}

/// What became of dynamic rules, and whether lockdown is on.
fn count_rules(status: &RulesStatus, ruling: Option<&Ruling>, is_lockdown: bool) -> Vec<Sample> {
    let documents = |result: &str, value| Sample {
        name: "dynamic_rules_documents",
        help: "Documents of dynamic rules, by what became of them",
        is_counter: true,
        label: Some(("result", result.to_owned())),
        value,
    };
    let gauge = |name, help, value| Sample { name, help, is_counter: false, label: None, value };
    vec![
        documents("applied", status.applied),
        documents("refused", status.refused),
        documents("not_reached", status.failures),
        gauge(
            "dynamic_rules_in_force",
            "1 while dynamic rules lie over the configuration",
            u64::from(ruling.is_some()),
        ),
        gauge("emergency_mode", "1 while only the emergency whitelist passes", u64::from(is_lockdown)),
    ]
}

/// Handshakes by their ends, and when our certificates end; nothing without TLS.
fn count_tls(gate: &Gate) -> Vec<Sample> {
    let ports = [
        (&gate.grpc, "tls_handshakes", "tls_certificate_expires"),
        (&gate.admin, "admin_tls_handshakes", "admin_tls_certificate_expires"),
    ];
    let mut samples = Vec::new();
    for (tls, handshakes, expires) in ports {
        samples.extend(tls.ends().filter(|(_, count)| *count != 0).map(|(end, value)| Sample {
            name: handshakes,
            help: "TLS handshakes by how they ended",
            is_counter: true,
            label: Some(("end", end.to_owned())),
            value,
        }));
        samples.extend(tls.terms().map(|terms| Sample {
            name: expires,
            help: "When the certificate ends, in seconds since the epoch",
            is_counter: false,
            label: None,
            value: terms.expires.0 as u64,
        }));
    }
    samples
}

/// How fresh the facts about addresses are.
fn count_feeds(board: &Board) -> Vec<Sample> {
    let now = clock::now();
    let mut samples = Vec::new();
    for (name, row) in board.rows() {
        let mut add = |metric, help, is_counter, value| {
            let label = Some(("feed", name.clone()));
            samples.push(Sample { name: metric, help, is_counter, label, value });
        };
        add("feed_entries", "Entries of a feed in force", false, row.entries);
        add("feed_bad_lines", "Lines of a list that could not be read", false, row.bad_lines);
        add("feed_failures", "Attempts to get a feed that failed", true, row.failures);
        add("feed_failing", "Attempts to get a feed that failed since the latest success", false, row.failing);
        add("feed_last_success_seconds", "When a feed was last current; 0 for never", false, row.last_success as u64);
        if 0.0 < row.last_success {
            let age = (now.0 - row.last_success).max(0.0) as u64;
            add("feed_age_seconds", "Seconds since a feed was last current", false, age);
        }
    }
    // The exporter wants the samples of a metric together.
    samples.sort_by_key(|sample| sample.name);
    samples
}

/// What happened between this process and Redis; nothing without Redis.
fn count_redis(state: &Backend) -> Vec<Sample> {
    let (redis, both) = match state {
        Backend::Memory(_) => return Vec::new(),
        Backend::Redis(redis) => (&**redis, None),
        Backend::Failover(both) => (both.redis(), Some(both.counts())),
    };
    let counter = |name, help, value| Sample { name, help, is_counter: true, label: None, value };
    let counts = redis.counts();
    let mut samples = vec![
        counter("redis_failures", "Calls to Redis that failed or came too late", counts.failures),
        counter("redis_breaker_opened", "Times calls to Redis were stopped", counts.breaker_opened),
        counter("redis_script_reloads", "Scripts that Redis had forgotten", counts.script_reloads),
        counter("redis_pushes", "Changes heard from other replicas", counts.pushes),
    ];
    samples.push(Sample {
        name: "redis_listening",
        help: "1 while changes by other replicas are heard",
        is_counter: false,
        label: None,
        value: u64::from(redis.is_listening()),
    });
    if let Some(both) = both {
        samples.push(counter("state_stand_ins", "Calls that memory answered in the place of Redis", both.calls));
        samples.push(counter("state_losses", "Times Redis was lost and memory took over", both.episodes));
    }
    samples
}
