//! APP121.

use super::calls::{self, Calls, service_of, since};
use super::settings::{Setting, settings};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A gRPC client pings its server more often than the server allows, and is cut off.
    ///
    /// ## What it detects
    /// Calls that end with the server's `GOAWAY` of code `ENHANCE_YOUR_CALM` and the words `too_many_pings`.
    /// ## Why it matters
    /// The server closes the whole connection with all calls on it, again and again, and is otherwise well: no restart, no load and no
    /// network fault explains the resets.
    /// ## Evidence
    /// The caller's log lines with the server's words; the client's setting of its keep-alive time, where there is one.
    /// ## How to confirm
    /// The connections end at a steady pace, two or three keep-alive times after they were made, also without load.
    /// ## How to fix
    /// Raise the client's keep-alive time to that of the server's policy (5 min unless somebody set it), or lower the server's minimum
    /// time; allow pings without calls on both sides or on none.
    /// ## False positives
    /// Resets without these words have other causes and are not reported here.
    /// ## References
    /// <https://grpc.io/docs/guides/keepalive/>
    PingsTooOften {
        code: "APP121", name: "grpc-pings-too-often", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// Calls that the server cut for pings.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    setting: Option<Setting>,
    caller: Option<ServiceName>,
}

/// The least time between pings that servers of gRPC allow unless told otherwise, in milliseconds.
const LEAST: f64 = 300_000.0;

impl Check for PingsTooOften {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let failing = calls::failing(snapshot);
        let pings = failing.all.iter().filter(|calls| calls.kind() == Some(Kind::Pings) && !calls.ended);
        pings
            .map(|calls| {
                let all = snapshot.workload(&calls.caller).map(|w| settings(snapshot, w)).unwrap_or_default();
                Fact {
                    setting: all
                        .into_iter()
                        .find(|s| keeps_alive(s) && s.millis().iter().any(|ms| *ms < LEAST)),
                    caller: service_of(snapshot, &calls.caller),
                    calls: calls.clone(),
                }
            })
            .collect()
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let calls = &fact.calls;
        let caller = &calls.caller;
        let callee = calls.main().map(|group| group.callee()).unwrap_or_default();
        let subject = fact.setting.as_ref().map_or_else(|| caller.clone(), |setting| setting.subject.clone());
        let named =
            fact.setting.as_ref().map(|s| format!(", as its setting {} says", s.name)).unwrap_or_default();
        let mut finding = Finding::new(Self::META, subject, &[&caller.name, &callee])
            .title(format!("{} pings {callee} too often and is cut off: {} failed", caller.name, calls.amount()))
            .message(format!(
                "{caller} sends keep-alive pings to {callee} more often than the server allows{named}; the server ends the connection with ENHANCE_YOUR_CALM and all calls \
                 on it fail: {}{}.",
                calls.amount(),
                since(calls.first)
            ))
            .mechanism("gRPC keep-alive: too many pings")
            .severity(calls.severity().max(Severity::Warning))
            .role(Role::Cause, Confidence::Observed)
            .service(calls.service().cloned().or_else(|| fact.caller.clone()))
            .prevention(Prevention::of("Setting", "One keep-alive policy for clients and servers: the client's time not below the server's minimum (5 min by default)"))
            .prevention(Prevention::alert(
                "Alert on calls that find no connection",
                "sum by (grpc_service) (rate(grpc_client_handled_total{grpc_code=\"Unavailable\"}[5m])) > 0",
            ));
        if let Some(setting) = &fact.setting {
            finding = finding.evidence(Evidence::object(
                &setting.subject,
                format!("{} sets the time between pings", setting.name),
            ));
            let before = setting.previous.clone();
            let value = before.unwrap_or_else(|| setting.write_millis(LEAST));
            finding = finding.maybe_remedy(setting.set(
                snapshot,
                &value,
                format!("Set {} to {value}", setting.name),
            ));
        }
        let finding = calls.told(finding, fact.caller.as_ref(), &["reset", "UC", "5xx"], &["5xx"]);
        finding.remedy(Remedy::manual(format!("Raise the keep-alive time of the gRPC client in {caller} to at least 5 min, or lower the minimum time in the keep-alive enforcement policy of {callee}")))
    }
}

/// Whether a setting names the time between keep-alive pings.
fn keeps_alive(setting: &Setting) -> bool {
    let words = setting.words();
    let has = |list: &[&str]| words.iter().any(|w| list.contains(&w.as_str()));
    (has(&["keepalive"]) || (has(&["keep"]) && has(&["alive"])) || has(&["ping"])) && !has(&["timeout"])
}
