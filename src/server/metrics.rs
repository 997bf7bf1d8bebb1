//! `/metrics`.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use std::sync::Arc;

/// The metrics as text.
pub(super) async fn answer(metrics: Arc<dyn Fn() -> String + Send + Sync>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics())
}
