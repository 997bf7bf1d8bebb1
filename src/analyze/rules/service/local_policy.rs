//! SVC109.

use crate::model::json::json;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen;
use crate::model::fields::Fields;
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Service keeps traffic on the node that it starts from, and callers run on nodes without an endpoint.
    ///
    /// ## What it detects
    /// A Service with `internalTrafficPolicy: Local` that has ready endpoints, none of them on a node on which pods of its callers run.
    /// ## Why it matters
    /// kube-proxy drops calls that start on such a node, though the Service has ready endpoints elsewhere: from some nodes it works, from
    /// others every call fails.
    /// ## Evidence
    /// The Service's field, the nodes of its ready pods, and the nodes of the callers' pods.
    /// ## How to confirm
    /// The same call from a pod on a node with an endpoint succeeds, and from another node it is refused or gets no answer.
    /// ## How to fix
    /// Set `internalTrafficPolicy` to `Cluster`, or run the callee on every node (a DaemonSet).
    /// ## False positives
    /// Callers with a mesh's proxy choose endpoints themselves and do not look at the field; a Service with an endpoint on every node
    /// with callers is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service-traffic-policy/>
    LocalTrafficPolicy {
        code: "SVC109", name: "local-traffic-policy-without-endpoint", family: Network, severity: Error,
        needs: [Status], aliases: ["SVC-HEADLESS"],
    }
}

/// A Service that some of its callers cannot reach.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    /// Nodes with a ready pod of it.
    with: BTreeSet<&'a str>,
    /// Nodes with callers and without it.
    without: BTreeSet<&'a str>,
    callers: BTreeSet<ObjectRef>,
}

impl Check for LocalTrafficPolicy {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for service in &snapshot.services {
            let local = service.object.body.text("spec.internalTrafficPolicy") == Some("Local");
            if !local || service.headless() || !seen::wanted(snapshot, service.object.namespace()) {
                continue;
            }
            let with: BTreeSet<&str> = snapshot
                .pods_behind(service)
                .filter(|p| p.ready())
                .map(|p| p.node.as_str())
                .filter(|n| !n.is_empty())
                .collect();
            if with.is_empty() {
                continue;
            }
            let name = service.service_name();
            let (mut without, mut callers) = (BTreeSet::new(), BTreeSet::new());
            let owners: BTreeSet<&ObjectRef> = snapshot.graph.callers(&name).collect();
            for pod in snapshot
                .pods
                .iter()
                .filter(|p| !p.ended() && !p.node.is_empty() && !snapshot.has_istio_proxy(p))
            {
                let owner = snapshot.owner(pod);
                if !with.contains(pod.node.as_str()) && owners.iter().any(|caller| caller.same_object(&owner))
                {
                    without.insert(pod.node.as_str());
                    callers.insert(owner);
                }
            }
            if !without.is_empty() {
                out.push(Fact { service, with, without, callers });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let subject = fact.service.reference().field("spec.internalTrafficPolicy");
        let list = |nodes: &BTreeSet<&str>| nodes.iter().take(4).copied().collect::<Vec<_>>().join(", ");
        let callers: Vec<String> = fact.callers.iter().take(3).map(ToString::to_string).collect();
        let patch = Remedy::patch(
            &fact.service.object,
            &json!([{"op": "replace", "path": "/spec/internalTrafficPolicy", "value": "Cluster"}]),
            "Set internalTrafficPolicy to Cluster: calls then go to endpoints on other nodes, too",
        );
        let mut finding = Finding::new(Self::META, subject.clone(), &[])
            .title(format!("Service {name} cannot be called from {}: traffic stays on the node (Local)", list(&fact.without)))
            .message(format!(
                "Service {name} has internalTrafficPolicy Local and ready pods on {} only. {} run on {} as well: their calls from there are dropped.",
                list(&fact.with),
                callers.join(", "),
                list(&fact.without)
            ))
            .mechanism("internalTrafficPolicy Local without an endpoint on the caller's node")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Configured)
            .service(Some(name.clone()))
            .evidence(Evidence::object(&subject, "Local"))
            .evidence(Evidence::new("Object", format!("ready pods of Service {name}"), format!("on {}", list(&fact.with))))
            .evidence(Evidence::new("Object", "pods of its callers", format!("on {}", list(&fact.without))))
            .effect(Effect::requests(&name, &["refused", "timeout", "UF", "UH"]));
        finding.remedies.extend(patch.map(|r| r.risk(Risk::Low)));
        finding.remedy(Remedy::manual("Or run the callee on every node, as a DaemonSet")).prevention(
            Prevention::of(
                "Policy",
                "internalTrafficPolicy Local only for Services whose pods a DaemonSet runs on every node",
            ),
        )
    }
}
