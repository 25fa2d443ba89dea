//! Posting a signed message until the other side has it, or refuses it, or the attempts are used up.
//!
//! The signature is that of many webhooks: `X-Guard-Signature: t=<seconds>,v1=<hex>`, where the hexadecimal part is
//! HMAC-SHA256 of `<seconds>.<body>`. A receiver recomputes it and refuses old seconds.

use std::time::Duration;

use ring::hmac;
use serde_json::Value;
use uuid::Uuid;

use crate::clock;
use crate::config::values::Secret;
use crate::net::client::{Client, Request, Response, shown};

/// The first pause; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, also when a server asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read: only its status counts.
const ANSWER_BYTES_MAX: usize = 4096;

/// Why a message did not arrive.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// The other side does not want it, now or later.
    #[error("{0} refused with status {1}")]
    Refused(String, u16),
    /// Every attempt failed; why the last one did.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
}

/// Posts to one URL.
#[derive(Clone, Debug)]
pub struct Poster {
    client: Client,
    url: String,
    key: Option<hmac::Key>,
    timeout: Duration,
    retries: u32,
}

impl Poster {
    /// Posts to `url`, signed when there is a secret: ten seconds an attempt, five further ones.
    #[must_use]
    pub fn new(client: Client, url: &str, secret: Option<Secret>) -> Self {
        let key = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()));
        Self { client, url: url.to_owned(), key, timeout: Duration::from_secs(10), retries: 5 }
    }

    /// The same with other patience.
    #[must_use]
    pub fn with_patience(self, timeout: Duration, retries: u32) -> Self {
        Self { timeout, retries, ..self }
    }

    /// Posts a message: text as it is, anything else as JSON. `failed` hears of each attempt that failed.
    ///
    /// # Errors
    /// When the other side refuses it, or cannot be reached.
    pub async fn post(&self, message: &Value, failed: impl Fn()) -> Result<(), PostError> {
        let (body, media) = match message {
            Value::String(text) => (text.clone(), "text/plain; charset=utf-8"),
            _ => (message.to_string(), "application/json"),
        };
        // The same for every attempt: the other side can tell a repetition.
        let id = Uuid::new_v4().to_string();
        let mut attempt = 0;
        loop {
            let outcome = self.attempt(&body, media, &id).await;
            let (wait, why) = match outcome {
                Ok(Response { status: 200..=299, .. }) => return Ok(()),
                Ok(answer) if matches!(answer.status, 408 | 425 | 429 | 500..) => {
                    (retry_after(&answer), format!("status {}", answer.status))
                }
                Ok(answer) => {
                    failed();
                    return Err(PostError::Refused(self.place(), answer.status));
                }
                Err(error) => (None, error),
            };
            failed();
            if self.retries <= attempt {
                return Err(PostError::Unreachable(self.place(), why));
            }
            tokio::time::sleep(wait.unwrap_or_else(|| pause(attempt, rand::random_range(0.5..1.0)))).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, body: &str, media: &str, id: &str) -> Result<Response, String> {
        let seconds = clock::now().0 as i64;
        let signature = self.key.as_ref().map(|key| signature(key, seconds, body));
        let mut headers = vec![("content-type", media), ("x-guard-delivery", id)];
        headers.extend(signature.as_deref().map(|signature| ("x-guard-signature", signature)));
        let request = Request {
            headers: &headers,
            timeout: self.timeout,
            body_bytes_max: ANSWER_BYTES_MAX,
            ..Request::post(&self.url, body.as_bytes())
        };
        self.client.send(&request).await.map_err(|error| error.to_string())
    }

    /// Where it posts to, without what may be a credential.
    fn place(&self) -> String {
        let shown = shown(&self.url);
        let (scheme, rest) = shown.split_once("://").unwrap_or_default();
        format!("{scheme}://{}", rest.split('/').next().unwrap_or_default())
    }
}

/// `t=<seconds>,v1=<hex>`.
fn signature(key: &hmac::Key, seconds: i64, body: &str) -> String {
    let tag = hmac::sign(key, format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", hex(tag.as_ref()))
}

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the other side asks for, within bounds.
fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.header("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(PAUSE_MAX))
}

/// The pause after an attempt; `jitter` spreads those who failed together.
fn pause(attempt: u32, jitter: f64) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(attempt)).min(PAUSE_MAX).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses = [0, 1, 2, 6, 7, 40].map(|attempt| pause(attempt, 1.0).as_millis());
        assert_eq!(pauses, [500, 1000, 2000, 32_000, 60_000, 60_000]);
        assert_eq!(pause(0, 0.5).as_millis(), 250);
    }

    #[test]
    fn a_signature_covers_time_and_body() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let expected = "t=1700000000,v1=";
        let signed = signature(&key, 1_700_000_000, "{}");
        assert!(signed.starts_with(expected) && signed.len() == expected.len() + 64, "{signed}");
        assert_ne!(signed, signature(&key, 1_700_000_001, "{}"));
        assert_ne!(signed.split_once("v1="), signature(&key, 1_700_000_000, "{ }").split_once("v1="));
    }

    #[test]
    fn a_webhook_is_named_without_its_path() {
        let client = Client::new(&crate::net::client::Options::default()).unwrap();
        let poster = Poster::new(client, "https://user:pw@hooks.example.com:8443/T0/secret?x=y", None);
        assert_eq!(poster.place(), "https://hooks.example.com:8443");
    }
}
