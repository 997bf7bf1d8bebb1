//! From a gateway to the waypoint before a host.

use super::{Leg, Share};
use crate::analyze::twin::answer::{Answer, Backend, Outcome, Sent};
use crate::analyze::twin::ask::{Request, Tls};
use crate::analyze::twin::registry::{Host, Origin};
use crate::analyze::twin::resolve::Place;
use crate::analyze::twin::waypoint::{Target, carry};

impl<'a> Leg<'_, 'a, '_> {
    /// What becomes of a share that a gateway hands to the waypoint before a host; `None` where none takes it.
    pub(super) fn waypoint_share(
        &self,
        host: &Host<'a>,
        port: u16,
        backend: &Backend,
        answer: &mut Answer,
    ) -> Option<Share> {
        let arriving = self.arriving();
        let request = Request {
            method: arriving.method.to_owned(),
            host: arriving.host.to_owned(),
            path: arriving.path.to_owned(),
            headers: arriving.headers.cloned().unwrap_or_default(),
            // The gateway has taken it out of what the client wrapped it in.
            tls: if self.routing.is_some() { Tls::Plaintext } else { self.request.tls },
            ..self.request.clone()
        };
        let place = match host.origin {
            Origin::Service(service) => Place::Service(service),
            Origin::Entry(_) => Place::Outside(host.name.clone()),
        };
        let ip = host.addresses.first().and_then(crate::analyze::twin::address::Block::single);
        let leg = Leg { twin: self.twin, place: &place, ip, port, request: &request, routing: None, door: false, ..*self };
        let mut inner = Answer::default();
        let taken = carry(&leg, Target::Host(host), "the gateway", &mut inner);
        answer.steps.append(&mut inner.steps);
        if !taken {
            return None;
        }
        answer.lost.append(&mut inner.lost);
        Some(match inner.outcome {
            Outcome::NotModelled => Share::Unknown(inner.detail),
            Outcome::Responded if inner.status.is_some_and(|status| status < 400) => {
                Share::Unknown(format!("the waypoint before {} answers by itself: {}", host.name, inner.detail))
            }
            Outcome::Responded => Share::Failed { status: inner.status, flag: "", why: inner.detail },
            Outcome::Refused => {
                let http = self.routing.is_some();
                Share::Failed { status: http.then_some(503), flag: "UC", why: inner.detail }
            }
            Outcome::Forwarded if inner.sent != Sent::default() || inner.backends.len() > 1 => {
                Share::Unknown(format!("the waypoint before {} changes the request once more", host.name))
            }
            Outcome::Forwarded => {
                let first = inner.backends.into_iter().next();
                Share::Taken(first.unwrap_or_else(|| backend.clone()))
            }
        })
    }
}
