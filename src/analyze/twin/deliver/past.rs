//! Past the endpoints: a DestinationRule has the proxy pass connections on to where they were going (`simple: PASSTHROUGH`).

use super::{Leg, Share};
use crate::analyze::twin::answer::{Answer, Backend, Step};
use crate::analyze::twin::endpoints::Behind;
use crate::analyze::twin::policy::{self, ClientTls};
use crate::analyze::twin::registry::{Host, Origin};
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;

impl Leg<'_, '_, '_> {
    /// To where the connection was going, in the TLS of the host that the route names; `passing` is the deciding field, and
    /// whether it stands for all ports.
    pub(super) fn past_endpoints(
        &self,
        host: &Host<'_>,
        passing: (ObjectRef, bool),
        (tls, port): (&ClientTls, u16),
        answer: &mut Answer,
    ) -> Share {
        let (at, of_all_ports) = passing;
        if !self.scope.is_some_and(|scope| scope.is_sidecars()) {
            let why = "PASSTHROUGH asks for where the connection was going, and to a gateway it was going to the gateway itself"
                .to_owned();
            answer.steps.push(Step::by(&at, why.clone()));
            return Share::Failed { status: self.routing.is_some().then_some(503), flag: "UH", why };
        }
        answer
            .steps
            .push(Step::by(&at, "PASSTHROUGH: endpoints and subsets of the destination do not count"));
        let tls = match tls {
            ClientTls::Auto => self.tls_past_endpoints(host, port, of_all_ports),
            other => other.clone(),
        };
        let share = self.original(&format!("the cluster of {}", host.name), &tls, answer);
        match (share, host.origin) {
            (Share::Taken(backend), Origin::Service(service)) if tls == ClientTls::IstioMutual => {
                self.expected(service, backend, answer)
            }
            (share, _) => share,
        }
    }

    /// In mutual TLS the proxy accepts the identities of the Service that the route names, wherever the connection goes.
    fn expected(&self, service: &Service, backend: Backend, answer: &mut Answer) -> Share {
        let snapshot = self.twin.snapshot;
        let accepts =
            if self.expects.is_empty() { self.identities_of(service) } else { self.expects.to_vec() };
        let other = |name: &String| {
            let pod = snapshot.pod(&backend.namespace, name)?;
            let own =
                policy::identity(&snapshot.istio, pod.object.namespace(), &pod.template.service_account);
            (!accepts.contains(&own)).then_some(own)
        };
        let others: Vec<String> = backend.pods.iter().filter_map(other).collect();
        let Some(shown) = others.first().filter(|_| !accepts.is_empty()) else {
            return Share::Taken(backend);
        };
        let why = format!(
            "{}/{} shows {shown}, and the proxy accepts those of {} alone: the handshake fails (CERTIFICATE_VERIFY_FAILED)",
            backend.namespace,
            backend.service,
            service.reference()
        );
        if others.len() < backend.pods.len() {
            return Share::Unknown(why);
        }
        answer.steps.push(Step::plain(why.clone()));
        Share::Failed { status: self.routing.is_some().then_some(503), flag: "UF", why }
    }

    /// Mutual TLS for all pods of the host or for none: the proxy does not know to which one the connection goes. What stands
    /// for one port alone is not looked at for that: then the namespace's word is all that counts.
    fn tls_past_endpoints(&self, host: &Host<'_>, port: u16, of_all_ports: bool) -> ClientTls {
        let Origin::Service(service) = host.origin else { return ClientTls::Disable };
        let (Some(service), Some(own)) =
            (self.twin.snapshot.service(&service.service_name()), service.port(i64::from(port)))
        else {
            return ClientTls::Disable;
        };
        match &*self.twin.behind(service, own, &Labels::new()) {
            Behind::Pods(pods) if of_all_ports => self.tls_to_all(service, pods),
            Behind::Nobody(_) | Behind::Unknown if of_all_ports => ClientTls::Disable,
            _ => self.tls_to_all(service, &[]),
        }
    }
}
