//! DNS110.

use crate::model::json::json;

use super::unanswered::others_fail;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, Calls, Failing, plain, service_of, since};
use crate::analyze::rules::application::other_side::addresses;
use crate::analyze::rules::seen;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A host alias of a pod leads the name of a Service to an address that is not the Service's.
    ///
    /// ## What it detects
    /// An entry of `hostAliases` in a pod template with the name of a Service of the cluster and an address that is none of the
    /// Service's own, of its endpoints or of its load balancer.
    /// ## Why it matters
    /// The kubelet writes aliases into the pod's `/etc/hosts`, and a name that stands there is never looked up: these pods alone call
    /// that address, while the same name leads everybody else to the Service.
    /// ## Evidence
    /// The alias against the addresses of the Service, and calls of this workload to that name that fail: with the alias's address in
    /// the text of the error, or while the Service has ready endpoints and no other caller fails at it.
    /// ## How to confirm
    /// `kubectl exec POD -- cat /etc/hosts` shows the name beside the address; `kubectl get service NAME` shows another one.
    /// ## How to fix
    /// Take the name out of `hostAliases`: the cluster's name server then answers for it.
    /// ## False positives
    /// Without a failed call it is said for information only: an alias may lead to a proxy on purpose. An alias with the Service's own
    /// cluster address, or with the name of an outside host, is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/network/customize-hosts-file-for-pods/>
    HostAlias {
        code: "DNS110", name: "host-alias-hides-service", family: Network, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// A name of a Service that an alias takes.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    /// The alias's place in `hostAliases`, and the name's place in it.
    place: (usize, usize),
    host: String,
    address: String,
    callee: ServiceName,
    /// Failing calls that the alias explains.
    calls: Option<Calls>,
    /// Whether the text of an error holds the alias's address.
    named: bool,
}

impl Check for HostAlias {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let failing = calls::failing(snapshot);
        let mut out = vec![];
        for workload in snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()) {
            let namespace = workload.object.namespace();
            let aliases = workload.template.spec.list("hostAliases");
            if aliases.is_empty() || !seen::wanted(snapshot, namespace) {
                continue;
            }
            for (index, alias) in aliases.iter().enumerate() {
                let Some(address) = alias.text("ip") else { continue };
                for (at, host) in alias.texts("hostnames").into_iter().enumerate() {
                    let Some((of, name)) = service_of_host(&full_host(&host, namespace)) else { continue };
                    let callee = ServiceName::new(of, name);
                    let Some(service) = snapshot.service(&callee) else { continue };
                    if own(snapshot, service, address) {
                        continue;
                    }
                    let (calls, named) = failed(snapshot, workload, service, (&host, address), &failing);
                    out.push(Fact {
                        workload,
                        place: (index, at),
                        host,
                        address: address.to_owned(),
                        callee,
                        calls,
                        named,
                    });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let workload = fact.workload.reference();
        let (index, _) = fact.place;
        let subject = workload.field(fact.workload.template_path(&format!("spec.hostAliases[{index}]")));
        let address = plain(&fact.address).unwrap_or("another address");
        let callee = &fact.callee;
        let own = snapshot.service(callee).map(|s| s.cluster_ips.join(", ")).unwrap_or_default();
        let observed = fact.calls.is_some();
        let amount = fact
            .calls
            .as_ref()
            .map(|c| format!(": {} failed{}", c.amount(), since(c.first)))
            .unwrap_or_default();
        let why = match (observed, fact.named) {
            (true, true) => "Its log names this address in the calls that fail.",
            (true, false) => {
                "Its calls to this name fail, while the Service has ready endpoints and nobody else fails at it."
            }
            (false, _) => "No failed call was seen that the alias explains.",
        };
        let value = format!("this alias leads the name of Service {callee} to {address}");
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.host, &fact.address])
            .title(format!("{}: a host alias sends calls of Service {} to {address}{amount}", workload.name, callee.name))
            .message(format!(
                "hostAliases of {workload} put the name of Service {callee} into /etc/hosts with the address {address}, which is not the Service's: these pods never look the name up. {why}"
            ))
            .mechanism("host alias: hostAliases of the pod hide a Service's name behind another address (/etc/hosts)")
            .severity(if observed { Severity::Error } else { Severity::Info })
            .role(
                if observed { Role::Cause } else { Role::Context },
                match (observed, fact.named) {
                    (true, true) => Confidence::Observed,
                    (true, false) => Confidence::Configured,
                    (false, _) => Confidence::Possible,
                },
            )
            .service(service_of(snapshot, workload).or_else(|| Some(callee.clone())))
            .related(callee.reference())
            .evidence(Evidence::object(&subject, value).excerpt(&fact.host))
            .evidence(Evidence::object(&callee.reference(), format!("its own addresses: {}", if own.is_empty() { "none is known" } else { &own })))
            .maybe_remedy(take_away(fact))
            .prevention(Prevention::of(
                "Policy",
                "An admission policy: hostAliases hold no name of a Service of the cluster; a name that is to lead elsewhere gets a Service of type ExternalName",
            ));
        if let Some(calls) = &fact.calls {
            finding = finding
                .evidences(calls.evidence())
                .onset(calls.first)
                .effect(Effect::calls(workload))
                .effect(Effect::requests(callee, &calls.flags()));
            if let Some(service) = service_of(snapshot, workload) {
                finding = finding.effect(Effect::requests(&service, &["5xx", "timeout"]));
            }
        }
        finding
    }
}

/// Whether an address is one by which a Service is reached.
fn own(snapshot: &Snapshot, service: &Service, address: &str) -> bool {
    let body = &service.object.body;
    service.external_name == address
        || service.cluster_ips.iter().any(|ip| ip == address)
        || body.texts("spec.externalIPs").iter().any(|ip| ip == address)
        || body.list("status.loadBalancer.ingress").iter().any(|entry| entry.text("ip") == Some(address))
        || snapshot.slices_of(service).flat_map(|s| &s.endpoints).any(|e| e.addresses.iter().any(|ip| ip == address))
        || snapshot.pod_by_ip(address).is_some_and(|pod| service.selects(pod))
        // Nothing says where a Service of plain manifests stands, or one whose name another server answers for.
        || service.cluster_ips.is_empty()
        || service.kind == "ExternalName"
}

/// The workload's calls to a name that fail because of its alias, and whether their text holds the alias's address.
fn failed(
    snapshot: &Snapshot,
    workload: &Workload,
    service: &Service,
    (host, address): (&str, &str),
    failing: &Failing,
) -> (Option<Calls>, bool) {
    let callee = service.service_name();
    let own = failing.all.iter().filter(|c| {
        c.caller.same_object(workload.reference())
            && c.severity() >= Severity::Warning
            // A name that stands in /etc/hosts always resolves.
            && !matches!(c.kind(), Some(Kind::NoSuchHost | Kind::Resolver | Kind::Pool))
    });
    let mut felt = None;
    for calls in own {
        let by_name = calls.service() == Some(&callee)
            && calls.groups.iter().any(|group| group.host().trim_end_matches('.').eq_ignore_ascii_case(host));
        let told = calls.groups.iter().any(|group| holds(&group.sample, address));
        if told && (by_name || addresses(calls).contains(address)) {
            return (Some(calls.clone()), true);
        }
        if by_name {
            felt.get_or_insert(calls);
        }
    }
    let well = || snapshot.endpoints(service).is_some_and(|(ready, _)| ready > 0);
    let felt = felt.filter(|calls| well() && !others_fail(calls, &callee, failing));
    (felt.cloned(), false)
}

/// Whether a text holds an address as a whole.
fn holds(text: &str, address: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_hexdigit() || c == '.');
    text.match_indices(address).any(|(at, found)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + found.len()..).and_then(|t| t.chars().next());
        !part(before) && !part(after)
    })
}

/// Takes the name out of the alias, and the alias with it where it holds no other.
fn take_away(fact: &Fact<'_>) -> Option<Remedy> {
    let aliases = fact.workload.template.spec.list("hostAliases");
    let (index, at) = fact.place;
    let alone = aliases.get(index)?.list("hostnames").len() == 1;
    let field = match (alone, aliases.len()) {
        (true, 1) => "spec.hostAliases".to_owned(),
        (true, _) => format!("spec.hostAliases[{index}]"),
        (false, _) => format!("spec.hostAliases[{index}].hostnames[{at}]"),
    };
    let path = pointer(&fact.workload.template_path(&field));
    let remedy = Remedy::patch(
        &fact.workload.object,
        &json!([{"op": "remove", "path": path}]),
        format!(
            "Take the name of Service {} out of hostAliases of {}: its pods then look it up",
            fact.callee,
            fact.workload.reference()
        ),
    )?;
    Some(remedy.risk(Risk::Medium))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::log::LogStream;
    use crate::model::snapshot::Builder;

    #[test]
    fn an_address_is_found_as_a_whole() {
        assert!(holds("dial tcp 10.0.0.9:80: connect: connection refused", "10.0.0.9"));
        assert!(!holds("dial tcp 10.0.0.91:80: refused", "10.0.0.9"));
        assert!(!holds("dial tcp 110.0.0.9:80: refused", "10.0.0.9"));
    }

    /// Severity of the finding where these pods time out at the Service whose name an alias takes.
    fn severity(failing: &[&str], text: &str) -> Severity {
        let mut builder = Builder::new();
        builder.object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": "n"},
            "spec": {"clusterIP": "10.0.0.2", "selector": {"app": "pay"}, "ports": [{"port": 80}]}}),
        );
        builder.object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pay", "namespace": "n", "labels": {"app": "pay"}}, "spec": {"containers": [{"name": "app"}]},
            "status": {"phase": "Running", "podIP": "10.1.0.2", "conditions": [{"type": "Ready", "status": "True"}]}}));
        builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop", "namespace": "n"},
            "spec": {"template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "app"}], "hostAliases": [{"ip": "10.9.9.9", "hostnames": ["pay"]}]}}}}));
        builder.object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop-5d-x", "namespace": "n", "labels": {"app": "shop", "pod-template-hash": "5d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-5d", "controller": true}]}, "spec": {"containers": [{"name": "app"}]}}));
        for pod in failing {
            let lines: String = (10..20)
                .map(|s| {
                    format!(
                        "2026-11-21T10:00:{s}Z level=error msg=x error=\"Get \\\"http://pay/a\\\": {text}\"\n"
                    )
                })
                .collect();
            builder.log(LogStream::read("n", pod, "app", false, lines.as_bytes(), false));
        }
        let snapshot = builder.finish();
        let facts = HostAlias.detect(&snapshot);
        HostAlias.describe(&facts[0], &snapshot).severity
    }

    #[test]
    fn it_is_the_cause_where_it_explains_what_fails() {
        assert_eq!(severity(&["shop-5d-x"], "context deadline exceeded"), Severity::Error);
        assert_eq!(severity(&["shop-5d-x", "other"], "context deadline exceeded"), Severity::Info);
        assert_eq!(severity(&["shop-5d-x", "other"], "dial tcp 10.9.9.9:80: i/o timeout"), Severity::Error);
        assert_eq!(severity(&[], ""), Severity::Info);
    }
}
