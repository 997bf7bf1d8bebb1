//! APP117.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::mesh::istio::host_matches;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

use super::calls::{self, Calls, service_of, since};
use super::settings::{names_host, settings};

crate::rule! {
    /// Calls to a host outside the cluster fail while calls inside are well.
    ///
    /// ## What it detects
    /// Failing calls of an application to a host that is no Service of the cluster, while none of its calls to Services fails by
    /// itself.
    /// ## Why it matters
    /// What lies outside cannot be repaired from here: a fallback, a cached answer or switching the feature off is what helps, and
    /// whoever runs the other side must know.
    /// ## Evidence
    /// The caller's log lines with host and way of failing, counts, first and last time.
    /// ## How to confirm
    /// The same call from a pod of the caller and from outside the cluster: if it fails from both, it is the other side.
    /// ## How to fix
    /// An answer with a server error: the provider. A refused or timed out connection: first egress rules (NetworkPolicy, mesh
    /// egress, a NAT gateway or firewall), then the provider.
    /// ## False positives
    /// Where a mesh or a NetworkPolicy governs what may leave, failing connections are reported as a symptom only.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/egress/egress-control/>
    ExternalDependencyFailing {
        code: "APP117", name: "external-dependency-failing", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// Failing calls to the outside.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    host: String,
    caller: Option<ServiceName>,
    subject: ObjectRef,
    /// Whether the other side answered itself.
    answered: bool,
    /// What governs what may leave: `NetworkPolicy n/x`, `the mesh`.
    governed: Option<String>,
}

impl Check for ExternalDependencyFailing {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let failing = calls::failing(snapshot);
        let all = &failing.all;
        let mut out = vec![];
        for calls in all.iter().filter(|c| c.severity() >= Severity::Warning) {
            let Some(group) = calls.main().filter(|group| group.external()) else { continue };
            // A name that does not exist, and a request that is wrong, are the caller's.
            if matches!(
                calls.kind(),
                Some(Kind::NoSuchHost | Kind::Resolver | Kind::Scheme | Kind::Pool | Kind::Status(400..=428))
                    | None
            ) {
                continue;
            }
            let inside_fails = all.iter().any(|other| {
                other.caller == calls.caller
                    && other.service().is_some()
                    && other.severity() >= Severity::Error
                    && !other.passed_on()
            });
            if inside_fails {
                continue;
            }
            let host = group.host().to_owned();
            let governed = governed(snapshot, &calls.caller);
            // A proxy answers with these in place of the other side.
            let gateway = matches!(calls.kind(), Some(Kind::Status(502..=504)));
            let status = matches!(calls.kind(), Some(Kind::Status(_)));
            let answered =
                status && !(gateway && governed.is_some()) && calls.groups.iter().all(|g| g.proxy.is_empty());
            out.push(Fact {
                caller: service_of(snapshot, &calls.caller),
                subject: subject(snapshot, &calls.caller, &host),
                governed: governed.filter(|_| !answered),
                calls: calls.clone(),
                answered,
                host,
            });
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let caller = &fact.calls.caller;
        let words = fact.calls.words();
        let why = match (&fact.governed, fact.answered) {
            (_, true) => "the other side answers itself, so the way to it is open".to_owned(),
            (Some(governed), false) => {
                format!("{governed} governs what may leave, and decides before the other side does")
            }
            (None, false) => "nothing in the cluster that was seen governs what may leave".to_owned(),
        };
        let (role, confidence) = match (&fact.governed, fact.answered) {
            (_, true) => (Role::Cause, Confidence::Observed),
            (None, false) => (Role::Cause, Confidence::Possible),
            (Some(_), false) => (Role::Symptom, Confidence::Observed),
        };
        let mut finding = Finding::new(Self::META, fact.subject.clone(), &[&fact.host, &caller.name, &words])
            .title(format!("{} → {} outside the cluster: {words}, {}{}", caller.name, fact.host, fact.calls.amount(), since(fact.calls.first)))
            .message(format!(
                "Calls of {caller} to {} outside the cluster fail: {words}, {}. No call of it to a Service inside fails by itself; {why}.",
                fact.host,
                fact.calls.amount()
            ))
            .mechanism(format!("external dependency failing: {words}"))
            .severity(fact.calls.severity())
            .role(role, confidence)
            .service(fact.caller.clone())
            .related(caller.clone())
            .evidences(fact.calls.evidence())
            .onset(fact.calls.first)
            .effect(Effect::calls(caller))
            .remedy(Remedy::manual(format!("Ask whoever runs {} and their status page; until it is well, switch {} to its fallback", fact.host, caller.name)))
            .prevention(Prevention::alert(
                "Alert on failing calls to hosts outside",
                format!("sum(rate(istio_requests_total{{reporter=\"source\",destination_service=\"{}\",response_code=~\"5..|0\"}}[5m])) > 0.1", fact.host),
            ))
            .prevention(Prevention::of("Test", "A test with the host unreachable: the application answers with a fallback and in time"))
            .evidence(Evidence::object(&fact.subject, format!("names host \"{}\"", fact.host)));
        if let Some(service) = &fact.caller {
            finding = finding.effect(Effect::requests(service, &["5xx", "timeout"]));
        }
        finding
    }
}

/// What names the host: a ServiceEntry, a setting of the caller, or the caller itself.
fn subject(snapshot: &Snapshot, caller: &ObjectRef, host: &str) -> ObjectRef {
    let entry = snapshot
        .objects_of("ServiceEntry")
        .find(|o| o.body.texts("spec.hosts").iter().any(|pattern| host_matches(pattern, host)));
    if let Some(entry) = entry {
        return entry.reference.field("spec.hosts");
    }
    let all = snapshot.workload(caller).map(|w| settings(snapshot, w)).unwrap_or_default();
    let named = all.into_iter().find(|s| s.value.as_ref().is_some_and(|value| names_host(value, host)));
    named.map_or_else(|| caller.clone(), |setting| setting.subject)
}

/// What decides whether a connection of the caller may leave the cluster.
fn governed(snapshot: &Snapshot, caller: &ObjectRef) -> Option<String> {
    let mut pods = snapshot.pods_of(caller);
    if pods.any(|pod| snapshot.has_istio_proxy(pod)) {
        return Some("the mesh".to_owned());
    }
    let labels = snapshot.workload(caller).map(|w| &w.template.labels)?;
    let policy = snapshot.network_policies.iter().find(|policy| {
        policy.object.namespace() == caller.namespace
            && policy.object.body.texts("spec.policyTypes").iter().any(|kind| kind == "Egress")
            && policy
                .object
                .body
                .at("spec.podSelector.matchLabels")
                .and_then(|v| v.as_object())
                .into_iter()
                .flatten()
                .all(|(k, v)| labels.get(k.as_str()) == v.as_str())
    });
    policy.map(|policy| policy.object.reference.to_string())
}
