//! Health and metrics over HTTP, read-only. It knows nothing of the operator but what it is handed.
//!
//! | path | says |
//! | --- | --- |
//! | `/healthz` | 200, or 503 where a restart would help |
//! | `/readyz` | 200 while this replica works or stands by, else 503 |
//! | `/metrics` | metrics in the OpenMetrics text format |

pub mod health;
pub mod metrics;

use axum::Router;
use axum::routing::get;
use std::future::Future;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Asks how something stands: what to answer, well or not.
pub type Probe = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What the server tells.
#[derive(Clone)]
pub struct Handles {
    /// Whether a restart would not help.
    pub alive: Probe,
    /// Whether this replica works or stands by.
    pub ready: Probe,
    /// All metrics as text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Serves until `stop`.
///
/// # Errors
/// Where the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    handles: Handles,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(handles)).with_graceful_shutdown(stop).await
}

fn router(handles: Handles) -> Router {
    let Handles { alive, ready, metrics } = handles;
    Router::new()
        .route("/healthz", get(move || health::answer(alive.clone())))
        .route("/readyz", get(move || health::answer(ready.clone())))
        .route("/metrics", get(move || metrics::answer(metrics.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_util::sync::CancellationToken;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_tells_what_it_is_handed_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let handles = Handles {
            alive: Arc::new(|| Ok("ok".to_owned())),
            ready: Arc::new(|| Err("starting".to_owned())),
            metrics: Arc::new(|| "# EOF\n".to_owned()),
        };
        let server = tokio::spawn(serve(listener, handles, stop.clone().cancelled_owned()));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let ready = get(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("starting\n"), "{ready}");
        let metrics = get(address, "/metrics").await;
        assert!(
            metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"),
            "{metrics}"
        );
        assert!(get(address, "/log-level").await.starts_with("HTTP/1.1 404"));
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
