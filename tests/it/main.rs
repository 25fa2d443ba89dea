//! Integration tests.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that cannot go on fails"
)]

mod allocations;
mod applications;
mod architecture;
mod certificates;
mod chaos;
mod config;
mod contract;
mod deploy;
mod detect;
mod envoy;
mod envoy_conformance;
mod events;
mod extract;
mod feeds;
mod ledger;
mod limits;
mod lint;
mod load;
mod logs;
mod mmdb;
mod monitoring;
mod operators;
mod otlp;
mod pipeline;
mod proc;
mod receivers;
mod redis;
mod redis_interop;
mod redis_secure;
mod redis_servers;
mod replicas;
mod responses;
mod rules;
mod service;
mod stack;
mod state;
mod telemetry;
mod tls;
mod verdicts;
mod wire;
