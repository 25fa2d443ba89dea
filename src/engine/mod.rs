//! Policy and order: the only place that knows passive mode, the failure rule, exclusions and bypasses.

use crate::detect::Meter;
use crate::engine::policy::Policy;
use crate::model::decision::Decision;
use crate::model::time::Timestamp;
use crate::request::Request;
use crate::state::State;

pub mod policy;

/// Decides one request. `now` is the wall clock of the edge; `meter` bounds detection.
pub async fn decide<'p, S: State>(
    policy: &'p Policy,
    state: &S,
    request: &Request<'_>,
    now: Timestamp,
    meter: &impl Meter,
) -> Decision<'p> {
    let _ = (policy, state, request, now, meter);
    Decision::allow()
}
