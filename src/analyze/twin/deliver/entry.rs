//! Who stands behind a host of a ServiceEntry.

use core::net::IpAddr;

use crate::model::json::Value;

use super::machines::{Found, Spoken, answers_probes};
use super::{Leg, Share, speaks_h2};
use crate::analyze::twin::answer::{Answer, Backend, Step};
use crate::analyze::twin::endpoints::Endpoint;
use crate::analyze::twin::istio::scope::Scope;
use crate::analyze::twin::party::Party;
use crate::analyze::twin::policy::ClientTls;
use crate::analyze::twin::registry::{Host, HostPort, Resolution};
use crate::model::fields::Fields;
use crate::model::network::TargetPort;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;

/// What the ServiceEntries of one host and namespace list for a port: their endpoints add up, whatever else tells them apart.
struct Listed<'a> {
    /// Pods, with their ports.
    pods: Vec<Found<'a>>,
    /// An entry that selects workloads, and whether it finds machines outside of the cluster.
    selecting: Option<(&'a ObjectRef, bool)>,
    /// How many endpoints are written, and how many of them the subset leaves.
    written: (usize, usize),
    /// An entry, and the address of an endpoint of its in the cluster where nobody takes a connection.
    silent: Option<(&'a ObjectRef, &'a str)>,
}

impl<'a> Leg<'_, 'a, '_> {
    fn listed(&self, host: &Host<'a>, labels: &Labels, port: u16) -> Listed<'a> {
        let snapshot = self.twin.snapshot;
        let mut out = Listed { pods: vec![], selecting: None, written: (0, 0), silent: None };
        let own = host.port(port).map(|own| own.name.as_str());
        let mut seen: Vec<&ObjectRef> = vec![];
        let alike = |other: &&Host<'a>| {
            other.namespace == host.namespace
                && other.of_entry()
                && matches!(other.resolution, Resolution::Registry | Resolution::Dns)
        };
        for other in self.twin.registry.named(&host.name).filter(alike) {
            // An entry with several addresses makes several hosts.
            if seen.contains(&other.reference()) {
                continue;
            }
            seen.push(other.reference());
            let fits = |at: &&HostPort| Some(at.name.as_str()) == own || at.number == port;
            let Some(at) = other.ports.iter().find(fits) else { continue };
            let target = target(at);
            let body = &other.object().body;
            if let Some(selector) = body.at("spec.workloadSelector") {
                let wanted = selector.text_map("labels");
                let carries = |own: &Labels| {
                    wanted.iter().chain(labels).all(|(key, value)| own.get(key) == Some(value))
                };
                let pods = snapshot.pods.iter().filter(|pod| {
                    pod.object.namespace() == host.namespace
                        && !pod.ended()
                        && pod.ready()
                        && carries(&pod.template.labels)
                });
                out.pods.extend(pods.map(|pod| Found {
                    endpoint: Endpoint { party: Party::of_pod(snapshot, pod), port: target },
                    spoken: Spoken::AsItIs,
                }));
                let mut machines = out.selecting.is_some_and(|(_, machines)| machines);
                let selected = self.machines(host.namespace, wanted.iter().chain(labels));
                for machine in selected.filter(|entry| answers_probes(entry)) {
                    let spec = machine.body.at("spec").unwrap_or(&Value::Null);
                    match self.pods_at((spec, machine.namespace()), (&at.name, target)) {
                        Some(found) => out.pods.extend(found),
                        None => machines = true,
                    }
                }
                out.selecting = Some((other.reference(), machines));
            }
            for entry in body.list("spec.endpoints") {
                let carried = entry.text_map("labels");
                out.written.0 += 1;
                if !labels.iter().all(|(key, value)| carried.get(key) == Some(value)) {
                    continue;
                }
                out.written.1 += 1;
                match self.pods_at((entry, host.namespace), (&at.name, target)) {
                    Some(found) if found.is_empty() => {
                        out.silent = Some((other.reference(), entry.text("address").unwrap_or_default()));
                    }
                    Some(found) => out.pods.extend(found),
                    None => {}
                }
            }
        }
        out
    }

    /// The identities that a proxy accepts of whoever stands behind a host: those that the endpoints of its ServiceEntries name, whatever
    /// their ports, those of the workloads that they select, and `subjectAltNames`.
    fn identities_of_host(&self, host: &Host<'a>) -> Vec<String> {
        let snapshot = self.twin.snapshot;
        let own = self.twin.registry.named(&host.name);
        let own = own.filter(|other| other.namespace == host.namespace && other.of_entry());
        let (mut accounts, mut names) = (vec![], vec![]);
        for body in own.map(|other| &other.object().body) {
            names.extend(body.texts("spec.subjectAltNames"));
            accounts
                .extend(body.list("spec.endpoints").iter().filter_map(|entry| entry.text("serviceAccount")));
            let Some(selector) = body.at("spec.workloadSelector") else { continue };
            let wanted = selector.text_map("labels");
            let carries = |own: &Labels| wanted.iter().all(|(key, value)| own.get(key) == Some(value));
            let pods = snapshot.pods.iter().filter(|pod| {
                pod.object.namespace() == host.namespace && !pod.ended() && carries(&pod.template.labels)
            });
            accounts.extend(pods.map(|pod| pod.template.service_account.as_str()));
            let entries = self.machines(host.namespace, wanted.iter());
            accounts.extend(entries.filter_map(|entry| entry.body.text("spec.serviceAccount")));
        }
        names.extend(self.identities(host.namespace, accounts.into_iter()));
        names
    }

    /// The endpoints of a ServiceEntry.
    pub(super) fn entry_share(
        &self,
        host: &Host<'a>,
        (labels, backend): (&Labels, Backend),
        (tls, port): (&ClientTls, u16),
        answer: &mut Answer,
    ) -> Share {
        // Of what is outside of the mesh nobody expects its mutual TLS.
        let plain = *tls == ClientTls::Auto && host.external;
        let tls = if plain { &ClientTls::Disable } else { tls };
        let sidecars = self.scope.is_none_or(Scope::is_sidecars);
        if host.resolution == Resolution::Original
            && sidecars
            && host.object().body.at("spec.workloadSelector").is_none()
        {
            if self.h2 {
                return Share::Unknown(speaks_h2(&host.name));
            }
            let leg = Leg { port: host.port(port).map_or(self.port, target), ..*self };
            return leg.original("the original destination", tls, answer);
        }
        let listed = self.listed(host, labels, port);
        // What a name server is to be asked for has no cluster where there is nothing to ask for.
        let flag = if host.resolution == Resolution::Dns { "NC" } else { "UH" };
        let nobody = |answer: &mut Answer, why: String| {
            answer.steps.push(Step::by(host.reference(), why.clone()));
            Share::Failed { status: Some(503), flag, why }
        };
        match (listed.selecting, listed.written) {
            (Some((entry, true)), _) if self.h2 => Share::Unknown(speaks_h2(&entry.to_string())),
            (Some((entry, true)), _) => {
                answer
                    .steps
                    .push(Step::by(entry, "WorkloadEntries stand behind it; they are taken to answer"));
                Share::Taken(backend)
            }
            _ if !listed.pods.is_empty() => {
                let own = self.identities_of_host(host);
                self.expecting(&own).found(listed.pods, (tls, backend), answer)
            }
            _ if let Some((entry, address)) = listed.silent => {
                let why = format!("nobody takes a connection at {address}, an endpoint of {entry}");
                answer.steps.push(Step::by(entry, why.clone()));
                Share::Failed { status: self.routing.is_some().then_some(503), flag: "UF", why }
            }
            (Some((entry, false)), (_, 0)) => {
                nobody(answer, format!("no ready pod and no WorkloadEntry backs {entry}"))
            }
            (None, (0, 0)) if matches!(host.resolution, Resolution::Registry | Resolution::Original) => {
                nobody(answer, format!("{} lists no endpoint", host.reference()))
            }
            // A host without endpoints is looked up itself, and carries no labels.
            (None, (_, 0)) if host.resolution == Resolution::Registry || !labels.is_empty() => {
                nobody(answer, format!("no endpoint of {} is in the subset", host.reference()))
            }
            _ if self.h2 => Share::Unknown(speaks_h2(&host.name)),
            _ => self.leave(host, answer, backend),
        }
    }

    /// Out of the cluster: only the source's own network policies stand against it.
    fn leave(&self, host: &Host<'_>, answer: &mut Answer, backend: Backend) -> Share {
        let addresses =
            host.object().body.list("spec.endpoints").iter().filter_map(|entry| entry.text("address"));
        let address = addresses.filter_map(|text| text.parse::<IpAddr>().ok()).next();
        if host.external {
            answer.steps.push(Step::by(host.reference(), format!("{} is outside of the mesh", host.name)));
        }
        self.outside(
            address.or(self.ip).filter(|ip| !self.twin.registry.is_allocated(*ip)),
            &host.name,
            answer,
            backend,
        )
    }
}

/// The port of an endpoint that names none itself.
fn target(at: &HostPort) -> u16 {
    match at.target {
        TargetPort::Number(number) => u16::try_from(number).unwrap_or(at.number),
        TargetPort::Name(_) => at.number,
    }
}
