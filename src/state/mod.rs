//! What must outlive a request: bans, windows, counts. The only question the engine may await.
//!
//! The trait speaks the domain, not a store's verbs. One call is at most one round trip and one atomic step.

use std::future::Future;

use smallvec::SmallVec;

use crate::model::addr::{Client, IpEntry};
use crate::model::category::CategorySet;
use crate::model::time::{Timestamp, Window};

pub mod memory;

/// SHA-256 of a text, as guard-core puts it into keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub struct Digest(pub [u8; 32]);

/// One sliding window's identity. Two limits that name the same bucket share one history, and a request is one hit in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub struct Bucket<'r> {
    /// Whose window.
    pub client: Client<'r>,
    /// Digest of the decoded path, for the endpoint, route and geo tiers; `None` for the global tier.
    pub path: Option<Digest>,
}

/// One limit to test, in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limit<'r> {
    /// Which history.
    pub bucket: Bucket<'r>,
    /// Requests that pass per window; 0 refuses all.
    pub limit: u32,
    /// Over which time.
    pub window: Window,
}

/// The state questions of one request, asked together.
#[derive(Clone, Debug, Default)]
pub struct Question<'r> {
    /// Look the client up in the ban list.
    pub ban: Option<Client<'r>>,
    /// Limits in order. When the client is not banned: each is hit, and the first one over its limit ends the list
    /// (later ones are not hit). A bucket that occurs twice is hit once. Asked with `passive`, all are hit.
    pub limits: SmallVec<[Limit<'r>; 4]>,
    /// Hit every limit and the limits of banned clients too: nothing will be refused.
    pub passive: bool,
}

/// The answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The ban in force, if any.
    pub ban: Option<Ban>,
    /// Hits within each limit's window, this one included, for the limits that were hit.
    pub counts: SmallVec<[u64; 4]>,
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    /// The address or network that is banned.
    pub target: IpEntry,
    /// When it ends; a client is still banned at exactly this moment.
    pub until: Timestamp,
    /// Why, when the backend knows.
    pub reason: Option<String>,
}

/// Suspicious counts of a client after an increment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suspicion {
    /// Count of each category asked about, in `Category` table order.
    pub by_category: SmallVec<[(crate::model::category::Category, u64); 4]>,
    /// Sum over all categories ever counted for this client.
    pub total: u64,
}

/// A behaviour history: one client on one endpoint, and for return rules one pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub struct Track<'r> {
    /// Whose.
    pub client: Client<'r>,
    /// Digest of the endpoint id.
    pub endpoint: Digest,
    /// Digest of the pattern, for return rules.
    pub pattern: Option<Digest>,
}

/// Why state could not answer. Never the value of a key.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The store cannot be reached, or the breaker is open.
    #[error("state is unavailable: {0}")]
    Unavailable(String),
    /// The store did not answer in time.
    #[error("state did not answer within its deadline")]
    Deadline,
    /// A key holds something else than it should.
    #[error("state holds an unusable value: {0}")]
    Corrupt(String),
    /// The request to state makes no sense (a ban of nothing, a negative duration).
    #[error("{0}")]
    Refused(String),
}

/// Bans, windows and counts. Implementations are bounded and never panic.
pub trait State {
    /// Answers the state questions of one request in one step.
    fn ask(&self, question: &Question<'_>, now: Timestamp) -> impl Future<Output = Result<Answer, StateError>>;

    /// Bans an address or network for `window`. Replaces an earlier ban of the same target.
    fn ban(
        &self,
        target: IpEntry,
        window: Window,
        reason: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), StateError>>;

    /// Lifts a ban; false when there was none.
    fn unban(&self, target: IpEntry, now: Timestamp) -> impl Future<Output = Result<bool, StateError>>;

    /// Adds one to each category (all of them `uncategorized` when the set is empty) and returns the new counts.
    fn suspect(
        &self,
        client: Client<'_>,
        categories: CategorySet,
        now: Timestamp,
    ) -> impl Future<Output = Result<Suspicion, StateError>>;

    /// Forgets the counts of a client (a ban resets them).
    fn absolve(&self, client: Client<'_>) -> impl Future<Output = Result<(), StateError>>;

    /// The total suspicious count of a client.
    fn suspicion(&self, client: Client<'_>, now: Timestamp) -> impl Future<Output = Result<u64, StateError>>;

    /// Records one event in a behaviour history and returns how many lie within `window`, this one included.
    fn observe(
        &self,
        track: Track<'_>,
        window: Window,
        now: Timestamp,
    ) -> impl Future<Output = Result<u64, StateError>>;
}
