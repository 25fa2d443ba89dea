//! Integration tests.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod allocations;
mod config;
mod contract;
mod detect;
mod pipeline;
mod redis;
mod redis_servers;
mod state;
