//! Who stands behind a host of a ServiceEntry.

use core::net::IpAddr;

use super::{Leg, Share};
use crate::analyze::twin::answer::{Answer, Backend, Step};
use crate::analyze::twin::endpoints::Endpoint;
use crate::analyze::twin::party::Party;
use crate::analyze::twin::policy::ClientTls;
use crate::analyze::twin::registry::{Host, Resolution};
use crate::model::fields::Fields;
use crate::model::network::TargetPort;
use crate::model::selector::Labels;

impl Leg<'_, '_, '_> {
    /// The endpoints of a ServiceEntry.
    pub(super) fn entry_share(
        &self,
        host: &Host<'_>,
        (labels, backend): (&Labels, Backend),
        (tls, port): (&ClientTls, u16),
        answer: &mut Answer,
    ) -> Share {
        let body = &host.object().body;
        let nobody = |answer: &mut Answer, why: String| {
            answer.steps.push(Step::by(host.reference(), why.clone()));
            Share::Failed { status: Some(503), flag: "UH", why }
        };
        let target = host.port(port).and_then(|own| match own.target {
            TargetPort::Number(number) => u16::try_from(number).ok(),
            TargetPort::Name(_) => None,
        });
        let target = target.unwrap_or(port);
        if let Some(selector) = body.at("spec.workloadSelector") {
            let wanted = selector.text_map("labels");
            let carries =
                |own: &Labels| wanted.iter().chain(labels).all(|(key, value)| own.get(key) == Some(value));
            let pods = self.twin.snapshot.pods.iter().filter(|pod| {
                pod.object.namespace() == host.namespace
                    && !pod.ended()
                    && pod.ready()
                    && carries(&pod.template.labels)
            });
            let pods: Vec<Endpoint<'_>> = pods
                .map(|pod| Endpoint { party: Party::of_pod(self.twin.snapshot, pod), port: target })
                .collect();
            let machines = self.twin.snapshot.objects_of("WorkloadEntry").any(|entry| {
                entry.namespace() == host.namespace && carries(&entry.body.text_map("spec.labels"))
            });
            if machines {
                answer.steps.push(Step::by(
                    host.reference(),
                    "WorkloadEntries stand behind it; they are taken to answer",
                ));
                return Share::Taken(backend);
            }
            if pods.is_empty() {
                return nobody(
                    answer,
                    format!("no ready pod and no WorkloadEntry backs {}", host.reference()),
                );
            }
            return self.admitted(&pods, (tls, backend), answer);
        }
        let endpoints = body.list("spec.endpoints");
        let carried = |entry: &&serde_json::Value| {
            let own = entry.text_map("labels");
            labels.iter().all(|(key, value)| own.get(key) == Some(value))
        };
        let own: Vec<&serde_json::Value> = endpoints.iter().filter(carried).collect();
        match host.resolution {
            Resolution::Registry if own.is_empty() => {
                nobody(answer, format!("{} lists no endpoint", host.reference()))
            }
            Resolution::Original => self.original("the original destination", answer),
            Resolution::Dns if !endpoints.is_empty() && own.is_empty() => {
                nobody(answer, format!("no endpoint of {} is in the subset", host.reference()))
            }
            _ => {
                let known: Vec<Endpoint<'_>> = own
                    .iter()
                    .filter_map(|entry| self.twin.snapshot.pod_by_ip(entry.text("address")?))
                    .map(|pod| Endpoint { party: Party::of_pod(self.twin.snapshot, pod), port: target })
                    .collect();
                if known.is_empty() {
                    self.leave(host, answer, backend)
                } else {
                    self.admitted(&known, (tls, backend), answer)
                }
            }
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
