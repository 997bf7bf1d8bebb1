//! ISTIO214.

use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::{Protocol, Service, ServicePort};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// Several Services lead to the same port of a workload, and read its traffic differently.
    ///
    /// ## What it detects
    /// A workload behind several Services that lead to one target port and give it different protocols (by
    /// `appProtocol` or the port's name), or one transport protocol under one Service and another under the next.
    /// ## Why it matters
    /// The proxy has one inbound listener for a port of the pod. It takes the protocol of one of the Services:
    /// through the other, HTTP is read as bytes and loses its routes and policies, or bytes are read as HTTP and
    /// break.
    /// ## Evidence
    /// The Services, their ports, and the protocol that each gives.
    /// ## How to confirm
    /// `istioctl proxy-config listener POD --port PORT -o json` shows one filter chain for both.
    /// ## How to fix
    /// Give the port the same protocol in all Services.
    /// ## False positives
    /// Two Services with different port numbers and the same protocol are fine: Istio keeps them apart by the number.
    /// ## References
    /// <https://istio.io/latest/docs/ops/deployment/application-requirements/>
    ServicesDisagreeOnAPort {
        code: "ISTIO214", name: "services-disagree-on-a-port", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0116", "IST0137"],
    }
}

/// Ports of two Services that lead to one port of a workload and differ.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    target: String,
    first: (&'a Service, &'a ServicePort),
    second: (&'a Service, &'a ServicePort),
}

/// How a proxy would read a port: as HTTP, as bytes, as datagrams; `None` where it looks at the first bytes.
fn reading(port: &ServicePort) -> Option<&'static str> {
    match Protocol::of(&port.app_protocol, &port.name, &port.transport) {
        Protocol::Unknown => None,
        Protocol::Udp => Some("UDP"),
        Protocol::Http => Some("HTTP"),
        Protocol::Http2 | Protocol::Grpc => Some("HTTP/2"),
        Protocol::Tls | Protocol::Tcp | Protocol::OtherTcp => Some("TCP"),
    }
}

impl Check for ServicesDisagreeOnAPort {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        let own = snapshot.workloads.iter().filter(|workload| {
            workload.object.owners.is_empty() && snapshot.in_scope(workload.object.namespace())
        });
        for workload in own {
            let mut by_target: BTreeMap<(String, bool), Vec<(&Service, &ServicePort)>> = BTreeMap::new();
            for service in snapshot.services_before(workload) {
                for port in &service.ports {
                    let key = (port.target.to_string(), port.transport == "UDP");
                    by_target.entry(key).or_default().push((service, port));
                }
            }
            for ((target, _), ports) in by_target {
                let known = || ports.iter().filter(|(_, port)| reading(port).is_some());
                let Some(first) = known().next() else { continue };
                let other = known().find(|(service, port)| {
                    reading(port) != reading(first.1) && !std::ptr::eq(*service, first.0)
                });
                out.extend(other.map(|second| Fact { workload, target, first: *first, second: *second }));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = fact.workload.reference();
        let (first, second) = (&fact.first, &fact.second);
        let shown = |(service, port): &(&Service, &ServicePort)| {
            format!("{} reads it as {}", service.object.reference, reading(port).unwrap_or("anything"))
        };
        let subject = second.0.object.reference.field("spec.ports");
        Finding::new(Self::META, subject.clone(), &[&own.name, &fact.target])
            .title(format!("Target port {} of {own}: {}, {}", fact.target, shown(first), shown(second)))
            .message(format!(
                "Both Services lead to target port {} of {own}. Its proxy has one listener for the port and takes one of the two readings.",
                fact.target
            ))
            .mechanism("Services give one port different protocols")
            .role(Role::Context, Confidence::Configured)
            .related(own.clone())
            .related(first.0.object.reference.clone())
            .evidence(Evidence::object(&first.0.object.reference.field("spec.ports"), shown(first)))
            .evidence(Evidence::object(&subject, shown(second)))
            .remedy(Remedy::manual(format!("Give the port the same appProtocol in {} and {}", first.0.object.reference, second.0.object.reference)))
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}
