//! Endpoints that are written down: of ServiceEntries, and WorkloadEntries beside the pods of a Service.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::{Leg, Share};
use crate::analyze::twin::answer::{Answer, Backend};
use crate::analyze::twin::endpoints::Endpoint;
use crate::analyze::twin::party::Party;
use crate::analyze::twin::policy::{self, ClientTls};
use crate::model::fields::Fields;
use crate::model::network::{Service, ServicePort, TargetPort};
use crate::model::object::Object;
use crate::model::selector::Labels;

/// A pod that an endpoint names, or that is one itself.
pub(super) struct Found<'a> {
    /// The pod and its port.
    pub(super) endpoint: Endpoint<'a>,
    /// Whether the mesh speaks mutual TLS to it where it can: to pods, and to addresses that are written as ones that speak it.
    pub(super) meshed: bool,
}

impl<'a> Leg<'_, 'a, '_> {
    /// The pod at the address of an endpoint as a ServiceEntry or a WorkloadEntry writes it.
    pub(super) fn pod_at(&self, written: &Value, port_name: &str, target: u16) -> Option<Found<'a>> {
        let snapshot = self.twin.snapshot;
        let pod = written.text("address").and_then(|address| snapshot.pod_by_ip(address))?;
        let mapped = written.at("ports").and_then(|ports| ports.get(port_name)).and_then(Value::as_u64);
        let port = mapped.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let mode = written.text_map("labels").get("security.istio.io/tlsMode").map(str::to_owned);
        let named = written.text("serviceAccount").is_some_and(|name| !name.is_empty());
        let endpoint = Endpoint { party: Party::of_pod(snapshot, pod), port: port.unwrap_or(target) };
        Some(Found { endpoint, meshed: mode.map_or(named, |mode| mode == "istio") })
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
            match self.pod_at(spec, name, number) {
                Some(found) => pods.push(found),
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
        let (meshed, others): (Vec<_>, Vec<_>) =
            pods.into_iter().partition(|found| found.meshed || *tls != ClientTls::Auto);
        let list = |all: Vec<Found<'a>>| all.into_iter().map(|found| found.endpoint).collect::<Vec<_>>();
        let (meshed, others) = (list(meshed), list(others));
        if others.is_empty() {
            return self.admitted(&meshed, (tls, backend), answer);
        }
        let plain = self.admitted(&others, (&ClientTls::Disable, backend.clone()), answer);
        if meshed.is_empty() {
            return plain;
        }
        match (self.admitted(&meshed, (tls, backend), answer), plain) {
            (Share::Taken(mut one), Share::Taken(other)) => {
                one.pods.extend(other.pods);
                Share::Taken(one)
            }
            (Share::Failed { status, flag, why }, Share::Failed { .. }) => {
                Share::Failed { status, flag, why }
            }
            _ => Share::Unknown("some of the endpoints take it and others do not".to_owned()),
        }
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
