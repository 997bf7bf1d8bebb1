//! APP122.

use regex::Regex;
use std::sync::LazyLock;

use super::calls::{self, Calls, service_of, since};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::change::{Change, ChangeKind};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The server that answers does not know the gRPC method that is called.
    ///
    /// ## What it detects
    /// Calls that fail with the gRPC status `UNIMPLEMENTED`: the two sides were built from different versions of an interface, or the
    /// name leads to another server than the one that was meant.
    /// ## Why it matters
    /// The callee is up, ready and well, and the call fails every time. With several versions behind one Service it fails for a share of
    /// the calls.
    /// ## Evidence
    /// The caller's log lines with service and method, the images on both sides, and which of them was rolled out before the first failure.
    /// ## How to confirm
    /// `grpcurl -plaintext SERVICE:PORT list` shows what the server has.
    /// ## How to fix
    /// Take back the rollout that parted the two sides, or roll the other side out as well: servers first, clients after them.
    /// ## False positives
    /// Clients that probe for an optional service (reflection, health) get the same status; those methods are not reported.
    /// ## References
    /// <https://grpc.io/docs/guides/status-codes/>
    MethodUnknown {
        code: "APP122", name: "grpc-method-unknown", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// Calls of a method that the server does not have.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    method: Option<String>,
    callee: Option<ObjectRef>,
    /// The rollout of either side just before the first failure.
    rollout: Option<Change>,
    caller: Option<ServiceName>,
}

/// A rollout this many seconds before the first failure brought it.
const RECENT: i64 = 900;

static METHOD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:unknown (?:service|method)|method not found:?|does not implement the method) ?([A-Za-z0-9_./]{1,120})?(?: for service ([A-Za-z0-9_.]{1,120}))?").ok()
});

fn method(text: &str) -> Option<String> {
    let found = METHOD.as_ref()?.captures(text)?;
    let name = found.get(1)?.as_str().trim_end_matches('.');
    Some(match found.get(2) {
        Some(service) => format!("{}/{name}", service.as_str()),
        None => name.to_owned(),
    })
    .filter(|name| !name.is_empty())
}

impl Check for MethodUnknown {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for calls in &calls::failing(snapshot).all {
            if calls.kind() != Some(Kind::Unimplemented) || calls.severity() < Severity::Warning {
                continue;
            }
            let method = calls.main().and_then(|group| method(&group.sample));
            // Clients ask for these to see whether they are there.
            if method.as_ref().is_some_and(|m| m.contains("grpc.reflection.") || m.contains("grpc.health.")) {
                continue;
            }
            let callee = calls
                .service()
                .and_then(|service| snapshot.graph.backing.get(service)?.iter().next().cloned());
            let sides: Vec<&ObjectRef> = callee.iter().chain(std::iter::once(&calls.caller)).collect();
            let rollout = snapshot.changes.iter().rev().find(|change| {
                let near = calls.first.is_some_and(|first| {
                    (-5..=RECENT).contains(&(first.as_second() - change.time.as_second()))
                });
                near && change.kind == ChangeKind::Rollout
                    && sides.iter().any(|side| change.subject.same_object(side))
            });
            out.push(Fact {
                rollout: rollout.cloned(),
                caller: service_of(snapshot, &calls.caller),
                calls: calls.clone(),
                method,
                callee,
            });
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let calls = &fact.calls;
        let caller = &calls.caller;
        let callee = calls.main().map(|group| group.callee()).unwrap_or_default();
        let method = fact.method.as_ref().map_or("a method".to_owned(), |m| format!("method {m}"));
        let at_fault = fact
            .rollout
            .as_ref()
            .map(|r| r.subject.clone())
            .or_else(|| fact.callee.clone())
            .unwrap_or_else(|| caller.clone());
        let subject = match snapshot.workload(&at_fault) {
            Some(workload) => match workload.template.application_containers().next() {
                Some(container) => {
                    at_fault.field(workload.template_path(&format!("spec.{}.image", container.path())))
                }
                None => at_fault.clone(),
            },
            None => at_fault.clone(),
        };
        let why = match &fact.rollout {
            Some(rollout) => format!(" {} was rolled out just before.", rollout.subject),
            None => String::new(),
        };
        let mut finding = Finding::new(Self::META, subject, &[&caller.name, &callee])
            .title(format!("{} calls {method} that {callee} does not have: {} failed", caller.name, calls.amount()))
            .message(format!(
                "{callee} answers calls of {caller} with the gRPC status UNIMPLEMENTED: the server that answers does not have {method}. {} failed{}.{why} The two sides are of \
                 different versions, or the name leads to another server.",
                calls.amount(),
                since(calls.first)
            ))
            .mechanism("gRPC UNIMPLEMENTED: version skew between client and server")
            .severity(calls.severity())
            .role(Role::Cause, if fact.rollout.is_some() { Confidence::Observed } else { Confidence::Possible })
            .service(calls.service().cloned().or_else(|| fact.caller.clone()))
            .prevention(Prevention::of("Test", "A contract test between the versions that run side by side; servers are rolled out before their clients"))
            .prevention(Prevention::alert(
                "Alert on methods that are not there",
                "sum by (grpc_service, grpc_method) (rate(grpc_server_handled_total{grpc_code=\"Unimplemented\"}[5m])) > 0",
            ));
        for side in fact.callee.iter().chain(std::iter::once(caller)) {
            let image = snapshot
                .workload(side)
                .and_then(|w| w.template.application_containers().next().map(|c| c.image.clone()));
            if let Some(image) = image.as_deref().filter(|image| !image.is_empty()) {
                finding = finding.evidence(Evidence::object(side, "its image").excerpt(image));
            }
        }
        if let Some(rollout) = &fact.rollout {
            finding = finding.remedy(Remedy::undo_rollout(
                &rollout.subject,
                format!("Undo the rollout of {}, which parted the two sides", rollout.subject),
            ));
        }
        let finding = calls.told(finding, fact.caller.as_ref(), &["404", "unimplemented", "5xx"], &["5xx"]);
        finding.remedy(Remedy::manual(format!(
            "Roll {callee} out in the version that has {method}, or point {caller} at the server that has it"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_named() {
        assert_eq!(method("desc = unknown service shop.Pay").as_deref(), Some("shop.Pay"));
        assert_eq!(method("unknown method Charge for service shop.Pay").as_deref(), Some("shop.Pay/Charge"));
        assert_eq!(method("Method not found: shop.Pay/Charge").as_deref(), Some("shop.Pay/Charge"));
        assert_eq!(method("12 UNIMPLEMENTED: The server does not implement the method"), None);
    }
}
