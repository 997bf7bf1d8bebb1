//! From a Gateway's proxy to the pods that take the request.

use super::filters;
use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::Answer;
use crate::analyze::twin::ask::Request;
use crate::analyze::twin::deliver::door;
use crate::analyze::twin::party::Party;
use crate::analyze::twin::simulate::Onward;
use crate::analyze::twin::source::pods_port;
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::Gateway;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

/// The label of a Gateway's own pods.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Why nobody here can say what becomes of the request: the rule that took it has somebody outside of the mesh decide.
pub fn left_to_others(snapshot: &Snapshot, answer: &Answer) -> Option<String> {
    answer.steps.iter().find_map(|step| {
        let object = step.object.as_ref().filter(|o| matches!(o.kind.as_str(), "HTTPRoute" | "GRPCRoute"))?;
        let route = snapshot.object(&object.kind, &object.namespace, &object.name)?;
        let index = step.field_path.strip_prefix("spec.rules[")?.split(']').next()?.parse::<usize>().ok()?;
        let rule = route.body.list("spec.rules").get(index)?;
        let at = filters::read(rule.list("filters"), 0).asks?;
        Some(format!(
            "spec.rules[{index}].filters[{at}] of {object} asks an authorization service, whose answer is not part of the configuration"
        ))
    })
}

/// From a Gateway's proxy to the pods behind its destinations.
pub fn from_gateway(
    twin: &Twin<'_>,
    gateway: &Gateway,
    onward: Option<Onward>,
    request: &Request,
    answer: &mut Answer,
) {
    let own = gateway.object.namespace();
    let serving = serving(twin.snapshot, gateway);
    if let Serving::By(party) = &serving
        && !door::admits(
            twin,
            party,
            (request, pods_port(twin, Some(party), request.destination_port())),
            answer,
        )
    {
        return;
    }
    let Some(onward) = onward else { return };
    let from = match serving {
        Serving::By(party) => party,
        Serving::Nobody(why) => return answer.refuse("", why),
        Serving::Unseen if twin.snapshot.runs() => {
            return answer.give_up(format!("no pod that serves {} was read", gateway.object.reference));
        }
        Serving::Unseen if !door::decided(twin.snapshot) => Party {
            reference: ObjectRef::new("Gateway", own, gateway.object.name()),
            template: &twin.blank,
            pod: None,
            proxy: false,
        },
        Serving::Unseen => {
            return answer.give_up(format!(
                "nothing that serves {} was read, and policies decide by who calls",
                gateway.object.reference
            ));
        }
    };
    let labels = from.labels().clone();
    door::send_on(twin, from, (own, &labels, None), (request, request.destination_port()), &onward, answer);
}

/// Who serves a Gateway.
enum Serving<'a> {
    /// A ready pod.
    By(Party<'a>),
    /// Pods that are not ready.
    Nobody(String),
    /// Nothing that serves it was read.
    Unseen,
}

/// The pods of a Gateway: those that its controller made for it, or those behind the Service that it names as its address.
fn serving<'a>(snapshot: &'a Snapshot, gateway: &Gateway) -> Serving<'a> {
    let (namespace, name) = (gateway.object.namespace(), gateway.object.name());
    let made = |pod: &&'a Pod| {
        pod.object.namespace() == namespace
            && pod.object.labels.get(GATEWAY_NAME).is_some_and(|own| own == name)
    };
    let mut pods: Vec<&'a Pod> = snapshot.pods.iter().filter(made).filter(|pod| !pod.ended()).collect();
    for address in gateway.object.body.list("spec.addresses") {
        let host = full_host(&address.string("value"), namespace);
        let service = service_of_host(&host).map(|(namespace, name)| ServiceName::new(namespace, name));
        pods.extend(
            service
                .and_then(|name| snapshot.service(&name))
                .into_iter()
                .flat_map(|s| snapshot.pods_behind(s)),
        );
    }
    match pods.iter().find(|pod| pod.ready() || !pod.has_status()) {
        Some(pod) => Serving::By(Party { proxy: false, ..Party::of_pod(snapshot, pod) }),
        None if pods.is_empty() => Serving::Unseen,
        None => Serving::Nobody(format!(
            "none of the {} pods of {} is ready",
            pods.len(),
            gateway.object.reference
        )),
    }
}
