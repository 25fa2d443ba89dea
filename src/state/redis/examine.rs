//! What there is to know about the servers, for operators.

use deadpool_redis::redis::{Value, cmd};
use serde::Serialize;

use crate::model::time::Timestamp;
use crate::state::StateError;
use crate::state::redis::{Redis, parsed};

/// Servers that are looked at, at most.
const SERVERS_MAX: usize = 64;

/// One server that takes our writes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Server {
    /// Its address in a Cluster; empty for the only one.
    pub address: String,
    /// `master`, `slave` or `sentinel`; `unknown` where the command is forbidden.
    pub role: String,
    /// Replicas that follow it.
    pub replicas: usize,
    /// Seconds by which its clock is ahead of ours, give or take half a round trip; `None` where it does not tell.
    pub clock_ahead: Option<f64>,
    /// How long it took to answer, in milliseconds.
    pub answer_ms: f64,
    /// What it does when its memory is full, such as `noeviction`; `None` where it does not tell.
    pub when_full: Option<String>,
}

impl Redis {
    /// Asks each master for its role and its clock. `clock` tells our time.
    ///
    /// # Errors
    /// When a server does not answer at all; one that forbids a command is `unknown` in that respect.
    pub async fn examine(&self, clock: impl Fn() -> Timestamp) -> Result<Vec<Server>, StateError> {
        let mut servers = Vec::new();
        for node in self.masters().await?.into_iter().take(SERVERS_MAX) {
            let node = node.as_ref();
            let before = clock();
            self.on_node::<Value>(node, cmd("PING")).await?;
            let answer_ms = clock().since(before) * 1000.0;
            let before = clock();
            let time: Option<(u64, u64)> = self.on_node(node, cmd("TIME")).await.ok();
            let middle = before.0 + clock().since(before) / 2.0;
            let clock_ahead = time.map(|(seconds, micros)| seconds as f64 + micros as f64 / 1e6 - middle);
            let role: Vec<Value> = self.on_node(node, cmd("ROLE")).await.unwrap_or_default();
            let mut parts = role.into_iter();
            let name = parts.next().and_then(|name| parsed::<String>(name).ok());
            let replicas = match parts.nth(1) {
                Some(Value::Array(followers)) if name.as_deref() == Some("master") => followers.len(),
                _ => 0,
            };
            let mut memory = cmd("CONFIG");
            memory.arg("GET").arg("maxmemory-policy");
            let when_full =
                self.on_node::<Vec<String>>(node, memory).await.ok().and_then(|pair| pair.into_iter().nth(1));
            let address = node.map(|(host, port)| format!("{host}:{port}")).unwrap_or_default();
            let role = name.unwrap_or_else(|| "unknown".to_owned());
            servers.push(Server { address, role, replicas, clock_ahead, answer_ms, when_full });
        }
        Ok(servers)
    }
}
