//! Reads logs of containers: first the cheap ones that show most, then all of those pods that a first look implicates.

pub mod choose;
pub mod claim;
pub mod tail;

use futures::StreamExt;

use self::choose::LogRequest;
use self::claim::{Claim, Claimed};
use self::tail::Tail;
use super::budget::Exhausted;
use super::kubernetes::path::{encode, with_query};
use super::kubernetes::reader::{ReadError, Reader};
use super::material::LogFile;
use super::plan::Plan;
use super::redact::{Counts, redact_bytes};
use crate::model::time::Window;

/// What became of one request for a log.
#[derive(Debug)]
pub enum LogAnswer {
    /// Its newest lines, redacted.
    Log(LogFile),
    /// There is none yet or none any more: a fact that the pod's status tells too, and no gap.
    None,
    /// It did not fit into what logs may take together.
    NoRoom(Exhausted),
    /// It could not be read.
    Failed(ReadError),
}

/// One request and what became of it.
#[derive(Debug)]
pub struct LogRead {
    /// What was asked for.
    pub request: LogRequest,
    /// What came back.
    pub answer: LogAnswer,
    /// Bytes that were read for it.
    pub bytes: u64,
    /// Secrets that were masked in it.
    pub redactions: Counts,
}

/// Reads logs, several at a time. Answers stand in the order of the requests. Of a namespace that the plan does not reach,
/// only what `claim` covers is kept, and nothing else is held in memory.
pub async fn read(reader: &Reader, plan: &Plan, claim: &Claim, requests: Vec<LogRequest>) -> Vec<LogRead> {
    let concurrency = reader.budget().concurrency.max(1);
    futures::stream::iter(requests)
        .map(|request| async move {
            let mut redactions = Counts::default();
            let (answer, bytes) = read_one(reader, plan, claim, &request, &mut redactions).await;
            LogRead { request, answer, bytes, redactions }
        })
        .buffered(concurrency)
        .collect()
        .await
}

async fn read_one(
    reader: &Reader,
    plan: &Plan,
    claim: &Claim,
    request: &LogRequest,
    redactions: &mut Counts,
) -> (LogAnswer, u64) {
    let budget = reader.budget();
    let claim = (!plan.reaches(&request.namespace)).then_some(claim);
    let tail = Tail::new(plan.logs.limit_bytes, budget.log_bytes_per_line);
    let mut sink = Claimed::new(tail, claim, budget.log_bytes_per_line);
    let cap = budget.log_bytes_read_per_container;
    let bytes = match reader.lines(&path(plan, request), &mut sink, cap).await {
        Ok(bytes) => bytes,
        // 400: the container has not started, or there is no previous instance. 404: the pod is gone.
        Err(ReadError::Status { code: 400, .. } | ReadError::NotFound) => return (LogAnswer::None, 0),
        Err(error) => return (LogAnswer::Failed(error), 0),
    };
    let cut = bytes >= cap || sink.seen >= u64::from(request.lines);
    let (text, shortened) = sink.tail.finish();
    let text = tail::cut_lines(&redact_bytes(&text, redactions), budget.log_bytes_per_line);
    if text.is_empty() {
        return (LogAnswer::None, bytes);
    }
    if let Err(bound) = reader.meter().log_bytes(text.len()) {
        return (LogAnswer::NoRoom(bound), bytes);
    }
    let file = LogFile {
        namespace: request.namespace.clone(),
        pod: request.pod.clone(),
        container: request.container.clone(),
        previous: request.previous,
        bytes: text,
        truncated: cut || shortened,
    };
    (LogAnswer::Log(file), bytes)
}

/// The path of a log. The kubelet's `limitBytes` is left out on purpose: it keeps the oldest bytes of a tail, and the newest
/// are the ones that matter.
fn path(plan: &Plan, request: &LogRequest) -> String {
    let path = format!("/api/v1/namespaces/{}/pods/{}/log", encode(&request.namespace), encode(&request.pod));
    let flag = |on: bool| if on { "true".to_owned() } else { String::new() };
    // The instance before the current one may have ended before the window: how it ended is wanted all the same. Seconds
    // ago, and not an instant: the clock that counts is the node's.
    let seconds = Window { start: plan.window.start, end: plan.now }.seconds().max(1);
    let since = if request.previous { String::new() } else { seconds.to_string() };
    let pairs = [
        ("container", request.container.clone()),
        ("previous", flag(request.previous)),
        ("timestamps", flag(true)),
        ("sinceSeconds", since),
        ("tailLines", request.lines.to_string()),
    ];
    with_query(&path, &pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::budget::{Budget, Meter};
    use crate::collect::plan::{Asker, Question};
    use crate::collect::testing::{Answer, server};
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    fn request(pod: &str, previous: bool) -> LogRequest {
        LogRequest { namespace: "shop".into(), pod: pod.into(), container: "app".into(), previous, lines: 3 }
    }

    #[tokio::test]
    async fn each_log_ends_in_its_own_way() {
        let client = server(|path| match path {
            p if p.contains("/pods/gone/") => Answer::status(404, ""),
            p if p.contains("/pods/waiting/") => Answer::status(400, "container is waiting to start"),
            p if p.contains("/pods/denied/") => Answer::status(403, ""),
            "/api/v1/namespaces/shop/pods/a/log?container=app&timestamps=true&sinceSeconds=3600&tailLines=3" => {
                Answer::text("2026-11-21T09:30:00Z one\n2026-11-21T09:30:01Z two\n")
            }
            "/api/v1/namespaces/shop/pods/a/log?container=app&previous=true&timestamps=true&tailLines=3" => {
                Answer::text("1\n2\nAuthorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789\n")
            }
            other => Answer::status(500, other),
        });
        let reader = Reader::new(client, Arc::new(Meter::new(Budget::default())), CancellationToken::new());
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let plan = Plan::new(Question::about("shop", Asker::Person), now, reader.budget()).unwrap();
        let asked = vec![
            request("a", false),
            request("a", true),
            request("gone", false),
            request("waiting", false),
            request("denied", false),
        ];
        let answers: Vec<_> = read(&reader, &plan, &Claim::default(), asked)
            .await
            .into_iter()
            .map(|read| read.answer)
            .collect();
        let LogAnswer::Log(current) = &answers[0] else { panic!("{answers:?}") };
        assert!(!current.truncated && current.bytes.ends_with(b"two\n"));
        let LogAnswer::Log(previous) = &answers[1] else { panic!("{answers:?}") };
        assert!(!String::from_utf8_lossy(&previous.bytes).contains("0123456789"), "redacted on the way in");
        assert!(previous.truncated, "as many lines as were asked for: there may be more");
        assert!(matches!(answers[2], LogAnswer::None));
        assert!(matches!(answers[3], LogAnswer::None));
        assert!(matches!(answers[4], LogAnswer::Failed(ReadError::Forbidden)));
    }
}
