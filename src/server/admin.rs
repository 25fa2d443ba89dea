//! The HTTP port for operators: is it alive, is it ready, what does it count, what does it run by.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::telemetry::metrics::Metrics;

/// Media type of the metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages show. Read anew for each call.
pub trait Report: Send + Sync + 'static {
    /// True when the service decides requests, and the details of why or why not.
    fn readiness(&self) -> (bool, Value);
    /// The effective configuration without its secrets, with hash, version and remarks.
    fn config(&self) -> Value;
}

/// The pages.
pub fn pages<R: Report>(report: Arc<R>, metrics: Arc<Metrics>) -> Router {
    let shown = Router::new()
        .route("/readyz", get(readyz::<R>))
        .route("/config", get(async |State(report): State<Arc<R>>| Json(report.config())))
        .with_state(report);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(async |State(metrics): State<Arc<Metrics>>| metrics_page(&metrics)))
        .with_state(metrics)
        .merge(shown)
}

async fn readyz<R: Report>(State(report): State<Arc<R>>) -> impl IntoResponse {
    let (ready, details) = report.readiness();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(details))
}

fn metrics_page(metrics: &Metrics) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.text())
}

/// Serves the pages until `stop` says so.
pub async fn serve(listener: TcpListener, pages: Router, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        // An error means that whoever would tell is gone: that is a stop too.
        stop.wait_for(|stopped| *stopped).await.map(drop).unwrap_or_default();
    };
    if let Err(error) = axum::serve(listener, pages).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the admin port ended");
    }
}
