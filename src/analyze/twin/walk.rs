//! The way of a request, from where it starts.

use super::Twin;
use super::answer::Answer;
use super::ask::{Ask, Origin};
use super::gateway_api;
use super::party::{Party, Peer};
use super::source::{at_gateway, from_peer, through_proxy};

/// Walks a request through the mesh.
pub(super) fn answer(twin: &Twin<'_>, ask: &Ask) -> Answer {
    let mut answer = Answer { name: ask.name.clone(), ..Answer::default() };
    let request = &ask.request;
    match &ask.from {
        Origin::Proxy(node, mode) => through_proxy(twin, node, *mode, request, &mut answer),
        Origin::Gateway(named) => {
            let istio = twin.snapshot.istio.gateways.iter();
            let mut istio = istio.filter(|gateway| {
                gateway.object.namespace() == named.namespace && gateway.object.name() == named.name
            });
            match gateway_api::gateway::find(twin.snapshot, named).filter(|_| istio.next().is_none()) {
                Some(gateway) => gateway_api::gateway::answer(twin, gateway, request, &mut answer),
                None => at_gateway(twin, named, request, &mut answer),
            }
        }
        Origin::Workload(named) => match Party::find(twin.snapshot, named) {
            Some(party) => from_peer(twin, &Peer::Pod(party), request, &mut answer),
            None => answer.give_up(format!("the source {} is not among what was read", named.reference())),
        },
        Origin::Ip(ip) => from_peer(twin, &Peer::at(twin.snapshot, ip), request, &mut answer),
        Origin::IngressController => from_peer(twin, &Peer::IngressController, request, &mut answer),
    }
    if let Some(why) = gateway_api::carry::left_to_others(twin.snapshot, &answer) {
        answer.give_up(why);
    }
    answer
}
