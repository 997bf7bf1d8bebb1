//! ISTIO110.

use crate::model::json::json;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{self, Seen};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};
use crate::model::workload::PodTemplate;

crate::rule! {
    /// Pods that belong to the mesh run without its proxy.
    ///
    /// ## What it detects
    /// Running pods without `istio-proxy` in a namespace where proxies are injected, and why: a label or annotation
    /// `sidecar.istio.io/inject: "false"`, `hostNetwork`, or nothing (they were made before injection was switched on). It is
    /// a cause where a callee that demands mutual TLS cuts their plaintext connections.
    /// ## Why it matters
    /// Such pods speak plaintext and have no identity: a callee in `STRICT` mode resets their connections, policies that name
    /// their identity deny them, and routes do not apply.
    /// ## Evidence
    /// The pods' containers, the label that opts them out, the callee's `NR filter_chain_not_found` for connections from
    /// exactly these pods, and the PeerAuthentication that demands mutual TLS.
    /// ## How to confirm
    /// `kubectl get pod POD -o jsonpath='{.spec.initContainers[*].name} {.spec.containers[*].name}'` lists no `istio-proxy`.
    /// ## How to fix
    /// Take the opt-out away and restart the workload; or let the callee accept plaintext (`PERMISSIVE`).
    /// ## False positives
    /// Pods that stay outside on purpose are not reported as long as nobody refuses them. Ambient namespaces need no sidecar.
    /// ## References
    /// <https://istio.io/latest/docs/ops/common-problems/injection/>
    SidecarMissing {
        code: "ISTIO110", name: "sidecar-missing", family: Mesh, severity: Error,
        needs: [Objects, Status, Istio], aliases: ["IST0103"],
    }
}

/// Why pods have no proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// A label of the template opts out.
    Label,
    /// An annotation of the template opts out.
    Annotation,
    /// The pods use their node's network.
    HostNetwork,
    /// Nothing does: they would get one today.
    Unknown,
}

/// A workload whose pods have no proxy.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    pods: usize,
    why: Why,
    /// Callees that cut its connections.
    refused_by: BTreeMap<ObjectRef, Seen>,
    /// What demands mutual TLS of them.
    strict: Option<ObjectRef>,
}

/// The label and annotation by which a pod opts in or out.
const INJECT: &str = "sidecar.istio.io/inject";

impl Check for SidecarMissing {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let injected: BTreeSet<&str> = snapshot
            .objects_of("Namespace")
            .filter(|ns| ns.labels.get("istio.io/dataplane-mode").is_none_or(|mode| mode != "ambient"))
            .filter(|ns| {
                ns.labels.get("istio-injection").is_some_and(|v| v == "enabled")
                    || (ns.labels.contains_key("istio.io/rev")
                        && ns.labels.get("istio-injection").is_none_or(|v| v != "disabled"))
            })
            .map(|ns| ns.name())
            .collect();
        let mut bare: BTreeMap<ObjectRef, (usize, &PodTemplate)> = BTreeMap::new();
        for pod in &snapshot.pods {
            let namespace = pod.object.namespace();
            let member = injected.contains(namespace)
                && pod.has_status()
                && !pod.ended()
                && !snapshot.has_istio_proxy(pod)
                && pod.template.labels.get("istio.io/dataplane-mode").is_none_or(|mode| mode != "ambient")
                && seen::wanted(snapshot, namespace);
            if member {
                bare.entry(snapshot.owner(pod)).or_insert((0, &pod.template)).0 += 1;
            }
        }
        let facts = bare.into_iter().filter_map(|(workload, (pods, template))| {
            let why = why(template);
            let cut: Vec<&EdgeTraffic> = snapshot
                .traffic
                .iter()
                .filter(|e| {
                    e.reporter == Reporter::Destination
                        && e.peer.as_ref().is_some_and(|p| p.same_object(&workload))
                })
                .collect();
            let mut refused_by: BTreeMap<ObjectRef, Seen> = BTreeMap::new();
            for edge in cut {
                let seen = seen::outcomes(std::iter::once(edge), |_, o| no_filter_chain(o));
                if seen.any() {
                    let all = refused_by.entry(edge.workload.clone()).or_default();
                    *all = std::mem::take(all).and(seen);
                }
            }
            // Who opted out and whom nobody refuses stays outside on purpose.
            if refused_by.is_empty() && why != Why::Unknown {
                return None;
            }
            let strict = refused_by.keys().find_map(|callee| {
                let labels = &snapshot.workload(callee)?.template.labels;
                let (mode, by) = snapshot.istio.peer_mode(&callee.namespace, labels, None);
                by.filter(|_| mode == "STRICT")
            });
            Some(Fact { workload, pods, why, refused_by, strict })
        });
        facts.collect()
    }

    fn describe(&self, fact: &Self::Fact<'_>, snapshot: &Snapshot) -> Finding {
        let found = snapshot.workload(&fact.workload);
        let path = |rest: &str| match found {
            Some(workload) => workload.template_path(rest),
            None => rest.to_owned(),
        };
        let (field, reason) = match fact.why {
            Why::Label => (path("metadata.labels"), format!("label {INJECT}=false opts them out")),
            Why::Annotation => {
                (path("metadata.annotations"), format!("annotation {INJECT}=false opts them out"))
            }
            Why::HostNetwork => (path("spec.hostNetwork"), "hostNetwork excludes them".to_owned()),
            Why::Unknown => (
                path("metadata.labels"),
                "nothing opts them out: they are older than the injection, or it failed".to_owned(),
            ),
        };
        let seen = fact.refused_by.values().cloned().fold(Seen::default(), Seen::and);
        let observed = seen.any();
        let callees: Vec<&str> = fact.refused_by.keys().map(|c| c.name.as_str()).collect();
        let own: Option<ServiceName> = snapshot.graph.services_of(&fact.workload).next().cloned();
        let called: BTreeSet<ServiceName> =
            fact.refused_by.keys().flat_map(|callee| snapshot.graph.services_of(callee).cloned()).collect();
        let title = if observed {
            format!(
                "{} has no sidecar, and {} cut its plaintext connections",
                fact.workload,
                callees.join(", ")
            )
        } else {
            format!("{} of {} have no sidecar in an injected namespace", count(fact.pods), fact.workload)
        };
        let mut message =
            format!("{} of {} run without istio-proxy: {reason}.", count(fact.pods), fact.workload);
        if observed {
            message.push_str(&format!(
                " {} connections from them were cut with NR filter_chain_not_found by {}, which demand mutual TLS.",
                seen.count,
                callees.join(", ")
            ));
        }
        let service = own.or_else(|| called.first().cloned());
        let mut finding = Finding::new(Self::META, fact.workload.field(&field), &[])
            .title(title)
            .message(message)
            .mechanism("sidecar missing: injection is off, plaintext to a STRICT mTLS peer")
            .severity(if observed { Severity::Error } else { Severity::Warning })
            .role(if observed { Role::Cause } else { Role::Context }, Confidence::Observed)
            .service(service)
            .evidence(Evidence::object(&fact.workload.field(&field), format!("{} without istio-proxy: {reason}", count(fact.pods))))
            .evidences(fact.strict.as_ref().map(|s| Evidence::object(s, "demands mutual TLS (STRICT) of the callee")))
            .evidences(seen.evidence.clone())
            .onset(seen.onset)
            .prevention(Prevention::alert(
                "Alert on plaintext connections inside the mesh",
                "sum by (source_workload, destination_workload) (rate(istio_tcp_connections_opened_total{reporter=\"destination\",connection_security_policy=\"none\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Policy", "An admission policy that refuses sidecar.istio.io/inject=false in namespaces of the mesh"));
        finding.related.extend(fact.strict.clone());
        if observed {
            finding = finding
                .effect(Effect::calls(&fact.workload))
                .effects(called.iter().map(|s| Effect::requests(s, &["NR", "UC", "reset", "tls"])));
        }
        finding
            .maybe_remedy(opt_in(fact, snapshot))
            .maybe_remedy(restart(fact))
            .maybe_remedy(permissive(fact, snapshot))
    }
}

/// `2 pods`, `1 pod`.
fn count(pods: usize) -> String {
    if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") }
}

/// A connection that no filter chain of the callee takes: plaintext where mutual TLS is demanded.
fn no_filter_chain(outcome: &Outcome) -> bool {
    outcome.has_flag("NR") && outcome.details.contains("filter_chain_not_found")
}

fn why(template: &PodTemplate) -> Why {
    let off = |map: &Labels| map.get(INJECT).is_some_and(|v| v == "false");
    if off(&template.labels) {
        Why::Label
    } else if off(&template.annotations) && !template.labels.contains_key(INJECT) {
        Why::Annotation
    } else if template.host_network {
        Why::HostNetwork
    } else {
        Why::Unknown
    }
}

/// Takes the opt-out away.
fn opt_in(fact: &Fact, snapshot: &Snapshot) -> Option<Remedy> {
    let workload = snapshot.workload(&fact.workload)?;
    let map = match fact.why {
        Why::Label => "metadata.labels",
        Why::Annotation => "metadata.annotations",
        Why::HostNetwork | Why::Unknown => return None,
    };
    let path = format!("{}/{}", pointer(&workload.template_path(map)), pointer_segment(INJECT));
    Remedy::patch(
        &workload.object,
        &json!([{"op": "remove", "path": path}]),
        format!("Remove {INJECT}=false from {}: its new pods get a sidecar by injection", fact.workload),
    )
}

/// Makes the pods anew, so that the injector sees them.
fn restart(fact: &Fact) -> Option<Remedy> {
    if fact.why != Why::Unknown
        || !matches!(fact.workload.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet")
    {
        return None;
    }
    let command = format!(
        "kubectl {}rollout restart {}/{}",
        crate::analyze::remedy::scope(&fact.workload),
        crate::analyze::remedy::resource(&fact.workload),
        crate::analyze::remedy::quote(&fact.workload.name)
    );
    let undo = command.replace("rollout restart", "rollout undo");
    Some(Remedy::commands(
        format!("Restart {}: its new pods get a sidecar by injection", fact.workload),
        vec![command],
        vec![undo],
    ))
}

/// Lets the callees accept plaintext meanwhile.
fn permissive(fact: &Fact, snapshot: &Snapshot) -> Option<Remedy> {
    let strict = fact.strict.as_ref()?;
    let policy =
        snapshot.istio.peer_authentications.iter().find(|p| p.object.reference.same_object(strict))?;
    Remedy::patch(
        &policy.object,
        &json!([{"op": "replace", "path": pointer(&strict.field_path), "value": "PERMISSIVE"}]),
        format!("Let {strict} accept plaintext meanwhile: mode PERMISSIVE"),
    )
    .map(|remedy| remedy.risk(crate::analyze::remedy::Risk::High))
}
