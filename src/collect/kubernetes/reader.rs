//! One request at a time: counted, bounded in bytes and time, cancellable. All that collectors send goes through here.

use crate::model::json::Value;
use bytes::Bytes;
use futures::AsyncRead;
use futures::AsyncReadExt;
use http::Request;
use http::header::{ACCEPT, CONTENT_TYPE};
use kube::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::path;
use crate::collect::budget::{Budget, Exhausted, Meter};
use crate::model::fields::Fields;
use crate::model::gap::GapReason;

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// 401 or 403.
    #[error("failed to read: the API server refused it")]
    Forbidden,
    /// 404.
    #[error("failed to read: it does not exist")]
    NotFound,
    /// 410: the list that was being paged through is too old.
    #[error("failed to read: the list has expired")]
    Expired,
    /// Another status that is no success.
    #[error("failed to read: the API server answered with status {code}")]
    Status {
        /// The HTTP status.
        code: u16,
        /// Its message, as the server or what stands between wrote it.
        message: String,
    },
    /// It took longer than a request or the run may take.
    #[error("failed to read within its deadline")]
    TimedOut,
    /// The run was cancelled.
    #[error("failed to read: the run was cancelled")]
    Cancelled,
    /// The answer is larger than an answer may be.
    #[error("failed to read: the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The run's budget is used up.
    #[error("failed to read: {}", .0.as_str())]
    Exhausted(Exhausted),
    /// The answer is no JSON.
    #[error("failed to read the answer as JSON")]
    Malformed(#[source] serde_json::Error),
    /// No answer at all.
    #[error("failed to reach the API server")]
    Unreachable(#[source] Box<kube::Error>),
    /// The connection broke in the middle of an answer.
    #[error("failed to read the answer to its end")]
    Broken(#[source] std::io::Error),
}

impl ReadError {
    /// A bounded word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            ReadError::Forbidden => "Forbidden",
            ReadError::NotFound => "NotFound",
            ReadError::Expired => "Expired",
            ReadError::Status { .. } => "Status",
            ReadError::TimedOut => "TimedOut",
            ReadError::Cancelled => "Cancelled",
            ReadError::TooLarge(_) => "TooLarge",
            ReadError::Exhausted(_) => "Exhausted",
            ReadError::Malformed(_) => "Malformed",
            ReadError::Unreachable(_) => "Unreachable",
            ReadError::Broken(_) => "Broken",
        }
    }

    /// The reason of the gap that it leaves.
    pub fn gap_reason(&self) -> GapReason {
        match self {
            ReadError::Forbidden => GapReason::Forbidden,
            ReadError::NotFound => GapReason::Absent,
            ReadError::TimedOut | ReadError::Cancelled => GapReason::TimedOut,
            ReadError::TooLarge(_) | ReadError::Exhausted(_) => GapReason::Truncated,
            ReadError::Expired
            | ReadError::Status { .. }
            | ReadError::Malformed(_)
            | ReadError::Unreachable(_)
            | ReadError::Broken(_) => GapReason::Failed,
        }
    }
}

impl From<Exhausted> for ReadError {
    fn from(bound: Exhausted) -> Self {
        ReadError::Exhausted(bound)
    }
}

impl From<kube::Error> for ReadError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                401 | 403 => ReadError::Forbidden,
                404 => ReadError::NotFound,
                410 => ReadError::Expired,
                code => ReadError::Status { code, message: status.message.clone() },
            },
            other => ReadError::Unreachable(Box::new(other)),
        }
    }
}

/// What is asked of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// A label selector; empty selects everything.
    pub labels: String,
    /// A field selector; empty selects everything.
    pub fields: String,
    /// At most so many items are kept.
    pub cap: usize,
}

/// What a list gave.
#[derive(Debug, Default)]
pub struct Listing {
    /// Its items, each with `apiVersion` and `kind`.
    pub items: Vec<Value>,
    /// Bytes read for it.
    pub bytes: u64,
    /// Why there are fewer items than there could be; `None` where these are all.
    pub cut: Option<Cut>,
}

/// Why a list is not whole.
#[derive(Debug)]
pub enum Cut {
    /// The cap was reached.
    Capped,
    /// A later page failed; the earlier ones are there.
    Failed(ReadError),
}

impl Cut {
    /// The reason of the gap that it leaves.
    pub fn gap_reason(&self) -> GapReason {
        match self {
            Cut::Capped => GapReason::Truncated,
            Cut::Failed(error) => error.gap_reason(),
        }
    }
}

/// Sends requests of one run.
#[derive(Clone)]
pub struct Reader {
    client: Client,
    meter: Arc<Meter>,
    permits: Arc<Semaphore>,
    cancel: CancellationToken,
    deadline: Instant,
}

impl Reader {
    /// A reader for one run, which begins now and ends with `cancel` or the budget's deadline at the latest.
    pub fn new(client: Client, meter: Arc<Meter>, cancel: CancellationToken) -> Self {
        let budget = meter.budget();
        let permits = Arc::new(Semaphore::new(budget.concurrency.max(1)));
        let deadline = Instant::now() + budget.collect_deadline;
        Reader { client, meter, permits, cancel, deadline }
    }

    /// The bounds of the run.
    pub fn budget(&self) -> &Budget {
        self.meter.budget()
    }

    /// The count of what the run cost.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Runs one step of the run, not longer than `limit`, the rest of the run's time, or until it is cancelled.
    pub async fn bounded<T, F>(&self, limit: Duration, step: F) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, ReadError>>,
    {
        let until = self.deadline.min(Instant::now() + limit);
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(ReadError::Cancelled),
            done = tokio::time::timeout_at(until, step) => done.unwrap_or(Err(ReadError::TimedOut)),
        }
    }

    /// Runs an exchange of several requests, not longer than `limit`: counted as so many, in flight as one.
    pub async fn exchange<T, F>(&self, requests: usize, limit: Duration, step: F) -> Result<T, ReadError>
    where
        F: Future<Output = T>,
    {
        for _ in 0..requests {
            self.meter.request()?;
        }
        self.bounded(limit, async {
            let _permit = self.permits.acquire().await;
            Ok(step.await)
        })
        .await
    }

    /// Reads one JSON document. The number is the bytes it took.
    pub async fn get(&self, path: &str, accept: &'static str) -> Result<(Value, u64), ReadError> {
        self.json(Request::get(path).header(ACCEPT, accept).body(vec![])).await
    }

    /// Sends one document, as reviews of our own rights want it, and reads the answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(Value, u64), ReadError> {
        let body = body.to_string().into_bytes();
        self.json(Request::post(path).header(CONTENT_TYPE, JSON).header(ACCEPT, JSON).body(body)).await
    }

    async fn json(&self, request: http::Result<Request<Vec<u8>>>) -> Result<(Value, u64), ReadError> {
        let cap = self.budget().bytes_per_answer;
        let bytes = self
            .bounded(self.budget().request_deadline, async {
                let _permit = self.permits.acquire().await;
                let stream = self.send(request).await?;
                self.read_to_end(stream, cap).await
            })
            .await?;
        let value = serde_json::from_slice(&bytes).map_err(ReadError::Malformed)?;
        Ok((value, bytes.len() as u64))
    }

    /// Sends a request whose answer is streamed. The caller bounds it in bytes, and in time with [`Reader::bounded`].
    async fn send(
        &self,
        request: http::Result<Request<Vec<u8>>>,
    ) -> Result<impl futures::AsyncBufRead + use<>, ReadError> {
        self.meter.request()?;
        let request = request.map_err(kube::Error::HttpError)?;
        Ok(self.client.request_stream(request).await?)
    }

    async fn read_to_end(&self, stream: impl AsyncRead, cap: usize) -> Result<Bytes, ReadError> {
        let mut bytes = Vec::new();
        let mut stream = std::pin::pin!(stream.take(cap as u64 + 1));
        let read = stream.read_to_end(&mut bytes).await;
        self.meter.bytes(bytes.len() as u64);
        read.map_err(ReadError::Broken)?;
        if bytes.len() > cap {
            return Err(ReadError::TooLarge(cap));
        }
        Ok(bytes.into())
    }

    /// Reads a text line by line into `sink`, which says when it has enough. The number is the bytes that were read, also
    /// where the end was not reached: what the sink has by then is kept.
    pub async fn lines<S: LineSink>(&self, path: &str, sink: &mut S, cap: u64) -> Result<u64, ReadError> {
        let mut read = 0;
        let done = self
            .bounded(self.budget().request_deadline, async {
                let _permit = self.permits.acquire().await;
                let stream = self.send(Request::get(path).body(vec![])).await?;
                let mut stream = std::pin::pin!(stream.take(cap));
                let mut chunk = vec![0; CHUNK];
                loop {
                    let count = stream.read(&mut chunk).await.map_err(ReadError::Broken)?;
                    if count == 0 {
                        return Ok(());
                    }
                    read += count as u64;
                    self.meter.bytes(count as u64);
                    sink.push(chunk.get(..count).unwrap_or_default());
                }
            })
            .await;
        match done {
            Ok(()) => Ok(read),
            // What came before is worth more than an error: the sink marks it as cut.
            Err(error) if read > 0 => {
                tracing::debug!(category = error.category(), "a log ended early");
                sink.cut();
                Ok(read)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a list, page by page. `visit` sees each item before it is kept and may take parts out of it.
    ///
    /// A list that expires between two pages (410) is read anew, once. Errors: the first page failed.
    pub async fn list(
        &self,
        collection: &str,
        query: &ListQuery,
        accept: &'static str,
        visit: impl Fn(&mut Value),
    ) -> Result<Listing, ReadError> {
        let mut listing = Listing::default();
        let (mut token, mut restarted) = (String::new(), false);
        loop {
            let left = query.cap.saturating_sub(listing.items.len());
            if left == 0 {
                listing.cut = Some(Cut::Capped);
                return Ok(listing);
            }
            let limit = (self.budget().page_size as usize).min(left);
            let pairs = [
                ("limit", limit.to_string()),
                ("labelSelector", query.labels.clone()),
                ("fieldSelector", query.fields.clone()),
                ("continue", token.clone()),
            ];
            let page = match self.get(&path::with_query(collection, &pairs), accept).await {
                Ok((page, bytes)) => {
                    listing.bytes += bytes;
                    page
                }
                Err(ReadError::Expired) if !restarted && !token.is_empty() => {
                    (restarted, token) = (true, String::new());
                    listing.items.clear();
                    continue;
                }
                Err(error) if listing.items.is_empty() => return Err(error),
                Err(error) => {
                    listing.cut = Some(Cut::Failed(error));
                    return Ok(listing);
                }
            };
            token = page.string("metadata.continue");
            let more = take_items(page, left, &visit, &mut listing.items);
            if token.is_empty() {
                // A server that knows no pages sends everything at once.
                listing.cut = more.then_some(Cut::Capped);
                return Ok(listing);
            }
        }
    }
}

/// Moves at most `left` items of a page over; `true` where there were more.
fn take_items(mut page: Value, left: usize, visit: &impl Fn(&mut Value), out: &mut Vec<Value>) -> bool {
    let version = page.string("apiVersion");
    let kind = page.string("kind");
    // Items of a typed list carry neither kind nor version of their own.
    let kind = kind.strip_suffix("List").unwrap_or_default();
    let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) else { return false };
    let more = items.len() > left;
    for mut item in items.drain(..).take(left) {
        let Some(fields) = item.as_object_mut() else { continue };
        fields.entry("apiVersion").or_insert_with(|| Value::from(version.clone()));
        fields.entry("kind").or_insert_with(|| Value::from(kind.to_owned()));
        visit(&mut item);
        out.push(item);
    }
    more
}

/// Takes the bytes of a text that may be endless, of any encoding, and without a line break.
pub trait LineSink: Send {
    /// The next bytes, cut anywhere.
    fn push(&mut self, bytes: &[u8]);
    /// The end is missing.
    fn cut(&mut self);
}

/// The usual `Accept` of a read.
pub const JSON: &str = "application/json";
/// Aggregated discovery where the server has it.
pub const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
/// The bytes that are taken from a stream at once.
const CHUNK: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::{Answer, server};
    use crate::model::json::json;

    fn reader(client: Client, budget: Budget) -> Reader {
        Reader::new(client, Arc::new(Meter::new(budget)), CancellationToken::new())
    }

    fn query(cap: usize) -> ListQuery {
        ListQuery { cap, ..ListQuery::default() }
    }

    fn page(names: &[&str], token: &str) -> Answer {
        let items: Vec<Value> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        Answer::json(
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": token}, "items": items}),
        )
    }

    async fn names(reader: &Reader, cap: usize) -> (Vec<String>, Option<GapReason>) {
        let listing = reader.list("/p", &query(cap), JSON, |_| ()).await.unwrap();
        let names = listing.items.iter().map(|item| item.string("metadata.name")).collect();
        (names, listing.cut.map(|cut| cut.gap_reason()))
    }

    #[tokio::test]
    async fn a_list_is_read_page_by_page() {
        let client = server(|path| match path {
            "/p?limit=2" => page(&["a", "b"], "t1"),
            "/p?limit=2&continue=t1" => page(&["c"], ""),
            other => Answer::status(500, other),
        });
        let reader = reader(client, Budget { page_size: 2, ..Budget::default() });
        let listing = reader.list("/p", &query(100), JSON, |_| ()).await.unwrap();
        assert_eq!(listing.items[2], json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}));
        assert!(listing.cut.is_none());
        assert_eq!(reader.meter().cost().api_requests, 2);
    }

    #[tokio::test]
    async fn an_expired_list_starts_again_once() {
        let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let client = server(move |path| {
            let call = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            match (path.contains("continue"), call) {
                (true, 1) => Answer::status(410, "gone"),
                (true, _) => page(&["c"], ""),
                (false, _) => page(&["a", "b"], "t"),
            }
        });
        let reader = reader(client, Budget { page_size: 2, ..Budget::default() });
        assert_eq!(names(&reader, 9).await, (vec!["a".into(), "b".into(), "c".into()], None));
        assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_list_is_capped_whether_the_server_pages_or_not() {
        let paging =
            server(|path| if path.ends_with("limit=2") { page(&["a", "b"], "t") } else { page(&["c"], "u") });
        let paging = reader(paging, Budget { page_size: 2, ..Budget::default() });
        assert_eq!(names(&paging, 3).await.1, Some(GapReason::Truncated));
        let flat = reader(server(|_| page(&["a", "b", "c"], "")), Budget::default());
        assert_eq!(names(&flat, 2).await, (vec!["a".into(), "b".into()], Some(GapReason::Truncated)));
    }

    #[tokio::test]
    async fn a_page_that_fails_keeps_the_pages_before_it() {
        let client =
            server(
                |path| if path.contains("continue") { Answer::status(500, "") } else { page(&["a"], "t") },
            );
        assert_eq!(
            names(&reader(client, Budget::default()), 9).await,
            (vec!["a".into()], Some(GapReason::Failed))
        );
    }

    #[tokio::test]
    async fn every_failure_has_its_reason() {
        let client = server(|path| match path {
            "/denied" => Answer::status(403, "no"),
            "/absent" => Answer::status(404, "no"),
            "/broken" => Answer::text("{\"items\": ["),
            "/large" => Answer::text(&format!("\"{}\"", "x".repeat(100))),
            _ => Answer::Never,
        });
        let reader = reader(
            client,
            Budget { bytes_per_answer: 50, request_deadline: Duration::from_millis(50), ..Budget::default() },
        );
        for (path, reason) in [
            ("/denied", GapReason::Forbidden),
            ("/absent", GapReason::Absent),
            ("/broken", GapReason::Failed),
            ("/large", GapReason::Truncated),
            ("/never", GapReason::TimedOut),
        ] {
            let error = reader.get(path, JSON).await.unwrap_err();
            assert_eq!(error.gap_reason(), reason, "{path}: {error}");
        }
    }

    #[tokio::test]
    async fn cancelling_ends_a_request_that_never_answers() {
        let cancel = CancellationToken::new();
        let reader =
            Reader::new(server(|_| Answer::Never), Arc::new(Meter::new(Budget::default())), cancel.clone());
        let request = reader.get("/p", JSON);
        cancel.cancel();
        assert!(matches!(request.await, Err(ReadError::Cancelled)));
    }
}
