//! Who stands behind a host of a ServiceEntry.

use core::net::IpAddr;

use serde_json::Value;

use super::{Leg, Share, speaks_h2};
use crate::analyze::twin::answer::{Answer, Backend, Step};
use crate::analyze::twin::endpoints::Endpoint;
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
    pods: Vec<Endpoint<'a>>,
    /// An entry that selects workloads, and whether it finds machines outside of the cluster.
    selecting: Option<(&'a ObjectRef, bool)>,
    /// How many endpoints are written, and how many of them the subset leaves.
    written: (usize, usize),
}

impl<'a> Leg<'_, 'a, '_> {
    fn listed(&self, host: &Host<'a>, labels: &Labels, port: u16) -> Listed<'a> {
        let snapshot = self.twin.snapshot;
        let mut out = Listed { pods: vec![], selecting: None, written: (0, 0) };
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
            let target = match at.target {
                TargetPort::Number(number) => u16::try_from(number).unwrap_or(at.number),
                TargetPort::Name(_) => at.number,
            };
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
                out.pods
                    .extend(pods.map(|pod| Endpoint { party: Party::of_pod(snapshot, pod), port: target }));
                let machines = snapshot.objects_of("WorkloadEntry").any(|entry| {
                    entry.namespace() == host.namespace && carries(&entry.body.text_map("spec.labels"))
                });
                let before = out.selecting.is_some_and(|(_, machines)| machines);
                out.selecting = Some((other.reference(), machines || before));
            }
            for entry in body.list("spec.endpoints") {
                let carried = entry.text_map("labels");
                out.written.0 += 1;
                if !labels.iter().all(|(key, value)| carried.get(key) == Some(value)) {
                    continue;
                }
                out.written.1 += 1;
                let mapped = entry.at("ports").and_then(|ports| ports.get(&at.name)).and_then(Value::as_u64);
                let port = mapped.and_then(|port| u16::try_from(port).ok()).unwrap_or(target);
                let pod = entry.text("address").and_then(|address| snapshot.pod_by_ip(address));
                out.pods.extend(pod.map(|pod| Endpoint { party: Party::of_pod(snapshot, pod), port }));
            }
        }
        out
    }

    /// The endpoints of a ServiceEntry.
    pub(super) fn entry_share(
        &self,
        host: &Host<'a>,
        (labels, backend): (&Labels, Backend),
        (tls, port): (&ClientTls, u16),
        answer: &mut Answer,
    ) -> Share {
        if host.resolution == Resolution::Original && host.object().body.at("spec.workloadSelector").is_none()
        {
            if self.h2 {
                return Share::Unknown(speaks_h2(&host.name));
            }
            return self.original("the original destination", answer);
        }
        let listed = self.listed(host, labels, port);
        let nobody = |answer: &mut Answer, why: String| {
            answer.steps.push(Step::by(host.reference(), why.clone()));
            Share::Failed { status: Some(503), flag: "UH", why }
        };
        match (listed.selecting, listed.written) {
            (Some((entry, true)), _) if self.h2 => Share::Unknown(speaks_h2(&entry.to_string())),
            (Some((entry, true)), _) => {
                answer
                    .steps
                    .push(Step::by(entry, "WorkloadEntries stand behind it; they are taken to answer"));
                Share::Taken(backend)
            }
            _ if !listed.pods.is_empty() => self.admitted(&listed.pods, (tls, backend), answer),
            (Some((entry, false)), (_, 0)) => {
                nobody(answer, format!("no ready pod and no WorkloadEntry backs {entry}"))
            }
            (None, (_, 0)) if host.resolution == Resolution::Registry => {
                nobody(answer, format!("{} lists no endpoint", host.reference()))
            }
            (None, (1.., 0)) if host.resolution == Resolution::Dns => {
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
