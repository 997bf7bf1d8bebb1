//! ISTIO223.

use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::mesh::istio::{Destination, VirtualService, full_host};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A split between versions counts inside the mesh and not for requests from outside.
    ///
    /// ## What it detects
    /// A VirtualService at a Gateway that sends to a host without a subset, while another VirtualService, for the
    /// mesh, splits that host by subsets.
    /// ## Why it matters
    /// Requests that enter at the Gateway go to all versions alike: a canary at 5 % gets its share of pods, and a
    /// header that selects a version selects nothing.
    /// ## Evidence
    /// Both VirtualServices.
    /// ## How to confirm
    /// `istioctl proxy-config route GATEWAY-POD` shows one cluster without a subset.
    /// ## How to fix
    /// Bind the mesh's VirtualService to the Gateway as well, or write the subsets into the one at the Gateway.
    /// ## False positives
    /// A split that is meant for callers inside alone.
    /// ## References
    /// <https://istio.io/latest/docs/ops/common-problems/network-issues/#route-rules-have-no-effect-on-ingress-gateway-requests>
    SubsetsSkippedAtTheGateway {
        code: "ISTIO223", name: "subsets-skipped-at-the-gateway", family: Mesh, severity: Info,
        needs: [Istio], aliases: ["IST0140"],
    }
}

/// A route at a Gateway past a split.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a VirtualService,
    destination: &'a Destination,
    splits: &'a ObjectRef,
}

impl Check for SubsetsSkippedAtTheGateway {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let all = &snapshot.istio.virtual_services;
        let in_mesh = |service: &VirtualService| service.gateways.iter().any(|gateway| gateway == "mesh");
        let mut splits: BTreeMap<String, &'a ObjectRef> = BTreeMap::new();
        for service in all.iter().filter(|service| in_mesh(service)) {
            for (_, destination) in service.destinations().filter(|(_, d)| !d.subset.is_empty()) {
                let host = full_host(&destination.host, service.object.namespace());
                if service.covers(&host) {
                    splits.entry(host).or_insert(service.reference());
                }
            }
        }
        let mut out = vec![];
        for service in
            all.iter().filter(|service| !in_mesh(service) && snapshot.in_scope(service.object.namespace()))
        {
            for (route, destination) in service.destinations() {
                let host = full_host(&destination.host, service.object.namespace());
                if let Some(splits) =
                    splits.get(&host).filter(|_| destination.subset.is_empty() && route.protocol == "http")
                {
                    out.push(Fact { service, destination, splits });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (own, splits) = (fact.service.reference(), fact.splits);
        let subject = own.field(&fact.destination.path);
        let host = text::plain(&fact.destination.host, 60);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} sends requests from its gateway to {host} past the split of {splits}"))
            .message(format!(
                "{splits} splits {host} by subsets for callers in the mesh. At the gateway {own} decides, and it names no subset: requests from outside go to all versions alike."
            ))
            .mechanism("subset routing has no effect at the gateway")
            .role(Role::Context, Confidence::Configured)
            .related(splits.clone())
            .evidence(Evidence::object(&subject, format!("host {host}, no subset")))
            .evidence(Evidence::object(splits, format!("routes {host} by subsets, for the mesh")))
            .remedy(Remedy::manual(format!("Add the gateway to {splits}, with the outside hosts, or write its routes into {own}")))
            .prevention(Prevention::of("Test", "Ask through the gateway with what selects a version, and look at the version that answers"))
    }
}
