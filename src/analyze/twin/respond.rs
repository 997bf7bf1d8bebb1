//! What a route does with a request: it answers itself, or sends it on changed.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::{Answer, Lost, Sent, Step};
use super::ask::{Protocol, Request};
use super::http::engine::Seen;
use super::http::headers::{self, Carried, HeaderOps};
use super::http::operators::{self, Asked, Reply};
use super::http::rewrite;
use super::http::table::{Action, Cors, Destination, Fault, Forward, Rewrite, Route, Weighted};
use super::simulate::Onward;
use crate::model::time;

/// The HTTP side of a request that is sent on.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// What the destination receives.
    pub sent: Sent,
    /// Who gets a copy.
    pub mirrors: Vec<Destination>,
    /// What is done to the answer's headers where the request was sent on.
    pub changes: Changes,
    /// The same where it never was: by the request as it came.
    pub unsent: Changes,
    /// Headers that cross-origin rules add to the answer.
    pub cors_headers: BTreeMap<String, String>,
    /// The time that the request has, in seconds.
    pub timeout: Option<f64>,
    /// Why the backend's answer comes too late, where it does.
    pub overdue: Option<Step>,
}

impl Routing {
    /// Writes the headers of a backend's answer, or of one that the proxy gives for it.
    pub fn answered(&self, reply: Reply, mut headers: BTreeMap<String, String>, answer: &mut Answer) {
        headers.extend(self.cors_headers.clone());
        // Without a cluster a request is not changed before it is answered.
        let unsent = !reply.upstream && !matches!(answer.flag.as_str(), "UH" | "UF" | "UC" | "UT");
        let changes = if unsent { &self.unsent } else { &self.changes };
        changes.make(reply, headers, answer);
    }
}

/// What a route does to the headers of answers, and the request that it took, which operators in them read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    ops: Vec<HeaderOps>,
    asked: Asked,
}

impl Changes {
    /// Writes the headers of an answer, changed.
    pub fn make(&self, reply: Reply, headers: BTreeMap<String, String>, answer: &mut Answer) {
        let mut own = Carried::of(headers);
        for ops in &self.ops {
            ops.apply(&mut own, &|value, own| operators::put_in(value, &self.asked, Some((reply, own))));
        }
        answer.undecided_response_headers = undecided(&own, "that the caller sees", answer);
        answer.response_headers = own.known;
    }
}

/// The names of headers whose value is not known; each is told.
fn undecided(headers: &Carried, whose: &str, answer: &mut Answer) -> BTreeSet<String> {
    for (name, operator) in &headers.undecided {
        let told = Step::plain(format!("the value of header {name} {whose} is not modelled: {operator}"));
        if !answer.steps.contains(&told) {
            answer.steps.push(told);
        }
    }
    headers.undecided.keys().cloned().collect()
}

/// Does what a route says; `None` where the request ends here.
pub(super) fn act(route: &Route, seen: &Seen<'_>, request: &Request, answer: &mut Answer) -> Option<Onward> {
    let mut delay = 0.0;
    let to = if let Action::Forward(forward) = &route.action { forward.to.as_slice() } else { &[] };
    let first = to.first().map(|first| &first.response_headers);
    let ops = in_order(&route.response_headers, first, to.len());
    let asked = asked(route, seen, request);
    // A policy at the gateway may still answer in the route's place.
    answer.changes = Changes { ops, asked };
    if let Some(fault) = &route.fault
        && !faulty(fault, answer, &mut delay)
    {
        // A route changes the headers of this answer, too, and so does the destination that would have got the request.
        let reply = Reply::own(answer.status.unwrap_or_default(), &answer.flag);
        answer.changes.clone().make(reply, BTreeMap::new(), answer);
        return None;
    }
    // Faults come before: an aborted preflight has no answer of these rules. Istio writes them into routes that send requests on alone.
    let mut cors_headers = BTreeMap::new();
    if let (Some(cors), Action::Forward(_)) = (&route.cors, &route.action)
        && !cross_origin(cors, seen, answer, &mut cors_headers)
    {
        return None;
    }
    match &route.action {
        Action::Respond { status, reason } => {
            let why = if reason.is_empty() { "the route answers itself".to_owned() } else { reason.clone() };
            answer.respond(*status, "", why);
            answer.changes.clone().make(Reply::direct(*status), BTreeMap::new(), answer);
            None
        }
        Action::Redirect(redirect) => {
            answer.location = rewrite::location(redirect, &route.matching.path, seen);
            answer.respond(
                redirect.status,
                "",
                format!("the route redirects to {}", answer.location.clone()),
            );
            let own: BTreeMap<String, String> = [("location".to_owned(), answer.location.clone())].into();
            answer.changes.clone().make(Reply::direct(redirect.status), own, answer);
            None
        }
        Action::Forward(forward) => {
            if let Some(told) = limits(forward) {
                answer.steps.push(Step::by(&route.source, told));
            }
            answer.allowed = forward.longest().map(|seconds| (seconds * 1000.0).round() as u64);
            answer.tries = forward.tries_of_answers();
            // Of several destinations each may change the request in its own way; those that do alike are told as one.
            let unsent = answer.changes.clone();
            let sent = |to| sent(route, forward, to, request, &unsent.asked);
            let (changed, carried) = forward.to.first().map(&sent).unwrap_or_default();
            let alike = forward.to.iter().all(|to| sent(to).0 == changed);
            if !alike {
                answer.steps.push(Step::by(
                    &route.source,
                    "its destinations change the request differently; what the first one receives is told",
                ));
            }
            undecided(&carried, "that the destination receives", answer);
            let after = Asked {
                path: changed.path.clone().unwrap_or_else(|| unsent.asked.path.clone()),
                authority: changed.host.clone().unwrap_or_else(|| unsent.asked.authority.clone()),
                headers: carried,
                ..unsent.asked.clone()
            };
            let routing = Routing {
                sent: changed,
                changes: Changes { ops: unsent.ops.clone(), asked: after },
                unsent,
                mirrors: forward.mirrors.iter().map(|(to, _)| to.clone()).collect(),
                cors_headers,
                timeout: forward.timeout,
                overdue: overdue(forward, request, delay).map(|why| Step::by(&route.source, why)),
            };
            Some(Onward { to: forward.to.clone(), http: Some(routing) })
        }
    }
}

/// The changes of a route and of one of its destinations, in the order in which they are made. Of several destinations the one that is
/// chosen comes first, then the route. What stands at an only destination Istio writes into the route itself, behind the route's own:
/// all is removed first then, and what both add stands in that order.
fn in_order(route: &HeaderOps, destination: Option<&HeaderOps>, destinations: usize) -> Vec<HeaderOps> {
    let Some(destination) = destination else { return vec![route.clone()] };
    if destinations > 1 {
        return vec![destination.clone(), route.clone()];
    }
    let both =
        |route: &[(String, String)], own: &[(String, String)]| route.iter().chain(own).cloned().collect();
    vec![HeaderOps {
        set: both(&route.set, &destination.set),
        add: both(&route.add, &destination.add),
        remove: route.remove.iter().chain(&destination.remove).cloned().collect(),
    }]
}

/// A request as operators see it before anything changes it.
fn asked(route: &Route, seen: &Seen<'_>, request: &Request) -> Asked {
    Asked {
        method: seen.method.to_owned(),
        path: seen.path.to_owned(),
        authority: seen.authority.to_owned(),
        scheme: if seen.scheme == "https" { "https" } else { "http" },
        protocol: match request.protocol {
            Protocol::Http => Some("HTTP/1.1"),
            Protocol::Http2 | Protocol::Grpc => Some("HTTP/2"),
            _ => None,
        },
        route: route.name.clone(),
        headers: Carried::of(seen.headers.clone()),
    }
}

/// What a destination receives, and all headers of it.
fn sent(
    route: &Route,
    forward: &Forward,
    to: &Weighted,
    request: &Request,
    asked: &Asked,
) -> (Sent, Carried) {
    let mut headers = asked.headers.clone();
    let changes = in_order(&route.request_headers, Some(&to.request_headers), forward.to.len());
    for change in changes.iter().filter(|change| !change.is_empty()) {
        let before = asked.clone();
        change.apply(&mut headers, &|value, headers| {
            operators::put_in(value, &Asked { headers: headers.clone(), ..before.clone() }, None)
        });
    }
    let host = host_of(&to.rewrite).or_else(|| host_of(&forward.rewrite));
    let path = to.rewrite.path.as_ref().or(forward.rewrite.path.as_ref());
    let sent = Sent {
        host: host.filter(|host| *host != request.host),
        path: path
            .map(|change| rewrite::path(change, &route.matching.path, &request.path))
            .filter(|path| *path != request.path),
        headers: (headers.known != request.headers).then(|| headers.known.clone()),
        undecided_headers: headers.undecided.keys().cloned().collect(),
    };
    (sent, headers)
}

fn host_of(rewrite: &Rewrite) -> Option<String> {
    rewrite.host.clone()
}

/// The time that a request has, in words; none where the route limits nothing.
fn limits(forward: &Forward) -> Option<String> {
    let tries = u64::from(forward.retries) + 1;
    let worst = forward.longest().unwrap_or(0.0);
    match (forward.timeout, forward.per_try_timeout) {
        (None, None) => None,
        (Some(whole), None) => Some(format!("the request has {whole} s, its {tries} tries included")),
        (None, Some(each)) => {
            Some(format!("up to {tries} tries have {each} s each: the caller waits {} s at most", worst))
        }
        (Some(whole), Some(each)) => Some(format!(
            "the request has {whole} s, each of up to {tries} tries {each} s: the caller waits {} s at most",
            worst
        )),
    }
}

/// Whether the time that the request has is over before the backend answers; in words.
fn overdue(forward: &Forward, request: &Request, waited: f64) -> Option<String> {
    let delay = time::duration_seconds(&request.backend_response.delay).unwrap_or(0.0);
    let tries = u64::from(forward.retries) + 1;
    let whole = forward.timeout.filter(|limit| delay > *limit);
    let each = forward.per_try_timeout.filter(|limit| delay > *limit);
    let waited = if waited > 0.0 { format!(" (after a fault's delay of {waited} s)") } else { String::new() };
    match (whole, each) {
        (Some(limit), _) if forward.per_try_timeout.is_none() => Some(format!(
            "the backend takes {delay} s and the request has {limit} s{waited}: 504 after {limit} s"
        )),
        (whole, Some(each)) => {
            let all = each * tries as f64;
            let end = whole.map_or(all, |limit| limit.min(all));
            Some(format!(
                "the backend takes {delay} s and each try has {each} s: 504 after at most {end} s and {tries} tries"
            ))
        }
        (Some(limit), None) => {
            Some(format!("the request has {limit} s and the backend takes {delay} s: 504 after {limit} s"))
        }
        (None, None) => None,
    }
}

/// Puts in the faults that concern every request; `false` where one answers. Those that concern a share are told.
fn faulty(fault: &Fault, answer: &mut Answer, delay: &mut f64) -> bool {
    if let Some((seconds, share)) = fault.delay {
        let whom = if share >= 100.0 {
            "every request waits".to_owned()
        } else {
            format!("{share} % of requests wait")
        };
        answer.steps.push(Step::by(&fault.source, format!("{whom} {seconds} s by fault injection")));
        if share >= 100.0 {
            *delay = seconds;
        }
    }
    let Some((status, share)) = fault.abort else { return true };
    if share >= 100.0 {
        answer
            .steps
            .push(Step::by(&fault.source, format!("every request is answered {status} by fault injection")));
        answer.respond(status, "FI", format!("a fault is injected: {status}"));
        return false;
    }
    let told = format!(
        "{share} % of requests are answered {status} FI by fault injection; this is the way of the others"
    );
    answer.steps.push(Step::by(&fault.source, told));
    answer.lost.push(Lost {
        share: format!("{share} % of requests"),
        status: Some(status),
        flag: "FI".to_owned(),
    });
    true
}

/// Cross-origin rules; `false` where they answer a preflight.
fn cross_origin(
    cors: &Cors,
    seen: &Seen<'_>,
    answer: &mut Answer,
    out: &mut BTreeMap<String, String>,
) -> bool {
    let Some(origin) = headers::get(seen.headers, "origin") else { return true };
    // Whatever fits an asterisk fits every origin.
    let allowed =
        cors.origins.iter().any(|wanted| wanted.matches("*", false) || wanted.matches(origin, false));
    let preflight = seen.method.eq_ignore_ascii_case("OPTIONS")
        && headers::get(seen.headers, "access-control-request-method").is_some();
    if allowed {
        out.insert("access-control-allow-origin".to_owned(), origin.to_owned());
        if cors.credentials == Some(true) {
            out.insert("access-control-allow-credentials".to_owned(), "true".to_owned());
        }
        if !cors.expose_headers.is_empty() {
            out.insert("access-control-expose-headers".to_owned(), cors.expose_headers.join(","));
        }
    }
    if !preflight || (!allowed && cors.forward_not_matching) {
        return true;
    }
    if allowed {
        if !cors.methods.is_empty() {
            out.insert("access-control-allow-methods".to_owned(), cors.methods.join(","));
        }
        if !cors.allow_headers.is_empty() {
            out.insert("access-control-allow-headers".to_owned(), cors.allow_headers.join(","));
        }
        if let Some(age) = cors.max_age {
            out.insert("access-control-max-age".to_owned(), age.to_string());
        }
    }
    answer.response_headers.clone_from(out);
    answer.respond(200, "", "the proxy answers the preflight by the route's CORS policy");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ops(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderOps {
        let pairs =
            |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        HeaderOps {
            set: pairs(set),
            add: pairs(add),
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn an_only_destination_changes_headers_after_its_route_and_one_of_several_before_it() {
        let route = ops(&[("a", "route")], &[("b", "route")], &[]);
        let destination = ops(&[("a", "own")], &[("b", "own")], &["a"]);
        let after = |destinations| {
            let mut headers = Carried::default();
            in_order(&route, Some(&destination), destinations).iter().for_each(|change| {
                change.apply(&mut headers, &|value, _| operators::Value::Is(value.to_owned()))
            });
            (headers.known["a"].clone(), headers.known["b"].clone())
        };
        assert_eq!(
            after(1),
            ("own".to_owned(), "route,own".to_owned()),
            "what both remove is gone before either adds"
        );
        assert_eq!(after(2), ("route".to_owned(), "own,route".to_owned()));
    }
}
