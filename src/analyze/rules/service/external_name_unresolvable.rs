//! SVC105.

use crate::model::json::json;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::{applied, nearest};
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::EnvSource;

crate::rule! {
    /// An ExternalName Service stands for a name that DNS does not know.
    ///
    /// ## What it detects
    /// A Service of type `ExternalName` that callers' logs name together with a failed look-up: the name in
    /// `spec.externalName` exists nowhere.
    /// ## Why it matters
    /// The Service resolves to an alias whose target does not exist. Every call ends before a connection is made, and no
    /// proxy and no pod of the callee reports anything.
    /// ## Evidence
    /// Lines of callers' logs with the failed look-up of this Service's name, and the alias it stands for.
    /// ## How to confirm
    /// `kubectl run -it --rm dns --image=busybox --restart=Never -- nslookup EXTERNALNAME` finds nothing.
    /// ## How to fix
    /// Correct `spec.externalName`.
    /// ## False positives
    /// A name server that is down for every name, not just for this one: then other look-ups fail as well.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#externalname>
    ExternalNameUnresolvable {
        code: "SVC105", name: "external-name-unresolvable", family: Network, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// A Service whose alias leads nowhere, and who felt it.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    callers: BTreeMap<ObjectRef, Seen>,
}

impl Check for ExternalNameUnresolvable {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let external: Vec<_> = snapshot.services.iter().filter(|s| s.kind == "ExternalName").collect();
        if external.is_empty() {
            return vec![];
        }
        let mut errors = seen::call_errors(snapshot, CallFailure::Unresolved);
        let facts = external
            .into_iter()
            .filter_map(|service| Some(Fact { service, callers: errors.remove(&service.service_name())? }));
        facts.collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let service = fact.service.reference();
        let seen = seen::together(Some(&fact.callers));
        let better = better(fact, snapshot);
        let hint = better.as_ref().map(|b| format!("; {b} was meant")).unwrap_or_default();
        let alias = &fact.service.external_name;
        Finding::new(Self::META, service.field("spec.externalName"), &[alias])
            .title(format!("{service} is an alias for {alias}, a name that DNS does not know"))
            .message(format!(
                "{} lines of callers' logs report that {} cannot be resolved. It is an ExternalName Service for {alias}{hint}: calls end before a connection is made.",
                seen.count, name.name
            ))
            .mechanism("ExternalName does not resolve: DNS, no such host")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .evidence(Evidence::object(&service.field("spec.externalName"), format!("stands for {alias}")))
            .evidences(seen.evidence.clone())
            .onset(seen.onset)
            .effect(Effect::requests(&name, &["dns", "5xx", "DF"]))
            .maybe_remedy(better.and_then(|better| {
                Remedy::patch(
                    &fact.service.object,
                    &json!([{"op": "replace", "path": "/spec/externalName", "value": better}]),
                    format!("Correct externalName of {service} to {better}"),
                )
            }))
            .remedy(Remedy::commands(
                format!("Look the name up from inside the cluster, then correct externalName of {service}"),
                vec![format!(
                    "kubectl {}run -it --rm look-up --image=busybox:1.36 --restart=Never -- nslookup {}",
                    crate::analyze::remedy::scope(service),
                    crate::analyze::remedy::quote(alias)
                )],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert on a rise of names that do not exist",
                "sum(rate(coredns_dns_responses_total{rcode=\"NXDOMAIN\"}[5m])) / sum(rate(coredns_dns_responses_total[5m])) > 0.5",
            ))
            .prevention(Prevention::of("Test", "In the pipeline: look up every externalName before it is applied"))
    }
}

/// The name that was meant: what was applied before, else a near name that something else in the cluster uses, else the
/// same name with the letters of its last part put in order.
fn better(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<String> {
    let wrong = &fact.service.external_name;
    let before = applied(&fact.service.object, "spec.externalName")
        .and_then(|old| old.as_str().map(str::to_owned))
        .filter(|old| old != wrong);
    if before.is_some() {
        return before;
    }
    let mut known: BTreeSet<&str> = BTreeSet::new();
    known.extend(snapshot.services.iter().map(|s| s.external_name.as_str()));
    known.extend(snapshot.istio.service_entries.iter().flat_map(|e| e.hosts.iter().map(String::as_str)));
    for workload in &snapshot.workloads {
        for var in workload.template.containers.iter().flat_map(|c| &c.env) {
            if let EnvSource::Literal(text) = &var.source {
                known.extend(text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))));
            }
        }
    }
    if let Some(near) = nearest(wrong, known.into_iter().filter(|name| name.contains('.'))) {
        return Some(near.to_owned());
    }
    let (rest, last) = wrong.trim_end_matches('.').rsplit_once('.')?;
    let top = ["com", "net", "org", "io", "dev", "cloud", "example", "internal", "local", "test"];
    (!top.contains(&last)).then(|| nearest(last, top)).flatten().map(|top| format!("{rest}.{top}"))
}
