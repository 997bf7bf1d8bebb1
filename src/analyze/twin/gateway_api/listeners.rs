//! The listeners of a Gateway that are served, and what is attached to each.

use std::collections::BTreeMap;

use super::attached;
use super::hostnames;
use crate::analyze::rules::gateway_api::attach::{self, Listener};
use crate::analyze::rules::gateway_api::{conflicts, grants, listener_checks, listener_sets};
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::{Gateway, Route};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// A listener, or why it is not served.
#[derive(Debug, Clone)]
pub struct Served<'a> {
    /// The listener.
    pub listener: Listener<'a>,
    /// Why the controller does not serve it.
    pub refused: Option<String>,
}

impl Served<'_> {
    /// What names it, with the field where it stands.
    pub fn reference(&self) -> ObjectRef {
        self.listener.owner.reference.field(&self.listener.path)
    }

    /// Whether it passes TLS through.
    pub fn passes(&self) -> bool {
        self.listener.body.text("tls.mode") == Some("Passthrough")
    }
}

/// The listeners of a Gateway and of the ListenerSets that it takes.
pub fn of<'a>(snapshot: &'a Snapshot, gateway: &'a Gateway) -> Vec<Served<'a>> {
    let mut parts = vec![&*gateway.object];
    let sets = listener_sets::of(snapshot, gateway).into_iter();
    parts.extend(sets.filter(|set| listener_sets::refused(snapshot, gateway, set).is_none()));
    let mut refused: BTreeMap<(ObjectRef, String), String> = BTreeMap::new();
    for conflict in conflicts::between(&parts) {
        let listener = &conflict.listener;
        let why = format!("{} with listener \"{}\"", conflict.reason, conflict.other.name);
        refused.insert((listener.owner.reference.clone(), listener.path.clone()), why);
    }
    let mut out = vec![];
    for listener in parts.iter().flat_map(|part| attach::listeners(part)) {
        let key = (listener.owner.reference.clone(), listener.path.clone());
        let problems = listener_checks::check(snapshot, gateway, &listener).into_iter();
        // A kind that cannot be attached leaves the listener itself as it is.
        let own = problems.filter(|p| p.reason != "InvalidRouteKinds").map(|p| p.why).next();
        let why = refused.remove(&key).or(own).or_else(|| certificate_refused(snapshot, &listener));
        out.push(Served { listener, refused: why });
    }
    out
}

/// A certificate of another namespace that nobody granted.
fn certificate_refused(snapshot: &Snapshot, listener: &Listener<'_>) -> Option<String> {
    if grants::unread(snapshot) {
        return None;
    }
    let own = &listener.owner.reference;
    listener.body.list("tls.certificateRefs").iter().find_map(|entry| {
        let namespace = entry.text("namespace").unwrap_or(&own.namespace);
        let to = ObjectRef::new(entry.text("kind").unwrap_or("Secret"), namespace, entry.string("name"));
        let granted = grants::granted(snapshot, own, &entry.string("group"), &to);
        (!granted).then(|| format!("no ReferenceGrant in namespace {namespace} admits its certificate {to}"))
    })
}

/// The routes of some kinds that a listener takes, with the hostnames that both have in common.
pub fn routes<'a>(
    snapshot: &'a Snapshot,
    listener: &Listener<'_>,
    kinds: &[&str],
) -> Vec<(&'a Route, Vec<String>)> {
    let mut out = vec![];
    for route in attached::to(snapshot, &listener.owner.reference, kinds) {
        let named = route.parents.iter().any(|parent| attach::names(parent, listener));
        if !named || !attach::takes(snapshot, listener, route) {
            continue;
        }
        let own: &[String] = if matches!(route.reference().kind.as_str(), "TCPRoute" | "UDPRoute") {
            &[]
        } else {
            &route.hostnames
        };
        let hosts = hostnames::of_both(&listener.hostname, own);
        if !hosts.is_empty() {
            out.push((route, hosts));
        }
    }
    out
}

/// Of several listeners the one whose hostname is closest to a host; none where no hostname covers it.
pub fn closest<'l, 'a>(listeners: &[&'l Served<'a>], host: &str) -> Option<&'l Served<'a>> {
    let fits = listeners.iter().copied().filter(|s| hostnames::covers(&s.listener.hostname, host));
    fits.max_by_key(|s| hostnames::closeness(&s.listener.hostname))
}
