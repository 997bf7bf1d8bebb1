//! APP114.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, ErrorGroup, WorkloadLog};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::logs::record::Level;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerState, Workload};

use super::calls::{self, Calls, ERROR_SHARE, MIN_FAILURES, clock, plain, service_of, since};
use super::settings::{Setting, names_host, settings};

crate::rule! {
    /// A setting of an application was changed, and then the application began to fail by itself.
    ///
    /// ## What it detects
    /// A setting (environment, argument or key of a ConfigMap) that was written at most ten minutes before the application began to
    /// fail, with pods that started in between and so read it; or whose name the application's errors contain; or which names the
    /// host to which calls began to fail.
    /// ## Why it matters
    /// A change of a setting leaves no new image and no new revision behind: it is the change that is looked for last.
    /// ## Evidence
    /// Who wrote the setting and when, its value before and after where history tells, the start of the pods, the first failure.
    /// ## How to confirm
    /// `kubectl get configmap NAME -o yaml --show-managed-fields` shows who wrote which key when.
    /// ## How to fix
    /// Give the setting its previous value and restart the pods.
    /// ## False positives
    /// Settings that were written after the first failure, that no pod has read since, or of applications that only pass on what
    /// fails behind them, are not reported. A missing setting, a timeout and a pool's size have rules of their own.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically>
    SettingChanged {
        code: "APP114", name: "setting-changed", family: Application, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// A setting written at most this many seconds before the first failure.
const RECENT: i64 = 600;
/// Clocks differ by this many seconds.
const CLOCK_ERROR: i64 = 5;
/// Names shorter than this appear in any text.
const MIN_NAME: usize = 5;

/// Why the setting is to blame.
#[derive(Debug)]
enum Reason {
    /// An error contains its name.
    Named(ErrorGroup),
    /// Calls to the host that it names fail.
    Host(Calls),
    /// It was written just before.
    Written,
}

/// A setting, and the application that it broke.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    service: Option<ServiceName>,
    setting: Setting,
    reason: Reason,
    first: Option<Timestamp>,
    /// What fails, in words.
    trouble: String,
    severity: Severity,
}

impl Check for SettingChanged {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let digest = snapshot.derived::<Digest>();
        let failing = calls::failing(snapshot);
        let mut out = vec![];
        for (reference, log) in &digest.workloads {
            let Some(workload) = snapshot.workload(reference) else { continue };
            let own: Vec<&Calls> = failing
                .all
                .iter()
                .filter(|c| c.caller.same_object(reference) && c.severity() >= Severity::Warning)
                .collect();
            // A timeout and a pool have rules that look closer.
            if own.iter().any(|c| matches!(c.kind(), Some(Kind::Pool | Kind::Timeout))) {
                continue;
            }
            out.extend(blame(snapshot, workload, log, &own));
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let setting = &fact.setting;
        let value = |value: &Option<String>| value.as_deref().and_then(plain).map(str::to_owned);
        let change = match (value(&setting.previous), value(&setting.value)) {
            (Some(before), Some(after)) => format!("{} was changed from {before} to {after}", setting.name),
            _ => format!("{} was changed", setting.name),
        };
        let when = setting.changed.map(|at| format!(" at {}", clock(at))).unwrap_or_default();
        let (why, confidence) = match &fact.reason {
            Reason::Named(_) => ("its errors name that setting", Confidence::Observed),
            Reason::Host(_) => ("it names the host to which calls fail", Confidence::Observed),
            Reason::Written if setting.previous.is_some() => {
                ("its pods started in between and read it", Confidence::Configured)
            }
            Reason::Written => ("its pods started in between and read it", Confidence::Possible),
        };
        let mut finding = Finding::new(Self::META, setting.subject.clone(), &[&fact.workload.name])
            .title(format!("{change}{when}, and then {} began to fail{}", fact.workload.name, since(fact.first)))
            .message(format!("Setting {change}{when}. {} then {}{}; {why}.", fact.workload, fact.trouble, since(fact.first)))
            .mechanism("setting changed: configuration change broke the application")
            .severity(fact.severity)
            .role(Role::Cause, confidence)
            .service(fact.service.clone())
            .related(fact.workload.clone())
            .evidence(Evidence::object(&setting.subject, format!("{change}{when}")).at(setting.changed))
            .onset(fact.first)
            .effect(Effect::calls(&fact.workload))
            .prevention(Prevention::of("Policy", "Roll settings out like images: an immutable ConfigMap with a hash in its name makes each change a revision that can be undone"));
        match &fact.reason {
            Reason::Named(error) => {
                let place = format!(
                    "Pod {}/{}, container {}",
                    fact.workload.namespace, error.place.pod, error.place.container
                );
                finding = finding.evidence(
                    Evidence::new(
                        "Log",
                        place,
                        format!("an error that names {}, {} times", setting.name, error.count),
                    )
                    .at(error.first)
                    .excerpt(&error.sample),
                );
            }
            Reason::Host(calls) => finding = finding.evidences(calls.evidence()),
            Reason::Written => {}
        }
        if let Some(service) = &fact.service {
            finding = finding.effect(Effect::requests(service, &["5xx", "500"]));
        }
        match setting.previous.as_ref().and_then(|before| {
            setting.set(snapshot, before, format!("Give {} its previous value", setting.name))
        }) {
            Some(remedy) => finding.remedy(remedy),
            None => finding.remedy(Remedy::manual(format!(
                "Give {} in {} the value that it had before{when}, then run: {}",
                setting.name,
                setting.subject,
                super::settings::restart(&setting.workload)
            ))),
        }
    }
}

fn blame(snapshot: &Snapshot, workload: &Workload, log: &WorkloadLog, own: &[&Calls]) -> Option<Fact> {
    let all = settings(snapshot, workload);
    let fact = |setting: &Setting, reason, first, trouble: String, severity| Fact {
        workload: workload.reference().clone(),
        service: service_of(snapshot, workload.reference()),
        setting: setting.clone(),
        reason,
        first,
        trouble,
        severity,
    };
    let before = |setting: &Setting, first: Option<Timestamp>| {
        setting.changed.zip(first).is_some_and(|(at, first)| {
            (-CLOCK_ERROR..=RECENT).contains(&(first.as_second() - at.as_second()))
        })
    };
    // Errors that name a setting, and do not say that it is missing.
    for error in
        log.errors.iter().filter(|e| e.level >= Level::Error && e.count >= MIN_FAILURES && !e.ended(log))
    {
        let named = |s: &&Setting| {
            s.name.len() >= MIN_NAME
                && names_setting(&error.sample, &s.name)
                && (s.changed.is_none() || before(s, error.first))
        };
        if !says_missing(&error.sample)
            && let Some(setting) =
                all.iter().filter(|s| s.changed.is_some() || s.previous.is_some()).find(named)
        {
            let trouble = format!("logged errors that name it, {} times", error.count);
            return Some(fact(setting, Reason::Named(error.clone()), error.first, trouble, Severity::Error));
        }
    }
    // Calls that fail to a host that a new value names.
    for calls in own.iter().filter(|c| !c.passed_on()) {
        let host = calls.main().map(|group| group.host()).unwrap_or_default();
        let now = |s: &&Setting| {
            let new = s.previous.as_ref().is_some_and(|previous| !names_host(previous, host));
            new && s.value.as_ref().is_some_and(|value| names_host(value, host))
                && (s.changed.is_none() || before(s, calls.first))
        };
        if let Some(setting) = all.iter().find(now) {
            let trouble = format!("called {host} in vain, {}", calls.amount());
            return Some(fact(
                setting,
                Reason::Host((*calls).clone()),
                calls.first,
                trouble,
                calls.severity(),
            ));
        }
    }
    // It fails by itself, and its pods have read a new value just before.
    let first = log.served.iter().find(|r| r.status >= 500)?.at;
    let (requests, failed) = log.served_since(first);
    let calls_failed: u64 = own.iter().map(|c| c.count).sum();
    let by_itself =
        failed >= MIN_FAILURES && failed as f64 >= ERROR_SHARE * requests as f64 && calls_failed * 2 < failed;
    let mut written = all.iter().filter(|s| before(s, first) && read_since(snapshot, workload, s));
    let (Some(setting), None) = (written.next().filter(|_| by_itself), written.next()) else { return None };
    let trouble = format!(
        "answered {failed} of {requests} requests with server errors, with no failing call of its own that accounts for it"
    );
    Some(fact(setting, Reason::Written, first, trouble, Severity::Error))
}

/// Whether a pod of the workload started after the setting was written. Mounted files are read while a pod runs.
fn read_since(snapshot: &Snapshot, workload: &Workload, setting: &Setting) -> bool {
    let Some(at) = setting.changed else { return false };
    snapshot.pods_of(workload.reference()).any(|pod| {
        let started = pod.statuses.iter().any(|status| match &status.state {
            ContainerState::Running { since } => *since >= Some(at),
            _ => false,
        });
        started || pod.object.created >= Some(at)
    })
}

/// Whether a text contains a setting's name as a whole word.
fn names_setting(text: &str, name: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))
        .any(|word| word.trim_matches('.') == name)
}

/// Whether a text says that something is not there: the rule for missing settings looks at that.
fn says_missing(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [
        "missing",
        "not set",
        "required",
        "undefined",
        "not defined",
        "keyerror",
        "no such key",
        "must be set",
        "unset",
    ]
    .iter()
    .any(|word| text.contains(word))
}
