//! GWAPI103.

use super::prelude::*;
use crate::model::mesh::istio::hosts_overlap;

crate::rule! {
    /// A route and its listeners have no hostname in common.
    ///
    /// ## What it detects
    /// A route none of whose `hostnames` is covered by the `hostname` of any listener that it refers to, on either side with
    /// or without a leading `*.`.
    /// ## Why it matters
    /// The route is not attached: the gateway answers `404 NR route_not_found` for its hosts.
    /// ## Evidence
    /// The hostnames on both sides, the condition `Accepted` with `NoMatchingListenerHostname`, access-log records of the
    /// gateway with the flag `NR`.
    /// ## How to confirm
    /// `kubectl get httproute NAME -o jsonpath='{.status.parents[*].conditions}'`
    /// ## How to fix
    /// Make the hostnames agree: the side that does not name what clients ask for is wrong.
    /// ## False positives
    /// A side without any hostname takes all of them and is not reported.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/api-types/httproute/#hostnames>
    NoMatchingHostname {
        code: "GWAPI103", name: "no-matching-hostname", family: Gateway, severity: Error,
        needs: [Objects, GatewayApi], aliases: ["IST0171", "IST0132"],
    }
}

/// A route that no listener takes for its hostnames.
#[derive(Debug)]
pub struct Fact<'a> {
    route: &'a Route,
    parent: &'a Reference,
    listeners: Vec<Listener<'a>>,
    /// Another parent takes the route.
    elsewhere: bool,
    seen: Seen,
}

impl Check for NoMatchingHostname {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for Tried { route, parent, result, elsewhere } in attach::tried(snapshot) {
            if let Attachment::NoHostname(listeners) = result {
                let seen = if elsewhere {
                    Seen::default()
                } else {
                    attach::unrouted(snapshot, route).and(asked(snapshot, &listeners))
                };
                out.push(Fact { route, parent, listeners, elsewhere, seen });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.route.reference();
        let hosts = fact.route.hostnames.join(", ");
        let open = fact.listeners.iter().map(|l| l.hostname.as_str()).collect::<Vec<_>>().join(", ");
        let status = attach::parent_condition(fact.route, fact.parent, "Accepted")
            .filter(|c| c.text("status") == Some("False"));
        let since = status.and_then(|s| s.time("lastTransitionTime"));
        let observed = status.is_some() || fact.seen.any();
        let own = reference.field("spec.hostnames");
        let listener = fact.listeners.first();
        let listener_field = listener.map(|l| l.owner.reference.field(format!("{}.hostname", l.path)));
        // Clients ask for what the route names: then the listener is wrong. Where the route was edited last, the route is.
        let route_edited = applied(&fact.route.object, "spec.hostnames")
            .is_some_and(|old| old != json!(fact.route.hostnames));
        let for_route = attach::requests(snapshot, fact.route, |o| o.has_flag("NR")).any();
        let blame_listener = !fact.elsewhere && !route_edited && (for_route || listener.is_some_and(edited));
        let (subject, related) = match (blame_listener, listener_field) {
            (true, Some(field)) => (field, Some(own)),
            (_, field) => (own, field),
        };
        let fix_listener = listener.and_then(|l| open_listener(l, fact.route));
        let fix_route = listener.and_then(|l| rename_route(l, fact.route));
        let (first, second) =
            if blame_listener { (fix_listener, fix_route) } else { (fix_route, fix_listener) };
        let severity = match (observed && !fact.elsewhere, fact.elsewhere || snapshot.runs()) {
            (true, _) | (false, false) => Severity::Error,
            (false, true) => Severity::Warning,
        };
        let seen_words = if fact.seen.any() {
            format!(" {} requests were answered with 404 NR route_not_found.", fact.seen.count)
        } else {
            String::new()
        };
        // Istio writes the negative status on the route; both are named so that either is found.
        let mut finding = Finding::new(Self::META, subject, &[&reference.namespace, &reference.name, &fact.parent.path])
            .title(format!("{reference} ({hosts}) has no hostname in common with {} ({open})", attach::called(fact.parent)))
            .message(format!(
                "{reference} is for {hosts}, and the listeners that it refers to take {open}. Without a hostname in common the route is not attached.{seen_words}"
            ))
            .mechanism("hostname mismatch: the route's hostnames and the listener's hostname have nothing in common, route not attached")
            .severity(severity)
            .role(if fact.elsewhere { Role::Context } else { Role::Cause }, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(attach::service(snapshot, fact.route))
            .evidence(Evidence::object(&reference.field("spec.hostnames"), format!("hostnames {hosts}")))
            .evidences(fact.listeners.iter().map(|l| {
                Evidence::object(&l.owner.reference.field(format!("{}.hostname", l.path)), format!("listener \"{}\" takes {}", l.name, l.hostname))
            }))
            .evidences(status.map(|s| {
                Evidence::object(&reference.field("status.parents"), format!("condition Accepted is False: {}", s.string("reason"))).at(since)
            }))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset.or(since))
            .effects(attach::effects(snapshot, fact.route, &["NR", "404"]))
            .maybe_remedy(first)
            .maybe_remedy(second)
            .prevention(Prevention::of("Test", "In the pipeline: every route has a hostname in common with its listeners (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when a gateway has no route",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",response_code=\"404\",response_flags=\"NR\"}[1m])) > 0",
            ));
        finding.related.extend(related);
        finding
    }
}

/// Requests without a route for what the listeners take.
fn asked(snapshot: &Snapshot, listeners: &[Listener<'_>]) -> Seen {
    let names: Vec<&str> =
        listeners.iter().map(|l| l.hostname.as_str()).filter(|h| !h.starts_with('*')).collect();
    seen::outcomes(snapshot.traffic.iter(), |edge, outcome| {
        let mut hosts = outcome.authorities.keys().map(String::as_str).chain([edge.authority.as_str()]);
        outcome.has_flag("NR") && !outcome.connection && hosts.any(|h| names.contains(&h))
    })
}

fn edited(listener: &Listener<'_>) -> bool {
    applied(listener.owner, &format!("{}.hostname", listener.path))
        .is_some_and(|old| old != json!(listener.hostname))
}

/// Let the listener take the route's hostname: what it took before the last edit, where that fits.
fn open_listener(listener: &Listener<'_>, route: &Route) -> Option<Remedy> {
    let path = format!("{}.hostname", listener.path);
    let fits = |host: &str| route.hostnames.iter().any(|own| hosts_overlap(own, host));
    let before = applied(listener.owner, &path)
        .and_then(|old| old.as_str().map(str::to_owned))
        .filter(|old| fits(old));
    let host = before.or_else(|| route.hostnames.first().cloned())?;
    Remedy::patch(
        listener.owner,
        &json!([{"op": "replace", "path": pointer(&path), "value": host}]),
        format!("Set hostname of listener \"{}\" of {} to {host}", listener.name, listener.owner.reference),
    )
}

/// Let the route name what the listener takes, where that is one name.
fn rename_route(listener: &Listener<'_>, route: &Route) -> Option<Remedy> {
    let before = applied(&route.object, "spec.hostnames").filter(|old| {
        old.as_array().is_some_and(|l| {
            l.iter().filter_map(|h| h.as_str()).any(|h| hosts_overlap(h, &listener.hostname))
        })
    });
    let hosts = match before {
        Some(before) => before,
        None if !listener.hostname.starts_with('*') => json!([listener.hostname]),
        None => return None,
    };
    Remedy::patch(
        &route.object,
        &json!([{"op": "replace", "path": "/spec/hostnames", "value": hosts}]),
        format!("Set hostnames of {} to {hosts}", route.reference()),
    )
}
