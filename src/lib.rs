//! Security decisions for Envoy.
//!
//! Bytes come in at [`grpc`], become a borrowed [`request::Request`], pass an ordered list of checks in [`engine`] that
//! may ask [`state`], and leave as a [`model::decision::Decision`]. Everything that changes over time arrives as a new
//! immutable snapshot. `docs/architecture.md` has the map of rooms and who may know whom.
#![forbid(unsafe_code)]

pub mod model;

pub mod config;
pub mod request;

pub mod detect;
pub mod state;

pub mod engine;
pub mod session;

pub mod net;

pub mod feeds;
pub mod lint;

pub mod clock;
pub mod grpc;
pub mod live;
pub mod telemetry;

pub mod server;

pub mod app;
