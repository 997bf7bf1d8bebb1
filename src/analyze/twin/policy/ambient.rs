//! Ambient mode: pods whose connections ztunnel carries.

use super::reading;
use crate::analyze::twin::party::Party;
use crate::analyze::twin::waypoint::is_waypoint;
use crate::model::snapshot::Snapshot;

/// Ztunnel's port for calls between pods.
pub(super) const HBONE: u16 = 15008;

/// Whether ztunnel carries a pod's connections: it says so itself, or its labels or its namespace's do.
pub fn captured(snapshot: &Snapshot, party: &Party<'_>) -> bool {
    if party.proxy || party.template.host_network || is_waypoint(party.labels()) || reading::is_router(party)
    {
        return false;
    }
    if let Some(word) = party.template.annotations.get("ambient.istio.io/redirection") {
        return word == "enabled";
    }
    let mode =
        |labels: &crate::model::selector::Labels| labels.get("istio.io/dataplane-mode").map(str::to_owned);
    let own = mode(party.labels());
    let namespace = || snapshot.object("Namespace", "", party.namespace()).and_then(|n| mode(&n.labels));
    own.or_else(namespace).as_deref() == Some("ambient")
}

/// Whether a pod is reached in ztunnel's tunnel: ztunnel takes its connections, or it is a waypoint.
pub(super) fn tunnels(snapshot: &Snapshot, party: &Party<'_>) -> bool {
    captured(snapshot, party) || is_waypoint(party.labels())
}

/// The waypoint that is asked for before a pod: its own label's, else its namespace's.
pub(super) fn waypoint(snapshot: &Snapshot, party: &Party<'_>) -> Option<String> {
    let of = |labels: &crate::model::selector::Labels| labels.get("istio.io/use-waypoint").map(str::to_owned);
    let named = of(party.labels())
        .or_else(|| reading::services(snapshot, party).find_map(|s| of(&s.object.labels)))
        .or_else(|| snapshot.object("Namespace", "", party.namespace()).and_then(|n| of(&n.labels)));
    named.filter(|name| name != "none")
}
