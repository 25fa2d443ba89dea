//! Where Envoy finds us: listeners, one single-threaded runtime per worker, health, reflection, the admin port, and how
//! all of it ends.
//!
//! Envoy opens one connection per worker thread of its own, and each carries many calls. One acceptor therefore hands
//! every connection to the worker that has the fewest, and a connection stays with its worker: no work stealing, no
//! shared reference counts on the request path.

pub mod access;
pub mod admin;
pub mod api;
mod bounds;
mod decisions;
pub mod gate;
pub mod listen;
mod log;
pub mod openapi;
pub mod problem;
mod report;
pub mod service;
pub mod tls;
pub mod worker;
