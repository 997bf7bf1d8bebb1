//! What a metrics source really has: which of the catalogue's metrics, under which names, with which labels.
//!
//! A metric may be there as recorded by a federating rule (`workload:istio_requests_total`), as a native histogram without
//! `_bucket`, or with labels that a scrape configuration has renamed (`kubernetes_namespace`, `exported_pod`). Answers are
//! brought back to the usual names, so nothing behind this knows of it.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::{CATALOGUE, Exporter};
use super::{Limits, MetricsError, MetricsSource, Range};
use crate::model::fields::Fields;

/// Labels that other installations call otherwise, the usual name first in each row. A row's later names win over the
/// usual one where they say so: a scraper that keeps its own labels moves the exporter's to `exported_…`.
const LABELS: &[(&str, &[&str])] = &[
    (
        "namespace",
        &["exported_namespace", "kubernetes_namespace", "kubernetes_namespace_name", "k8s_namespace_name"],
    ),
    ("pod", &["exported_pod", "kubernetes_pod_name", "pod_name", "k8s_pod_name"]),
    ("container", &["exported_container", "container_name", "k8s_container_name"]),
    ("cluster_name", &["envoy_cluster_name"]),
    ("response_code", &["envoy_response_code"]),
];

/// Labels by which replicas of one scraper differ: their series are copies of each other.
const REPLICA_LABELS: &[&str] =
    &["prometheus_replica", "__replica__", "replica", "receive_replica", "rule_replica", "prometheus"];

/// The label that names one of several clusters.
pub const CLUSTER_LABEL: &str = "cluster";

/// What a source has. The default knows nothing: then everything is asked for under its usual name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variants {
    names: Option<BTreeSet<String>>,
    /// Recorded copies by the metric that they are of.
    recorded: BTreeMap<String, String>,
    /// The usual names of labels with their real ones, by exporter.
    labels: BTreeMap<Exporter, BTreeMap<&'static str, String>>,
}

impl Variants {
    /// Asks a source what it has. Errors: the source did not answer; then [`Variants::default`] serves.
    pub async fn discover(
        source: &dyn MetricsSource,
        range: Range,
        limits: Limits,
    ) -> Result<Self, MetricsError> {
        let names = source.names(range, limits).await?;
        let mut variants = Variants::of(names);
        for exporter in Exporter::ALL {
            let rows = CATALOGUE.iter().filter(|entry| entry.exporter == exporter);
            let rows = rows.filter(|entry| entry.shape.namespace_label().is_some());
            let mut metrics = rows.flat_map(|entry| entry.metrics);
            let Some(name) = metrics.find_map(|metric| variants.known(metric)) else { continue };
            let labels = source.labels(&name, range, limits).await?;
            variants.labels.insert(exporter, renamed(&labels));
        }
        Ok(variants)
    }

    fn of(names: Option<BTreeSet<String>>) -> Self {
        let mut recorded = BTreeMap::new();
        for name in names.iter().flatten() {
            // LEVEL:METRIC is a copy; LEVEL:METRIC:OPERATION is another figure.
            if let Some((_, metric)) = name.rsplit_once(':')
                && !metric.is_empty()
            {
                recorded.entry(metric.to_owned()).or_insert_with(|| name.clone());
            }
        }
        Variants { names, recorded, labels: BTreeMap::new() }
    }

    /// The name under which a metric is there, where it is known to be there.
    fn known(&self, metric: &str) -> Option<String> {
        let names = self.names.as_ref()?;
        if names.contains(metric) {
            return Some(metric.to_owned());
        }
        let native = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix));
        if let Some(native) = native.filter(|native| names.contains(*native)) {
            return Some(native.to_owned());
        }
        self.recorded.get(metric).cloned()
    }

    /// The name under which a metric is to be asked for; `None` where the source has none of it.
    pub fn name(&self, metric: &str) -> Option<String> {
        if self.names.is_none() { Some(metric.to_owned()) } else { self.known(metric) }
    }

    /// The name of a label on an exporter's series.
    pub fn label<'a>(&'a self, exporter: Exporter, usual: &'a str) -> &'a str {
        let own = self.labels.get(&exporter).and_then(|labels| labels.get(usual));
        own.map_or(usual, String::as_str)
    }

    /// Whether the source has nothing of an exporter, as far as it says what it has.
    pub fn lacks(&self, exporter: Exporter) -> bool {
        let mut metrics =
            CATALOGUE.iter().filter(|entry| entry.exporter == exporter).flat_map(|entry| entry.metrics);
        self.names.is_some() && !metrics.any(|metric| self.known(metric).is_some())
    }

    /// Brings the series of an exporter's answer back to the usual names, and makes one of the copies of each.
    pub fn normalise(&self, exporter: Exporter, body: &mut Value) {
        let Some(result) = body.pointer_mut("/data/result").and_then(Value::as_array_mut) else { return };
        let mut kept: Vec<Value> = Vec::with_capacity(result.len());
        let mut at: BTreeMap<String, usize> = BTreeMap::new();
        for mut series in std::mem::take(result) {
            if let Some(metric) = series.get_mut("metric").and_then(Value::as_object_mut) {
                for (usual, real) in self.labels.get(&exporter).into_iter().flatten() {
                    if let Some(value) = metric.remove(real) {
                        metric.insert((*usual).to_owned(), value);
                    }
                }
                for label in REPLICA_LABELS {
                    metric.remove(label);
                }
                let recorded =
                    metric.get("__name__").and_then(Value::as_str).and_then(|name| name.rsplit_once(':'));
                if let Some(usual) = recorded.map(|(_, metric)| Value::from(metric)) {
                    metric.insert("__name__".to_owned(), usual);
                }
            }
            let key = series.get("metric").map(Value::to_string).unwrap_or_default();
            match at.get(&key).and_then(|at| kept.get_mut(*at)) {
                // Replicas miss samples at different times; counters of copies must not be added up.
                Some(known) if samples(known) >= samples(&series) => {}
                Some(known) => *known = series,
                None => {
                    at.insert(key, kept.len());
                    kept.push(series);
                }
            }
        }
        *result = kept.into();
    }
}

fn samples(series: &Value) -> usize {
    series.list("values").len() + series.list("histograms").len()
}

/// The labels that are called otherwise here.
fn renamed(labels: &BTreeSet<String>) -> BTreeMap<&'static str, String> {
    let mut out = BTreeMap::new();
    for (usual, others) in LABELS {
        let exported = others.iter().find(|name| name.starts_with("exported_") && labels.contains(**name));
        let other = others.iter().find(|name| labels.contains(**name)).filter(|_| !labels.contains(*usual));
        if let Some(real) = exported.or(other) {
            out.insert(*usual, (*real).to_owned());
        }
    }
    out
}

/// The clusters that series come from: more than one cannot be told apart by what reads them.
pub fn clusters(body: &Value) -> BTreeSet<String> {
    let series = body.list("data.result").iter();
    series.filter_map(|one| one.at("metric")?.text(CLUSTER_LABEL)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use futures::future::BoxFuture;

    struct Fake(&'static [&'static str], &'static [&'static str]);

    impl MetricsSource for Fake {
        fn name(&self) -> &str {
            "fake"
        }

        fn query_range<'a>(
            &'a self,
            _: &'a super::super::query::Query,
            _: Range,
            _: Limits,
        ) -> BoxFuture<'a, Result<super::super::Answer, MetricsError>> {
            Box::pin(async { Err(MetricsError::TimedOut) })
        }

        fn names(
            &self,
            _: Range,
            _: Limits,
        ) -> BoxFuture<'_, Result<Option<BTreeSet<String>>, MetricsError>> {
            Box::pin(async { Ok(Some(self.0.iter().map(ToString::to_string).collect())) })
        }

        fn labels<'a>(
            &'a self,
            _: &'a str,
            _: Range,
            _: Limits,
        ) -> BoxFuture<'a, Result<BTreeSet<String>, MetricsError>> {
            Box::pin(async { Ok(self.1.iter().map(ToString::to_string).collect()) })
        }
    }

    async fn discovered(names: &'static [&'static str], labels: &'static [&'static str]) -> Variants {
        let at = |text: &str| text.parse().unwrap();
        let window =
            crate::model::time::Window { start: at("2026-11-21T09:00:00Z"), end: at("2026-11-21T10:00:00Z") };
        let limits = Limits { series: 1, bytes: 1, deadline: std::time::Duration::from_secs(1) };
        Variants::discover(&Fake(names, labels), Range { window, step_seconds: 15 }, limits).await.unwrap()
    }

    #[tokio::test]
    async fn recorded_copies_and_native_histograms_are_found() {
        let names =
            &["workload:istio_requests_total", "istio_request_duration_milliseconds", "a:up:rate5m", "up"];
        let variants = discovered(names, &[]).await;
        assert_eq!(variants.name("istio_requests_total").unwrap(), "workload:istio_requests_total");
        for suffix in ["bucket", "sum", "count"] {
            let name = variants.name(&format!("istio_request_duration_milliseconds_{suffix}"));
            assert_eq!(name.as_deref(), Some("istio_request_duration_milliseconds"));
        }
        assert_eq!(variants.name("up").as_deref(), Some("up"), "a rate of something is not the thing");
        assert_eq!(variants.name("kube_pod_info"), None);
        assert!(variants.lacks(Exporter::KubeState) && !variants.lacks(Exporter::Istio));
        assert!(!Variants::default().lacks(Exporter::KubeState), "nothing is known");
    }

    #[tokio::test]
    async fn labels_come_back_under_their_usual_names_and_copies_become_one() {
        let labels = &["exported_namespace", "namespace", "exported_pod", "pod", "prometheus_replica"];
        let variants = discovered(&["kube_pod_info"], labels).await;
        assert_eq!(variants.label(Exporter::KubeState, "namespace"), "exported_namespace");
        assert_eq!(variants.label(Exporter::CAdvisor, "namespace"), "namespace");
        let series = |replica: &str, values: Value| {
            json!({"metric": {"__name__": "kube_pod_info", "namespace": "monitoring", "exported_namespace": "shop",
                "pod": "ksm-1", "exported_pod": "a-1", "prometheus_replica": replica}, "values": values})
        };
        let mut body = json!({"data": {"result": [series("0", json!([[1, "1"]])), series("1", json!([[1, "1"], [2, "1"]]))]}});
        variants.normalise(Exporter::KubeState, &mut body);
        let result = body.list("data.result");
        assert_eq!(result.len(), 1);
        assert_eq!(
            result[0]["metric"],
            json!({"__name__": "kube_pod_info", "namespace": "shop", "pod": "a-1"})
        );
        assert_eq!(result[0].list("values").len(), 2, "of copies the fuller one");
    }

    #[tokio::test]
    async fn without_the_usual_label_the_other_one_counts() {
        let variants = discovered(
            &["envoy_server_live"],
            &["kubernetes_namespace", "kubernetes_pod_name", "envoy_cluster_name"],
        )
        .await;
        assert_eq!(variants.label(Exporter::Envoy, "namespace"), "kubernetes_namespace");
        assert_eq!(variants.label(Exporter::Envoy, "pod"), "kubernetes_pod_name");
        assert_eq!(variants.label(Exporter::Envoy, "cluster_name"), "envoy_cluster_name");
    }
}
