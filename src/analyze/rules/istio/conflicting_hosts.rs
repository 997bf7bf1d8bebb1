//! ISTIO109.

use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts;
use crate::analyze::rules::seen;
use crate::model::mesh::istio::{VirtualService, full_host, visible};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Two VirtualServices speak for the same host inside the mesh.
    ///
    /// ## What it detects
    /// VirtualServices bound to `mesh` that claim the same host and are exported to a namespace in common.
    /// ## Why it matters
    /// Inside the mesh routes of several VirtualServices for one host are not merged: one object counts, the others are
    /// ignored without a word.
    /// ## Evidence
    /// The VirtualServices and the host that they share.
    /// ## How to confirm
    /// `istioctl proxy-config routes POD -o json` names only one of them in its metadata.
    /// ## How to fix
    /// Put all routes for the host into one VirtualService.
    /// ## False positives
    /// At gateways several VirtualServices for one host are merged: those are not looked at.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/analysis/ist0109/>
    ConflictingHosts {
        code: "ISTIO109", name: "conflicting-hosts", family: Mesh, severity: Warning,
        needs: [Objects, Istio], aliases: ["IST0109", "KIA1106"],
    }
}

/// A VirtualService, and others that claim one of its hosts.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    host: String,
    others: Vec<&'a VirtualService>,
}

impl Check for ConflictingHosts {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut claims: BTreeMap<String, Vec<&VirtualService>> = BTreeMap::new();
        for virtual_service in &snapshot.istio.virtual_services {
            if !virtual_service.gateways.iter().any(|g| g == "mesh") {
                continue;
            }
            for host in &virtual_service.hosts {
                let full = full_host(host, virtual_service.object.namespace());
                let claim = claims.entry(full).or_default();
                if !claim.iter().any(|known| std::ptr::eq(*known, virtual_service)) {
                    claim.push(virtual_service);
                }
            }
        }
        let mut out = vec![];
        for (host, claimants) in claims {
            for virtual_service in &claimants {
                let others: Vec<&VirtualService> = claimants
                    .iter()
                    .copied()
                    .filter(|other| {
                        !std::ptr::eq(*other, *virtual_service) && overlap(virtual_service, other)
                    })
                    .collect();
                if !others.is_empty() && seen::configured(virtual_service.object.namespace()) {
                    out.push(Fact { virtual_service, host: host.clone(), others });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.virtual_service.reference();
        let others = fact.others.iter().map(|o| o.reference().to_string()).collect::<Vec<_>>().join(", ");
        let service = hosts::service_of(snapshot, fact.virtual_service);
        let mut finding = Finding::new(Self::META, reference.field("spec.hosts"), &[&fact.host])
            .title(format!("{reference} and {others} both speak for {} inside the mesh", fact.host))
            .message(format!(
                "{} is claimed by {reference} and by {others}. Inside the mesh one VirtualService counts for a host; the routes of the others are ignored.",
                fact.host
            ))
            .mechanism("conflicting VirtualService hosts: only one VirtualService counts for a host in the mesh")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Possible)
            .service(service.clone())
            .evidence(Evidence::object(&reference.field("spec.hosts"), format!("claims {}", fact.host)))
            .effects(service.iter().map(|s| Effect::requests(s, &["404", "NR", "5xx"])))
            .remedy(Remedy::manual(format!("Put all routes for {} into one VirtualService, and take the host out of the others' spec.hosts", fact.host)))
            .prevention(Prevention::of("Test", "In the pipeline: no two VirtualServices bound to mesh claim one host (meshscope analyze on the manifests)"));
        for other in &fact.others {
            finding = finding.related(other.reference().field("spec.hosts")).evidence(Evidence::object(
                &other.reference().field("spec.hosts"),
                format!("claims {}", fact.host),
            ));
        }
        finding
    }
}

/// Whether some namespace sees both.
fn overlap(a: &VirtualService, b: &VirtualService) -> bool {
    let everywhere = |vs: &VirtualService| vs.export_to.is_empty() || vs.export_to.iter().any(|e| e == "*");
    let sees = |vs: &VirtualService, client: &str| visible(&vs.export_to, vs.object.namespace(), client);
    let names = |vs: &VirtualService| {
        let own = vs.object.namespace().to_owned();
        vs.export_to.iter().map(|e| if e == "." { own.clone() } else { e.clone() }).collect::<Vec<_>>()
    };
    match (everywhere(a), everywhere(b)) {
        (true, true) => true,
        (true, false) => !names(b).is_empty() && names(b).iter().any(|n| n != "~"),
        (false, true) => names(a).iter().any(|n| n != "~"),
        (false, false) => names(a).iter().any(|namespace| sees(b, namespace)),
    }
}
