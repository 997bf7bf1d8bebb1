//! Investigates a live cluster: gathers, analyses, looks closer at what that implicates, and analyses again.

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::asked::asked;
use super::config::{Config, MetricsSource};
use super::investigate::{Investigate, InvestigateError, Outcome, RunContext};
use super::question::{budget, question};
use crate::analyze::diagnosis::{Diagnosis, Options, analyze};
use crate::analyze::registry::RULES;
use crate::api::v1alpha1::DebugSession;
use crate::api::v1alpha1::session::{CaptureLogs, SourceKind, short_hash};
use crate::api::v1alpha1::status::{Phase, Progress};
use crate::collect::assemble::assemble;
use crate::collect::live::{self, LiveRun, Sources};
use crate::collect::logs::choose::PodKey;
use crate::collect::material::Material;
use crate::collect::plan::{Plan, Question};
use crate::collect::prometheus::MetricsSource as PrometheusSource;
use crate::collect::prometheus::client::{Connection, Prometheus};
use crate::collect::proxy::Proxies;
use crate::collect::proxy::forward::PortForward;
use crate::model::gap::{Gap, GapReason};
use crate::model::snapshot::Snapshot;
use crate::report::budget::length;
use crate::report::status::suppressed_codes;

/// Root causes whose pods are looked at closely: the first ones are what the closer look is to decide between.
const CLOSER: usize = 3;
/// A closer look needs at least this share of the run's time.
const TIME_FOR_CLOSER: f64 = 0.5;
/// The largest file with a token or certificates that is read, in bytes.
const MAX_CREDENTIALS: u64 = 1 << 20;

/// Investigates with a client of its own, so that a heavy run cannot starve the lease.
pub struct LiveInvestigator {
    client: Client,
    config: Config,
    recording: Option<Recording>,
}

/// What a replayed cluster has besides its API.
struct Recording {
    at: Timestamp,
    sources: Sources,
}

impl LiveInvestigator {
    /// Reads the cluster through `client`, and the sources that `config` names.
    pub fn new(client: Client, config: Config) -> Self {
        LiveInvestigator { client, config, recording: None }
    }

    /// Investigates a recording that `client` serves: its clock is `at`, and the other sources are the recorded ones.
    #[must_use]
    pub fn of_recording(self, at: Timestamp, sources: Sources) -> Self {
        LiveInvestigator { recording: Some(Recording { at, sources }), ..self }
    }

    /// The sources besides the API.
    fn sources(&self, session: &DebugSession) -> (Sources, Option<Gap>) {
        if let Some(recording) = &self.recording {
            return (recording.sources.clone(), None);
        }
        let (metrics, gap) = self.metrics(session);
        let proxies = &self.config.sources.proxies;
        let proxies = proxies.enabled().then(|| Proxies {
            source: Arc::new(PortForward::new(self.client.clone())),
            namespaces: proxies.named(),
        });
        (Sources { metrics, proxies }, gap)
    }

    /// The metrics source that a session asks for, or why there is none.
    fn metrics(&self, session: &DebugSession) -> (Option<Arc<dyn PrometheusSource>>, Option<Gap>) {
        let wanted = &session.spec.collect;
        if !wanted.sources.is_empty() && !wanted.sources.contains(&SourceKind::Metrics) {
            return (None, None);
        }
        let name = wanted.metrics_source_ref.as_ref().map(|reference| reference.name.as_str());
        let Some(source) = self.config.metrics_source(name.unwrap_or("default")) else {
            // That none is configured is said by collecting itself; a name that is wrong is another thing.
            let gap = name.map(|name| {
                let known: Vec<&str> =
                    self.config.sources.metrics.iter().map(|source| source.name.as_str()).collect();
                Gap::new("Metrics", format!("metrics source {name:?}"), GapReason::NotConfigured).hint(format!(
                    "spec.collect.metricsSourceRef.name takes a name of the operator's sources.metrics: {}",
                    if known.is_empty() { "there is none".to_owned() } else { known.join(", ") }
                ))
            });
            return (None, gap);
        };
        match connect(source) {
            Ok(metrics) => (Some(Arc::new(metrics)), None),
            Err(problem) => {
                tracing::warn!(source = %source.name, problem, "the metrics source cannot be used");
                let gap = Gap::new(
                    "Metrics",
                    format!("metrics source {:?}: {problem}", source.name),
                    GapReason::Failed,
                )
                .hint("check sources.metrics of the operator's configuration");
                (None, Some(gap))
            }
        }
    }
}

/// Reads the credentials afresh: tokens are rotated.
fn connect(source: &MetricsSource) -> Result<Prometheus, String> {
    let read = |path: &Path, what: &str| {
        let size =
            std::fs::metadata(path).map_err(|error| format!("failed to read its {what}: {error}"))?.len();
        if size > MAX_CREDENTIALS {
            return Err(format!("its {what} is larger than {MAX_CREDENTIALS} bytes"));
        }
        std::fs::read(path).map_err(|error| format!("failed to read its {what}: {error}"))
    };
    let token = source.bearer_token_file.as_deref().map(|path| read(path, "bearerTokenFile")).transpose()?;
    let ca_pem = source.ca_file.as_deref().map(|path| read(path, "caFile")).transpose()?;
    let connection = Connection {
        name: source.name.clone(),
        url: source.url.trim_end_matches('/').to_owned(),
        bearer_token: token.map(|token| String::from_utf8_lossy(&token).trim().to_owned()),
        ca_pem,
        tenant: source.tenant.clone(),
        matchers: source.matchers.clone(),
    };
    Prometheus::new(connection).map_err(|error| super::chain(&error))
}

impl Investigate for LiveInvestigator {
    fn investigate(
        &self,
        session: Arc<DebugSession>,
        context: RunContext,
    ) -> BoxFuture<'static, Result<Outcome, InvestigateError>> {
        let (sources, gap) = self.sources(&session);
        let now = self.recording.as_ref().map_or(context.now, |recording| recording.at);
        let context = RunContext { now, ..context };
        let run = Run {
            client: self.client.clone(),
            max_window: self.config.limits.max_window,
            watched: self.config.watch_namespaces.iter().cloned().collect(),
            sources,
            gap,
        };
        async move {
            // A thread of its own: analysis is all computing, and would hold up what else its worker has to do.
            let runtime = tokio::runtime::Handle::current();
            let work =
                tokio::task::spawn_blocking(move || runtime.block_on(run.investigate(session, context)));
            match work.await {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(error) => Err(InvestigateError::Unavailable(error.to_string())),
                },
            }
        }
        .boxed()
    }

    fn rules_version(&self) -> String {
        let codes: Vec<&str> = RULES.iter().map(|rule| rule.meta().code).collect();
        let hash: String = short_hash(&[codes.join(" ").as_bytes()]).chars().take(8).collect();
        format!("{}-{hash}", codes.len())
    }
}

/// One run, with all that it needs.
struct Run {
    client: Client,
    max_window: Duration,
    watched: BTreeSet<String>,
    sources: Sources,
    gap: Option<Gap>,
}

impl Run {
    async fn investigate(
        self,
        session: Arc<DebugSession>,
        context: RunContext,
    ) -> Result<Outcome, InvestigateError> {
        let Run { client, max_window, watched, sources, gap } = self;
        let budget = budget(&session, context.timeout);
        let question = Question { watched, ..question(&session, max_window, context.now) };
        let plan = Plan::new(question, context.now, &budget)
            .map_err(|error| InvestigateError::Invalid(error.to_string()))?;
        let told = context.progress.clone();
        let progress = Arc::new(move |progress: live::Progress| {
            told(Phase::Collecting, steps(progress.step, progress.done, progress.total));
        });
        let began = Instant::now();
        let mut run = LiveRun::new(client, plan, sources, progress, context.cancel.clone(), budget);
        run.collect().await;
        (context.progress)(Phase::Analyzing, steps("Analysis", 0, 2));
        let mut clock = ThreadClock::start();
        let (first, implicated) = diagnose(run.material(), &session, gap.clone(), context.now);
        let mut cpu_millis = clock.millis();
        let time_left = began.elapsed() < context.timeout.mul_f64(TIME_FOR_CLOSER);
        // The target is implicated by definition: what its applications log may be all that says why. It comes after what
        // the first look suspects, in case there is no room for all of it.
        let mut closer = implicated;
        closer.extend(run.target_pods());
        let closer_look = time_left && !closer.is_empty() && !context.cancel.is_cancelled();
        if closer_look {
            (context.progress)(Phase::Collecting, steps("Closer look", 1, 2));
            run.deepen(&closer).await;
            (context.progress)(Phase::Analyzing, steps("Analysis", 1, 2));
        }
        let redactions = run.redactions().iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
        let (material, collectors, cost) = run.finish();
        let held_bytes = held(&material);
        let full = session.spec.evidence.capture_logs == CaptureLogs::Full;
        let logs = if full { material.logs.clone() } else { vec![] };
        let mut diagnosis = first;
        if closer_look {
            clock = ThreadClock::start();
            diagnosis = diagnose(material, &session, gap, context.now).0;
            cpu_millis += clock.millis();
        }
        Ok(Outcome { diagnosis, collectors, cost, cpu_millis, held_bytes, redactions, logs })
    }
}

fn steps(step: &str, done: usize, total: usize) -> Progress {
    let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    Progress { step: step.to_owned(), done: whole(done), total: whole(total) }
}

/// The diagnosis, and the pods that its likeliest causes lie in.
fn diagnose(
    mut material: Material,
    session: &DebugSession,
    gap: Option<Gap>,
    now: Timestamp,
) -> (Diagnosis, Vec<PodKey>) {
    material.gaps.extend(gap);
    let snapshot = assemble(material);
    let skip = suppressed_codes(&session.spec.analysis, now);
    let request_id = session.spec.symptom.request_id.trim().to_owned();
    let options = Options { skip, request: asked(session), request_id, ..Options::default() };
    let diagnosis = analyze(&snapshot, &options);
    let implicated = implicated(&snapshot, &diagnosis, &session.namespace().unwrap_or_default());
    (diagnosis, implicated)
}

/// The pods of the namespace that the likeliest causes and what they explain lie in.
fn implicated(snapshot: &Snapshot, diagnosis: &Diagnosis, namespace: &str) -> Vec<PodKey> {
    let mut pods = BTreeSet::new();
    let mut add = |pod: &crate::model::workload::Pod| {
        if pod.object.namespace() == namespace {
            pods.insert((pod.object.namespace().to_owned(), pod.object.name().to_owned()));
        }
    };
    for cause in diagnosis.root_causes.iter().take(CLOSER) {
        if let Some(service) = cause.service.as_ref().and_then(|name| snapshot.service(name)) {
            snapshot.pods_behind(service).for_each(&mut add);
        }
        match cause.subject.kind.as_str() {
            "Pod" => {
                snapshot.pod(&cause.subject.namespace, &cause.subject.name).into_iter().for_each(&mut add);
            }
            _ => snapshot.pods_of(&cause.subject).for_each(&mut add),
        }
    }
    pods.into_iter().collect()
}

/// About how many bytes of evidence are held.
fn held(material: &Material) -> u64 {
    let logs: usize = material.logs.iter().map(|log| log.bytes.len()).sum();
    let metrics: usize = material.metrics.iter().map(|file| length(&file.body)).sum();
    u64::try_from(logs + metrics + length(&material.objects)).unwrap_or(u64::MAX)
}

/// Processor time of the thread it was made on, where the kernel tells it, else the time that went by.
struct ThreadClock {
    wall: Instant,
    cpu: Option<u64>,
}

impl ThreadClock {
    fn start() -> Self {
        ThreadClock { wall: Instant::now(), cpu: Self::cpu_nanos() }
    }

    /// The first figure of `schedstat` is the time spent on a processor, in nanoseconds (Linux: `proc(5)`).
    fn cpu_nanos() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    fn millis(&self) -> u64 {
        match (self.cpu, Self::cpu_nanos()) {
            (Some(before), Some(now)) => now.saturating_sub(before) / 1_000_000,
            _ => u64::try_from(self.wall.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}
