//! The metrics of a bundle as a metrics source, so that a replayed incident can be investigated as a live one. It does not
//! say what it has: a recording holds what was asked for, under the usual names, and nothing can be scraped for it any more.

use crate::model::json::{Value, json};
use futures::future::BoxFuture;
use std::collections::BTreeMap;

use super::query::Query;
use super::{Answer, Limits, MetricsError, MetricsSource, Range};
use crate::collect::material::MetricFile;
use crate::model::fields::Fields;
use crate::model::time;

/// The metrics of a bundle. Only matrices answer: an instant is no range.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    files: Vec<MetricFile>,
}

impl Recorded {
    /// A source that answers from these files.
    pub fn new(files: Vec<MetricFile>) -> Self {
        Recorded { files }
    }

    /// Whether there is nothing to answer from: then there is no source.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn answer(&self, query: &Query, range: Range, limits: Limits) -> Answer {
        let mut result = vec![];
        let mut truncated = false;
        for file in &self.files {
            if file.body.text("data.resultType") != Some("matrix") {
                continue;
            }
            for series in file.body.list("data.result") {
                let labels: BTreeMap<String, String> = series.text_map("metric").into();
                let name = labels.get("__name__").map_or(file.name.as_str(), String::as_str);
                let values = within(series, range);
                if values.is_empty() || !query.selects(name, &labels) {
                    continue;
                }
                if result.len() == limits.series {
                    truncated = true;
                    break;
                }
                let mut metric = series.at("metric").cloned().unwrap_or_else(|| json!({}));
                if let Some(metric) = metric.as_object_mut() {
                    metric.insert("__name__".to_owned(), Value::from(name));
                }
                result.push(json!({"metric": metric, "values": values}));
            }
        }
        let body = json!({"status": "success", "data": {"resultType": "matrix", "result": result}});
        Answer { body, warnings: vec![], bytes: 0, truncated }
    }
}

/// The samples of a series that lie in a range.
fn within(series: &Value, range: Range) -> Vec<Value> {
    let (start, end) = (time::to_unix(range.window.start), time::to_unix(range.window.end));
    let inside =
        |sample: &&Value| sample.get(0).and_then(Value::as_f64).is_some_and(|at| start <= at && at <= end);
    series.list("values").iter().filter(inside).cloned().collect()
}

impl MetricsSource for Recorded {
    fn name(&self) -> &str {
        "bundle"
    }

    fn query_range<'a>(
        &'a self,
        query: &'a Query,
        range: Range,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, MetricsError>> {
        Box::pin(async move { Ok(self.answer(query, range, limits)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::prometheus::catalogue::CATALOGUE;
    use crate::collect::prometheus::variants::Variants;
    use crate::model::time::Window;
    use std::time::Duration;

    fn file(name: &str, result: Value) -> MetricFile {
        MetricFile {
            name: name.into(),
            body: json!({"status": "success", "data": {"resultType": "matrix", "result": result}}),
        }
    }

    async fn ask(entry: &str, namespace: &str, pod: Option<&str>, limit: usize) -> Answer {
        let source = Recorded::new(vec![
            file(
                "any",
                json!([
                {"metric": {"__name__": "up", "namespace": "shop", "pod": "a"}, "values": [[0, "0"], [1_795_255_200, "1"]]},
                {"metric": {"__name__": "up", "namespace": "shop", "pod": "b"}, "values": [[1_795_255_200, "1"]]},
                {"metric": {"__name__": "up", "namespace": "money", "pod": "c"}, "values": [[1_795_255_200, "1"]]},
                {"metric": {"__name__": "up", "namespace": "shop", "pod": "old"}, "values": [[0, "1"]]}]),
            ),
            file(
                "container_memory_rss",
                json!([
                {"metric": {"namespace": "shop", "container": "app"}, "values": [[1_795_255_200, "1"]]},
                {"metric": {"namespace": "shop"}, "values": [[1_795_255_200, "1"]]}]),
            ),
        ]);
        let entry = CATALOGUE.iter().find(|known| known.name == entry).unwrap();
        let query = match pod {
            Some(pod) => Query::about(entry, namespace, [pod], &Variants::default()).unwrap(),
            None => Query::new(entry, namespace, &Variants::default()).unwrap(),
        };
        let at = |text: &str| text.parse().unwrap();
        let window = Window { start: at("2026-11-21T09:00:00Z"), end: at("2026-11-21T11:00:00Z") };
        let limits = Limits { series: limit, bytes: 1000, deadline: Duration::from_secs(1) };
        source.query_range(&query, Range { window, step_seconds: 15 }, limits).await.unwrap()
    }

    #[tokio::test]
    async fn a_recording_answers_as_the_source_did() {
        let answer = ask("up", "shop", None, 9).await;
        let pods: Vec<_> = answer.body.list("data.result").iter().map(|s| s.string("metric.pod")).collect();
        assert_eq!(pods, ["a", "b"]);
        assert_eq!(
            answer.body.list("data.result")[0].list("values").len(),
            1,
            "only what lies in the window"
        );
        assert_eq!(ask("up", "shop", Some("b"), 9).await.body.list("data.result").len(), 1);
        assert!(ask("up", "shop", None, 1).await.truncated);
    }

    #[tokio::test]
    async fn a_file_names_the_series_that_have_no_name() {
        let answer = ask("container_resources", "shop", None, 9).await;
        let names: Vec<_> =
            answer.body.list("data.result").iter().map(|s| s.string("metric.__name__")).collect();
        assert_eq!(names, ["container_memory_rss"], "the pod's own cgroup has no container");
    }
}
