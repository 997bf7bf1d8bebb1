//! What Istio itself has written into the status of objects.

use super::context::{
    AUTHORIZATION_POLICY, Context, GRPC_ROUTE, HTTP_ROUTE, KUBERNETES_GATEWAY, Kind, SERVICE, SERVICE_ENTRY,
    WORKLOAD_ENTRY,
};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::workload::{Condition, conditions};

const WAYPOINT: &[&str] = &["istio.io/WaypointBound"];
const POLICY: &[&str] = &["ZtunnelAccepted", "WaypointAccepted"];
const ROUTING: &[&str] = &["Accepted", "Programmed", "ResolvedRefs"];

/// Kinds, the conditions that are bad when `False`, and whether they stand with each parent.
const LOOKED_AT: &[(Kind, &[&str], bool)] = &[
    (SERVICE, WAYPOINT, false),
    (SERVICE_ENTRY, WAYPOINT, false),
    (WORKLOAD_ENTRY, WAYPOINT, false),
    (AUTHORIZATION_POLICY, POLICY, false),
    (KUBERNETES_GATEWAY, ROUTING, false),
    (HTTP_ROUTE, ROUTING, true),
    (GRPC_ROUTE, ROUTING, true),
];

/// IST0171.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for (kind, types, of_parents) in LOOKED_AT {
        for object in context.all(*kind) {
            let parents = object.body.list("status.parents").iter();
            let lists: Vec<_> = if *of_parents {
                parents.map(|parent| parent.list("conditions")).collect()
            } else {
                vec![object.body.list("status.conditions")]
            };
            for condition in lists.into_iter().flat_map(conditions) {
                let Condition { kind, status, reason, message, .. } = &condition;
                // Of a condition that it does not know istioctl takes no status for the bad one.
                let bad = if types.contains(&kind.as_str()) { "False" } else { "" };
                let negative = status == bad;
                // Accepted, with parts that a waypoint cannot enforce.
                let partial = types == &POLICY && kind == "WaypointAccepted" && reason == "PartiallyInvalid";
                if negative || partial {
                    let text = format!("condition {kind} is {status} ({reason}): {message}");
                    out.push("IST0171", object, "", text);
                }
            }
        }
    }
}
