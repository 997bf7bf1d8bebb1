//! `/healthz` and `/readyz`.

use axum::http::StatusCode;

use super::Probe;

/// 200 or 503, and a line that says why.
pub(super) async fn answer(probe: Probe) -> (StatusCode, String) {
    match probe() {
        Ok(text) => (StatusCode::OK, format!("{text}\n")),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")),
    }
}
