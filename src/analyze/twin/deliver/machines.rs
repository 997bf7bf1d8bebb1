//! Endpoints that are written down: of ServiceEntries, and WorkloadEntries beside the pods of a Service.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::{Leg, Share};
use crate::analyze::twin::answer::{Answer, Backend};
use crate::analyze::twin::endpoints::{Behind, Endpoint};
use crate::analyze::twin::party::Party;
use crate::analyze::twin::policy::{self, ClientTls};
use crate::analyze::twin::resolve::{self, Place};
use crate::model::fields::Fields;
use crate::model::network::{Service, ServicePort, TargetPort};
use crate::model::object::Object;
use crate::model::selector::Labels;

/// A pod that an endpoint names, or that is one itself.
pub(super) struct Found<'a> {
    /// The pod and its port.
    pub(super) endpoint: Endpoint<'a>,
    /// What the mesh speaks to it where it may choose.
    pub(super) spoken: Spoken,
}

/// What a proxy speaks to an endpoint where no DestinationRule says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// What the pod takes: the mesh knows it.
    AsItIs,
    /// Mutual TLS, whoever is there: the endpoint is written as one that speaks it.
    Mutual,
    /// Plaintext: nothing written says otherwise.
    Plain,
}

impl<'a> Leg<'_, 'a, '_> {
    /// The pods at the address of an endpoint as a ServiceEntry or a WorkloadEntry writes it: a pod's own, or that or the name of a
    /// Service, to whose pods the node or the name server leads the connection; none of them where nobody takes it there. `None`:
    /// nobody here knows what is at that address.
    pub(super) fn pods_at(
        &self,
        (written, namespace): (&Value, &str),
        (port_name, target): (&str, u16),
    ) -> Option<Vec<Found<'a>>> {
        let snapshot = self.twin.snapshot;
        let address = written.text("address")?;
        let mapped = written.at("ports").and_then(|ports| ports.get(port_name)).and_then(Value::as_u64);
        let port = mapped.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let port = port.unwrap_or(target);
        let spoken = self.spoken_to(written, namespace, port);
        let found = |endpoint| Found { endpoint, spoken };
        if let Some(pod) = snapshot.pod_by_ip(address) {
            return Some(vec![found(Endpoint { party: Party::of_pod(snapshot, pod), port })]);
        }
        match resolve::inside(self.twin, address, self.namespace)? {
            Place::Pod(party) => Some(vec![found(Endpoint { party: *party, port })]),
            Place::Service(service) => {
                Some(self.pods_behind(service, port)?.into_iter().map(found).collect())
            }
            Place::Address(_) | Place::Outside(_) => None,
        }
    }

    /// What proxies speak to an endpoint by what is written of it: its own word, else whether it names an identity; the PeerAuthentications of
    /// its namespace and of its written labels can forbid it, whatever the pod at that address carries.
    fn spoken_to(&self, written: &Value, namespace: &str, port: u16) -> Spoken {
        let istio = &self.twin.snapshot.istio;
        let labels: Labels = written.text_map("labels");
        let named = written.text("serviceAccount").is_some_and(|name| !name.is_empty());
        let word = labels.get("security.istio.io/tlsMode").map_or(named, |mode| mode == "istio");
        let auto = istio.mesh_config.at("enableAutoMtls").and_then(Value::as_bool) != Some(false);
        let mutual =
            word && auto && istio.peer_mode(namespace, &labels, Some(i64::from(port))).0 != "DISABLE";
        if mutual { Spoken::Mutual } else { Spoken::Plain }
    }

    /// The pods that take a connection to the address of a Service, by the rules of the node that opens it.
    fn pods_behind(&self, service: &'a Service, port: u16) -> Option<Vec<Endpoint<'a>>> {
        // The name server gives the addresses of a headless Service's pods, and the port stays what it is.
        let own = match service.port(i64::from(port)) {
            Some(own) => own,
            None if service.headless() => service.ports.first()?,
            None => return Some(vec![]),
        };
        let behind = self.twin.behind(service, own, &Labels::new());
        match &*behind {
            Behind::Pods(pods) if service.headless() => {
                Some(pods.iter().map(|pod| Endpoint { port, ..pod.clone() }).collect())
            }
            Behind::Pods(pods) => {
                Some(self.on_node(service, pods, &mut Answer::default()).unwrap_or_default())
            }
            Behind::Nobody(_) => Some(vec![]),
            Behind::Unknown => None,
        }
    }

    /// The WorkloadEntries of a namespace that carry these labels.
    pub(super) fn machines<'s>(
        &self,
        namespace: &'s str,
        wanted: impl Iterator<Item = (&'s str, &'s str)> + Clone,
    ) -> impl Iterator<Item = &'a Object> {
        self.twin.snapshot.objects_of("WorkloadEntry").filter(move |entry| {
            let own = entry.body.text_map("spec.labels");
            entry.namespace() == namespace && wanted.clone().all(|(key, value)| own.get(key) == Some(value))
        })
    }

    /// The WorkloadEntries that a Service selects as it does pods: those that are pods' addresses, and whether there are others.
    pub(super) fn beside_pods(
        &self,
        service: &Service,
        port: &ServicePort,
        labels: &Labels,
    ) -> (Vec<Found<'a>>, bool) {
        let (mut pods, mut machines) = (vec![], false);
        if service.selector.is_empty() {
            return (pods, machines);
        }
        let wanted = service.selector.iter().chain(labels);
        for entry in self.machines(service.object.namespace(), wanted).filter(|entry| answers_probes(entry)) {
            let spec = entry.body.at("spec").unwrap_or(&Value::Null);
            // A port by name is the entry's own of that name; without it the entry has none.
            let (name, number) = match &port.target {
                TargetPort::Number(number) => ("", u16::try_from(*number).ok()),
                TargetPort::Name(name) => {
                    let mapped = spec.at("ports").and_then(|ports| ports.get(name)).and_then(Value::as_u64);
                    (name.as_str(), mapped.and_then(|port| u16::try_from(port).ok()))
                }
            };
            let Some(number) = number else { continue };
            match self.pods_at((spec, entry.namespace()), (name, number)) {
                Some(found) => pods.extend(found),
                None => machines = true,
            }
        }
        (pods, machines)
    }

    /// The identities that a proxy accepts of whoever stands behind a Service with WorkloadEntries: those of its pods, and those that the
    /// entries name.
    pub(super) fn identities_of(&self, service: &Service) -> Vec<String> {
        let snapshot = self.twin.snapshot;
        let pods = snapshot.pods_behind(service).map(|pod| pod.template.service_account.as_str());
        // Without a selector nothing is selected.
        let selecting = (!service.selector.is_empty()).then_some(&service.selector);
        let entries =
            selecting.into_iter().flat_map(|own| self.machines(service.object.namespace(), own.iter()));
        let named = entries.filter_map(|entry| entry.body.text("spec.serviceAccount"));
        self.identities(service.object.namespace(), pods.chain(named))
    }

    /// Identities of service accounts of a namespace, in order and each once.
    pub(super) fn identities<'s>(
        &self,
        namespace: &str,
        accounts: impl Iterator<Item = &'s str>,
    ) -> Vec<String> {
        let named = accounts.filter(|account| !account.is_empty());
        let all = named.map(|account| policy::identity(&self.twin.snapshot.istio, namespace, account));
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// To pods, to some of which no mutual TLS is spoken.
    pub(super) fn found(
        &self,
        pods: Vec<Found<'a>>,
        (tls, backend): (&ClientTls, Backend),
        answer: &mut Answer,
    ) -> Share {
        if *tls != ClientTls::Auto {
            let all: Vec<_> = pods.into_iter().map(|found| found.endpoint).collect();
            return self.admitted(&all, (tls, backend), answer);
        }
        let of = |spoken: Spoken| -> Vec<Endpoint<'a>> {
            pods.iter().filter(|found| found.spoken == spoken).map(|found| found.endpoint.clone()).collect()
        };
        let kinds = [
            (Spoken::AsItIs, ClientTls::Auto),
            (Spoken::Mutual, ClientTls::IstioMutual),
            (Spoken::Plain, ClientTls::Disable),
        ];
        let mut whole: Option<Share> = None;
        for (spoken, tls) in kinds {
            let some = of(spoken);
            if some.is_empty() {
                continue;
            }
            let share = self.admitted(&some, (&tls, backend.clone()), answer);
            whole = Some(match (whole, share) {
                (None, share) => share,
                (Some(Share::Taken(mut one)), Share::Taken(other)) => {
                    one.pods.extend(other.pods);
                    Share::Taken(one)
                }
                (Some(Share::Failed { status, flag, why }), Share::Failed { .. }) => {
                    Share::Failed { status, flag, why }
                }
                _ => return Share::Unknown("some of the endpoints take it and others do not".to_owned()),
            });
        }
        whole.unwrap_or(Share::Taken(backend))
    }
}

/// Whether a WorkloadEntry takes requests: one whose health is looked at only once it was found well.
pub(super) fn answers_probes(entry: &Object) -> bool {
    let probed = entry.annotations.get("proxy.istio.io/health-checks-enabled");
    if !probed.is_some_and(|word| matches!(word, "true" | "True" | "TRUE" | "t" | "T" | "1")) {
        return true;
    }
    let well = |condition: &Value| {
        condition.text("type") == Some("Healthy") && condition.text("status") == Some("True")
    };
    entry.body.list("status.conditions").iter().any(well)
}
