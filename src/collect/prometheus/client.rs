//! The metrics source that speaks Prometheus' HTTP API: Prometheus itself, Thanos, Mimir, VictoriaMetrics.

use futures::future::BoxFuture;
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use prometheus_http_query::Client;
use serde_json::Value;

use super::query::Query;
use super::{Answer, Limits, MetricsError, MetricsSource, Range};
use crate::model::fields::Fields;

/// A query longer than this is sent as a form: proxies refuse longer addresses.
const MAX_URL_QUERY: usize = 2_000;

/// How to reach a source. It comes from the operator's configuration or from a person's command line, never from a
/// session.
#[derive(Clone, Default)]
pub struct Connection {
    /// The name that the configuration gives it.
    pub name: String,
    /// Its address, up to and without `/api/v1`.
    pub url: String,
    /// A bearer token.
    pub bearer_token: Option<String>,
    /// Certificates to trust instead of the system's, in PEM.
    pub ca_pem: Option<Vec<u8>>,
}

/// Says neither the token nor the address, which may hold one.
impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A source that speaks Prometheus' HTTP API.
pub struct Prometheus {
    name: String,
    client: Client,
}

impl Prometheus {
    /// Sets up the source; nothing is sent yet. The TLS provider of the process must have been chosen before.
    ///
    /// Errors: the address, the token or the certificates cannot be used.
    pub fn new(connection: Connection) -> Result<Self, MetricsError> {
        let setup = |error: Box<dyn std::error::Error + Send + Sync>| MetricsError::Setup(error);
        let mut headers = HeaderMap::new();
        if let Some(token) = &connection.bearer_token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| setup(e.into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // A redirect would carry the query, and with some servers the token, to an address that nobody configured.
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(crate::collect::kubernetes::client::USER_AGENT_NAME)
            .default_headers(headers);
        if let Some(pem) = &connection.ca_pem {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| setup(e.into()))?;
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|e| setup(e.into()))?;
        let client = Client::from(http, &connection.url).map_err(|e| setup(e.into()))?;
        Ok(Prometheus { name: connection.name, client })
    }

    async fn ask(&self, query: &Query, range: Range, limits: Limits) -> Result<Answer, MetricsError> {
        let (start, end) = (range.window.start.as_second(), range.window.end.as_second());
        let timeout = i64::try_from(limits.deadline.as_millis()).unwrap_or(i64::MAX);
        let request = self
            .client
            .query_range(query.text(), start, end, f64::from(range.step_seconds))
            .timeout(timeout)
            .query("limit", limits.series);
        let long = query.text().len() > MAX_URL_QUERY;
        let response = if long { request.post_raw().await } else { request.get_raw().await };
        let response = response.map_err(|error| MetricsError::Unreachable(error.into()))?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(MetricsError::Forbidden),
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => return Err(MetricsError::TimedOut),
            status => return Err(MetricsError::Status { code: status.as_u16() }),
        }
        let bytes = read_bounded(response, limits.bytes).await?;
        let body = serde_json::from_slice(&bytes).map_err(|_| MetricsError::Malformed)?;
        let mut answer = understand(body, limits.series)?;
        answer.bytes = bytes.len() as u64;
        Ok(answer)
    }
}

impl MetricsSource for Prometheus {
    fn name(&self) -> &str {
        &self.name
    }

    fn query_range<'a>(
        &'a self,
        query: &'a Query,
        range: Range,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, MetricsError>> {
        Box::pin(async move {
            let asked = tokio::time::timeout(limits.deadline, self.ask(query, range, limits)).await;
            asked.unwrap_or(Err(MetricsError::TimedOut))
        })
    }
}

async fn read_bounded(mut response: reqwest::Response, cap: usize) -> Result<Vec<u8>, MetricsError> {
    let mut bytes = vec![];
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > cap => return Err(MetricsError::TooLarge(cap)),
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(MetricsError::Unreachable(error.into())),
        }
    }
}

/// Takes an answer apart: only a matrix is one, and only its first `series` are kept.
fn understand(mut body: Value, series: usize) -> Result<Answer, MetricsError> {
    if body.text("status") != Some("success") || body.text("data.resultType") != Some("matrix") {
        return Err(MetricsError::Malformed);
    }
    let warnings = body.texts("warnings").into_iter().chain(body.texts("infos")).collect();
    let result =
        body.pointer_mut("/data/result").and_then(Value::as_array_mut).ok_or(MetricsError::Malformed)?;
    let truncated = result.len() > series;
    result.truncate(series);
    Ok(Answer { body, warnings, bytes: 0, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::prometheus::catalogue::CATALOGUE;
    use crate::model::gap::GapReason;
    use crate::model::time::Window;
    use axum::extract::RawQuery;
    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn range() -> Range {
        let at = |text: &str| text.parse().unwrap();
        Range {
            window: Window { start: at("2026-11-21T09:00:00Z"), end: at("2026-11-21T10:00:00Z") },
            step_seconds: 15,
        }
    }

    const LIMITS: Limits = Limits { series: 2, bytes: 10_000, deadline: Duration::from_secs(5) };

    /// A fake of Prometheus' query API on loopback: it answers with what it was asked, as labels of a series.
    async fn fake(status: StatusCode, series: usize) -> Prometheus {
        crate::telemetry::install_crypto();
        let answer = move |asked: BTreeMap<String, String>| async move {
            let one = |n: usize| json!({"metric": {"__name__": format!("m{n}"), "asked": asked.get("query"), "step": asked.get("step"), "limit": asked.get("limit")}, "values": [[1_795_314_217, "54"]]});
            let result: Vec<Value> = (0..series).map(one).collect();
            (
                status,
                Json(
                    json!({"status": "success", "warnings": ["a store is missing"], "data": {"resultType": "matrix", "result": result}}),
                ),
            )
        };
        let pairs = |text: &str| {
            let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let by_query = move |RawQuery(query): RawQuery| answer(pairs(&query.unwrap_or_default()));
        let by_form = move |body: String| answer(pairs(&body));
        let app = Router::new().route("/prom/api/v1/query_range", get(by_query).post(by_form));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/prom", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Prometheus::new(Connection { name: "default".into(), url, ..Connection::default() }).unwrap()
    }

    fn up() -> Query {
        Query::new(CATALOGUE.iter().find(|entry| entry.name == "up").unwrap(), "shop")
    }

    #[tokio::test]
    async fn an_answer_is_kept_as_a_bundle_holds_it() {
        let source = fake(StatusCode::OK, 3).await;
        let answer = source.query_range(&up(), range(), LIMITS).await.unwrap();
        assert!(answer.truncated && answer.bytes > 0);
        assert_eq!(answer.warnings, ["a store is missing"]);
        let series = answer.body.list("data.result");
        assert_eq!(series.len(), 2);
        assert_eq!(series[0].text("metric.step"), Some("15"));
        assert_eq!(series[0].text("metric.limit"), Some("2"));
        assert_eq!(crate::model::series::read(&answer.body, "up").len(), 2);
    }

    #[tokio::test]
    async fn a_long_query_is_sent_as_a_form() {
        let source = fake(StatusCode::OK, 1).await;
        let entry = CATALOGUE.iter().find(|entry| entry.name == "up").unwrap();
        let pods: Vec<String> = (0..500).map(|n| format!("pod-{n}")).collect();
        let query = Query::about(entry, "shop", pods.iter().map(String::as_str)).unwrap();
        let limits = Limits { bytes: 100_000, ..LIMITS };
        let answer = source.query_range(&query, range(), limits).await.unwrap();
        let asked = answer.body.list("data.result")[0].string("metric.asked");
        assert!(asked.contains("499"), "the whole query arrived");
    }

    #[tokio::test]
    async fn every_failure_has_its_reason() {
        let reason = async |status, limits| {
            let source = fake(status, 1).await;
            source.query_range(&up(), range(), limits).await.unwrap_err().gap_reason()
        };
        assert_eq!(reason(StatusCode::FORBIDDEN, LIMITS).await, GapReason::Forbidden);
        assert_eq!(reason(StatusCode::BAD_REQUEST, LIMITS).await, GapReason::Failed);
        assert_eq!(reason(StatusCode::FOUND, LIMITS).await, GapReason::Failed);
        assert_eq!(reason(StatusCode::OK, Limits { bytes: 20, ..LIMITS }).await, GapReason::Truncated);
        let nobody = Connection { url: "http://127.0.0.1:1".into(), ..Connection::default() };
        let error = Prometheus::new(nobody).unwrap().query_range(&up(), range(), LIMITS).await.unwrap_err();
        assert!(error.of_the_source(), "{error:?}");
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        for body in [
            json!({}),
            json!([]),
            json!({"status": "error"}),
            json!({"status": "success", "data": {"resultType": "matrix"}}),
        ] {
            assert!(matches!(understand(body, 1), Err(MetricsError::Malformed)));
        }
    }

    #[test]
    fn a_connection_does_not_print_its_secrets() {
        let connection = Connection {
            name: "a".into(),
            url: "http://u:p@x".into(),
            bearer_token: Some("t0k".into()),
            ca_pem: None,
        };
        let text = format!("{connection:?}");
        assert!(!text.contains("t0k") && !text.contains("u:p"), "{text}");
    }
}
