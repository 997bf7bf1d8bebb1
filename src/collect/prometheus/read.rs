//! Asks a metrics source the catalogue's questions, within the run's budget.

use futures::StreamExt;
use std::collections::BTreeMap;

use super::catalogue::{CATALOGUE, Entry, Exporter, Pass};
use super::query::Query;
use super::variants::{CLUSTER_LABEL, Variants, clusters};
use super::{Answer, Limits, MetricsError, MetricsSource, Range};
use crate::collect::budget::Exhausted;
use crate::collect::kubernetes::reader::{ReadError, Reader};
use crate::collect::material::MetricFile;
use crate::collect::plan::Plan;
use crate::collect::redact::{Counts, redact_text};
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};

/// Whose series are wanted, in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything of the namespace.
    Namespace,
    /// These pods, and these workloads.
    Of {
        /// Names of pods.
        pods: Vec<String>,
        /// Names of the workloads that they belong to.
        workloads: Vec<String>,
    },
    /// What these pods of the cluster's DNS take of their nodes, and nothing else of their namespace.
    NameServer {
        /// Names of pods.
        pods: Vec<String>,
    },
}

/// The one query about the cluster's DNS: processor time, throttling, memory.
const NAME_SERVER: &str = "container_resources";
/// As many of its pods at most: a cluster of thousands of nodes has more, all alike.
const MAX_NAME_SERVERS: usize = 8;

/// What one namespace gave.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The answers that hold something.
    pub files: Vec<MetricFile>,
    /// Series in them.
    pub series: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Queries that were answered, if only with nothing.
    pub answered: usize,
    /// What is missing.
    pub gaps: Vec<Gap>,
}

/// Asks every query of a pass about one namespace. A file's name is unique within a run: `up`, `up.pay`, `up.deep`.
pub async fn read(
    source: &dyn MetricsSource,
    reader: &Reader,
    plan: &Plan,
    variants: &Variants,
    pass: Pass,
    namespace: &str,
    scope: &Scope,
) -> Gathered {
    let entries = CATALOGUE.iter().filter(|entry| entry.pass == pass);
    let queries: Vec<(&Entry, Query)> =
        entries.filter_map(|entry| Some((entry, query(entry, namespace, scope, variants)?))).collect();
    let range = range(plan);
    let concurrency = reader.budget().query_concurrency.max(1);
    let answers: Vec<_> = futures::stream::iter(queries)
        .map(|(entry, query)| async move {
            let answer = ask(source, reader, &query, range).await;
            let too_large = match &answer {
                Ok(answer) => answer.truncated,
                Err(failure) => matches!(failure, Failure::Source(MetricsError::TooLarge(_))),
            };
            // As a whole it is too large; each metric of its own may fit.
            let mut parts = vec![];
            if too_large && *scope == Scope::Namespace {
                for query in Query::split(entry, namespace, variants) {
                    parts.push((ask(source, reader, &query, range).await, query));
                }
            }
            if parts.is_empty() { vec![(answer, query)] } else { parts }
        })
        .buffered(concurrency)
        .collect()
        .await;
    let suffix = if namespace == plan.namespace { String::new() } else { format!(".{namespace}") };
    let mut gathered = Gathered::default();
    let mut source_failed = BTreeMap::new();
    for (answer, query) in answers.into_iter().flatten() {
        match answer {
            Ok(mut answer) => {
                variants.normalise(query.exporter(), &mut answer.body);
                keep(&mut gathered, reader, answer, &query, &suffix, namespace);
            }
            // A backend that lets its users see their own namespaces alone refuses figures of the platform, and only those.
            Err(Failure::Source(MetricsError::Forbidden)) if of_the_platform(query.name()) => {
                let text = format!("series {} of the platform", query.name());
                let hint = "let the metrics source's credentials query series without a namespace, or do without these figures";
                gathered.gaps.push(Gap::new("Metrics", text, GapReason::Forbidden).hint(hint));
            }
            Err(Failure::Source(error)) if error.of_the_source() => {
                *source_failed.entry(error.gap_reason()).or_insert(0) += 1;
            }
            Err(failure) => {
                tracing::debug!(query = query.name(), category = failure.category(), "a query failed");
                gathered.gaps.push(Gap::new("Metrics", what(query.name(), namespace), failure.gap_reason()));
            }
        }
    }
    for (reason, queries) in source_failed {
        let text = format!(
            "{queries} queries to the metrics source \"{}\" about namespace {namespace}",
            source.name()
        );
        gathered.gaps.push(Gap::new("Metrics", text, reason).hint(source_hint(reason)));
    }
    gathered
}

/// The span and resolution of a plan.
fn range(plan: &Plan) -> Range {
    Range { window: plan.window, step_seconds: plan.step_seconds }
}

/// Asks a source what it has, and notes what is not there and would bring it. `wanted` says which exporters belong to this
/// cluster at all. A source that cannot say is asked for everything.
pub async fn discover(
    source: &dyn MetricsSource,
    reader: &Reader,
    plan: &Plan,
    wanted: impl Fn(Exporter) -> bool,
) -> (Variants, Vec<Gap>) {
    let budget = reader.budget();
    let limits = Limits {
        series: budget.metric_names,
        bytes: budget.bytes_per_query,
        deadline: budget.request_deadline,
    };
    // The names, and the labels of one metric of each exporter.
    for _ in 0..=Exporter::ALL.len() {
        if reader.meter().query().is_err() {
            return (Variants::default(), vec![]);
        }
    }
    let limit = budget.request_deadline.saturating_mul(2);
    let asked = reader.bounded(limit, async { Ok(Variants::discover(source, range(plan), limits).await) });
    match asked.await {
        Ok(Ok(variants)) => {
            let missing =
                Exporter::ALL.into_iter().filter(|exporter| wanted(*exporter) && variants.lacks(*exporter));
            let gaps = missing.filter_map(Exporter::missing).map(|(what, hint)| {
                let what = format!("{what}: the metrics source has no such series");
                Gap::new("Metrics", what, GapReason::NotConfigured).hint(hint)
            });
            let gaps = gaps.collect();
            (variants, gaps)
        }
        // What it has is then seen from the answers; a source that is down is told of there.
        Ok(Err(error)) => {
            tracing::debug!(category = error.category(), "a metrics source does not say what it has");
            (Variants::default(), vec![])
        }
        Err(error) => {
            tracing::debug!(category = error.category(), "a metrics source does not say what it has");
            (Variants::default(), vec![])
        }
    }
}

/// Whether a query of the catalogue is about the platform and carries no namespace.
fn of_the_platform(name: &str) -> bool {
    use super::catalogue::Shape;
    CATALOGUE.iter().any(|entry| entry.name == name && entry.shape == Shape::Platform)
}

fn source_hint(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Forbidden => "give the metrics source credentials that may query it",
        _ => {
            "check the address of the metrics source, and that nothing keeps this process from connecting to it"
        }
    }
}

fn what(query: &str, namespace: &str) -> String {
    format!("series {query} of namespace {namespace}")
}

fn query(entry: &Entry, namespace: &str, scope: &Scope, variants: &Variants) -> Option<Query> {
    use super::catalogue::{Shape, Subject};
    match (scope, entry.shape.subject()) {
        // The platform is the same whatever the namespace; the deep pass knows subjects only.
        (Scope::Of { .. }, _) if entry.shape == Shape::Platform && entry.pass == Pass::Deep => {
            Query::new(entry, namespace, variants)
        }
        (Scope::Namespace, _) => Query::new(entry, namespace, variants),
        // Processor time is what a name server lacks when look-ups are slow for everybody.
        (Scope::NameServer { pods }, Subject::Pod) if entry.name == NAME_SERVER => {
            let pods = pods.iter().take(MAX_NAME_SERVERS).map(String::as_str);
            Query::about(entry, namespace, pods, variants)
        }
        (Scope::NameServer { .. }, _) => None,
        (Scope::Of { .. }, Subject::Other) => None,
        (Scope::Of { pods, .. }, Subject::Pod) => {
            if pods.is_empty() {
                None
            } else {
                Query::about(entry, namespace, pods.iter().map(String::as_str), variants)
            }
        }
        (Scope::Of { workloads, .. }, Subject::DestinationWorkload | Subject::SourceWorkload) => {
            if workloads.is_empty() {
                None
            } else {
                Query::about(entry, namespace, workloads.iter().map(String::as_str), variants)
            }
        }
    }
}

/// Why a query gave nothing: the source, or the run itself.
enum Failure {
    Source(MetricsError),
    Run(ReadError),
}

impl Failure {
    fn category(&self) -> &'static str {
        match self {
            Failure::Source(error) => error.category(),
            Failure::Run(error) => error.category(),
        }
    }

    fn gap_reason(&self) -> GapReason {
        match self {
            Failure::Source(error) => error.gap_reason(),
            Failure::Run(error) => error.gap_reason(),
        }
    }
}

async fn ask(
    source: &dyn MetricsSource,
    reader: &Reader,
    query: &Query,
    range: Range,
) -> Result<Answer, Failure> {
    let budget = reader.budget();
    reader.meter().query().map_err(|bound| Failure::Run(bound.into()))?;
    let limits = Limits {
        series: budget.series_per_query,
        bytes: budget.bytes_per_query,
        deadline: budget.request_deadline,
    };
    let asked =
        reader.bounded(budget.request_deadline, async { Ok(source.query_range(query, range, limits).await) });
    let answer = asked.await.map_err(Failure::Run)?.map_err(Failure::Source)?;
    reader.meter().bytes(answer.bytes);
    Ok(answer)
}

fn keep(
    gathered: &mut Gathered,
    reader: &Reader,
    answer: Answer,
    query: &Query,
    suffix: &str,
    namespace: &str,
) {
    gathered.answered += 1;
    gathered.bytes += answer.bytes;
    for warning in answer.warnings.iter().take(MAX_WARNINGS) {
        let text =
            format!("part of {}: the metrics source warns: {}", what(query.name(), namespace), tame(warning));
        gathered.gaps.push(Gap::new("Metrics", text, GapReason::Failed));
    }
    let result = answer.body.list("data.result");
    if result.is_empty() {
        return;
    }
    let several = clusters(&answer.body);
    if several.len() > 1 {
        let names = several.iter().take(MAX_WARNINGS).map(|name| tame(name)).collect::<Vec<_>>().join(", ");
        let what = format!(
            "which of {} clusters ({names}, …) the series of namespace {namespace} are of",
            several.len()
        );
        let hint = format!(
            "name this cluster in the source's matchers: {{{CLUSTER_LABEL}: NAME}} (chart: sources.metrics[].matchers)"
        );
        let gap = Gap::new("Metrics", what, GapReason::Failed).hint(hint);
        if !gathered.gaps.contains(&gap) {
            gathered.gaps.push(gap);
        }
    }
    let samples =
        result.iter().map(|series| series.list("values").len() + series.list("histograms").len()).sum();
    if let Err(bound) = reader.meter().samples(samples) {
        debug_assert_eq!(bound, Exhausted::Samples);
        let hint = "ask about a shorter window or a single service";
        gathered
            .gaps
            .push(Gap::new("Metrics", what(query.name(), namespace), GapReason::Truncated).hint(hint));
        return;
    }
    if answer.truncated {
        let text = format!("some series of {} in namespace {namespace}", query.name());
        gathered.gaps.push(Gap::new("Metrics", text, GapReason::Truncated));
    }
    gathered.series += result.len();
    gathered.files.push(MetricFile { name: format!("{}{suffix}", query.name()), body: answer.body });
}

/// Warnings of one answer that are told.
const MAX_WARNINGS: usize = 3;
/// Characters of one warning that are told.
const MAX_WARNING: usize = 160;

/// The words of another server: short, without secrets and without anything that a terminal acts on.
fn tame(text: &str) -> String {
    redact_text(text, &mut Counts::default()).chars().filter(|c| *c != '\n').take(MAX_WARNING).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::budget::{Budget, Meter};
    use crate::collect::plan::{Asker, Question};
    use crate::collect::testing::{Answer as Http, server};
    use crate::model::json::json;
    use futures::future::BoxFuture;
    use std::sync::{Arc, Mutex};
    use tokio_util::sync::CancellationToken;

    /// A source that answers from a function and remembers what it was asked.
    struct Fake<F> {
        answer: F,
        asked: Mutex<Vec<String>>,
    }

    impl<F: Fn(&Query) -> Result<Answer, MetricsError> + Send + Sync> MetricsSource for Fake<F> {
        fn name(&self) -> &str {
            "default"
        }

        fn query_range<'a>(
            &'a self,
            query: &'a Query,
            _: Range,
            _: Limits,
        ) -> BoxFuture<'a, Result<Answer, MetricsError>> {
            self.asked.lock().unwrap().push(query.text().to_owned());
            Box::pin(async move { (self.answer)(query) })
        }
    }

    fn series(count: usize) -> Answer {
        let one = json!({"metric": {"__name__": "up"}, "values": [[1, "1"], [2, "1"]]});
        let body = json!({"status": "success", "data": {"resultType": "matrix", "result": vec![one; count]}});
        Answer { body, warnings: vec![], bytes: 10, truncated: false }
    }

    async fn gather(
        answer: impl Fn(&Query) -> Result<Answer, MetricsError> + Send + Sync,
        budget: Budget,
        namespace: &str,
        scope: &Scope,
    ) -> (Gathered, Vec<String>) {
        let reader =
            Reader::new(server(|_| Http::Never), Arc::new(Meter::new(budget)), CancellationToken::new());
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let plan = Plan::new(Question::about("shop", Asker::Person), now, reader.budget()).unwrap();
        let fake = Fake { answer, asked: Mutex::default() };
        let gathered = read(&fake, &reader, &plan, &Variants::default(), Pass::Cheap, namespace, scope).await;
        (gathered, fake.asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn empty_answers_are_no_files_and_no_gaps() {
        let (gathered, asked) = gather(
            |query| Ok(series(usize::from(query.name() == "up"))),
            Budget::default(),
            "shop",
            &Scope::Namespace,
        )
        .await;
        assert_eq!(gathered.files.len(), 1);
        assert_eq!((gathered.series, gathered.gaps.len(), gathered.answered), (1, 0, asked.len()));
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_asked_for_in_parts() {
        let answer = |query: &Query| match query.name() {
            "kube_pods" => Err(MetricsError::TooLarge(1)),
            "container_network" => Ok(Answer { truncated: true, ..series(1) }),
            _ => Ok(series(1)),
        };
        let (gathered, asked) = gather(answer, Budget::default(), "shop", &Scope::Namespace).await;
        assert!(asked.iter().any(|query| query == r#"kube_pod_info{namespace="shop"}"#));
        assert!(gathered.gaps.is_empty());
        for name in ["kube_pod_info", "container_network_receive_bytes_total"] {
            assert!(gathered.files.iter().any(|file| file.name == name), "{name}");
        }
        assert!(!gathered.files.iter().any(|file| file.name == "container_network"), "no part twice");
    }

    #[tokio::test]
    async fn a_source_that_is_down_is_one_gap() {
        let answer = |_: &Query| Err(MetricsError::Unreachable("refused".into()));
        let (gathered, asked) = gather(answer, Budget::default(), "shop", &Scope::Namespace).await;
        assert_eq!(gathered.gaps.len(), 1);
        assert!(gathered.gaps[0].what.starts_with(&format!("{} queries", asked.len())));
    }

    #[tokio::test]
    async fn warnings_become_gaps_without_control_characters() {
        let answer = |query: &Query| {
            let warnings =
                if query.name() == "up" { vec!["a\u{1b}[31m\u{202e}b".to_owned()] } else { vec![] };
            Ok(Answer { warnings, ..series(0) })
        };
        let (gathered, _) = gather(answer, Budget::default(), "shop", &Scope::Namespace).await;
        assert!(gathered.gaps[0].what.ends_with("warns: ab"), "{:?}", gathered.gaps);
    }

    #[tokio::test]
    async fn samples_and_queries_end_with_the_budget() {
        let budget = Budget { samples_total: 2, api_requests: 3, ..Budget::default() };
        let (gathered, asked) = gather(|_| Ok(series(1)), budget, "shop", &Scope::Namespace).await;
        assert_eq!((asked.len(), gathered.files.len()), (3, 1));
        assert!(
            gathered.gaps.iter().all(|gap| gap.reason == GapReason::Truncated) && !gathered.gaps.is_empty()
        );
    }

    #[tokio::test]
    async fn figures_of_the_platform_that_are_refused_are_gaps_of_their_own() {
        let answer = |query: &Query| match query.name() {
            "coredns" | "kube_nodes" => Err(MetricsError::Forbidden),
            _ => Ok(series(1)),
        };
        let (gathered, _) = gather(answer, Budget::default(), "shop", &Scope::Namespace).await;
        let gaps: Vec<_> = gathered.gaps.iter().map(|gap| (gap.what.as_str(), gap.reason)).collect();
        assert_eq!(
            gaps,
            [
                ("series kube_nodes of the platform", GapReason::Forbidden),
                ("series coredns of the platform", GapReason::Forbidden)
            ]
        );
    }

    #[tokio::test]
    async fn of_the_clusters_dns_one_query_is_asked() {
        let scope = Scope::NameServer { pods: (0..20).map(|i| format!("coredns-{i}")).collect() };
        let (gathered, asked) = gather(|_| Ok(series(1)), Budget::default(), "kube-system", &scope).await;
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert!(
            asked[0].contains(r#"namespace="kube-system""#) && asked[0].contains(r"coredns\\-7"),
            "{asked:?}"
        );
        assert!(!asked[0].contains(r"coredns\\-8"), "{asked:?}");
        assert_eq!(gathered.files[0].name, "container_resources.kube-system");
    }

    #[tokio::test]
    async fn of_a_neighbour_only_its_pods_and_workloads_are_asked_for() {
        let scope = Scope::Of { pods: vec!["bank-1".into()], workloads: vec![] };
        let (gathered, asked) = gather(|_| Ok(series(1)), Budget::default(), "money", &scope).await;
        assert!(
            asked.iter().all(|query| query.contains(r#"pod=~"bank\\-1""#) && query.contains(r#"="money""#)),
            "{asked:?}"
        );
        assert!(gathered.files.iter().all(|file| file.name.ends_with(".money")));
    }
}
