//! The last part of a request's way: from the destinations that a proxy chose to the pods that take it.

mod backend_tls;
mod direct;
pub mod door;
mod ejection;
mod entry;
mod late;
mod machines;
mod near;
mod outside;
mod past;
mod relay;
mod spoken;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::BTreeMap;

use super::Twin;
use super::answer::{Answer, Backend, Lost, Outcome, Step};
use super::ask::{Request, Tls};
use super::backend;
use super::endpoints::{Behind, Endpoint};
use super::gateway_api::backends;
use super::http::operators::Reply;
use super::http::table::{Destination, Weighted};
use super::istio::destination_rule::Applying;
use super::istio::scope::{Known, Scope};
use super::party::Peer;
use super::policy::{self, Arriving, ClientTls, Normalization, Passage, Ruling};
use super::registry::Origin;
use super::resolve::Place;
use super::respond::Routing;
use super::simulate::Onward;
use super::waypoint;
use crate::model::fields::Fields;
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use machines::{Found, Spoken};
use spoken::server_name;

/// A request on its last hop: who sends it, and where it was going before a proxy took it.
#[derive(Debug, Clone, Copy)]
pub struct Leg<'l, 'a, 'p> {
    /// What the request is asked of.
    pub twin: &'l Twin<'a>,
    /// The pod that opens the connection.
    pub from: &'l Peer<'p>,
    /// Its namespace.
    pub namespace: &'l str,
    /// Its labels.
    pub labels: &'l Labels,
    /// Where the connection was going.
    pub place: &'l Place<'a>,
    /// The address of that, as far as it is known.
    pub ip: Option<IpAddr>,
    /// The port that it was going to.
    pub port: u16,
    /// The request as the client sent it.
    pub request: &'l Request,
    /// The HTTP side of what a proxy does with it; none for bytes.
    pub routing: Option<&'l Routing>,
    /// What the proxy that sends it sees of the mesh; none where there is no proxy of Istio's.
    pub scope: Option<&'l Scope<'a>>,
    /// Whether a gateway sends it.
    pub door: bool,
    /// Whether the proxy speaks HTTP/2 to the destination, whatever it was spoken to in.
    pub h2: bool,
    /// The identities that the proxy accepts in mutual TLS, as far as they are none that the mesh gives the destination's pods anyway; none where
    /// it accepts all of the mesh's.
    pub expects: &'l [String],
}

/// What becomes of one destination's share.
enum Share {
    /// These take it.
    Taken(Backend),
    /// The proxy answers, or closes the connection.
    Failed { status: Option<u16>, flag: &'static str, why: String },
    /// Nobody here can say.
    Unknown(String),
}

impl Leg<'_, '_, '_> {
    /// Sends the request to the destinations that a proxy chose.
    pub fn deliver(&self, onward: &Onward, answer: &mut Answer) {
        let leg = Leg { routing: onward.http.as_ref(), ..*self };
        answer.cluster = onward.to.first().map(|to| to.to.cluster()).unwrap_or_default();
        let whole: u64 = onward.to.iter().map(|to| u64::from(to.weight)).sum();
        let (mut taken, mut failed) = (vec![], vec![]);
        for to in onward.to.iter().filter(|to| to.weight > 0 || onward.to.len() == 1) {
            match leg.share(to, answer) {
                Share::Taken(found) => taken.push(Backend { weight: to.weight, ..found }),
                Share::Failed { status, flag, why } => failed.push((to.weight, status, flag, why)),
                Share::Unknown(why) => return answer.give_up(why),
            }
        }
        let told = |status: Option<u16>, flag: &str| {
            status.map_or_else(|| "fail".to_owned(), |status| format!("are answered {status} {flag}"))
        };
        if taken.is_empty() {
            // Most of them fail in one way; the others are told.
            failed.sort_by_key(|(weight, ..)| std::cmp::Reverse(*weight));
            for (weight, status, flag, why) in failed.iter().skip(1) {
                let what = told(*status, flag);
                answer
                    .steps
                    .push(Step::plain(format!("{weight} of {whole} requests {}: {why}", what.trim_end())));
            }
            let broken = onward.to.iter().any(|to| matches!(to.to, Destination::Broken(..)));
            let readable = self.request.protocol.is_http() && self.request.tls == Tls::Plaintext;
            return match (failed.into_iter().next(), &onward.http) {
                (Some((_, Some(status), flag, why)), Some(routing)) => {
                    answer.respond(status, flag, why);
                    // A route changes the headers of failures, too. Without a flag, or with an authorizer's, the next proxy has answered.
                    let reply = match flag {
                        "" if broken => Reply::direct(status),
                        "" | "UAEX" => Reply::upstream(status),
                        own => Reply::own(status, own),
                    };
                    routing.answered(reply, BTreeMap::new(), answer);
                }
                // The bytes of a plaintext request pass this proxy, and the next one reads them and answers.
                (Some((_, Some(status), flag @ ("" | "UAEX"), why)), None) if !broken && readable => {
                    answer.respond(status, flag, why);
                }
                (Some((_, _, flag, why)), _) => answer.refuse(flag, why),
                (None, _) => answer.refuse("", "the rule names no destination"),
            };
        }
        for (weight, status, flag, why) in failed {
            let what = told(status, flag);
            answer
                .steps
                .push(Step::plain(format!("{weight} of {whole} requests {}: {why}", what.trim_end())));
            answer.lost.push(Lost {
                share: format!("{weight} of {whole} requests"),
                status,
                flag: flag.to_owned(),
            });
        }
        if let Some((routing, late)) =
            onward.http.as_ref().and_then(|http| Some((http, http.overdue.clone()?)))
        {
            answer.respond(504, "UT", late.decision.clone());
            answer.steps.push(late);
            routing.answered(Reply::own(504, "UT"), BTreeMap::new(), answer);
            return;
        }
        answer.backends = backend::added_up(taken);
        let names: Vec<String> = answer.backends.iter().map(backend::name).collect();
        answer.outcome = Outcome::Forwarded;
        answer.detail = format!("it reaches {}", names.join(" or "));
        if let Some(routing) = &onward.http {
            answer.sent = routing.sent.clone();
            answer.mirrors = routing
                .mirrors
                .iter()
                .filter_map(|to| backend::of(self.twin, self.scope, to, self.namespace))
                .collect();
            let told = &self.request.backend_response;
            routing.answered(Reply::upstream(told.status), told.headers.clone(), answer);
        }
        if self.request.protocol.is_http() {
            answer.status = Some(self.request.backend_response.status);
        }
    }

    fn share(&self, to: &Weighted, answer: &mut Answer) -> Share {
        match &to.to {
            Destination::Host { host, subset, port } => self.host_share(to, (host, subset, *port), answer),
            Destination::Original(name) => self.original(name, &ClientTls::Disable, answer),
            Destination::BlackHole => {
                let why = "nothing that the mesh knows is there, and outboundTrafficPolicy is REGISTRY_ONLY"
                    .to_owned();
                Share::Failed { status: None, flag: "UH", why }
            }
            Destination::Broken(status, why) => {
                answer.steps.push(Step::by(&to.source, why.clone()));
                Share::Failed { status: Some(*status), flag: "", why: why.clone() }
            }
            Destination::Local { port } => {
                Share::Unknown(format!("port {port} of the application beside the proxy is not looked into"))
            }
        }
    }

    fn host_share(
        &self,
        to: &Weighted,
        (name, subset, port): (&str, &str, u16),
        answer: &mut Answer,
    ) -> Share {
        let missing = |why: String| Share::Failed { status: Some(503), flag: "NC", why };
        let found = backend::find(self.twin, self.scope, (name, port), self.namespace);
        let Some(Known { host, with_port, .. }) = found else {
            match backends::apart(self.twin.snapshot, name, port) {
                Some(Ok(found)) => return Share::Taken(found),
                Some(Err(why)) => return Share::Failed { status: Some(503), flag: "UH", why },
                None => {}
            }
            let why = format!("the mesh knows no host {name}, so there is no cluster {}", to.to.cluster());
            answer.steps.push(Step::by(&to.source, why.clone()));
            return missing(why);
        };
        let rules = self.twin.destination_rules.find(name, host.namespace, self.namespace, self.labels);
        if !with_port {
            let why = format!(
                "{} has no port {port}, so there is no cluster {}",
                host.reference(),
                to.to.cluster()
            );
            answer.steps.push(Step::by(&to.source, why.clone()));
            return missing(why);
        }
        let labels = match chosen_subset(rules.as_ref(), subset) {
            Ok(None) => Labels::new(),
            Ok(Some((at, labels))) => {
                answer.steps.push(Step::by(&at, format!("subset {subset} is {}", selector_text(&labels))));
                labels
            }
            Err(()) => {
                let why = format!(
                    "no DestinationRule for {name} defines subset {subset}: there is no cluster {}",
                    to.to.cluster()
                );
                answer.steps.push(Step::by(&to.source, why.clone()));
                return missing(why);
            }
        };
        if let Some(why) = self.may_be_anothers(host, port) {
            answer.steps.push(Step::by(host.reference(), why.clone()));
            return Share::Unknown(why);
        }
        let backend = backend::of(self.twin, self.scope, &to.to, self.namespace).unwrap_or_default();
        if self.door
            && waypoint::takes_from_gateways(self.twin.snapshot, host.object())
            && let Some(share) = self.waypoint_share(host, port, &backend, answer)
        {
            return share;
        }
        let tls = match self.backend_tls(host, rules.as_ref(), port, answer) {
            Some(Ok(tls)) => tls,
            Some(Err(share)) => return share,
            None => self.client_tls(rules.as_ref(), subset, port, answer),
        };
        let names =
            if tls == ClientTls::IstioMutual { spoken::names(rules.as_ref(), subset, port) } else { vec![] };
        if let Some(passing) = rules.as_ref().and_then(|rules| rules.passes_through(subset, port)) {
            let leg = self.expecting(&names);
            return leg.past_endpoints(host, passing, (&tls, port), answer);
        }
        let leg = Leg {
            expects: &names,
            h2: self.routing.is_some() && self.upgraded(host, rules.as_ref(), (subset, port), answer),
            ..*self
        };
        match host.origin {
            Origin::Service(service) => {
                let near = Some((rules.as_ref(), subset));
                let taken = leg.service_share(service, (port, &labels, near), (&tls, backend), answer);
                let sni = server_name(rules.as_ref(), (name, subset, port));
                self.past_gateway(taken, (service, port, &labels), (&tls, sni), answer)
            }
            Origin::Entry(_) => leg.entry_share(host, (&labels, backend), (&tls, port), answer),
        }
    }

    /// The pods of a Service.
    fn service_share(
        &self,
        service: &Service,
        (port, labels, near): (u16, &Labels, Option<(Option<&Applying<'_>>, &str)>),
        (tls, backend): (&ClientTls, Backend),
        answer: &mut Answer,
    ) -> Share {
        let Some(own) = service.port(i64::from(port)) else {
            return Share::Failed {
                status: Some(503),
                flag: "NC",
                why: format!("{} has no port {port}", service.reference()),
            };
        };
        // A Service that is read through a shorter borrow than the snapshot's is looked up again.
        let Some(service) = self.twin.snapshot.service(&service.service_name()) else {
            return Share::Unknown(format!("{} is not among what was read", service.reference()));
        };
        let behind = self.twin.behind(service, own, labels);
        let beside = match &*behind {
            Behind::Pods(pods) => match self.on_node(service, pods, answer) {
                Ok(left) => Behind::Pods(left),
                Err(why) => return Share::Failed { status: Some(503), flag: "UH", why },
            },
            other => other.clone(),
        };
        if self.scope.is_some() && !service.headless() {
            let (more, machines) = self.beside_pods(service, own, labels);
            if machines && self.h2 {
                return Share::Unknown(speaks_h2(&service.reference().to_string()));
            }
            if machines {
                let said = "WorkloadEntries stand behind it; they are taken to answer";
                answer.steps.push(Step::by(service.reference(), said));
                return Share::Taken(backend);
            }
            if !more.is_empty() {
                let pods = if let Behind::Pods(pods) = beside { pods } else { vec![] };
                let pods = pods.into_iter().map(|endpoint| Found { endpoint, spoken: Spoken::AsItIs });
                let own = self.identities_of(service);
                let leg = self.expecting(&own);
                return leg.found(pods.chain(more).collect(), (tls, backend), answer);
            }
        }
        match &beside {
            // Without a proxy at the source nobody ejects.
            Behind::Pods(pods) if matches!(tls, ClientTls::AsSent(_)) => {
                self.admitted(pods, (tls, backend), answer)
            }
            Behind::Pods(pods) if service.headless() && matches!(tls, ClientTls::Auto) => {
                let tls = self.tls_to_all(service, pods);
                self.admitted(pods, (&tls, backend), answer)
            }
            Behind::Pods(pods) => match self.not_ejected(&backend, pods, answer) {
                Ok(left) => {
                    // Where some are ejected requests may spill over to places farther away.
                    let left = match near.filter(|_| left.len() == pods.len()) {
                        Some((rules, subset)) => {
                            let left = self.nearest(service, (rules, subset, port), left, answer);
                            told_apart(rules, (subset, port), left.len(), answer);
                            left
                        }
                        None => left,
                    };
                    self.admitted(&left, (tls, backend), answer)
                }
                Err(why) => Share::Failed { status: Some(503), flag: "UH", why },
            },
            Behind::Nobody(why) => {
                answer.steps.push(Step::by(service.reference(), why.clone()));
                Share::Failed { status: Some(503), flag: "UH", why: why.clone() }
            }
            Behind::Unknown => {
                answer.steps.push(Step::by(
                    service.reference(),
                    "nothing that was read stands behind it; it is taken to answer",
                ));
                Share::Taken(backend)
            }
        }
    }

    /// Whether the pods take the request; those that do are its backends.
    fn admitted(
        &self,
        pods: &[Endpoint<'_>],
        (tls, mut backend): (&ClientTls, Backend),
        answer: &mut Answer,
    ) -> Share {
        let sni = self.request.server_name();
        // HTTP that a proxy at the source passes on as bytes is none to the one at the destination either.
        let readable = self.request.protocol.is_http()
            && (self.routing.is_some() || matches!(tls, ClientTls::AsSent(_)));
        let mut first: Option<Ruling> = None;
        let (mut told, mut refused) = (false, 0_usize);
        // A sidecar takes either version.
        if let Some(bare) = pods.iter().find(|endpoint| self.h2 && !endpoint.party.proxy) {
            return Share::Unknown(speaks_h2(&bare.party.reference.to_string()));
        }
        for endpoint in pods {
            let to = Peer::Pod(endpoint.party.clone());
            let passage = Passage {
                from: self.from,
                to: &to,
                protocol: self.request.protocol,
                port: endpoint.port,
                tls: tls.clone(),
                accepts: self.expects,
                sni: sni.as_deref(),
                request: readable.then(|| self.arriving()),
                remote_ip: None,
            };
            let verdict = policy::admit(self.twin, &passage);
            if verdict.ruling == Ruling::Allowed {
                let plain = matches!(tls, ClientTls::AsSent(Tls::Plaintext)) && self.routing.is_none();
                if plain && readable && endpoint.party.proxy {
                    answer.sent.path = Normalization::of(self.twin.snapshot).changed(&self.request.path);
                }
                backend.pods.extend(endpoint.party.pod.map(|pod| pod.object.name().to_owned()));
                if !told {
                    answer.steps.extend(verdict.steps);
                    told = true;
                }
                continue;
            }
            refused += 1;
            if first.is_none() {
                answer.steps.extend(verdict.steps);
                first = Some(verdict.ruling);
            }
        }
        let all = refused == pods.len();
        match first {
            None => Share::Taken(backend),
            Some(Ruling::NotModelled(why)) => Share::Unknown(why),
            Some(Ruling::Refused { status, flag, detail }) if !all => {
                let count = pods.len();
                answer.lost.push(Lost {
                    share: format!("those to {refused} of {count} pods"),
                    status,
                    flag: flag.to_owned(),
                });
                answer.steps.push(Step::plain(format!("{refused} of {count} pods refuse it: {detail}")));
                Share::Taken(backend)
            }
            Some(Ruling::Refused { status, flag, detail }) => Share::Failed { status, flag, why: detail },
            Some(Ruling::Allowed) => Share::Taken(backend),
        }
    }

    /// The request as the destination receives it.
    fn arriving(&self) -> Arriving<'_> {
        let sent = self.routing.map(|routing| &routing.sent);
        Arriving {
            method: &self.request.method,
            host: sent.and_then(|sent| sent.host.as_deref()).unwrap_or(&self.request.host),
            path: sent.and_then(|sent| sent.path.as_deref()).unwrap_or(&self.request.path),
            headers: Some(sent.and_then(|sent| sent.headers.as_ref()).unwrap_or(&self.request.headers)),
            undecided: sent.map(|sent| &sent.undecided_headers),
        }
    }
}

/// Why nobody can say what an application answers to HTTP/2 that its client never spoke.
fn speaks_h2(whom: &str) -> String {
    format!("the proxy speaks HTTP/2 to {whom}, and whether that understands it is not known")
}

/// The labels of a subset and where it stands; none where no subset is asked for.
fn chosen_subset(rules: Option<&Applying<'_>>, subset: &str) -> Result<Option<(ObjectRef, Labels)>, ()> {
    if subset.is_empty() {
        return Ok(None);
    }
    let (rule, found) = rules.and_then(|rules| rules.subset(subset)).ok_or(())?;
    Ok(Some((rule.reference().field(found.path.clone()), found.labels.clone())))
}

fn selector_text(labels: &Labels) -> String {
    let list: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if list.is_empty() { "all pods of the host".to_owned() } else { list.join(", ") }
}

/// Says which requests go to one pod where a DestinationRule keeps those alike together.
fn told_apart(rules: Option<&Applying<'_>>, (subset, port): (&str, u16), pods: usize, answer: &mut Answer) {
    let Some((at, balancer)) = rules.and_then(|rules| rules.policy(subset, port, "loadBalancer")) else {
        return;
    };
    let Some(hash) = balancer.at("consistentHash").filter(|_| pods > 1) else { return };
    let by = match (
        hash.text("httpHeaderName"),
        hash.text("httpCookie.name"),
        hash.text("httpQueryParameterName"),
    ) {
        (Some(name), ..) => format!("the same header {name}"),
        (None, Some(name), _) => format!("the same cookie {name}"),
        (None, None, Some(name)) => format!("the same parameter {name}"),
        (None, None, None) if hash.flag("useSourceIp") => "the same address".to_owned(),
        (None, None, None) => return,
    };
    let said =
        format!("requests with {by} stay with one of these {pods} pods; which one it is decides a hash");
    answer.steps.push(Step::by(&at.field(format!("{}.consistentHash", at.field_path)), said));
}
