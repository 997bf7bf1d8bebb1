//! SVC113.

use crate::model::json::{Value, json};

use super::missing_ports::{MissingPort, MissingPorts};
use super::served;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::change::applied;
use crate::model::fields::Fields;
use crate::model::network::{Service, ServicePort, TargetPort};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Service lacks a port that its callers ask for.
    ///
    /// ## What it detects
    /// Calls to a port that a Service does not have, where the port is the Service's to have: it had it when it was last applied
    /// or until an edit just before, requests to it were answered earlier, or several who do not know each other ask for it
    /// (settings of workloads, VirtualServices, DestinationRules, calls that proxies could not match with any port).
    /// ## Why it matters
    /// Nothing listens at that port of the Service's address. In the mesh such calls go through `PassthroughCluster` or
    /// `BlackHoleCluster` and end without an answer, although every pod is ready.
    /// ## Evidence
    /// The Service's ports; who names the missing one; failing calls in access logs and callers' own logs; the ports as
    /// `kubectl apply` last wrote them; requests that the port answered before.
    /// ## How to confirm
    /// `kubectl get service NAME -o jsonpath='{.spec.ports}'` against the URLs of the callers.
    /// ## How to fix
    /// Give the Service the port back, with the target port that its pods serve.
    /// ## False positives
    /// A single setting with a port that the Service never had: that is the setting's mistake, and APP113 tells it. Headless
    /// Services and those of type ExternalName are left out: callers reach any port there.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#multi-port-services>
    ServicePortMissing {
        code: "SVC113", name: "service-port-missing", family: Network, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// A port that a Service lacks.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    port: i64,
    found: MissingPort,
    /// Where it would lead, and how that is known.
    target: Option<(Value, &'static str)>,
    /// Pods behind the Service that are ready, and all.
    pods: (usize, usize),
}

impl Check for ServicePortMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let missing = snapshot.derived::<MissingPorts>();
        let facts = missing.0.iter().filter_map(|((name, port), found)| {
            let service = snapshot.service(name)?;
            let pods: Vec<_> = snapshot.pods_behind(service).collect();
            Some(Fact {
                service,
                port: *port,
                found: found.clone(),
                target: target(snapshot, service, *port, found),
                pods: (pods.iter().filter(|pod| pod.ready()).count(), pods.len()),
            })
        });
        facts.collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let service = fact.service.reference();
        let (port, found) = (fact.port, &fact.found);
        let ports: Vec<String> = fact.service.ports.iter().map(|p| p.number.to_string()).collect();
        let ports = ports.join(", ");
        let observed = found.seen.any();
        let who = match (found.callers.iter().next(), found.callers.len()) {
            (Some(caller), 1) => format!("{} calls", caller.name),
            (Some(caller), n) => format!("{} and {} more call", caller.name, n - 1),
            (None, _) => "routes name".to_owned(),
        };
        let mut known = vec![];
        if found.applied {
            known.push("it was applied with that port, and edited since".to_owned());
        }
        if let Some(at) = found.edited {
            known.push(format!("its ports were edited at {}", text::clock(at)));
        }
        if let Some((count, target)) = found.answered {
            known.push(format!(
                "{} requests to that port were answered before, by port {target} of the pods",
                text::number(count)
            ));
        }
        if known.is_empty() {
            known.push(format!(
                "{} ask for it independently",
                text::several((found.names.len().max(found.callers.len())) as u64, "object")
            ));
        }
        let calls = if observed {
            format!(
                " {} calls to it failed{}.",
                text::number(found.seen.count),
                found.seen.onset.map(|at| format!(" since {}", text::clock(at))).unwrap_or_default()
            )
        } else {
            String::new()
        };
        let pods = match fact.pods {
            (_, 0) => String::new(),
            (ready, all) => format!(" Ready behind it: {ready} of {}.", text::several(all as u64, "pod")),
        };
        let subject = service.field("spec.ports");
        let mut finding = Finding::new(Self::META, subject.clone(), &[&port.to_string()])
            .title(format!("{service} has no port {port}, which {who}: it has {ports}"))
            .message(format!(
                "{service} has the ports {ports} and lacks {port}: {}. Nothing answers at that port of its address.{calls}{pods}",
                known.join("; ")
            ))
            .mechanism("Service port missing: callers use a port that the Service does not have")
            .severity(if observed { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(Some(name.clone()))
            .evidence(Evidence::object(&subject, format!("ports {ports}; {}", known.join("; "))))
            .evidences(found.names.iter().take(4).map(|place| Evidence::object(place, format!("names port {port}"))))
            .evidences(found.seen.evidence.clone())
            .onset(found.seen.onset)
            .effect(Effect::requests(&name, &[]))
            .maybe_remedy(add_back(fact))
            .maybe_remedy(as_applied(fact))
            .prevention(Prevention::of("Test", "In the pipeline: every port that settings, routes and policies name is one of its Service's (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert on calls that no Service's port takes",
                "sum by (source_workload) (rate(istio_requests_total{destination_service_name=~\"PassthroughCluster|BlackHoleCluster\",response_code=~\"5..|0\"}[2m])) > 0",
            ));
        for place in found.names.iter().take(4) {
            finding = finding.related(place.clone());
        }
        finding
    }
}

/// The target of the missing port: as it was applied, as it answered, as the one other port has it, or as the pods serve.
fn target(
    snapshot: &Snapshot,
    service: &Service,
    port: i64,
    found: &MissingPort,
) -> Option<(Value, &'static str)> {
    let before = applied(&service.object);
    let entry =
        before.as_ref().and_then(|b| b.list("spec.ports").iter().find(|e| e.int("port") == Some(port)));
    if let Some(entry) = entry {
        let value = entry.at("targetPort").cloned().unwrap_or_else(|| json!(port));
        return Some((value, "the target that it had when it was applied"));
    }
    if let Some((_, target)) = found.answered {
        return Some((json!(target), "the port of the pods that answered before"));
    }
    let value = |target: &TargetPort| match target {
        TargetPort::Number(number) => json!(number),
        TargetPort::Name(name) => json!(name),
    };
    if let [only] = service.ports.as_slice() {
        return Some((value(&only.target), "the target of its other port"));
    }
    let templates = served::templates(snapshot, service);
    let declared = served::declared(&templates);
    if declared.contains(&port) {
        return Some((json!(port), "a port that the containers declare"));
    }
    let one = declared.first().filter(|_| declared.len() == 1);
    one.map(|port| (json!(port), "the only port that the containers declare"))
}

/// Adds the port beside the others: who uses those goes on.
fn add_back(fact: &Fact<'_>) -> Option<Remedy> {
    let (target, why) = fact.target.as_ref()?;
    let ports = &fact.service.ports;
    let like = ports.iter().find(|p| to_json(p) == *target).or(ports.first())?;
    let mut operations = vec![];
    // Each of several ports has a name, and a name without a protocol changes nothing about how the port is read.
    for (index, unnamed) in ports.iter().enumerate().filter(|(_, p)| p.name.is_empty()) {
        operations.push(json!({"op": "add", "path": format!("/spec/ports/{index}/name"), "value": format!("port-{}", unnamed.number)}));
    }
    let prefix =
        like.name.split('-').next().filter(|word| !word.is_empty() && word.len() <= 8).unwrap_or("port");
    let mut entry = json!({"name": format!("{prefix}-{}", fact.port), "port": fact.port, "protocol": like.transport, "targetPort": target});
    if !like.app_protocol.is_empty()
        && let Some(fields) = entry.as_object_mut()
    {
        fields.insert("appProtocol".to_owned(), json!(like.app_protocol));
    }
    operations.push(json!({"op": "add", "path": "/spec/ports/-", "value": entry}));
    Remedy::patch(
        &fact.service.object,
        &Value::from(operations),
        format!(
            "Add port {} to spec.ports of {} beside the others, with {why}",
            fact.port,
            fact.service.reference()
        ),
    )
}

fn to_json(port: &ServicePort) -> Value {
    match &port.target {
        TargetPort::Number(number) => json!(number),
        TargetPort::Name(name) => json!(name),
    }
}

/// All ports as they were applied.
fn as_applied(fact: &Fact<'_>) -> Option<Remedy> {
    if !fact.found.applied {
        return None;
    }
    let before = applied(&fact.service.object)?;
    let ports = before.at("spec.ports")?;
    Some(
        Remedy::patch(
            &fact.service.object,
            &json!([{"op": "replace", "path": "/spec/ports", "value": ports}]),
            "Set spec.ports to what was applied last; ports that were added since go away",
        )?
        .risk(Risk::Medium),
    )
}
