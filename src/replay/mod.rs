//! Serves a recording as a Kubernetes API on loopback.
//!
//! `kubectl` and Meshscope's own controller work against it as against a cluster: discovery, lists, watches, tables, logs
//! and events. What was recorded cannot be changed; DebugSessions, and what a controller writes beside them, can.
//!
//! The clock of a recording is the time at which it was captured: ages and `--since` count from there.

mod app;
mod discovery;
mod events;
mod kinds;
mod logs;
mod openapi;
mod protobuf;
mod query;
mod review;
mod status;
mod store;
mod table;
mod watch;
mod write;

use crate::model::json::json;
use jiff::Timestamp;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::manifest;
use crate::collect::material::Material;
use crate::model::fields::Fields;
use app::App;

/// A replay could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The port is taken, or sockets are forbidden.
    #[error("failed to listen on 127.0.0.1:{port}; leave the port out to take any free one")]
    Listen {
        /// The port that was asked for.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// Our own CRD could not be generated.
    #[error("failed to prepare the kinds of meshscope.dev")]
    Manifest(#[from] manifest::ManifestError),
    /// Our own CRD could not be written.
    #[error("failed to prepare the kinds of meshscope.dev")]
    Json(#[from] serde_json::Error),
    /// The system gave no random bytes for the access token.
    #[error("failed to draw an access token")]
    Random,
}

impl ReplayError {
    /// A bounded label for metrics and exit paths.
    pub fn category(&self) -> &'static str {
        match self {
            ReplayError::Listen { .. } => "listen",
            ReplayError::Manifest(_) | ReplayError::Json(_) => "manifest",
            ReplayError::Random => "random",
        }
    }
}

/// The time of what is written during a replay.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How to serve.
#[derive(Clone)]
pub struct Options {
    /// The port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
    /// Now, for objects that are written during the replay.
    pub clock: Clock,
}

/// A running replay. It ends when this is dropped.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    token: String,
    captured_at: Timestamp,
    stop: CancellationToken,
    task: Option<JoinHandle<io::Result<()>>>,
}

impl Handle {
    /// `http://127.0.0.1:PORT/TOKEN`. The token keeps other users of this machine out, who reach loopback too; it is in
    /// the path since clients send no credentials without TLS.
    pub fn url(&self) -> String {
        format!("http://{}/{}", self.address, self.token)
    }

    /// When the recording was made: the clock of an investigation.
    pub fn captured_at(&self) -> Timestamp {
        self.captured_at
    }

    /// A kubeconfig with one context, `meshscope-replay`, whose default namespace is `namespace`. It holds the token, so keep it
    /// private.
    pub fn kubeconfig(&self, namespace: &str) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": CONTEXT,
            "clusters": [{"name": CONTEXT, "cluster": {"server": self.url()}}],
            "users": [{"name": CONTEXT, "user": {}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": namespace}}],
        });
        // JSON is YAML, and kubectl reads it.
        format!("{config:#}\n")
    }

    /// Ends watches and connections, and waits for them.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It only waits for connections to close; how they closed matters to nobody now.
            let _ = task.await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The name of the context in a replay's kubeconfig.
const CONTEXT: &str = "meshscope-replay";

/// The latest time that anything in the recording tells of: its clock where the manifest has none.
fn latest(material: &Material) -> Option<Timestamp> {
    let times = material.objects.iter().flat_map(|object| {
        let fields = [
            "metadata.creationTimestamp",
            "lastTimestamp",
            "deprecatedLastTimestamp",
            "eventTime",
            "series.lastObservedTime",
        ];
        fields.into_iter().filter_map(|field| object.time(field))
    });
    times.max()
}

/// Serves `material` on 127.0.0.1 until the handle is dropped or shut down. Must be called within a tokio runtime.
///
/// # Errors
/// Where the port cannot be had.
pub async fn serve(material: Material, options: Options) -> Result<Handle, ReplayError> {
    let listen = |source| ReplayError::Listen { port: options.port, source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let token = token()?;
    let captured_at =
        material.manifest.captured_at.or_else(|| latest(&material)).unwrap_or_else(|| (options.clock)());
    let stop = CancellationToken::new();
    let mut ours: crate::model::json::Value = serde_json::to_value(manifest::crd()?)?.into();
    // As if Meshscope had been installed when the recording was made.
    store::set(&mut ours, "creationTimestamp", json!(captured_at.to_string()));
    let app =
        App::new(material, vec![ours], captured_at, options.clock, address, token.clone(), stop.clone());
    let router = axum::Router::new().fallback(app::handle).with_state(Arc::new(app));
    let until = stop.clone();
    let task = tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(until.cancelled_owned()).await
    });
    Ok(Handle { address, token, captured_at, stop, task: Some(task) })
}

fn token() -> Result<String, ReplayError> {
    let mut bytes = [0_u8; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| ReplayError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
