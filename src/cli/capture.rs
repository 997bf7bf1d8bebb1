//! `meshscope capture`: an incident of a live cluster as a bundle that can be analysed anywhere.

use anyhow::Context;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::collect::budget::Budget;
use crate::collect::bundle;
use crate::collect::kubernetes::client::connect;
use crate::collect::live::{LiveRun, Progress, Sources};
use crate::collect::material::Material;
use crate::collect::outcome::{CollectorOutcome, CollectorState};
use crate::collect::plan::{Asker, Plan, Question, Source, Target};
use crate::collect::prometheus::client::{Connection, Prometheus};
use crate::collect::proxy::Proxies;
use crate::collect::proxy::forward::PortForward;
use crate::model::selector::Selector;
use crate::model::time::{self, Window};
use crate::telemetry;

/// Exit status: the user interrupted it; what was read by then is in the bundle.
const INTERRUPTED: u8 = 130;

/// Record an incident of a live cluster as a bundle: objects, events, logs, metrics, proxies; secrets are never read
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write it: a folder, or an archive by its ending (.tar, .tar.gz, .tar.zst)
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// The namespace to record; the context's own where it is left out
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Ask about this Service; may be given several times. Without a target, the whole namespace
    #[arg(long, value_name = "NAME", group = "target")]
    service: Vec<String>,
    /// Ask about this workload, such as deployment/checkout; may be given several times
    #[arg(long, value_name = "KIND/NAME", group = "target")]
    workload: Vec<String>,
    /// Ask about the pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS", group = "target")]
    selector: Option<String>,
    /// How far to look back: 30m, 1h, 1h30m; 24h at most
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    since: String,
    /// Since when it fails, such as 2026-11-21T09:41:00Z, where that is known: signals are compared with the time before
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    onset: Option<Timestamp>,
    /// How many hops of callers and callees to look at besides the target: 0 to 3
    #[arg(long, value_name = "HOPS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=3))]
    depth: u8,
    /// Read series from this Prometheus: the address up to and without /api/v1
    #[arg(long, value_name = "URL")]
    prometheus: Option<String>,
    /// Send the bearer token in this file to Prometheus
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    prometheus_token_file: Option<PathBuf>,
    /// Read the proxies' admin ports too: a port-forward to each, and to the mesh's control plane
    #[arg(long)]
    proxies: bool,
    /// Leave out all logs
    #[arg(long)]
    no_logs: bool,
    /// The kubeconfig's context to use instead of its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig to use instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl Args {
    /// Collects, writes, says what is in it and what is not.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        check_output(&self.output)?;
        telemetry::install_crypto();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.context("failed to start the runtime")?.block_on(self.capture())
    }

    async fn capture(self) -> anyhow::Result<ExitCode> {
        let budget = Budget::default();
        let config = self.config().await?;
        let question = self.question(&config.default_namespace)?;
        let plan = Plan::new(question, telemetry::now(), &budget)?;
        let client = connect(config, &budget).context("failed to set up the connection to the API server")?;
        let sources = self.sources(&client)?;
        let cancel = CancellationToken::new();
        let interrupted = cancel.clone();
        let signal = tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.cancel();
            }
        });
        let progress = Arc::new(|progress: Progress| {
            if progress.done < progress.total {
                let line = format!("[{}/{}] {}", progress.done + 1, progress.total, progress.step);
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        });
        let mut run = LiveRun::new(client, plan, sources, progress, cancel.clone(), budget);
        run.collect().await;
        if let Some(error) = run.unreachable() {
            let hint = "check its address and your credentials: kubectl get --raw /apis";
            anyhow::bail!("{}; {hint}", chain(error));
        }
        // Nobody can say yet what will be implicated: the analysis comes later, and elsewhere.
        run.deepen(&run.all_pods()).await;
        signal.abort();
        let masked = run.redactions().total();
        let cost = run.cost();
        let (material, outcomes, _) = run.finish();
        refuse_nothing(&material, &outcomes)?;
        bundle::write(&material, &self.output)?;
        let mut summary = summary(&material, &outcomes);
        let _ = writeln!(
            summary,
            "\n{} requests, {} read, {masked} secrets masked in {}\nNext: meshscope analyze {}",
            cost.api_requests + cost.metric_queries,
            bytes(cost.bytes_read),
            self.output.display(),
            self.output.display(),
        );
        super::print(&summary)?;
        if cancel.is_cancelled() {
            let _ =
                writeln!(std::io::stderr(), "meshscope: interrupted: the bundle holds what was read by then");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn config(&self) -> anyhow::Result<kube::Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let loaded = Kubeconfig::read_from(path);
                kube::Config::from_custom_kubeconfig(loaded.map_err(|error| unusable(path, error))?, &options)
                    .await
            }
            None if self.context.is_some() => kube::Config::from_kubeconfig(&options).await,
            None => {
                return kube::Config::infer().await.map_err(|error| {
                    let hint = "set $KUBECONFIG, or name one with --kubeconfig and --context";
                    anyhow::anyhow!("there is no cluster to record: {hint} ({error})")
                });
            }
        };
        // Its text names its source already.
        config.map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn question(&self, default_namespace: &str) -> anyhow::Result<Question> {
        let namespace = self.namespace.as_deref().unwrap_or(default_namespace);
        let mut question = Question::about(namespace, Asker::Person);
        question.target = self.target()?;
        question.dependency_depth = self.depth;
        let seconds = time::duration_seconds(&self.since).filter(|seconds| *seconds >= 1.0);
        let seconds = seconds
            .with_context(|| format!("--since {:?} is no duration: write 30m, 1h or 1h30m", self.since))?;
        let end = telemetry::now();
        let start =
            end.checked_sub(Duration::try_from_secs_f64(seconds)?).context("--since lies too far back")?;
        question.window = Some(Window { start, end });
        question.onset = self.onset;
        let mut sources: BTreeSet<Source> = Source::ALL.into_iter().collect();
        if self.no_logs {
            sources.remove(&Source::Logs);
        }
        question.sources = sources;
        Ok(question)
    }

    fn target(&self) -> anyhow::Result<Target> {
        if !self.service.is_empty() {
            return Ok(Target::Services(self.service.clone()));
        }
        if let Some(selector) = &self.selector {
            return Ok(Target::Pods(Selector::parse(selector).map_err(anyhow::Error::msg)?));
        }
        if self.workload.is_empty() {
            return Ok(Target::Namespace);
        }
        let workloads = self.workload.iter().map(|text| {
            let (kind, name) =
                text.split_once('/').with_context(|| format!("--workload {text:?}: write kind/name"))?;
            let kind = workload_kind(kind).with_context(|| {
                format!("--workload {text:?}: the kind is one of {}", WORKLOADS.join(", "))
            })?;
            Ok((kind.to_owned(), name.to_owned()))
        });
        Ok(Target::Workloads(workloads.collect::<anyhow::Result<_>>()?))
    }

    fn sources(&self, client: &kube::Client) -> anyhow::Result<Sources> {
        let port_forward = || Proxies::everywhere(Arc::new(PortForward::new(client.clone())));
        let proxies = self.proxies.then(port_forward);
        let Some(url) = self.prometheus.clone() else { return Ok(Sources { metrics: None, proxies }) };
        let token = self.prometheus_token_file.as_deref().map(read_token).transpose()?;
        let connection =
            Connection { name: "prometheus".to_owned(), url, bearer_token: token, ..Connection::default() };
        let source = Prometheus::new(connection).context("--prometheus cannot be used as it stands")?;
        Ok(Sources { metrics: Some(Arc::new(source)), proxies })
    }
}

const WORKLOADS: &[&str] = &["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"];

/// A workload's kind as people write it: in any case, in the plural, or short as `kubectl` knows it.
fn workload_kind(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let short = [("deploy", 0), ("sts", 1), ("ds", 2), ("rs", 3), ("cj", 5)];
    let known = |kind: &&&str| {
        let kind = kind.to_ascii_lowercase();
        text == kind || text == format!("{kind}s")
    };
    let by_short = short.iter().find(|(name, _)| *name == text).and_then(|(_, index)| WORKLOADS.get(*index));
    WORKLOADS.iter().find(known).or(by_short).copied()
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let token =
        std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    Ok(token.trim().to_owned())
}

/// A kubeconfig that cannot be read. What the parser says is left out: it quotes the lines around, tokens among them.
fn unusable(path: &Path, error: KubeconfigError) -> anyhow::Error {
    let path = path.display();
    match error {
        KubeconfigError::ReadConfig(source, _) => anyhow::anyhow!("failed to read {path}: {source}"),
        _ => anyhow::anyhow!(
            "{path} is no kubeconfig: kubectl config view --kubeconfig {path} says what is wrong"
        ),
    }
}

/// An error and what is behind it, each told once: some of them repeat their source.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        next = error.source();
    }
    text
}

/// Collecting takes a while: that the result has no place is better said before.
fn check_output(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(
        parent.is_dir(),
        "cannot write {}: there is no folder {}",
        path.display(),
        parent.display()
    );
    Ok(())
}

/// A bundle without a single object of the target is no recording: say why instead of writing it.
fn refuse_nothing(material: &Material, outcomes: &[CollectorOutcome]) -> anyhow::Result<()> {
    let namespace =
        material.manifest.target.as_ref().map(|target| target.namespace.as_str()).unwrap_or_default();
    let reached = outcomes.iter().any(|o| o.name == "Workloads" && o.state != CollectorState::Denied);
    if reached {
        return Ok(());
    }
    let why: Vec<String> = material
        .gaps
        .iter()
        .take(MAX_REASONS)
        .map(|gap| format!("\n  {}: {} ({})", gap.reason.as_str(), gap.what, gap.hint))
        .collect();
    anyhow::bail!("nothing of namespace {namespace} could be read; nothing was written{}", why.concat())
}

/// Gaps that an error names.
const MAX_REASONS: usize = 5;

/// What is in the bundle and what is not.
fn summary(material: &Material, outcomes: &[CollectorOutcome]) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        let line = format!(
            "{:<14} {:<13} {:>6} items  {:>9}  {}",
            outcome.name,
            outcome.state.as_str(),
            outcome.items,
            bytes(outcome.bytes),
            outcome.reason
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if !material.gaps.is_empty() {
        out.push_str("\nNot seen\n");
    }
    for gap in &material.gaps {
        let hint = if gap.hint.is_empty() { String::new() } else { format!(": {}", gap.hint) };
        let _ = writeln!(out, "  {:<13} {}{hint}", gap.reason.as_str(), gap.what);
    }
    out
}

/// A number of bytes for people.
fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Command::try_parse_from(format!("capture -o x.tar.zst {line}").split_whitespace()).unwrap().args
    }

    #[test]
    fn a_target_is_read_from_the_arguments() {
        assert_eq!(args("").target().unwrap(), Target::Namespace);
        assert_eq!(
            args("--service a --service b").target().unwrap(),
            Target::Services(vec!["a".into(), "b".into()])
        );
        let workloads = args("--workload deploy/a --workload StatefulSets/b").target().unwrap();
        let expected = [("Deployment", "a"), ("StatefulSet", "b")]
            .map(|(kind, name)| (kind.to_owned(), name.to_owned()));
        assert_eq!(workloads, Target::Workloads(expected.into()));
        assert!(args("--workload secret/a").target().unwrap_err().to_string().contains("Deployment"));
        assert!(args("-l app=a").target().is_ok());
        assert!(Command::try_parse_from(["capture", "-o", "x", "--service", "a", "-l", "b=c"]).is_err());
    }

    #[test]
    fn the_question_takes_the_contexts_namespace_and_the_window() {
        let question = args("--since 30m --depth 0 --no-logs").question("team").unwrap();
        assert_eq!((question.namespace.as_str(), question.dependency_depth), ("team", 0));
        assert_eq!(question.window.unwrap().seconds(), 1800);
        assert!(!question.sources.contains(&Source::Logs) && question.sources.contains(&Source::Metrics));
        let wrong = args("--since soon").question("team").unwrap_err();
        assert!(wrong.to_string().contains("30m"), "{wrong}");
    }

    #[test]
    fn a_bundle_without_the_target_is_not_written() {
        let denied = CollectorOutcome {
            as_installed: false,
            name: "Workloads".into(),
            state: CollectorState::Denied,
            items: 0,
            bytes: 0,
            reason: "Forbidden".into(),
            hint: String::new(),
        };
        assert!(refuse_nothing(&Material::default(), std::slice::from_ref(&denied)).is_err());
        let read = CollectorOutcome { state: CollectorState::Partial, ..denied };
        assert!(refuse_nothing(&Material::default(), &[read]).is_ok());
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(
            (bytes(5).as_str(), bytes(2048).as_str(), bytes(3 << 20).as_str()),
            ("5 B", "2.0 KiB", "3.0 MiB")
        );
    }
}
