//! What the service tells of itself: changes that nobody reports are noticed by looking, twice a second.

use std::sync::Arc;
use std::time::Duration;

use crate::app::rules::{Listener, News};
use crate::clock;
use crate::feeds::board::Board;
use crate::live::{Live, Snapshot};
use crate::state::Backend;
use crate::state::formats::Rules;
use crate::telemetry::bus::Bus;
use crate::telemetry::events::system::{self, RedisChange, RedisFailure, RuleEffects, RuleIdentity};
use crate::telemetry::exporters::Exporters;
use crate::telemetry::metrics::{Metrics, Sample};
use crate::telemetry::sinks::{Composers, Plan};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// The telemetry plan of a snapshot.
#[must_use]
pub fn plan(snapshot: &Snapshot) -> Plan {
    let messages = &snapshot.policy.messages;
    let messages = Composers {
        on_block: messages.on_block.clone(),
        on_error: messages.on_error.clone(),
        webhook: messages.webhook.clone(),
    };
    Plan::new(&snapshot.config, messages)
}

/// Keeps the exporters to the configuration in force, and tells how Redis and the database of countries fare. Never
/// returns.
pub async fn watch(
    live: Arc<Live>,
    (state, board): (Arc<Backend>, Arc<Board>),
    (bus, exporters): (Arc<Bus>, Arc<Exporters>),
) {
    let mut version = live.snapshot().version;
    let url = live.snapshot().config.security.redis_url.as_ref().map(|url| url.redacted()).unwrap_or_default();
    let mut redis = Redis { url, known: None, reloads: reloads(&state) };
    let mut failures = 0;
    loop {
        let snapshot = live.snapshot();
        if snapshot.version != version {
            version = snapshot.version;
            exporters.follow(plan(&snapshot));
        }
        redis.look(&state, &bus);
        failures = look_at_countries(&board, failures, &bus);
        tokio::time::sleep(LOOK).await;
    }
}

/// Tells when attempts at the database of countries failed since `told`, and returns how many did so far. Attempts are
/// seconds apart.
fn look_at_countries(board: &Board, told: u64, bus: &Bus) -> u64 {
    let Some(row) = board.rows().remove("geo") else { return told };
    if told < row.failures {
        let error = if row.error.is_empty() { "it failed, and is well again" } else { &row.error };
        bus.system(system::geo_download_failed(clock::now(), error));
    }
    row.failures
}

/// What was last known of Redis.
struct Redis {
    url: String,
    /// Whether it answered; `None` before the first look.
    known: Option<bool>,
    reloads: u64,
}

fn reloads(state: &Backend) -> u64 {
    state.redis().map_or(0, |redis| redis.counts().script_reloads)
}

impl Redis {
    fn look(&mut self, state: &Backend, bus: &Bus) {
        let Some(_) = state.redis() else { return };
        let (now, is_well) = (clock::now(), state.is_well());
        match (self.known.replace(is_well), is_well) {
            (None | Some(false), true) => {
                bus.system(system::redis_connection(now, &self.url, RedisChange::Established));
            }
            (None, false) => {
                bus.system(system::redis_error(now, &self.url, RedisFailure::Connection, "it does not answer"));
            }
            (Some(true), false) => {
                bus.system(system::redis_error(now, &self.url, RedisFailure::Connection, "it stopped answering"));
                bus.system(system::redis_connection(now, &self.url, RedisChange::Closed));
            }
            (Some(known), _) if known == is_well => {}
            (Some(_), _) => {}
        }
        let reloads = reloads(state);
        (self.reloads..reloads).take(16).for_each(|_| bus.system(system::script_reloaded(now)));
        self.reloads = reloads;
    }
}

/// Tells what dynamic rules do.
#[must_use]
pub fn listener(bus: &Arc<Bus>) -> Listener {
    let bus = Arc::clone(bus);
    Box::new(move |news| {
        let now = clock::now();
        bus.system(match news {
            News::Received(rules, previous) => system::rules_received(now, identity(rules), previous),
            News::Banned(target, window) => {
                system::ip_banned(now, &target.to_string(), "dynamic_rule", window.seconds())
            }
            News::Unbanned(target) => system::ip_unbanned(now, &target.to_string()),
            News::Lockdown(rules) => {
                let whitelist: Vec<String> = rules.emergency_whitelist.iter().map(ToString::to_string).collect();
                system::emergency_activated(now, &whitelist)
            }
            News::Applied(rules) => {
                let effects = RuleEffects {
                    ip_bans: rules.ip_blacklist.len(),
                    country_blocks: rules.blocked_countries.len(),
                    emergency_mode: rules.emergency_mode,
                };
                system::rules_applied(now, identity(rules), effects)
            }
        });
    })
}

fn identity(rules: &Rules) -> RuleIdentity<'_> {
    RuleIdentity { id: &rules.rule_id, version: rules.version }
}

/// Counts of the sinks, for the metrics.
pub fn count_sinks(metrics: &Metrics, bus: &Arc<Bus>) {
    let bus = Arc::clone(bus);
    metrics.source(move || {
        use crate::telemetry::buffer::SinkName;
        let counts: Vec<(&'static str, [u64; 4])> =
            SinkName::ALL.iter().map(|sink| (sink.name(), bus.tallies().of(*sink).read())).collect();
        let families = [
            ("telemetry_delivered", "Events, spans and numbers that a sink's other side has", true),
            ("telemetry_dropped", "Events, spans and numbers that a sink lost", true),
            ("telemetry_failures", "Attempts of a sink to deliver that failed", true),
            ("telemetry_waiting", "Events, spans and numbers that wait for a sink", false),
        ];
        let family = |(index, (name, help, is_counter)): (usize, (&'static str, &'static str, bool))| {
            let sample = move |(sink, counts): &(&'static str, [u64; 4])| Sample {
                name,
                help,
                is_counter,
                label: Some(("sink", (*sink).to_owned())),
                value: counts.get(index).copied().unwrap_or_default(),
            };
            counts.iter().map(sample).collect::<Vec<_>>()
        };
        families.into_iter().enumerate().flat_map(family).collect()
    });
}
