//! What an application knows and no check can see, told as a security event: a login that failed, access that it denied
//! itself, a country that it turned away.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use serde::Deserialize;
use serde_json::json;

use crate::clock;
use crate::model::addr::ClientAddr;
use crate::model::place::CountryCode;
use crate::server::api::{Answer, Body, Control, read};
use crate::server::problem::Problem;
use crate::telemetry::events::Event;
use crate::telemetry::events::system::{self, CountryList, Refused};

/// Bytes of one text of a report.
pub(super) const TEXT_BYTES_MAX: usize = 512;

/// One report.
#[derive(Deserialize)]
#[serde(tag = "event_type", rename_all = "snake_case", deny_unknown_fields)]
enum Reported {
    /// The application denied access.
    AccessDenied {
        client: IpAddr,
        reason: String,
        #[serde(default)]
        decorator_type: Option<String>,
        #[serde(default)]
        violation_type: Option<String>,
        #[serde(default)]
        method: Option<String>,
        #[serde(default)]
        path: Option<String>,
    },
    /// A login failed.
    AuthenticationFailed {
        client: IpAddr,
        reason: String,
        auth_type: String,
        #[serde(default)]
        method: Option<String>,
        #[serde(default)]
        path: Option<String>,
    },
    /// The application turned a country away.
    CountryBlocked { client: IpAddr, country: String, list: Listed },
}

/// Which list of the application named the country, or did not.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Listed {
    Whitelist,
    Blacklist,
}

/// Takes a report in.
pub(super) async fn take<C: Control>(State(control): State<Arc<C>>, body: Body) -> Answer {
    let event = event(read(body)?)?;
    let answer = json!({ "event_type": event.kind.name(), "idempotency_key": event.key.to_string() });
    control.tell(event);
    Ok(Json(answer))
}

fn event(reported: Reported) -> Result<Event, Problem> {
    let now = clock::now();
    let address = |client: IpAddr| ClientAddr::from(client).to_string();
    Ok(match reported {
        Reported::AccessDenied { client, reason, decorator_type, violation_type, method, path } => {
            bounded([Some(&reason), decorator_type.as_ref(), violation_type.as_ref(), method.as_ref(), path.as_ref()])?;
            let refused = Refused { address: address(client), reason, method, path };
            let kind = decorator_type.as_deref().unwrap_or("access_control");
            system::access_denied(now, refused, (kind, violation_type.as_deref().unwrap_or("application")))
        }
        Reported::AuthenticationFailed { client, reason, auth_type, method, path } => {
            bounded([Some(&reason), Some(&auth_type), method.as_ref(), path.as_ref()])?;
            system::authentication_failed(now, Refused { address: address(client), reason, method, path }, &auth_type)
        }
        Reported::CountryBlocked { client, country, list } => {
            let nonsense = || Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "country is a code of two letters");
            let country = CountryCode::new(&country).ok_or_else(nonsense)?;
            let list = match list {
                Listed::Whitelist => CountryList::Whitelist,
                Listed::Blacklist => CountryList::Blacklist,
            };
            system::country_blocked(now, &address(client), country.as_str(), list)
        }
    })
}

fn bounded<const N: usize>(texts: [Option<&String>; N]) -> Result<(), Problem> {
    match texts.into_iter().flatten().all(|text| text.len() <= TEXT_BYTES_MAX) {
        true => Ok(()),
        false => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("a text has at most {TEXT_BYTES_MAX} bytes")))
        }
    }
}
