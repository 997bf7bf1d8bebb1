//! APP120.

use regex::Regex;
use std::sync::LazyLock;

use super::calls::{self, Calls, service_of, since};
use super::settings::{Setting, settings};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A message is larger than the side that reads it allows.
    ///
    /// ## What it detects
    /// Calls that fail because a gRPC message exceeds the largest one that its reader takes (4 MiB unless somebody set it), or because a
    /// request's body exceeds what the server takes (status 413).
    /// ## Why it matters
    /// The same call fails every time, and a retry sends it again in vain. It begins when data grow, without any change.
    /// ## Evidence
    /// The caller's log lines with both sizes, and the setting that holds the limit on either side.
    /// ## How to confirm
    /// The same method with a smaller answer (a page of it) succeeds.
    /// ## How to fix
    /// Page or stream the data. Else raise the limit on the side that reads: the client for an answer, the server for a request.
    /// ## False positives
    /// Quotas share the status `RESOURCE_EXHAUSTED` and do not name sizes: they are not reported here.
    /// ## References
    /// <https://grpc.io/docs/guides/status-codes/>
    MessageTooLarge {
        code: "APP120", name: "message-too-large", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// Calls that fail for the size of a message.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    /// The message and the limit in bytes.
    sizes: Option<(u64, u64)>,
    setting: Option<Setting>,
    caller: Option<ServiceName>,
}

static SIZES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:larger than max|exceeds maximum size) ?\(?(\d{1,12})(?: vs\.? |: ?)(\d{1,12})").ok()
});

/// The size of the message and the limit: texts name them in either order, and the message is the larger one.
fn sizes(text: &str) -> Option<(u64, u64)> {
    let found = SIZES.as_ref()?.captures(text)?;
    let (a, b): (u64, u64) = (found.get(1)?.as_str().parse().ok()?, found.get(2)?.as_str().parse().ok()?);
    (a != b).then_some((a.max(b), a.min(b)))
}

impl Check for MessageTooLarge {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for calls in &calls::failing(snapshot).all {
            if !matches!(calls.kind(), Some(Kind::TooLarge | Kind::Status(413)))
                || calls.ended
                || calls.count < calls::MIN_FAILURES
            {
                continue;
            }
            let sizes = calls.main().and_then(|group| sizes(&group.sample));
            let callees =
                calls.service().and_then(|service| snapshot.graph.backing.get(service)).into_iter().flatten();
            let both: Vec<&ObjectRef> = std::iter::once(&calls.caller).chain(callees).collect();
            let all =
                both.into_iter().filter_map(|r| snapshot.workload(r)).flat_map(|w| settings(snapshot, w));
            let setting = all.filter(limits_messages).find(|s| match (sizes, value(s)) {
                (Some((_, limit)), Some(value)) => value == limit,
                (None, Some(_)) => true,
                _ => false,
            });
            out.push(Fact {
                caller: service_of(snapshot, &calls.caller),
                calls: calls.clone(),
                sizes,
                setting,
            });
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let calls = &fact.calls;
        let caller = &calls.caller;
        let callee = calls.main().map(|group| group.callee()).unwrap_or_default();
        let name = calls.service().map_or_else(|| callee.clone(), |s| s.name.clone());
        let figures = fact
            .sizes
            .map(|(size, limit)| format!(": {size} bytes against a limit of {limit}"))
            .unwrap_or_default();
        let subject = fact.setting.as_ref().map_or_else(|| caller.clone(), |setting| setting.subject.clone());
        let mut finding = Finding::new(Self::META, subject, &[&caller.name, &name])
            .title(format!("{} → {name}: a message is too large{figures}, {} failed", caller.name, calls.amount()))
            .message(format!(
                "Calls of {caller} to {callee} carry a message that its reader does not take{figures}. {} failed{}; every retry fails in the same way.",
                calls.amount(),
                since(calls.first)
            ))
            .mechanism("message larger than the maximum message size")
            .severity(calls.severity().max(Severity::Warning))
            .role(Role::Cause, Confidence::Observed)
            .service(calls.service().cloned().or_else(|| fact.caller.clone()))
            .prevention(Prevention::alert(
                "Alert on calls that exceed a limit of resources",
                "sum by (grpc_service, grpc_method) (rate(grpc_client_handled_total{grpc_code=\"ResourceExhausted\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Test", "A test with the largest data that production has: answers are paged or streamed below the limit"));
        if let Some(setting) = &fact.setting {
            finding = finding
                .evidence(Evidence::object(&setting.subject, format!("{} sets the limit", setting.name)));
            let before = setting.previous.as_ref().filter(|before| {
                before.parse::<u64>().is_ok_and(|b| fact.sizes.is_none_or(|(size, _)| b >= size))
            });
            let room = fact.sizes.map(|(size, _)| size.next_power_of_two().to_string());
            if let Some(value) = before.cloned().or(room) {
                finding = finding.maybe_remedy(setting.set(
                    snapshot,
                    &value,
                    format!("Set {} to {value}, which takes this message", setting.name),
                ));
            }
        }
        let finding = calls.told(finding, fact.caller.as_ref(), &["too_large", "5xx"], &["5xx"]);
        finding.remedy(Remedy::manual(format!(
            "Page or stream what {callee} answers; until then raise the limit of the side that reads: the client's for answers, the server's for requests"
        )))
    }
}

/// Whether a setting names the largest size of a message.
fn limits_messages(setting: &Setting) -> bool {
    let words = setting.words();
    let has = |list: &[&str]| words.iter().any(|w| list.contains(&w.as_str()));
    has(&["message", "msg", "grpc", "body", "payload", "recv", "receive"])
        && has(&["max", "limit", "size", "bytes"])
}

fn value(setting: &Setting) -> Option<u64> {
    setting.value.as_ref()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_either_order() {
        assert_eq!(
            sizes("grpc: received message larger than max (5242880 vs. 4194304)"),
            Some((5_242_880, 4_194_304))
        );
        assert_eq!(sizes("gRPC message exceeds maximum size 4194304: 5242880"), Some((5_242_880, 4_194_304)));
        assert_eq!(sizes("quota exceeded"), None);
    }
}
