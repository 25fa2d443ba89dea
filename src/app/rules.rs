//! Dynamic rules at work: fetched or read from a file, brought to the keeper, remembered for the next start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::app::facts;
use crate::app::keeper::{Change, Mailbox};
use crate::clock;
use crate::config::Config;
use crate::config::data::OutboundConfig;
use crate::feeds::rules::{self, BadDocument, Checked, DOCUMENT_BYTES_MAX};
use crate::live::Live;
use crate::model::addr::IpEntry;
use crate::model::time::Window;
use crate::net::agent::{self, Identity};
use crate::net::client::{self, Client, Request, Response, Validators};
use crate::state::formats::{Rules, RulesSnapshot};
use crate::state::{Backend, State};

/// How often it is looked whether something is to be done: rules that end, a file that changed, a poll that is due.
const TICK: Duration = Duration::from_secs(1);
/// Longest time that a document may ask us not to ask again: a lockdown must not wait longer.
const TTL_MAX: u64 = 3600;
/// Longest wait after a poll that failed.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Wait after "too many requests" without a time, and the longest that is obeyed.
const BUSY: Duration = Duration::from_secs(60);
const BUSY_MAX: Duration = Duration::from_secs(300);
/// Share of the interval by which a poll may come early, so that replicas do not ask all at once.
const JITTER: f64 = 0.1;

/// Where rules come from.
#[derive(Clone, Debug, Default, PartialEq)]
enum Source {
    /// Nowhere.
    #[default]
    Off,
    /// A file of this machine.
    File(PathBuf),
    /// A server that speaks the agent protocol.
    Server(Box<Server>),
}

/// A server, and how it is asked.
#[derive(Clone, Debug, PartialEq)]
struct Server {
    identity: Identity,
    interval: Duration,
    timeout: Duration,
    factor: f64,
}

impl Source {
    fn of(config: &Config) -> Self {
        let security = &config.security;
        if let Some(path) = &config.data.dynamic_rules {
            return Self::File(path.clone());
        }
        let Some(api_key) = security.agent_api_key.as_ref().filter(|_| security.enable_dynamic_rules) else {
            return Self::Off;
        };
        Self::Server(Box::new(Server {
            identity: Identity {
                endpoint: security.agent_endpoint.clone(),
                api_key: api_key.expose().to_owned(),
                install_id: security.agent_install_id.clone().unwrap_or_default(),
                project_id: security.agent_project_id.clone(),
            },
            interval: Duration::from_secs(security.dynamic_rule_interval.into()),
            timeout: Duration::from_secs(security.agent_timeout.max(1).into()),
            factor: security.agent_backoff_factor.unwrap_or(1.0),
        }))
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::File(_) => "file",
            Self::Server(_) => "poll",
        }
    }
}

impl Server {
    /// How long to wait after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        let most = self.interval.min(RETRY_MAX);
        let seconds = self.factor * 2_f64.powi(failures.clamp(1, 30).cast_signed() - 1);
        Duration::try_from_secs_f64(seconds).unwrap_or(most).clamp(TICK.min(most), most)
    }
}

/// Why a server brought no document.
#[derive(Debug, PartialEq)]
struct Silence {
    why: String,
    /// The server's own word on when to come back.
    wait: Option<Duration>,
}

/// The document in an answer; `None` when it is the one that is known.
fn document(answer: Response) -> Result<Option<Vec<u8>>, Silence> {
    match answer.status {
        304 => Ok(None),
        200 if serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok() => Ok(Some(answer.body)),
        200 => Err(Silence { why: "the answer is no JSON".to_owned(), wait: None }),
        429 => {
            let seconds = answer.header("retry-after").and_then(|text| text.trim().parse().ok());
            let wait = seconds.map_or(BUSY, Duration::from_secs).clamp(TICK, BUSY_MAX);
            Err(Silence { why: "status 429".to_owned(), wait: Some(wait) })
        }
        status => Err(Silence { why: format!("status {status}"), wait: None }),
    }
}

/// What a document without rules means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// There are none: a file is all there is to say.
    Truth,
    /// There are no new ones: a server says so when it has nothing to add.
    News,
}

/// How dynamic rules are doing, for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RulesStatus {
    /// Where they come from: `off`, `poll` or `file`.
    pub source: &'static str,
    /// Documents that were put into force since the process started.
    pub applied: u64,
    /// Documents that were refused whole.
    pub refused: u64,
    /// Attempts to get a document that failed.
    pub failures: u64,
    /// When the source was last reached, in seconds since the Unix epoch; 0 when it was not.
    pub reached_at: f64,
    /// Why the latest document was refused or not reached; empty when all is well.
    pub error: String,
}

/// Where [`RulesStatus`] can be read.
#[derive(Debug, Default)]
pub struct Board(Mutex<RulesStatus>);

impl Board {
    /// How dynamic rules are doing.
    #[must_use]
    pub fn read(&self) -> RulesStatus {
        self.edit().clone()
    }

    fn edit(&self) -> MutexGuard<'_, RulesStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens to rules, for those who listen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum News<'r> {
    /// They came, after others of this version; 0 for none.
    Received(&'r Rules, i64),
    /// They ban.
    Banned(IpEntry, Window),
    /// They lift a ban.
    Unbanned(IpEntry),
    /// They begin a lockdown.
    Lockdown(&'r Rules),
    /// They are in force.
    Applied(&'r Rules),
}

/// Who hears it.
pub type Listener = Box<dyn Fn(News<'_>) + Send + Sync>;

/// Follows the source of dynamic rules. The only one who brings them to the keeper.
pub struct Follower {
    state: Arc<Backend>,
    live: Arc<Live>,
    mailbox: Mailbox,
    board: Arc<Board>,
    tell: Listener,
    source: Source,
    active: Option<Arc<Checked>>,
    /// What was read last, so that nothing is judged twice.
    seen: Option<Vec<u8>>,
    /// Times that the configuration was loaded again. Then the source is asked at once, and judged anew.
    reloads: u64,
    client: Option<Client>,
    known: Validators,
    install_id: Option<String>,
    due: Instant,
    failures: u32,
}

impl Follower {
    /// A follower for a service that decides by `live` and `state`. `tell` hears what happens.
    #[must_use]
    pub fn new((state, live): (Arc<Backend>, Arc<Live>), mailbox: Mailbox, board: Arc<Board>, tell: Listener) -> Self {
        Self {
            state,
            live,
            mailbox,
            board,
            tell,
            source: Source::default(),
            active: None,
            seen: None,
            reloads: 0,
            client: None,
            known: Validators::default(),
            install_id: None,
            due: Instant::now(),
            failures: 0,
        }
    }

    /// Puts into force what was in force before the last stop: what participants keep in Redis, else the file of
    /// `security.dynamic_rules_cache_path`. What has expired or cannot be used is passed over. Bans count anew.
    pub async fn hydrate(&mut self) {
        let config = Arc::clone(&self.live.snapshot().config);
        if Source::of(&config) == Source::Off {
            return;
        }
        let shared = match self.state.redis() {
            Some(redis) => redis.rules_snapshot().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the last dynamic rules were not read from redis");
                None
            }),
            None => None,
        };
        let cached = match &config.security.dynamic_rules_cache_path {
            Some(path) => match read_bounded(path).await {
                Ok(text) => std::str::from_utf8(&text).ok().and_then(RulesSnapshot::read),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the last dynamic rules were not read");
                    None
                }
            },
            None => None,
        };
        for (place, snapshot) in [("redis", shared), ("file", cached)] {
            let Some(snapshot) = snapshot else { continue };
            match rules::restore(snapshot.rules) {
                Ok(rules) if rules.has_expired(clock::now()) => {}
                Ok(rules) => {
                    if self.apply(Arc::new(rules)).await {
                        tracing::info!(place, "the last dynamic rules are in force again");
                        return;
                    }
                }
                Err(error) => tracing::warn!(place, %error, "the last dynamic rules cannot be used"),
            }
        }
    }

    /// Follows the source. Never returns; run one beside the service.
    pub async fn run(mut self) {
        loop {
            self.step().await;
            tokio::time::sleep(TICK).await;
        }
    }

    async fn step(&mut self) {
        let snapshot = self.live.snapshot();
        let config = Arc::clone(&snapshot.config);
        let reloads = self.live.status().succeeded;
        if reloads != self.reloads {
            (self.reloads, self.seen, self.known, self.due) = (reloads, None, Validators::default(), Instant::now());
            // The authorities that it trusts may be others now.
            self.client = None;
        }
        if self.active.as_ref().is_some_and(|rules| rules.has_expired(clock::now())) {
            self.withdraw("they have expired").await;
        }
        let source = Source::of(&config);
        if source != self.source {
            (self.source, self.seen, self.due) = (source, None, Instant::now());
            (self.known, self.failures) = (Validators::default(), 0);
            self.board.edit().source = self.source.name();
        }
        match self.source.clone() {
            Source::Off => self.withdraw("they are turned off").await,
            Source::File(path) => self.look(&path, &config).await,
            Source::Server(server) if self.due <= Instant::now() => self.poll(&server, &config).await,
            Source::Server(_) => {}
        }
    }

    /// Asks the server, and judges what it says when that is something else than before.
    async fn poll(&mut self, server: &Server, config: &Config) {
        let asked = self.ask(server, &config.outbound).await;
        let start = Instant::now();
        match asked {
            Ok(text) => {
                self.failures = 0;
                self.reached();
                let ttl = match text {
                    Some(text) if self.seen.as_ref() != Some(&text) => self.judge(text, Standing::News, config).await,
                    _ => self.active.as_ref().map_or(0, |rules| rules.rules.ttl),
                };
                let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0).min(TTL_MAX));
                let early = server.interval.mul_f64(JITTER * rand::random::<f64>());
                self.due = start + (server.interval - early).max(ttl);
            }
            Err(Silence { why, wait }) => {
                self.failures = self.failures.saturating_add(1);
                self.due = start + wait.unwrap_or_else(|| server.pause(self.failures));
                self.failed(format!("{}: {why}", client::shown(&server.identity.url(agent::RULES_PATH))));
            }
        }
    }

    async fn ask(&mut self, server: &Server, outbound: &OutboundConfig) -> Result<Option<Vec<u8>>, Silence> {
        let silence = |why: String| Silence { why, wait: None };
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let outbound = outbound.clone();
                let made = tokio::task::spawn_blocking(move || facts::client(&outbound)).await;
                let made = made.map_err(|error| silence(error.to_string()))?;
                self.client.insert(made.map_err(silence)?).clone()
            }
        };
        let mut identity = server.identity.clone();
        if identity.install_id.is_empty() {
            identity.install_id = self.install_id.get_or_insert_with(agent::install_id).clone();
        }
        let (url, headers) = (identity.url(agent::RULES_PATH), identity.headers());
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = Request {
            headers: &headers,
            known: Some(&self.known),
            timeout: server.timeout.min(self.time_left()),
            body_bytes_max: DOCUMENT_BYTES_MAX,
            redirects_max: 0,
            ..Request::get(&url)
        };
        let answer = client.send(&request).await.map_err(|error| silence(error.to_string()))?;
        let known = answer.validators();
        let text = document(answer)?;
        if text.is_some() {
            self.known = known;
        }
        Ok(text)
    }

    /// How long the rules in force hold: nothing may keep us from ending them.
    fn time_left(&self) -> Duration {
        let end = self.active.as_ref().and_then(|rules| rules.rules.expires_at.as_ref());
        let seconds = end.map(|end| end.timestamp().since(clock::now()).max(TICK.as_secs_f64()));
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(Duration::MAX)
    }

    /// Takes in a document; returns for how long the server need not be asked again.
    async fn judge(&mut self, text: Vec<u8>, standing: Standing, config: &Config) -> i64 {
        let mut ttl = 0;
        match rules::read(&text, clock::now()) {
            Ok(None) => {
                self.board.edit().error.clear();
                if standing == Standing::Truth && self.active.is_some() {
                    self.withdraw("the file holds none").await;
                    self.forget(config).await;
                }
            }
            Ok(Some(rules)) => {
                ttl = rules.rules.ttl;
                self.consider(rules, config).await;
            }
            Err(error) => self.refuse(&error),
        }
        self.seen = Some(text);
        ttl
    }

    /// Reads the file; judges it when it says something else than before.
    async fn look(&mut self, path: &Path, config: &Config) {
        match read_bounded(path).await {
            Ok(text) => {
                self.reached();
                if self.seen.as_ref() == Some(&text) {
                    return;
                }
                self.judge(text, Standing::Truth, config).await;
            }
            // A file that is gone for a moment, or for good, ends nothing: that takes a word.
            Err(error) => self.failed(format!("{}: {error}", path.display())),
        }
    }

    /// Applies rules unless they are over, or no newer than those in force.
    async fn consider(&mut self, rules: Checked, config: &Config) {
        let (id, version) = (rules.rules.rule_id.clone(), rules.rules.version);
        if rules.has_expired(clock::now()) {
            tracing::warn!(rule_id = id, version, "dynamic rules have expired and are not applied");
            self.board.edit().error = format!("`{id}` version {version} has expired");
            return;
        }
        if let Some(active) = &self.active
            && active.covers(&rules)
        {
            if active.rules != rules.rules {
                tracing::warn!(rule_id = id, version, "dynamic rules changed and their version is not higher: ignored");
            }
            return;
        }
        let rules = Arc::new(rules);
        if self.apply(Arc::clone(&rules)).await {
            self.remember(&rules, config).await;
        }
    }

    /// Puts rules into force: the policy in one piece first, then bans and unbans. False when they were refused, and
    /// nothing has changed.
    async fn apply(&mut self, rules: Arc<Checked>) -> bool {
        let document = &rules.rules;
        let (id, version) = (document.rule_id.clone(), document.version);
        let previous = self.active.as_ref().map_or(0, |active| active.rules.version);
        (self.tell)(News::Received(document, previous));
        if let Err(refusal) = self.mailbox.change(Change::Rules(Some(Arc::clone(&rules)))).await {
            self.refuse(&BadDocument(refusal.0));
            return false;
        }
        let banned = self.sentence(&rules).await;
        if document.emergency_mode {
            tracing::error!(
                rule_id = id,
                version,
                passing = document.emergency_whitelist.len(),
                "lockdown: only the emergency whitelist passes"
            );
            (self.tell)(News::Lockdown(document));
        }
        for warning in self.live.snapshot().ruling.iter().flat_map(|ruling| &ruling.warnings) {
            tracing::warn!(rule_id = id, version, "{warning}");
        }
        tracing::info!(
            rule_id = id,
            version,
            expires_at = document.expires_at.as_ref().map(|end| end.as_str()),
            banned,
            "dynamic rules are in force"
        );
        (self.tell)(News::Applied(document));
        let mut status = self.board.edit();
        status.applied += 1;
        status.error.clear();
        drop(status);
        self.active = Some(rules);
        true
    }

    /// Bans and unbans; returns how many bans were made. What fails is told and does not stop the rest.
    async fn sentence(&self, rules: &Checked) -> usize {
        let (snapshot, now) = (self.live.snapshot(), clock::now());
        let (mut banned, mut failed) = (0, 0);
        for target in &rules.bans {
            if !snapshot.policy.may_ban(*target) {
                tracing::warn!(%target, "dynamic rules would ban ourselves or a trusted proxy: left out");
                continue;
            }
            match self.state.ban(*target, rules.ban_window, "dynamic_rule", now).await {
                Ok(()) => {
                    banned += 1;
                    (self.tell)(News::Banned(*target, rules.ban_window));
                }
                Err(_) => failed += 1,
            }
        }
        for target in &rules.unbans {
            match self.state.unban(*target, now).await {
                Ok(_) => (self.tell)(News::Unbanned(*target)),
                Err(_) => failed += 1,
            }
        }
        if 0 < failed {
            tracing::warn!(failed, "bans or unbans of dynamic rules were not written");
        }
        banned
    }

    /// Takes the rules out of force, if there are any.
    async fn withdraw(&mut self, why: &str) {
        let Some(active) = &self.active else { return };
        let (id, version) = (active.rules.rule_id.clone(), active.rules.version);
        match self.mailbox.change(Change::Rules(None)).await {
            Ok(_) => {
                tracing::info!(rule_id = id, version, why, "dynamic rules are no longer in force");
                self.active = None;
            }
            // The base was in force before; it compiles unless a file it names was broken since.
            Err(error) => self.failed(format!("dynamic rules stay in force: {error}")),
        }
    }

    /// Keeps rules for the next start, here and for every participant.
    async fn remember(&self, rules: &Checked, config: &Config) {
        let snapshot = RulesSnapshot::new(rules.rules.clone());
        if let Some(redis) = self.state.redis()
            && let Err(error) = redis.set_rules_snapshot(&snapshot).await
        {
            tracing::warn!(%error, "dynamic rules were not kept in redis for the next start");
        }
        if let Some(path) = &config.security.dynamic_rules_cache_path
            && let Err(error) = replace_file(path, snapshot.text().into_bytes()).await
        {
            tracing::warn!(path = %path.display(), %error, "dynamic rules were not kept for the next start");
        }
    }

    /// Keeps nothing for the next start.
    async fn forget(&self, config: &Config) {
        if let Some(redis) = self.state.redis()
            && let Err(error) = redis.clear_rules_snapshot().await
        {
            tracing::warn!(%error, "dynamic rules were not deleted from redis");
        }
        if let Some(path) = &config.security.dynamic_rules_cache_path
            && let Err(error) = tokio::fs::remove_file(path).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "kept dynamic rules were not deleted");
        }
    }

    fn reached(&self) {
        self.board.edit().reached_at = clock::now().0;
    }

    /// Notes a document that is refused; what is in force stays.
    fn refuse(&self, error: &BadDocument) {
        tracing::error!(reasons = %error, "dynamic rules were refused, what is in force stays");
        let mut status = self.board.edit();
        status.refused += 1;
        status.error = error.to_string();
    }

    /// Notes that the source was not reached; told when it was not so before.
    fn failed(&self, error: String) {
        let mut status = self.board.edit();
        status.failures += 1;
        if status.error != error {
            tracing::warn!(error, "dynamic rules were not read, what is in force stays");
            status.error = error;
        }
    }
}

/// Reads a file; one that is too large is an error.
async fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let most = DOCUMENT_BYTES_MAX as u64 + 1;
    tokio::fs::File::open(path).await?.take(most).read_to_end(&mut text).await?;
    if DOCUMENT_BYTES_MAX < text.len() {
        return Err(io::Error::other(format!("is larger than {DOCUMENT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Replaces a file in one step: readers see the old text or the new one.
async fn replace_file(path: &Path, text: Vec<u8>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    tokio::fs::write(&name, text).await?;
    tokio::fs::rename(&name, path).await
}
