//! Asking servers of others over HTTP: bounded in time, bytes and hops. Knows nobody, and nobody on the request path
//! knows it.

pub mod agent;
pub mod client;
mod inflate;
