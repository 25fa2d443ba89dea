//! Integration tests.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that cannot go on fails"
)]

mod allocations;
mod architecture;
mod config;
mod contract;
mod detect;
mod extract;
mod pipeline;
mod redis;
mod redis_interop;
mod redis_servers;
mod service;
mod state;
mod wire;
