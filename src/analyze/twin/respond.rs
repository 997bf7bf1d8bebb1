//! What a route does with a request: it answers itself, or sends it on changed.

use std::collections::BTreeMap;

use super::answer::{Answer, Lost, Sent, Step};
use super::ask::Request;
use super::http::engine::Seen;
use super::http::headers::{self, HeaderOps};
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
    /// What is done to the answer's headers.
    pub response_headers: Vec<HeaderOps>,
    /// Headers that cross-origin rules add to the answer.
    pub cors_headers: BTreeMap<String, String>,
    /// The time that the request has, in seconds.
    pub timeout: Option<f64>,
    /// Why the backend's answer comes too late, where it does.
    pub overdue: Option<Step>,
}

impl Routing {
    /// The headers of an answer on its way back to the caller.
    pub fn answered(&self, mut headers: BTreeMap<String, String>) -> BTreeMap<String, String> {
        headers.extend(self.cors_headers.clone());
        self.changed(headers)
    }

    /// The same without cross-origin rules, which an answer from before them does not get.
    pub fn changed(&self, mut headers: BTreeMap<String, String>) -> BTreeMap<String, String> {
        self.response_headers.iter().for_each(|change| change.apply(&mut headers));
        headers
    }
}

/// Does what a route says; `None` where the request ends here.
pub(super) fn act(route: &Route, seen: &Seen<'_>, request: &Request, answer: &mut Answer) -> Option<Onward> {
    let mut delay = 0.0;
    if let Some(fault) = &route.fault
        && !faulty(fault, answer, &mut delay)
    {
        // A route changes the headers of this answer, too, and so does the destination that would have got the request.
        let mut own = BTreeMap::new();
        let to = if let Action::Forward(forward) = &route.action { forward.to.as_slice() } else { &[] };
        let first = to.first().map(|first| &first.response_headers);
        in_order(&route.response_headers, first, to.len()).iter().for_each(|change| change.apply(&mut own));
        answer.response_headers = own;
        return None;
    }
    // Faults come before: an aborted preflight has no answer of these rules.
    let mut cors_headers = BTreeMap::new();
    if let Some(cors) = &route.cors
        && !cross_origin(cors, seen, answer, &mut cors_headers)
    {
        return None;
    }
    match &route.action {
        Action::Respond { status, reason } => {
            let why = if reason.is_empty() { "the route answers itself".to_owned() } else { reason.clone() };
            answer.respond(*status, "", why);
            let mut own = cors_headers;
            route.response_headers.apply(&mut own);
            answer.response_headers = own;
            None
        }
        Action::Redirect(redirect) => {
            answer.location = rewrite::location(redirect, &route.matching.path, seen);
            answer.respond(
                redirect.status,
                "",
                format!("the route redirects to {}", answer.location.clone()),
            );
            let mut own: BTreeMap<String, String> = [("location".to_owned(), answer.location.clone())].into();
            own.extend(cors_headers);
            route.response_headers.apply(&mut own);
            answer.response_headers = own;
            None
        }
        Action::Forward(forward) => {
            if let Some(told) = limits(forward) {
                answer.steps.push(Step::by(&route.source, told));
            }
            answer.allowed = forward.longest().map(|seconds| (seconds * 1000.0).round() as u64);
            answer.tries = forward.tries_of_answers();
            // Of several destinations each may change the request in its own way; those that do alike are told as one.
            let changed = forward.to.first().map(|to| sent(route, forward, to, request)).unwrap_or_default();
            let alike = forward.to.iter().all(|to| sent(route, forward, to, request) == changed);
            if !alike {
                answer.steps.push(Step::by(
                    &route.source,
                    "its destinations change the request differently; what the first one receives is told",
                ));
            }
            let first = forward.to.first().map(|first| &first.response_headers);
            let response_headers = in_order(&route.response_headers, first, forward.to.len());
            let routing = Routing {
                sent: changed,
                mirrors: forward.mirrors.iter().map(|(to, _)| to.clone()).collect(),
                response_headers,
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

/// What a destination receives.
fn sent(route: &Route, forward: &Forward, to: &Weighted, request: &Request) -> Sent {
    let mut headers = request.headers.clone();
    let changes = in_order(&route.request_headers, Some(&to.request_headers), forward.to.len());
    changes.iter().for_each(|change| change.apply(&mut headers));
    let host = host_of(&to.rewrite).or_else(|| host_of(&forward.rewrite));
    let path = to.rewrite.path.as_ref().or(forward.rewrite.path.as_ref());
    Sent {
        host: host.filter(|host| *host != request.host),
        path: path
            .map(|change| rewrite::path(change, &route.matching.path, &request.path))
            .filter(|path| *path != request.path),
        headers: (headers != request.headers).then_some(headers),
    }
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
        if !preflight && !cors.expose_headers.is_empty() {
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
            let mut headers = BTreeMap::new();
            in_order(&route, Some(&destination), destinations)
                .iter()
                .for_each(|change| change.apply(&mut headers));
            (headers["a"].clone(), headers["b"].clone())
        };
        assert_eq!(
            after(1),
            ("own".to_owned(), "route,own".to_owned()),
            "what both remove is gone before either adds"
        );
        assert_eq!(after(2), ("route".to_owned(), "own,route".to_owned()));
    }
}
