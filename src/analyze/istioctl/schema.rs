//! Objects that Istio's own validation refuses or warns of.

use super::context::{Context, Kind};
use super::message::Messages;
use crate::analyze::istio_schema::{self, By, Faults};

/// IST0106 and IST0133.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for (kind, group) in istio_schema::KINDS {
        for object in context.all(Kind(kind, group)) {
            for fault in object.derived::<Faults>().0.iter().filter(|fault| fault.by != By::Meshscope) {
                let code = if fault.warning { "IST0133" } else { "IST0106" };
                out.push(code, object, &fault.path, fault.what.clone());
            }
        }
    }
}
