//! The API for operators: `/api/v1`. JSON in and out, problem details (RFC 9457) for what cannot be done, bounds on all
//! of it, and a line in the log for each change: who did what.

use std::future::Future;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post};
use axum::{Router, middleware};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::clock;
use crate::model::addr::{Client, ClientAddr, IpEntry};
use crate::model::time::Window;
use crate::server::access::{self, Operator};
use crate::server::bounds::{BAN_SECONDS, IMPORT_MAX, PAGE_DEFAULT, PAGE_MAX};
use crate::server::decisions;
use crate::server::gate::Gate;
use crate::server::log;
use crate::server::openapi;
use crate::server::problem::Problem;
use crate::server::report;
use crate::state::{Backend, Ban, Patterns, Question, State as _, StateError};
use crate::telemetry::events::Event;
use crate::telemetry::events::system::{self, PatternChange};
use crate::telemetry::levels::Levels;
use crate::telemetry::recent::Recent;

/// Bytes of a call's body at most.
pub(in crate::server) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What the API needs of the service around it.
pub trait Control: Send + Sync + 'static {
    /// Bans, counts and shared patterns.
    fn store(&self) -> &Backend;
    /// The entries of configured lists that cover an address, each with the key of its list.
    fn listed(&self, address: ClientAddr) -> Vec<(&'static str, String)>;
    /// The patterns in use, those of the configuration and shared ones included.
    fn patterns(&self, set: PatternSet) -> Vec<Value>;
    /// Tries a pattern; the finding in `text` when there is one.
    fn try_pattern(&self, pattern: &str, text: Option<&str>) -> Result<bool, String>;
    /// Reads everything again, or tells what would change.
    fn reload(&self, dry_run: bool) -> impl Future<Output = Result<Value, Vec<String>>> + Send;
    /// The busiest rate limit histories, each with its limit.
    fn busiest(&self, size: usize) -> impl Future<Output = Result<Value, StateError>> + Send;
    /// The levels of log lines.
    fn levels(&self) -> &Levels;
    /// Recent decisions.
    fn recent(&self) -> &Recent;
    /// How each part of the service is doing.
    fn status(&self) -> Value;
    /// What is known about the machine, the clock and Redis. Asks Redis, which may take a while.
    fn diagnosis(&self) -> impl Future<Output = Value> + Send;
    /// The effective configuration without its secrets.
    fn effective(&self) -> Value;
    /// Tells everybody who listens to security events.
    fn tell(&self, event: Event);
}

/// Which patterns a list shows.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum PatternSet {
    /// Those of the service.
    Default,
    /// Those of the configuration and the shared ones.
    Custom,
    /// Both.
    #[default]
    All,
}

pub(in crate::server) type Answer = Result<Json<Value>, Problem>;

/// The calls, for operators only.
pub fn routes<C: Control>(control: Arc<C>, gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/api/v1/openapi.json", get(async || Json(openapi::document())))
        .route("/api/v1/status", get(async |State(control): State<Arc<C>>| Json(control.status())))
        .route("/api/v1/config", get(async |State(control): State<Arc<C>>| Json(control.effective())))
        .route("/api/v1/diagnosis", get(async |State(control): State<Arc<C>>| Json(control.diagnosis().await)))
        .route("/api/v1/reload", post(reload::<C>))
        .route("/api/v1/bans", get(bans::<C>).post(import::<C>).delete(reset_bans::<C>))
        .route("/api/v1/bans/{target}", get(ban::<C>).put(add_ban::<C>).delete(remove_ban::<C>))
        .route("/api/v1/addresses/{address}", get(why::<C>))
        .route("/api/v1/decisions", get(decisions::list::<C>))
        .route("/api/v1/decisions/{id}", get(decisions::one::<C>))
        .route("/api/v1/events", post(report::take::<C>))
        .route("/api/v1/limits", get(busiest::<C>).delete(reset_limits::<C>))
        .route("/api/v1/log", get(log::show::<C>).put(log::set::<C>).delete(log::reset::<C>))
        .route("/api/v1/patterns", get(patterns::<C>).post(add_pattern::<C>).delete(remove_pattern::<C>))
        .route("/api/v1/patterns/test", post(test_pattern::<C>))
        .with_state(control)
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not for this path")
        })
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(gate, access::guard))
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        let status = match error {
            StateError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

pub(in crate::server) fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// Reads a body of JSON, whatever its media type says.
pub(in crate::server) fn read<T: DeserializeOwned>(
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<T, Problem> {
    let body =
        body.map_err(|error| Problem::new(error.status(), format!("a body has at most {BODY_BYTES_MAX} bytes")))?;
    serde_json::from_slice(&body).map_err(|error| bad(format!("the body cannot be read: {error}")))
}

pub(in crate::server) type Body = Result<Bytes, axum::extract::rejection::BytesRejection>;
pub(in crate::server) type Asked<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;
pub(in crate::server) type Named = Result<Path<String>, axum::extract::rejection::PathRejection>;

pub(in crate::server) fn asked<T>(query: Asked<T>) -> Result<T, Problem> {
    query.map(|Query(asked)| asked).map_err(|error| bad(error.body_text()))
}

fn target(path: Named) -> Result<IpEntry, Problem> {
    let Path(text) = path.map_err(|error| bad(error.body_text()))?;
    text.parse().map_err(|error: crate::model::addr::BadEntry| bad(error.to_string()))
}

/// The record of a change.
pub(in crate::server) fn audit(operator: &Operator, action: &str, subject: &str) {
    tracing::info!(target: "audit", operator = operator.0, action, subject, "an operator changed something");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageAsked {
    cursor: Option<String>,
    limit: Option<usize>,
    reason: Option<String>,
}

/// Entries of a page that asks for so many.
pub(in crate::server) fn page_size(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(PAGE_DEFAULT) {
        size @ 1..=PAGE_MAX => Ok(size),
        _ => Err(bad(format!("limit goes from 1 to {PAGE_MAX}"))),
    }
}

fn shown(ban: &Ban) -> Value {
    let now = clock::now();
    json!({
        "target": ban.target.to_string(),
        "until": ban.until.0,
        "seconds_left": ban.until.since(now).max(0.0).ceil() as u64,
        "reason": ban.reason,
    })
}

async fn bans<C: Control>(State(control): State<Arc<C>>, query: Asked<PageAsked>) -> Answer {
    let asked = asked(query)?;
    let page = control.store().bans(asked.cursor.as_deref(), page_size(asked.limit)?, clock::now()).await?;
    let wanted = |ban: &&Ban| {
        let reason = ban.reason.as_deref().unwrap_or_default();
        asked.reason.as_deref().is_none_or(|wanted| reason.contains(wanted))
    };
    let bans: Vec<Value> = page.bans.iter().filter(wanted).map(shown).collect();
    Ok(Json(json!({ "bans": bans, "next": page.next })))
}

/// The ban of exactly this target.
async fn find<C: Control>(control: &C, target: IpEntry) -> Result<Option<Ban>, StateError> {
    let name = target.to_string();
    // A page that begins at the name holds it first, if it is banned.
    let page = control.store().bans(Some(&name), 1, clock::now()).await?;
    Ok(page.bans.into_iter().find(|ban| ban.target == target))
}

fn not_banned(target: IpEntry) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("{target} is not banned"))
}

async fn ban<C: Control>(State(control): State<Arc<C>>, path: Named) -> Answer {
    let target = target(path)?;
    find(&*control, target).await?.map(|ban| Json(shown(&ban))).ok_or_else(|| not_banned(target))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sentence {
    seconds: Option<Window>,
    reason: Option<String>,
}

impl Sentence {
    fn seconds(&self) -> Option<Window> {
        self.seconds.or_else(|| Window::new(BAN_SECONDS))
    }

    fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("by an operator")
    }
}

async fn carry_out<C: Control>(control: &C, target: IpEntry, sentence: &Sentence) -> Result<(), Problem> {
    if target.is_everything() {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{target} is everybody")));
    }
    let window = sentence.seconds().ok_or_else(|| bad("seconds must not be 0"))?;
    let now = clock::now();
    control.store().ban(target, window, sentence.reason(), now).await?;
    control.tell(system::ip_banned(now, &target.to_string(), sentence.reason(), window.seconds()));
    Ok(())
}

async fn add_ban<C: Control>(
    State(control): State<Arc<C>>,
    Extension(operator): Extension<Operator>,
    path: Named,
    body: Body,
) -> Answer {
    let target = target(path)?;
    let sentence: Sentence = read(body)?;
    carry_out(&*control, target, &sentence).await?;
    audit(&operator, "ban", &target.to_string());
    Ok(Json(json!({ "target": target.to_string(), "seconds": sentence.seconds(), "reason": sentence.reason() })))
}

async fn remove_ban<C: Control>(
    State(control): State<Arc<C>>,
    Extension(operator): Extension<Operator>,
    path: Named,
) -> Answer {
    let target = target(path)?;
    let now = clock::now();
    let removed = control.store().unban(target, now).await?;
    if removed {
        control.tell(system::ip_unbanned(now, &target.to_string()));
    }
    audit(&operator, "unban", &target.to_string());
    Ok(Json(json!({ "target": target.to_string(), "removed": removed })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Import {
    bans: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    target: String,
    /// From now on.
    seconds: Option<Window>,
    reason: Option<String>,
    /// What an export holds: the rest of it counts, and one that is over is left out.
    seconds_left: Option<u32>,
}

/// Bans all or, when one of them cannot be, none.
async fn import<C: Control>(
    State(control): State<Arc<C>>,
    Extension(operator): Extension<Operator>,
    body: Body,
) -> Answer {
    let Import { bans } = read(body)?;
    if IMPORT_MAX < bans.len() {
        return Err(bad(format!("an import holds at most {IMPORT_MAX} bans")));
    }
    let mut wanted = Vec::with_capacity(bans.len());
    for (index, entry) in bans.into_iter().enumerate() {
        let target: IpEntry = entry.target.parse().map_err(|error| bad(format!("bans[{index}]: {error}")))?;
        if target.is_everything() {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("bans[{index}]: {target} is everybody"),
            ));
        }
        let left = entry.seconds_left.map(Window::new);
        if let (None, Some(None)) = (entry.seconds, left) {
            continue;
        }
        wanted.push((target, Sentence { seconds: entry.seconds.or_else(|| left.flatten()), reason: entry.reason }));
    }
    for (target, sentence) in &wanted {
        carry_out(&*control, *target, sentence).await?;
    }
    audit(&operator, "import bans", &wanted.len().to_string());
    Ok(Json(json!({ "imported": wanted.len() })))
}

async fn reset_bans<C: Control>(State(control): State<Arc<C>>, Extension(operator): Extension<Operator>) -> Answer {
    control.store().reset_bans().await?;
    audit(&operator, "lift all bans", "");
    Ok(Json(json!({ "reset": true })))
}

/// Which ban covers an address, and which entries of the lists.
async fn why<C: Control>(State(control): State<Arc<C>>, path: Named) -> Answer {
    let Path(text) = path.map_err(|error| bad(error.body_text()))?;
    let address: std::net::IpAddr = text.parse().map_err(|_| bad("this is no IP address"))?;
    let address = ClientAddr::from(address);
    let question = Question { ban: Some(Client::Address(address)), ..Question::default() };
    let answer = control.store().ask(&question, clock::now()).await?;
    let suspicion = control.store().suspicion(Client::Address(address), clock::now()).await?;
    let lists: Vec<Value> =
        control.listed(address).into_iter().map(|(list, entry)| json!({ "list": list, "entry": entry })).collect();
    Ok(Json(json!({
        "address": address.to_string(),
        "banned": answer.ban.is_some(),
        "ban": answer.ban.as_ref().map(shown),
        "lists": lists,
        "suspicious_requests": suspicion,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BusiestAsked {
    limit: Option<usize>,
}

async fn busiest<C: Control>(State(control): State<Arc<C>>, query: Asked<BusiestAsked>) -> Answer {
    Ok(Json(control.busiest(page_size(asked(query)?.limit)?).await?))
}

async fn reset_limits<C: Control>(State(control): State<Arc<C>>, Extension(operator): Extension<Operator>) -> Answer {
    control.store().reset_limits().await?;
    audit(&operator, "forget all rate limits", "");
    Ok(Json(json!({ "reset": true })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternsAsked {
    #[serde(default)]
    set: PatternSet,
    cursor: Option<usize>,
    limit: Option<usize>,
}

async fn patterns<C: Control>(State(control): State<Arc<C>>, query: Asked<PatternsAsked>) -> Answer {
    let asked = asked(query)?;
    let size = page_size(asked.limit)?;
    let all = control.patterns(asked.set);
    let start = asked.cursor.unwrap_or(0).min(all.len());
    let end = start.saturating_add(size).min(all.len());
    let next = (end < all.len()).then_some(end);
    let total = all.len();
    let page: Vec<Value> = all.into_iter().skip(start).take(size).collect();
    Ok(Json(json!({ "patterns": page, "next": next, "total": total })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternGiven {
    pattern: String,
}

async fn add_pattern<C: Control>(
    State(control): State<Arc<C>>,
    Extension(operator): Extension<Operator>,
    body: Body,
) -> Answer {
    let PatternGiven { pattern } = read(body)?;
    tried(&control, pattern.clone(), None).await?;
    let added = control.store().add_pattern(&pattern).await?;
    if added {
        tell_pattern(&*control, &pattern, PatternChange::Added).await;
    }
    audit(&operator, "add a pattern", &pattern.escape_debug().to_string());
    Ok(Json(json!({ "pattern": pattern, "added": added })))
}

/// Compiling takes a while: not on the thread that accepts connections.
async fn tried<C: Control>(control: &Arc<C>, pattern: String, text: Option<String>) -> Result<bool, Problem> {
    let control = Arc::clone(control);
    let tried = tokio::task::spawn_blocking(move || control.try_pattern(&pattern, text.as_deref())).await;
    let tried = tried.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    tried.map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error))
}

/// Tells that the shared patterns changed. How many there are now is looked up; 0 when that fails.
async fn tell_pattern<C: Control>(control: &C, pattern: &str, change: PatternChange) {
    let total = control.store().patterns().await.map_or(0, |patterns| patterns.len());
    control.tell(system::pattern_changed(clock::now(), pattern, change, total));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternGone {
    pattern: Option<String>,
    #[serde(default)]
    all: bool,
}

async fn remove_pattern<C: Control>(
    State(control): State<Arc<C>>,
    Extension(operator): Extension<Operator>,
    query: Asked<PatternGone>,
) -> Answer {
    match asked(query)? {
        PatternGone { pattern: Some(pattern), all: false } => {
            let removed = control.store().remove_pattern(&pattern).await?;
            if removed {
                tell_pattern(&*control, &pattern, PatternChange::Removed).await;
            }
            audit(&operator, "remove a pattern", &pattern.escape_debug().to_string());
            Ok(Json(json!({ "pattern": pattern, "removed": removed })))
        }
        PatternGone { pattern: None, all: true } => {
            control.store().clear_patterns().await?;
            audit(&operator, "remove all patterns", "");
            Ok(Json(json!({ "removed": true })))
        }
        _ => Err(bad("name either a pattern or all=true")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternTried {
    pattern: String,
    text: Option<String>,
}

async fn test_pattern<C: Control>(State(control): State<Arc<C>>, body: Body) -> Answer {
    let PatternTried { pattern, text } = read(body)?;
    let has_text = text.is_some();
    let found = tried(&control, pattern, text).await?;
    Ok(Json(json!({ "usable": true, "matches": has_text.then_some(found) })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadAsked {
    #[serde(default)]
    dry_run: bool,
}

async fn reload<C: Control>(
    State(control): State<Arc<C>>,
    Extension(operator): Extension<Operator>,
    query: Asked<ReloadAsked>,
) -> Answer {
    let ReloadAsked { dry_run } = asked(query)?;
    if !dry_run {
        audit(&operator, "reload", "");
    }
    let done = control.reload(dry_run).await;
    done.map(Json).map_err(|errors| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, errors.join("\n")))
}
