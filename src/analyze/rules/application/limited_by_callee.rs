//! APP123.

use super::calls::{self, Calls, service_of, since};
use super::settings::{Setting, settings};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The callee takes only so many calls, and a caller is above it.
    ///
    /// ## What it detects
    /// Calls that are answered with status 429 or the gRPC status `RESOURCE_EXHAUSTED` by the callee itself. Where one of the callee's
    /// settings names the limit, the finding is about this setting.
    /// ## Why it matters
    /// The callee is well and refuses on purpose. Callers that retry at once make it worse.
    /// ## Evidence
    /// The caller's log lines with counts, who else calls the Service, the callee's setting and when it was written.
    /// ## How to confirm
    /// The answers carry `Retry-After` or `X-RateLimit-*`; the callee's own log or counters name the limit.
    /// ## How to fix
    /// Give the limit its previous value or raise it to what callers need, if the callee can bear it; else let the callers wait between
    /// calls and honour `Retry-After`.
    /// ## False positives
    /// Limits of a mesh's proxies carry their own flag and are reported from it. Hosts outside are not in question here.
    /// ## References
    /// <https://www.rfc-editor.org/rfc/rfc6585#section-4>
    LimitedByCallee {
        code: "APP123", name: "limited-by-callee", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// Calls that the callee refuses for their number.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    setting: Option<Setting>,
    caller: Option<ServiceName>,
    /// How many workloads call the Service.
    callers: usize,
}

impl Check for LimitedByCallee {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for calls in &calls::failing(snapshot).all {
            let Some(service) = calls.service() else { continue };
            let own = calls.groups.iter().all(|group| group.proxy.is_empty());
            if calls.kind() != Some(Kind::Status(429)) || !own || calls.severity() < Severity::Warning {
                continue;
            }
            let behind = snapshot.graph.backing.get(service).into_iter().flatten();
            let all: Vec<Setting> = behind
                .filter_map(|r| snapshot.workload(r))
                .flat_map(|w| settings(snapshot, w))
                .filter(limits_calls)
                .collect();
            // The one that was written, else the only one.
            let written = all.iter().find(|s| s.previous.is_some() || s.changed.is_some());
            let setting = written.or(all.first().filter(|_| all.len() == 1)).cloned();
            out.push(Fact {
                setting,
                caller: service_of(snapshot, &calls.caller),
                callers: snapshot.graph.callers(service).count(),
                calls: calls.clone(),
            });
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let calls = &fact.calls;
        let caller = &calls.caller;
        let callee = calls.main().map(|group| group.callee()).unwrap_or_default();
        let name = calls.service().map_or_else(|| callee.clone(), |s| s.name.clone());
        let subject = match (&fact.setting, calls.service()) {
            (Some(setting), _) => setting.subject.clone(),
            (None, Some(service)) => service.reference(),
            (None, None) => caller.clone(),
        };
        let confidence = match &fact.setting {
            Some(setting) if setting.previous.is_some() || setting.changed.is_some() => Confidence::Observed,
            Some(_) => Confidence::Configured,
            None => Confidence::Observed,
        };
        let limit = fact
            .setting
            .as_ref()
            .map(|s| format!(" Its setting {} names a limit.", s.name))
            .unwrap_or_default();
        let mut finding = Finding::new(Self::META, subject, &[&caller.name, &name])
            .title(format!("{name} refuses calls of {} for their number (429): {}", caller.name, calls.amount()))
            .message(format!(
                "{callee} answers calls of {caller} with 429: it takes only so many. {} were refused{}; {} workloads call it as far as is known.{limit}",
                calls.amount(),
                since(calls.first),
                fact.callers.max(1)
            ))
            .mechanism("rate limit of the callee: 429 too many requests")
            .severity(calls.severity())
            .role(if fact.setting.is_some() { Role::Cause } else { Role::Symptom }, confidence)
            .service(calls.service().cloned())
            .prevention(Prevention::alert(
                "Alert on refused calls",
                "sum by (uri) (rate(http_client_requests_seconds_count{status=\"429\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Setting", "Callers wait between calls, with jitter, and honour Retry-After; the callee's limit is set by a load test"));
        if let Some(setting) = &fact.setting {
            finding = finding
                .evidence(Evidence::object(&setting.subject, format!("{} names a limit", setting.name)));
            if let Some(before) = &setting.previous {
                finding = finding.maybe_remedy(setting.set(
                    snapshot,
                    before,
                    format!("Give {} its previous value", setting.name),
                ));
            }
        }
        let finding = calls.told(finding, fact.caller.as_ref(), &["429", "4xx"], &["5xx", "429"]);
        finding.remedy(Remedy::manual(format!("Let {caller} call {callee} less often (batch, cache, wait as Retry-After says), or raise the limit of {callee} if it can bear it")))
    }
}

/// Whether a setting names how many calls are taken.
fn limits_calls(setting: &Setting) -> bool {
    let words = setting.words();
    let has = |list: &[&str]| words.iter().any(|w| list.contains(&w.as_str()));
    let number = setting.value.as_ref().is_none_or(|v| v.starts_with(|c: char| c.is_ascii_digit()));
    number
        && (has(&["rps", "qps", "ratelimit", "throttle", "quota"])
            || (has(&["rate", "requests", "request", "concurrent", "concurrency", "inflight"])
                && has(&["limit", "max", "maximum", "second", "minute", "allowed"])))
        && !has(&["timeout", "retry", "retries", "size", "body", "header"])
}
