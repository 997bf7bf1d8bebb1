//! APP103.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, ErrorGroup};
use crate::analyze::logs::record::Level;
use crate::analyze::remedy::Prevention;
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;

use super::calls::{MIN_FAILURES, WARNING_SHARE, service_of, since};

crate::rule! {
    /// An application logs an error that it did not log before.
    ///
    /// ## What it detects
    /// Errors of one shape, numbers and identifiers masked, that an application logs three times or more, that go on, and that
    /// tell of no failed call. An error is new where the log was free of it for a while before.
    /// ## Why it matters
    /// A new error at the time when requests begin to fail is what somebody would look for first.
    /// ## Evidence
    /// One of the lines; of a stack trace the exception at its root and the innermost frame of the application's own code; counts
    /// and first and last time.
    /// ## How to confirm
    /// `kubectl logs deployment/NAME --since=15m | grep TEXT`, and the same for the time before.
    /// ## How to fix
    /// Read the frame; compare with what was rolled out, configured or fed in just before the first of them.
    /// ## False positives
    /// Errors of requests whose sender gave up (`context canceled`) follow from him. Errors that were there from the beginning of the log, rare ones (under one per cent of its entries) and those that ended are
    /// information.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/cluster-administration/logging/>
    ErrorsLogged {
        code: "APP103", name: "errors-logged", family: Application, severity: Warning,
        needs: [Logs], aliases: [],
    }
}

/// An error counts as new when the log was free of it for this many seconds.
const NEW: f64 = 20.0;
/// Shapes reported for one workload: the first ones tell the story.
const MAX_SHAPES: usize = 3;

/// Errors of one shape.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    service: Option<ServiceName>,
    error: ErrorGroup,
    new: bool,
    often: bool,
    /// Requests that it answered with errors since then; `None` where it does not log requests.
    failed: Option<u64>,
}

impl Check for ErrorsLogged {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let digest = snapshot.derived::<Digest>();
        let mut out = vec![];
        for (workload, log) in &digest.workloads {
            let grave =
                log.errors.iter().filter(|e| !e.call && e.level >= Level::Error && e.count >= MIN_FAILURES);
            for error in grave.filter(|e| !e.ended(log)).take(MAX_SHAPES) {
                let free = |first: Timestamp| {
                    log.span.is_some_and(|(start, _)| to_unix(first) - to_unix(start) >= NEW)
                };
                out.push(Fact {
                    workload: workload.clone(),
                    service: service_of(snapshot, workload),
                    new: error.first.is_some_and(free),
                    often: error.count as f64 >= WARNING_SHARE * log.entries as f64,
                    failed: (!log.served.is_empty()).then(|| log.served_since(error.first).1),
                    error: error.clone(),
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let error = &fact.error;
        // Requests fail with it, or nothing tells of requests and it is new.
        let hurts = fact.often
            && !gave_up(&error.sample)
            && fact.failed.map_or(fact.new, |failed| failed * 2 >= error.count);
        let what = match &error.exception {
            Some(e) if !e.kind.is_empty() => short_kind(&e.kind),
            _ => "an error of its own".to_owned(),
        };
        let new = if fact.new { ", new in its log" } else { "" };
        let mut message =
            format!("{} logged {} entries of one shape{}.", fact.workload, error.count, since(error.first));
        message.push_str(if fact.new {
            " Its log was free of them before."
        } else {
            " They were there from the beginning of the log."
        });
        match fact.failed {
            Some(0) => message.push_str(" No request that it logs failed since."),
            Some(failed) => message.push_str(&format!(
                " Since the first of them it answered {failed} requests with server errors."
            )),
            None => {}
        }
        let place = format!(
            "Pod {}/{}, container {}",
            fact.workload.namespace, error.place.pod, error.place.container
        );
        let mut finding = Finding::new(Self::META, fact.workload.clone(), &[&error.template])
            .title(format!(
                "{} logs {what} {} times{new}{}",
                fact.workload.name,
                error.count,
                since(error.first)
            ))
            .message(message)
            .mechanism("application error logged")
            .severity(if hurts { Severity::Warning } else { Severity::Info })
            .role(if hurts { Role::Symptom } else { Role::Context }, Confidence::Observed)
            .service(fact.service.clone())
            .evidence(
                Evidence::new("Log", place.clone(), format!("{} times", error.count))
                    .at(error.first)
                    .excerpt(&error.sample),
            )
            .onset(error.first)
            .prevention(Prevention::alert(
                "Alert on the rate of logged errors, where the application counts them (Micrometer's name)",
                format!(
                    "sum by (pod) (rate(logback_events_total{{level=\"error\",namespace=\"{}\"}}[5m])) > 0.1",
                    fact.workload.namespace
                ),
            ));
        if let Some(e) = error.exception.as_ref().filter(|e| !e.frame.is_empty()) {
            finding = finding.evidence(
                Evidence::new("Log", place, "innermost frame of the application's own code")
                    .excerpt(&e.frame),
            );
        }
        if let Some(service) = fact.service.as_ref().filter(|_| hurts) {
            finding = finding.effect(Effect::requests(service, &["5xx", "500"]));
        }
        finding
    }
}

/// Whether an error tells that the one who asked went away: that is what he decided, and no cause of anything here.
fn gave_up(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "context canceled",
        "context cancelled",
        "code = Canceled",
        "1 CANCELLED",
        "StatusCode.CANCELLED",
        "ClientAbortException",
        "ClientDisconnect",
        "client disconnected",
        "request aborted",
        "OperationCanceledException",
    ];
    WORDS.iter().any(|words| text.contains(words))
}

/// The last part of an exception's name, where it is a name: text of the cluster has no place in a title.
fn short_kind(kind: &str) -> String {
    let last = kind.rsplit(['.', ':', '$']).next().unwrap_or(kind);
    let name =
        !last.is_empty() && last.len() <= 48 && last.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if name { last.to_owned() } else { "an exception".to_owned() }
}
