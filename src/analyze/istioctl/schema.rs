//! Objects that Istio's own validation refuses or warns of.

use super::context::{Context, DESTINATION_RULE, GATEWAY, PEER_AUTHENTICATION, VIRTUAL_SERVICE};
use super::message::Messages;
use crate::analyze::istio_schema;

/// IST0106 and IST0133.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for kind in [VIRTUAL_SERVICE, DESTINATION_RULE, GATEWAY, PEER_AUTHENTICATION] {
        for object in context.all(kind) {
            for fault in istio_schema::faults(object) {
                let code = if fault.warning { "IST0133" } else { "IST0106" };
                out.push(code, object, &fault.path, fault.what);
            }
        }
    }
}
