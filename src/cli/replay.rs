//! `meshscope replay`: a recorded incident as a Kubernetes API on this machine, with the real controller at work on it.

mod ask;
mod kubeconfig;

use anyhow::Context;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::{Internal, print};
use crate::collect::budget::Budget;
use crate::collect::bundle;
use crate::collect::kubernetes::client::connect;
use crate::collect::live::Sources;
use crate::collect::material::Material;
use crate::collect::prometheus::MetricsSource;
use crate::collect::prometheus::recorded::Recorded;
use crate::collect::proxy::Proxies;
use crate::collect::proxy::recorded::RecordedProxies;
use crate::controller::config::Config;
use crate::controller::health::Health;
use crate::controller::live::LiveInvestigator;
use crate::controller::metrics::Metrics;
use crate::controller::operator::Operator;
use crate::model::fields::Fields;
use crate::replay::{self, Handle, Options};
use crate::telemetry::{self, LogFormat};
use ask::Watched;
use kubeconfig::KubeconfigFile;

/// How often a run's progress is written: there is no cluster to be spared.
const PROGRESS: Duration = Duration::from_millis(200);

/// How long an end may take that somebody waits for.
const GRACE: Duration = Duration::from_secs(3);

/// Serve a recorded incident as a Kubernetes API on this machine, for kubectl and for DebugSessions
///
/// What was recorded cannot be changed. DebugSessions can be created, and the controller works on them as on a cluster. The
/// clock is that of the recording: ages in `kubectl get` are those of then. It runs until Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bundles: folders, archives (.tar, .tar.gz, .tar.zst) or Kubernetes YAML; several are read as one
    #[arg(required = true, value_name = "BUNDLE")]
    paths: Vec<PathBuf>,
    /// Port on 127.0.0.1 [default: any free one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Where to write the kubeconfig, removed at the end [default: a private temporary file]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Apply the DebugSession of this file, print what the controller finds, and end
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// With --session: do not end, but leave the API up until Ctrl-C
    #[arg(long, requires = "session")]
    keep: bool,
}

impl Args {
    /// Serves until it is told to stop, or until the session has its answer.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        telemetry::install_crypto();
        // What the controller has to say besides its answer goes to standard error, and only if something is wrong.
        telemetry::init_logging(LogFormat::Console, "warn")?;
        let material = bundle::read(&self.paths)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Internal(format!("failed to start the runtime: {error}")))?;
        let result = runtime.block_on(self.serve(material));
        runtime.shutdown_timeout(GRACE);
        result
    }

    async fn serve(self, mut material: Material) -> anyhow::Result<ExitCode> {
        let namespace = busiest_namespace(&material);
        let session = self.session.as_deref().map(|path| ask::read(path, &namespace)).transpose()?;
        let summary = summary(&material);
        let metrics = Recorded::new(std::mem::take(&mut material.metrics));
        let proxies = RecordedProxies::new(
            std::mem::take(&mut material.proxies),
            std::mem::take(&mut material.control_plane),
        );
        let sources = Sources {
            metrics: (!metrics.is_empty()).then(|| Arc::new(metrics) as Arc<dyn MetricsSource>),
            proxies: Some(Proxies::everywhere(Arc::new(proxies))),
        };
        let options = Options { port: self.port, clock: Arc::new(telemetry::now) };
        let handle = replay::serve(material, options).await?;
        let file = KubeconfigFile::write(self.kubeconfig, &handle.kubeconfig(&namespace))?;
        let running = Controller::start(&handle, sources)?;
        let around = format!(
            "  export KUBECONFIG={}\n  kubectl get pods,services,events\n  kubectl get dbg\n\nCtrl-C ends it.\n",
            file.path.display()
        );
        print(&format!("{summary}, as they were at {:.0}\n", handle.captured_at()))?;
        let mut wait = true;
        if let Some(session) = session {
            tokio::select! {
                answer = ask::ask(running.client.clone(), &session, &running.watched) => answer?,
                stopped = stopped() => {
                    stopped.context("failed to wait for Ctrl-C")?;
                    wait = false;
                }
            }
            wait &= self.keep;
        }
        if wait {
            print(&format!("\nThe API is at {}\n\n{around}", handle.url()))?;
            stopped().await.context("failed to wait for Ctrl-C")?;
        }
        running.stop().await;
        // Connections that somebody keeps open do not keep us.
        let _ = tokio::time::timeout(GRACE, handle.shutdown()).await;
        Ok(ExitCode::SUCCESS)
    }
}

/// The controller, at work on the replayed cluster.
struct Controller {
    client: kube::Client,
    watched: Arc<Watched>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Controller {
    fn start(handle: &Handle, sources: Sources) -> anyhow::Result<Self> {
        let kube =
            kube::Config::new(handle.url().parse().context("failed to name the replay's own address")?);
        let reader =
            connect(kube.clone(), &Budget::default()).context("failed to set up the collecting client")?;
        let client = kube::Client::try_from(kube).context("failed to set up the connection to the replay")?;
        let mut config = Config::default();
        config.leader_election.enabled = false;
        config.limits.progress_interval = PROGRESS;
        config.limits.shutdown_grace = GRACE;
        let live = LiveInvestigator::new(reader, config.clone()).of_recording(handle.captured_at(), sources);
        let watched = Arc::new(Watched::new(live));
        let operator = Operator {
            client: client.clone(),
            config,
            investigator: watched.clone(),
            identity: "meshscope-replay".to_owned(),
            namespace: "default".to_owned(),
            metrics: Arc::new(Metrics::default()),
            health: Arc::new(Health::default()),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(operator.run(stop.clone()));
        Ok(Controller { client, watched, stop, task })
    }

    async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(GRACE, self.task).await;
    }
}

/// Ctrl-C, or a polite kill.
async fn stopped() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// `224 objects, 17 logs and 46 metrics`.
fn summary(material: &Material) -> String {
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    format!(
        "{}, {} and {}",
        plural(material.objects.len(), "object"),
        plural(material.logs.len(), "log"),
        plural(material.metrics.len(), "metric"),
    )
}

/// The namespace that the recording is about: the target's, else the one with most objects that is no system's.
fn busiest_namespace(material: &Material) -> String {
    if let Some(target) = material.manifest.target.as_ref().filter(|target| !target.namespace.is_empty()) {
        return target.namespace.clone();
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    for object in &material.objects {
        let namespace = object.text("metadata.namespace").unwrap_or_default();
        if !namespace.is_empty() && !namespace.starts_with("kube-") && !namespace.starts_with("istio-") {
            *counts.entry(namespace).or_default() += 1;
        }
    }
    let busiest = counts.into_iter().max_by_key(|(_, count)| *count);
    busiest.map_or_else(|| "default".to_owned(), |(namespace, _)| namespace.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn the_namespace_that_it_is_about() {
        let object =
            |namespace: &str| json!({"kind": "Pod", "metadata": {"name": "a", "namespace": namespace}});
        let names = ["kube-system", "kube-system", "kube-system", "a", "b", "b"];
        let mut material = Material { objects: names.map(object).to_vec(), ..Material::default() };
        assert_eq!(busiest_namespace(&material), "b");
        assert_eq!(summary(&material), "6 objects, 0 logs and 0 metrics");
        material.objects.clear();
        assert_eq!(busiest_namespace(&material), "default");
    }
}
