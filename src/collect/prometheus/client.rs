//! The metrics source that speaks Prometheus' HTTP API: Prometheus itself, Thanos, Mimir, VictoriaMetrics.

use crate::model::json::Value;
use futures::future::BoxFuture;
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use prometheus_http_query::Client;
use std::collections::{BTreeMap, BTreeSet};

use super::escape::quote;
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
    /// The tenant, for Mimir, Cortex and Loki's kin: the header `X-Scope-OrgID`.
    pub tenant: Option<String>,
    /// Labels that every series must have, such as the cluster's name where one source holds several clusters.
    pub matchers: BTreeMap<String, String>,
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
    http: reqwest::Client,
    url: String,
    matchers: Vec<(String, String)>,
}

/// Mimir's and Cortex' header for the tenant.
const TENANT: HeaderName = HeaderName::from_static("x-scope-orgid");
/// What Thanos is to do: one of the copies of a series, and what there is where a store does not answer, with a warning.
/// Others leave these parameters alone.
const THANOS: &[(&str, &str)] = &[("dedup", "true"), ("partial_response", "true")];

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
        if let Some(tenant) = &connection.tenant {
            headers.insert(TENANT, HeaderValue::from_str(tenant).map_err(|e| setup(e.into()))?);
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
        let client = Client::from(http.clone(), &connection.url).map_err(|e| setup(e.into()))?;
        let url = connection.url.trim_end_matches('/').to_owned();
        let matchers = connection.matchers.into_iter().collect();
        Ok(Prometheus { name: connection.name, client, http, url, matchers })
    }

    /// A query's text with the source's own matchers in it.
    fn text(&self, query: &str) -> String {
        let own: Vec<String> =
            self.matchers.iter().map(|(label, value)| format!("{label}={}", quote(value))).collect();
        match query.rsplit_once('}') {
            Some((rest, "")) if !own.is_empty() => {
                let comma = if rest.ends_with('{') { "" } else { "," };
                format!("{rest}{comma}{}}}", own.join(","))
            }
            _ => query.to_owned(),
        }
    }

    /// A list of names out of the API of metadata.
    async fn list(
        &self,
        path: &str,
        metric: Option<&str>,
        range: Range,
        limits: Limits,
    ) -> Result<BTreeSet<String>, MetricsError> {
        let mut pairs = vec![
            ("start", range.window.start.as_second().to_string()),
            ("end", range.window.end.as_second().to_string()),
            ("limit", limits.series.to_string()),
        ];
        let selector = metric.map(|metric| self.text(&format!("{{__name__={}}}", quote(metric))));
        pairs.extend(selector.map(|selector| ("match[]", selector)));
        pairs.extend(THANOS.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let request = self.http.get(format!("{}/api/v1/{path}", self.url)).query(&pairs).send();
        let response = request.await.map_err(|error| MetricsError::Unreachable(error.into()))?;
        check(response.status())?;
        let bytes = read_bounded(response, limits.bytes).await?;
        let body: Value = serde_json::from_slice(&bytes).map_err(|_| MetricsError::Malformed)?;
        if body.text("status") != Some("success") {
            return Err(MetricsError::Malformed);
        }
        Ok(body.texts("data").into_iter().take(limits.series).collect())
    }

    async fn ask(&self, query: &Query, range: Range, limits: Limits) -> Result<Answer, MetricsError> {
        let (start, end) = (range.window.start.as_second(), range.window.end.as_second());
        let timeout = i64::try_from(limits.deadline.as_millis()).unwrap_or(i64::MAX);
        let text = self.text(query.text());
        let mut request = self
            .client
            .query_range(text.as_str(), start, end, f64::from(range.step_seconds))
            .timeout(timeout)
            .query("limit", limits.series);
        for (key, value) in THANOS {
            request = request.query(key, *value);
        }
        let long = text.len() > MAX_URL_QUERY;
        let response = if long { request.post_raw().await } else { request.get_raw().await };
        let response = response.map_err(|error| MetricsError::Unreachable(error.into()))?;
        check(response.status())?;
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

    fn names(
        &self,
        range: Range,
        limits: Limits,
    ) -> BoxFuture<'_, Result<Option<BTreeSet<String>>, MetricsError>> {
        Box::pin(async move {
            let asked = self.list("label/__name__/values", None, range, limits);
            let names =
                tokio::time::timeout(limits.deadline, asked).await.unwrap_or(Err(MetricsError::TimedOut))?;
            // A list that was cut says nothing of what is missing in it.
            Ok((names.len() < limits.series).then_some(names))
        })
    }

    fn labels<'a>(
        &'a self,
        metric: &'a str,
        range: Range,
        limits: Limits,
    ) -> BoxFuture<'a, Result<BTreeSet<String>, MetricsError>> {
        Box::pin(async move {
            let asked = self.list("labels", Some(metric), range, limits);
            tokio::time::timeout(limits.deadline, asked).await.unwrap_or(Err(MetricsError::TimedOut))
        })
    }
}

fn check(status: StatusCode) -> Result<(), MetricsError> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(MetricsError::Forbidden),
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Err(MetricsError::TimedOut),
        status => Err(MetricsError::Status { code: status.as_u16() }),
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
    let warnings = body.texts("warnings").into_iter().chain(body.texts("infos"));
    // Prometheus' own words for an answer that its parameter `limit` has cut.
    let (cut, warnings): (Vec<String>, Vec<String>) =
        warnings.partition(|warning| warning.contains("truncated due to limit"));
    let result =
        body.pointer_mut("/data/result").and_then(Value::as_array_mut).ok_or(MetricsError::Malformed)?;
    let truncated = result.len() > series || !cut.is_empty();
    result.truncate(series);
    Ok(Answer { body, warnings, bytes: 0, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::prometheus::catalogue::CATALOGUE;
    use crate::collect::prometheus::variants::Variants;
    use crate::model::gap::GapReason;
    use crate::model::json::json;
    use crate::model::time::Window;
    use axum::extract::RawQuery;
    use axum::http::HeaderMap as Headers;
    use axum::routing::get;
    use axum::{Json, Router};
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
        Query::new(CATALOGUE.iter().find(|entry| entry.name == "up").unwrap(), "shop", &Variants::default())
            .unwrap()
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
        let query =
            Query::about(entry, "shop", pods.iter().map(String::as_str), &Variants::default()).unwrap();
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

    #[tokio::test]
    async fn the_tenant_the_matchers_and_the_wish_for_one_copy_go_with_every_request() {
        crate::telemetry::install_crypto();
        let answer = |headers: Headers, RawQuery(query): RawQuery| async move {
            let tenant = headers.get("x-scope-orgid").map(|v| v.to_str().unwrap().to_owned());
            Json(
                json!({"status": "success", "data": [tenant.unwrap_or_default(), query.unwrap_or_default()]}),
            )
        };
        let app = Router::new()
            .route("/api/v1/label/__name__/values", get(answer))
            .route("/api/v1/labels", get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = Connection {
            url: format!("http://{}/", listener.local_addr().unwrap()),
            tenant: Some("team-a".into()),
            matchers: [("cluster".to_owned(), "prod\"eu".to_owned())].into(),
            ..Connection::default()
        };
        tokio::spawn(async move { axum::serve(listener, app).await });
        let source = Prometheus::new(connection).unwrap();
        let limits = Limits { series: 100, ..LIMITS };
        let names = source.names(range(), limits).await.unwrap().unwrap();
        assert!(
            names.contains("team-a") && names.iter().any(|n| n.contains("dedup=true&partial_response=true")),
            "{names:?}"
        );
        let labels = source.labels("up", range(), limits).await.unwrap();
        let asked = labels.iter().find(|text| text.contains("match")).unwrap();
        assert!(asked.contains("cluster%3D%22prod%5C%22eu%22"), "{asked}");
        assert_eq!(source.text("up{a=\"b\"}"), "up{a=\"b\",cluster=\"prod\\\"eu\"}");
        assert_eq!(source.names(range(), Limits { series: 2, ..limits }).await.unwrap(), None, "a cut list");
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
    fn an_answer_that_the_server_has_cut_is_known_as_such() {
        let body = |warnings: Value| json!({"status": "success", "warnings": warnings, "data": {"resultType": "matrix", "result": [{}]}});
        let cut = understand(body(json!(["results truncated due to limit"])), 1).unwrap();
        assert!(cut.truncated && cut.warnings.is_empty());
        let whole = understand(body(json!(["a store is missing"])), 1).unwrap();
        assert_eq!((whole.truncated, whole.warnings.len()), (false, 1));
    }

    #[test]
    fn a_connection_does_not_print_its_secrets() {
        let connection = Connection {
            name: "a".into(),
            url: "http://u:p@x".into(),
            bearer_token: Some("t0k".into()),
            ..Connection::default()
        };
        let text = format!("{connection:?}");
        assert!(!text.contains("t0k") && !text.contains("u:p"), "{text}");
    }
}
