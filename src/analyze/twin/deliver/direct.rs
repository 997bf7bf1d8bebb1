//! Without a proxy at the source: the node's rules choose a pod, and the bytes go out as they are.

use super::{Leg, Share};
use crate::analyze::twin::answer::{Answer, Backend, Outcome, Step};
use crate::analyze::twin::backend;
use crate::analyze::twin::endpoints::{Behind, Endpoint, behind};
use crate::analyze::twin::policy::ClientTls;
use crate::analyze::twin::waypoint::is_waypoint;
use crate::model::network::{Service, ServicePort, TargetPort};
use crate::model::selector::Labels;

impl Leg<'_, '_, '_> {
    /// Without a proxy at the source: the node's rules choose a pod, and the bytes go out as they are.
    pub fn directly(&self, service: &Service, answer: &mut Answer) {
        if service.headless() {
            return self.headless(service, answer);
        }
        if service.port(i64::from(self.port)).is_none() {
            let why = format!("{} has no port {}: nothing answers there", service.reference(), self.port);
            answer.steps.push(Step::by(service.reference(), why.clone()));
            return answer.refuse("", why);
        }
        let backend = backend::of_service(service, self.port);
        let tls = ClientTls::AsSent(self.request.tls);
        let found = self.service_share(service, (self.port, &Labels::new(), None), (&tls, backend), answer);
        let found =
            self.past_gateway(found, (service, self.port, &Labels::new()), (&tls, String::new()), answer);
        self.finish(found, answer);
    }

    /// To a pod of a headless Service, at the pod's own port.
    fn headless(&self, service: &Service, answer: &mut Answer) {
        let own = ServicePort {
            name: String::new(),
            number: i64::from(self.port),
            target: TargetPort::Number(i64::from(self.port)),
            transport: "TCP".to_owned(),
            app_protocol: String::new(),
        };
        let backend = backend::of_service(service, self.port);
        let Some(service) = self.twin.snapshot.service(&service.service_name()) else {
            return answer.give_up(format!("{} is not among what was read", service.reference()));
        };
        let tls = ClientTls::AsSent(self.request.tls);
        let found = match behind(self.twin, service, &own, &Labels::new()) {
            Behind::Pods(pods) => self.admitted(&pods, (&tls, backend), answer),
            Behind::Nobody(why) => Share::Failed { status: None, flag: "UH", why },
            Behind::Unknown => Share::Taken(backend),
        };
        self.finish(found, answer);
    }

    /// The same to a pod.
    pub fn to_pod(&self, pod: Endpoint<'_>, answer: &mut Answer) {
        let backend = Backend { weight: 1, ..backend::of_party(&pod.party, self.port) };
        let from_waypoint = self.from.party().is_some_and(|party| is_waypoint(party.labels()));
        let tls = if from_waypoint { ClientTls::Auto } else { ClientTls::AsSent(self.request.tls) };
        let found = self.admitted(&[pod], (&tls, backend), answer);
        self.finish(found, answer);
    }

    fn finish(&self, found: Share, answer: &mut Answer) {
        match found {
            Share::Taken(backend) => {
                answer.outcome = Outcome::Forwarded;
                answer.detail = format!("it reaches {}", backend::name(&backend));
                answer.backends = vec![backend];
                if self.request.protocol.is_http() {
                    answer.status = Some(self.request.backend_response.status);
                    answer.response_headers.clone_from(&self.request.backend_response.headers);
                }
            }
            // Without a proxy that waits for pods a connection to none of them is refused.
            Share::Failed { flag: "UH" | "NC" | "UF", why, .. } => answer.refuse("", why),
            Share::Failed { status: Some(status), flag, why } => answer.respond(status, flag, why),
            Share::Failed { status: None, flag, why } => answer.refuse(flag, why),
            Share::Unknown(why) => answer.give_up(why),
        }
    }
}
