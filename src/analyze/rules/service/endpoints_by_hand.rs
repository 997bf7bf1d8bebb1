//! SVC115.

use crate::model::json::json;
use std::collections::BTreeSet;

use super::identity::{self, Meant, words};
use super::served;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, Calls, Failing, plain, since};
use crate::analyze::rules::seen::{self, Seen};
use crate::model::fields::Fields;
use crate::model::network::{EndpointSlice, Service, TargetPort};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// A Service without a selector leads to endpoints that somebody else wrote, and nobody answers there.
    ///
    /// ## What it detects
    /// A Service without a selector whose EndpointSlices were written by hand (or stayed from the time when it had one), where calls to it
    /// are refused or never answered, and an address in them is no pod's, or a pod's that declares another port.
    /// ## Why it matters
    /// Nothing keeps such endpoints: they go on naming pods that were replaced, ports that were changed and machines that are gone, and
    /// count as ready for ever. The pods that are meant may be well and get no request.
    /// ## Evidence
    /// The Service without a selector, the addresses and ports of its slices against those of the pods, the calls that fail, and the
    /// workload whose pods are ready and carry the labels of the Service.
    /// ## How to confirm
    /// `kubectl get endpointslices -l kubernetes.io/service-name=NAME -o yaml` against `kubectl get pods -o wide`.
    /// ## How to fix
    /// Where pods of the cluster are meant, give the Service a selector and delete the slices that were written by hand: they would stay
    /// beside those of the selector. Where something outside is meant, correct address and port in the slice.
    /// ## False positives
    /// Endpoints of an outside database that answers, headless Services, slices of other controllers (they have an owner, or name a
    /// controller in `endpointslice.kubernetes.io/managed-by`), imported Services and the API server's own are not looked at. Where no
    /// workload of the cluster is meant, an outside server that is down looks the same: it is told as what is felt, not as the cause.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors>
    EndpointsByHand {
        code: "SVC115", name: "endpoints-by-hand", family: Network, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// The label by which a controller says that a slice is its own.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Who makes the slices of a selector.
const OF_SELECTOR: &str = "endpointslice-controller.k8s.io";
/// Who copies an Endpoints object, which somebody wrote.
const MIRRORED: &str = "endpointslicemirroring-controller.k8s.io";

/// What is wrong with an endpoint.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    /// No pod has its address.
    Nobody,
    /// A ready pod has it, and declares these ports.
    Port(BTreeSet<i64>),
}

/// Endpoints that somebody wrote, and where nobody answers.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    slice: &'a EndpointSlice,
    address: String,
    /// The port's place in the slice, and its number.
    port: Option<(usize, i64)>,
    wrong: Wrong,
    /// The workloads that are meant, where they are known and some of their pods are ready.
    meant: Option<Meant<'a>>,
    ready: usize,
    calls: Option<Calls>,
    seen: Seen,
}

impl Check for EndpointsByHand {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let failing = calls::failing(snapshot);
        let mut out = vec![];
        if !snapshot.runs() {
            return out;
        }
        for service in snapshot.services.iter().filter(|s| kept_by_hand(snapshot, s)) {
            let name = service.service_name();
            let seen = seen::outcomes(snapshot.traffic_to(&name, Reporter::Source), |_, o| {
                seen::refused(o) || seen::connect_timed_out(o)
            });
            let calls = unanswered(service, &failing);
            if calls.is_none() && !seen.any() {
                continue;
            }
            let meant = identity::meant(snapshot, service).filter(|meant| serves(service, meant));
            let of_meant = meant.iter().flat_map(|m| &m.workloads);
            let ready = of_meant.flat_map(|w| snapshot.pods_of(w.reference())).filter(|p| p.ready()).count();
            let meant = meant.filter(|_| ready > 0);
            // A slow answer alone says nothing against an address that may be right.
            let connects = calls.as_ref().is_some_and(|c| c.kind() != Some(Kind::Timeout)) || seen.any();
            let found =
                snapshot.slices_of(service).filter(|s| by_hand(s)).find_map(|slice| wrong(snapshot, slice));
            let Some((slice, address, port, wrong)) = found else { continue };
            let address_is_nobodys = wrong == Wrong::Nobody && meant.is_some();
            if !connects && !address_is_nobodys {
                continue;
            }
            out.push(Fact { service, slice, address, port, wrong, meant, ready, calls, seen });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let (service, slice) = (fact.service.reference(), &fact.slice.object.reference);
        let place = match fact.port {
            Some((_, port)) => format!("{}:{port}", plain(&fact.address).unwrap_or("an address")),
            None => plain(&fact.address).unwrap_or("an address").to_owned(),
        };
        let amount = match &fact.calls {
            Some(calls) => format!("{} failed{}", calls.amount(), since(calls.first)),
            None => format!("{} connections failed", fact.seen.count),
        };
        let declared =
            |ports: &BTreeSet<i64>| ports.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let what = match &fact.wrong {
            Wrong::Nobody => "no pod has this address".to_owned(),
            Wrong::Port(ports) => format!("the pod with this address declares {}", declared(ports)),
        };
        let selected = fact.meant.as_ref().map(|m| words(&m.labels));
        let instead = match (&fact.meant, &selected) {
            (Some(meant), Some(labels)) => {
                let who: Vec<String> =
                    meant.workloads.iter().take(3).map(|w| w.reference().to_string()).collect();
                format!(
                    " {} with the labels {labels} {} ready pods that get no request: {}.",
                    who.join(", "),
                    if who.len() == 1 {
                        format!("has {}", fact.ready)
                    } else {
                        format!("have {}", fact.ready)
                    },
                    meant.why
                )
            }
            _ => String::new(),
        };
        let port_field = fact.port.map(|(index, _)| slice.field(format!("ports[{index}].port")));
        let address_field = slice.field("endpoints");
        let (subject, related) = match (&fact.wrong, &fact.meant) {
            (Wrong::Port(_), _) => (port_field.unwrap_or(address_field), service.field("spec.selector")),
            (Wrong::Nobody, Some(_)) => (service.field("spec.selector"), address_field),
            (Wrong::Nobody, None) => (address_field, service.clone()),
        };
        let cause = fact.meant.is_some() || fact.wrong != Wrong::Nobody;
        Finding::new(Self::META, subject, &[&fact.address])
            .title(format!("Service {name}: its endpoint {place}, written by hand, is stale: {amount}"))
            .message(format!(
                "Service {name} has no selector, so nothing follows its pods: {slice} leads it to {place}, and {what}. {amount}.{instead}"
            ))
            .mechanism("stale endpoint: EndpointSlice written by hand for a Service without selector")
            .severity(Severity::Error)
            .role(if cause { Role::Cause } else { Role::Symptom }, if cause { Confidence::Observed } else { Confidence::Possible })
            .service(Some(name.clone()))
            .related(related)
            .evidence(Evidence::object(&service.field("spec.selector"), "no selector: nobody keeps its endpoints"))
            .evidence(Evidence::object(slice, format!("{place}: {what}")))
            .evidences(fact.calls.iter().flat_map(Calls::evidence))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.calls.as_ref().and_then(|c| c.first).into_iter().chain(fact.seen.onset).min())
            .effect(Effect::requests(&name, &["UF", "URX", "UT", "refused", "timeout", "5xx"]))
            .maybe_remedy(right_port(fact))
            .maybe_remedy(select(fact))
            .remedy(Remedy {
                commands: vec![format!(
                    "kubectl {}get endpointslices -l kubernetes.io/service-name={} -o yaml",
                    scope(service),
                    quote(&name.name)
                )],
                ..Remedy::manual(format!(
                    "Where something outside is meant: write the address and port that answer into endpoints and ports of {slice}"
                ))
            })
            .prevention(Prevention::of(
                "Policy",
                "An admission policy: a Service without a selector names who keeps its endpoints; a machine outside gets a Service of type ExternalName with a name of its own",
            ))
            .prevention(Prevention::alert(
                "Alert when callers' proxies cannot connect",
                format!("sum by (source_workload) (rate(istio_requests_total{{reporter=\"source\",destination_service_name=\"{}\",response_flags=~\".*(UF|URX).*\"}}[1m])) > 0", name.name),
            ))
    }
}

/// Whether a person keeps the endpoints of a Service: it has an address, no selector, and nobody owns it.
fn kept_by_hand(snapshot: &Snapshot, service: &Service) -> bool {
    let name = service.service_name();
    service.selector.is_empty()
        && service.kind != "ExternalName"
        && !service.headless()
        && service.object.owners.is_empty()
        && (name.namespace.as_str(), name.name.as_str()) != ("default", "kubernetes")
        && seen::wanted(snapshot, &name.namespace)
}

/// Whether a person wrote a slice, or it stayed when its Service lost the selector.
fn by_hand(slice: &EndpointSlice) -> bool {
    let labels = &slice.object.labels;
    let controller = labels.get(MANAGED_BY).unwrap_or_default();
    // Controllers name themselves with a domain; people write `staff` or their team.
    let known = matches!(controller, OF_SELECTOR | MIRRORED) || !controller.contains('.');
    known
        && slice.object.owners.iter().all(|owner| matches!(owner.kind.as_str(), "Service" | "Endpoints"))
        && !labels.keys().any(|key| key.starts_with("multicluster.") || key.contains("submariner"))
}

/// The calls to a Service that nobody answered.
fn unanswered(service: &Service, failing: &Failing) -> Option<Calls> {
    let name = service.service_name();
    let to_it =
        failing.all.iter().filter(|c| c.service() == Some(&name) && c.severity() >= Severity::Warning);
    let dead = to_it.filter(|c| {
        matches!(c.kind(), Some(Kind::Refused | Kind::ConnectTimeout | Kind::Unreachable | Kind::Timeout))
    });
    // What says most about the connection comes first.
    dead.max_by_key(|c| (c.kind() != Some(Kind::Timeout), c.count)).cloned()
}

/// Whether the workloads serve the port that the Service leads to, as far as their containers declare any.
fn serves(service: &Service, meant: &Meant<'_>) -> bool {
    let templates: Vec<_> = meant.workloads.iter().map(|w| &w.template).collect();
    let declared = served::declared(&templates);
    service.ports.iter().any(|port| match &port.target {
        TargetPort::Number(number) => declared.contains(number),
        TargetPort::Name(_) => templates.iter().any(|t| port.on(t).is_some()),
    })
}

type Found<'a> = (&'a EndpointSlice, String, Option<(usize, i64)>, Wrong);

/// The first endpoint of a slice where nobody answers.
fn wrong<'a>(snapshot: &Snapshot, slice: &'a EndpointSlice) -> Option<Found<'a>> {
    let port = slice.ports.first().map(|(_, number)| (0, *number));
    let endpoints = slice.endpoints.iter().filter(|e| e.ready && !e.terminating);
    endpoints.flat_map(|e| &e.addresses).find_map(|address| {
        let wrong = match snapshot.pod_by_ip(address) {
            // Nodes answer on ports that no pod declares.
            None if of_a_node(snapshot, address) => return None,
            None => Wrong::Nobody,
            Some(pod) if pod.ready() && !pod.template.host_network => {
                let declared = served::declared(&[&pod.template]);
                let (_, number) = port?;
                (!declared.is_empty() && !declared.contains(&number)).then_some(Wrong::Port(declared))?
            }
            Some(_) => return None,
        };
        Some((slice, address.clone(), port, wrong))
    })
}

fn of_a_node(snapshot: &Snapshot, address: &str) -> bool {
    let of = |node: &crate::model::object::Object| {
        node.body.list("status.addresses").iter().any(|entry| entry.text("address") == Some(address))
    };
    snapshot.objects_of("Node").any(of)
}

/// The port that the pod declares in place of the one in the slice.
fn right_port(fact: &Fact<'_>) -> Option<Remedy> {
    let Wrong::Port(declared) = &fact.wrong else { return None };
    let (index, _) = fact.port?;
    let only = declared.first().filter(|_| declared.len() == 1)?;
    Remedy::patch(
        &fact.slice.object,
        &json!([{"op": "replace", "path": format!("/ports/{index}/port"), "value": only}]),
        format!(
            "Set the port of the endpoints in {} to {only}, which the pod declares",
            fact.slice.object.reference
        ),
    )
}

/// Lets the Service select the pods that are meant, and deletes the slice that would stay beside the selector's own.
fn select(fact: &Fact<'_>) -> Option<Remedy> {
    let meant = fact.meant.as_ref()?;
    let service = fact.service.reference();
    let slice = &fact.slice.object;
    let controller = slice.labels.get(MANAGED_BY);
    let written = !matches!(controller, Some(OF_SELECTOR | MIRRORED));
    let operation = json!([{"op": "add", "path": "/spec/selector", "value": meant.labels}]);
    let also = if written { format!(", and delete {}", slice.reference) } else { String::new() };
    let summary = format!(
        "Set spec.selector of {service} to {}{also}: its endpoints follow the pods again",
        words(&meant.labels)
    );
    let mut remedy = Remedy::patch(&fact.service.object, &operation, summary)?.risk(Risk::Medium);
    if written {
        let delete = Remedy::delete(slice, "");
        remedy.commands.extend(delete.commands);
        // What the selector brought in does not go with it.
        remedy.rollback.push(format!(
            "kubectl {}delete endpointslices -l kubernetes.io/service-name={},{MANAGED_BY}={OF_SELECTOR}",
            scope(service),
            quote(&service.name)
        ));
        remedy.rollback.extend(delete.rollback);
    }
    Some(remedy)
}
