//! The way of a request, from where it starts.

use super::Twin;
use super::answer::Answer;
use super::ask::{Ask, Origin};
use super::party::{Party, Peer};
use super::source::{at_gateway, from_peer, through_proxy};

/// Walks a request through the mesh.
pub(super) fn answer(twin: &Twin<'_>, ask: &Ask) -> Answer {
    let mut answer = Answer { name: ask.name.clone(), ..Answer::default() };
    let request = &ask.request;
    match &ask.from {
        Origin::Proxy(node, mode) => through_proxy(twin, node, *mode, request, &mut answer),
        Origin::Gateway(named) => {
            let own = |object: &crate::model::object::Object| {
                object.namespace() == named.namespace && object.name() == named.name
            };
            let istio = twin.snapshot.istio.gateways.iter().any(|gateway| own(&gateway.object));
            if !istio && twin.snapshot.gateway_api.gateways.iter().any(|gateway| own(&gateway.object)) {
                answer.give_up("Gateways of the Gateway API are not modelled as a source");
            } else {
                at_gateway(twin, named, request, &mut answer);
            }
        }
        Origin::Workload(named) => match Party::find(twin.snapshot, named) {
            Some(party) => from_peer(twin, &Peer::Pod(party), request, &mut answer),
            None => answer.give_up(format!("the source {} is not among what was read", named.reference())),
        },
        Origin::Ip(ip) => from_peer(twin, &Peer::at(twin.snapshot, ip), request, &mut answer),
        Origin::IngressController => from_peer(twin, &Peer::IngressController, request, &mut answer),
    }
    answer
}
