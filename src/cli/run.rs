//! `meshscope run`: the operator, as the image starts it.

use anyhow::Context;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::collect::budget::Budget;
use crate::collect::kubernetes::client::connect;
use crate::controller::config::Config;
use crate::controller::health::Health;
use crate::controller::live::LiveInvestigator;
use crate::controller::metrics::Metrics;
use crate::controller::operator::Operator;
use crate::server::{self, Handles};
use crate::telemetry::{self, LogFormat, LogHandle};

/// How often the configuration file is looked at for another log level. A changed ConfigMap takes the kubelet about a
/// minute to bring in.
const LEVEL_INTERVAL: Duration = Duration::from_secs(10);
/// How long a request for health or metrics may hold up the end.
const SERVER_GRACE: Duration = Duration::from_secs(3);

/// Run the operator: watch DebugSessions and investigate what they ask
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// The configuration file; without one every default holds
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where health and metrics are served, instead of what the configuration says
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Work at once, without a lease: for a single process beside a developer
    #[arg(long)]
    no_leader_election: bool,
    /// How log lines look, instead of what the configuration says
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Args {
    /// Runs until SIGTERM or SIGINT.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        telemetry::install_crypto();
        let config = self.configuration()?;
        let log = telemetry::init_logging(config.logging.format, &config.logging.level)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context("failed to start the runtime")?;
        let result = runtime.block_on(self.operate(config, log));
        // An investigation that does not end although it was told to holds up nothing.
        runtime.shutdown_timeout(SERVER_GRACE);
        result
    }

    fn configuration(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if self.no_leader_election {
            config.leader_election.enabled = false;
        }
        if let Some(format) = self.log_format {
            config.logging.format = format;
        }
        Ok(config)
    }

    async fn operate(self, config: Config, log: LogHandle) -> anyhow::Result<ExitCode> {
        let stop = CancellationToken::new();
        let kube = kube::Config::infer().await.context(
            "there is no cluster to work on: run in a pod with a service account, or set $KUBECONFIG",
        )?;
        let namespace = env("POD_NAMESPACE").unwrap_or_else(|| kube.default_namespace.clone());
        let identity = identity();
        let reader =
            connect(kube.clone(), &Budget::default()).context("failed to set up the collecting client")?;
        let client =
            kube::Client::try_from(kube).context("failed to set up the connection to the API server")?;
        let listener = TcpListener::bind(config.server.listen)
            .await
            .with_context(|| format!("failed to listen on {}", config.server.listen))?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %identity,
            namespace,
            listen = %config.server.listen,
            "the operator starts"
        );
        let (metrics, health) = (Arc::new(Metrics::default()), Arc::new(Health::default()));
        let handles = handles(&metrics, &health);
        let served = CancellationToken::new();
        let server = tokio::spawn(server::serve(listener, handles, served.clone().cancelled_owned()));
        let signals = tokio::spawn(stop_on_signal(stop.clone(), health.clone()));
        let level = tokio::spawn(follow_level(self.config.clone(), config.logging.level.clone(), log));
        let investigator = Arc::new(LiveInvestigator::new(reader, config.clone()));
        let operator = Operator { client, config, investigator, identity, namespace, metrics, health };
        operator.run(stop).await;
        tracing::info!("the operator has ended in good order");
        level.abort();
        signals.abort();
        // Probes are answered until the end.
        served.cancel();
        let _ = tokio::time::timeout(SERVER_GRACE, server).await;
        Ok(ExitCode::SUCCESS)
    }
}

fn handles(metrics: &Arc<Metrics>, health: &Arc<Health>) -> Handles {
    let (metrics, alive, ready) = (metrics.clone(), health.clone(), health.clone());
    Handles {
        alive: Arc::new(move || alive.alive()),
        ready: Arc::new(move || ready.ready()),
        metrics: Arc::new(move || metrics.render()),
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The pod's name, which no other replica has; outside of a pod the host's, the process' and the time's.
fn identity() -> String {
    env("POD_NAME").unwrap_or_else(|| {
        let host = env("HOSTNAME").unwrap_or_else(|| "meshscope".to_owned());
        format!("{host}-{}-{}", std::process::id(), telemetry::now().as_millisecond())
    })
}

/// Ends the operator on the first SIGTERM or SIGINT, in good order; a second one ends it at once.
async fn stop_on_signal(stop: CancellationToken, health: Arc<Health>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("failed to listen for signals: the operator ends only by force");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    // Readiness first, so that nobody counts on this replica any more.
    health.stopping();
    stop.cancel();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("stopping at once");
    std::process::exit(1);
}

/// Follows `logging.level` of the configuration file: to see more of a process at work, no port has to be open and
/// nothing has to restart.
async fn follow_level(path: Option<PathBuf>, mut level: String, log: LogHandle) {
    let Some(path) = path else { return };
    let mut ticks = tokio::time::interval(LEVEL_INTERVAL);
    loop {
        ticks.tick().await;
        let wanted = match read_level(&path).await {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::debug!(error = %error, "the configuration file cannot be read again");
                continue;
            }
        };
        if wanted == level {
            continue;
        }
        match log.set_level(&wanted) {
            Ok(()) => tracing::info!(level = %wanted, "the log level has changed"),
            Err(error) => tracing::warn!(error = %error, "the log level stays as it was"),
        }
        // Also where it is none: it is told once, not every time.
        level = wanted;
    }
}

async fn read_level(path: &Path) -> anyhow::Result<String> {
    let path = path.to_owned();
    let config = tokio::task::spawn_blocking(move || Config::read(&path)).await??;
    Ok(config.logging.level)
}
