//! To where a connection was going, and out of the cluster.

use core::net::IpAddr;

use super::{Leg, Share};
use crate::analyze::twin::answer::{Answer, Backend, Outcome, Step};
use crate::analyze::twin::backend;
use crate::analyze::twin::endpoints::Endpoint;
use crate::analyze::twin::party::Peer;
use crate::analyze::twin::policy::{self, ClientTls, Passage, Ruling};
use crate::analyze::twin::resolve::Place;
use crate::model::selector::Labels;

impl Leg<'_, '_, '_> {
    /// To where the connection was going, wrapped in what the proxy was told to; otherwise as it came.
    pub(super) fn original(&self, name: &str, tls: &ClientTls, answer: &mut Answer) -> Share {
        answer.steps.push(Step::plain(format!("{name} passes the connection on to where it was going")));
        let tls = match tls {
            ClientTls::IstioMutual | ClientTls::Originate => tls.clone(),
            _ => ClientTls::AsSent(self.request.tls),
        };
        match self.as_it_goes(tls, answer) {
            // A proxy that reads HTTP tells its caller that the connection was closed.
            Share::Failed { status: None, flag, why } if self.routing.is_some() => {
                let flag = if flag.is_empty() { "UC" } else { flag };
                Share::Failed { status: Some(503), flag, why }
            }
            share => share,
        }
    }

    fn as_it_goes(&self, tls: ClientTls, answer: &mut Answer) -> Share {
        match self.place {
            Place::Pod(party) => {
                let backend = backend::of_party(party, self.port);
                let pods = [Endpoint { party: (**party).clone(), port: self.port }];
                self.admitted(&pods, (&tls, backend), answer)
            }
            // The address of a Service that the proxy does not see: the node's own rules take it to a pod.
            Place::Service(service) => {
                let backend = backend::of_service(service, self.port);
                let own = (self.port, &Labels::new(), None);
                match self.service_share(service, own, (&tls, backend), answer) {
                    // Those rules refuse a connection to nobody.
                    Share::Failed { status, flag: "UH" | "NC", why } => {
                        Share::Failed { status, flag: "UF", why }
                    }
                    share => share,
                }
            }
            Place::Address(ip) => {
                let backend = outside_backend(&ip.to_string(), self.port);
                self.outside(Some(*ip), &ip.to_string(), answer, backend)
            }
            Place::Outside(name) => {
                let backend = outside_backend(name, self.port);
                self.outside(
                    self.ip.filter(|ip| !self.twin.registry.is_allocated(*ip)),
                    name,
                    answer,
                    backend,
                )
            }
        }
    }

    /// To an address outside of the cluster, known or not.
    pub fn reach_outside(&self, ip: Option<IpAddr>, name: &str, answer: &mut Answer) {
        let backend = outside_backend(name, self.port);
        match self.outside(ip, name, answer, backend) {
            Share::Taken(backend) => {
                answer.outcome = Outcome::Forwarded;
                answer.detail = format!("it leaves the cluster for {name}");
                answer.backends = vec![backend];
                if self.request.protocol.is_http() {
                    answer.status = Some(self.request.backend_response.status);
                    answer.response_headers.clone_from(&self.request.backend_response.headers);
                }
            }
            Share::Failed { why, .. } => answer.refuse("", why),
            Share::Unknown(why) => answer.give_up(why),
        }
    }

    pub(super) fn outside(
        &self,
        ip: Option<IpAddr>,
        name: &str,
        answer: &mut Answer,
        backend: Backend,
    ) -> Share {
        let Some(ip) = ip else {
            let isolating = self.from.party().and_then(|party| {
                self.twin.snapshot.network_policies.iter().find(|policy| {
                    policy.egress
                        && policy.object.namespace() == party.namespace()
                        && policy.selector.matches(party.labels())
                })
            });
            return match isolating {
                Some(policy) => Share::Unknown(format!(
                    "{} limits where {} connects to, and the address of {name} is not known",
                    policy.object.reference, self.from
                )),
                None => Share::Taken(backend),
            };
        };
        let to = Peer::Address(ip.to_string());
        let passage = Passage {
            from: self.from,
            to: &to,
            protocol: self.request.protocol,
            port: self.port,
            tls: ClientTls::AsSent(self.request.tls),
            accepts: &[],
            sni: None,
            request: None,
            remote_ip: None,
        };
        let verdict = policy::admit(self.twin, &passage);
        answer.steps.extend(verdict.steps);
        match verdict.ruling {
            Ruling::Allowed => Share::Taken(backend),
            Ruling::Refused { status, flag, detail } => Share::Failed { status, flag, why: detail },
            Ruling::NotModelled(why) => Share::Unknown(why),
        }
    }
}

fn outside_backend(name: &str, port: u16) -> Backend {
    Backend { service: name.to_owned(), port, weight: 1, ..Backend::default() }
}
