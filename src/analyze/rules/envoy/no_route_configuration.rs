//! ENVOY110.

use super::symptom::{Words, reporters_log, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy has a listener and never received its routes.
    ///
    /// ## What it detects
    /// `NR route_configuration_not_found`.
    /// ## Why it matters
    /// Everything through this listener fails until the control plane delivers the routes.
    /// ## Evidence
    /// The flag with its detail in access logs.
    /// ## How to confirm
    /// `istioctl proxy-status`: whether RDS is synced; istiod's log for the proxy.
    /// ## How to fix
    /// Restore the connection to istiod, or correct the object whose routes it refuses.
    /// ## False positives
    /// The first second of a new proxy.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    NoRouteConfiguration {
        code: "ENVOY110", name: "route-configuration-not-found", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for NoRouteConfiguration {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::NoRouteConfiguration)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "route configuration not found",
            means: "The proxy has no routes for this listener: the control plane has not delivered them, or the proxy refused them.".to_owned(),
            look: ("See whether proxies and control plane agree", [vec!["istioctl proxy-status".to_owned()], reporters_log(group)].concat()),
            flag: "NR",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
