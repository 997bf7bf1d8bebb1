//! Endpoints that a proxy may still have from before.

use super::Leg;
use crate::analyze::twin::registry::{Host, Resolution};

impl Leg<'_, '_, '_> {
    /// Why nobody can say whose endpoints a proxy has for a host: a Sidecar imports it from one namespace, and without that
    /// Sidecar it would be another namespace's. The control plane sends no endpoints again because a Sidecar came or changed, so
    /// that a cluster that keeps its name keeps those that it had. What came after the Sidecar, a ServiceEntry of the host or the
    /// proxy itself, has them sent; manifests that nothing runs from yet have no before.
    pub(super) fn may_be_anothers(&self, host: &Host<'_>, port: u16) -> Option<String> {
        let scope = self.scope?;
        let sidecar = scope.sidecar?;
        let from_registry = |host: &Host<'_>| host.resolution == Resolution::Registry;
        let before = self.twin.registry.find_with_port(&host.name, &scope.namespace, port)?;
        if before.namespace == host.namespace
            || !from_registry(host)
            || !from_registry(before)
            || before.port(port).is_none()
        {
            return None;
        }
        let imported = sidecar.object.created?;
        // An edit may have come at any later time.
        let edited = sidecar.object.generation.is_some_and(|generation| generation > 1);
        let made = host.object().created.max(before.object().created)?;
        let started = self.from.party().and_then(|party| party.pod?.object.created);
        if !edited && (made > imported || started.is_some_and(|started| started > imported)) {
            return None;
        }
        Some(format!(
            "{} imports {} from namespace {}, and before that it was that of namespace {}: endpoints are not sent again because a Sidecar changes, so whose the proxy has is not known",
            sidecar.object.reference, host.name, host.namespace, before.namespace
        ))
    }
}
