//! Log levels at run time, for operators.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde::Deserialize;
use serde_json::json;

use crate::clock;
use crate::server::access::Operator;
use crate::server::api::{Answer, Body, Control, audit, bad, read};
use crate::server::problem::Problem;
use crate::telemetry::levels::{SECONDS_DEFAULT, SECONDS_MAX};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    filter: String,
    seconds: Option<u32>,
}

pub(super) async fn show<C: Control>(State(control): State<Arc<C>>) -> Answer {
    Ok(Json(json!(control.levels().shown())))
}

/// Puts a filter in force for a while.
pub(super) async fn set<C: Control>(
    State(control): State<Arc<C>>,
    Extension(operator): Extension<Operator>,
    body: Body,
) -> Answer {
    let Wanted { filter, seconds } = read(body)?;
    let seconds = seconds.unwrap_or(SECONDS_DEFAULT);
    if !(1..=SECONDS_MAX).contains(&seconds) {
        return Err(bad(format!("seconds go from 1 to {SECONDS_MAX}")));
    }
    let until = clock::now().plus(f64::from(seconds));
    let refused = |error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error);
    // Before the change: afterwards it may not be written any more.
    audit(&operator, "set log levels", &filter.escape_debug().to_string());
    control.levels().set(&filter, until).map_err(refused)?;
    Ok(Json(json!(control.levels().shown())))
}

/// Back to the configuration's filter.
pub(super) async fn reset<C: Control>(
    State(control): State<Arc<C>>,
    Extension(operator): Extension<Operator>,
) -> Answer {
    let removed = control.levels().reset();
    audit(&operator, "reset log levels", "");
    Ok(Json(json!({ "removed": removed })))
}
