//! Past the endpoints: a DestinationRule has the proxy pass connections on to where they were going (`simple: PASSTHROUGH`).

use super::{Leg, Share};
use crate::analyze::twin::answer::{Answer, Step};
use crate::analyze::twin::endpoints::Behind;
use crate::analyze::twin::policy::ClientTls;
use crate::analyze::twin::registry::{Host, Origin};
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
        // Wherever the connection goes, the proxy accepts the identities of the Service that the route names.
        let own = match host.origin {
            Origin::Service(service) => self.identities_of(service),
            Origin::Entry(_) => vec![],
        };
        self.expecting(&own).original(&format!("the cluster of {}", host.name), &tls, answer)
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
