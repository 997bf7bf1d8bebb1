//! AMBIENT105.

use super::enrolment;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::configured;
use crate::model::mesh::istio::{VirtualService, full_host, service_of_host};
use crate::model::network::{Service, ServiceName};
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// In ambient mode, routes or settings for a Service stand in a namespace where its waypoint does not look.
    ///
    /// ## What it detects
    /// A VirtualService for the mesh, or a DestinationRule, for a Service in ambient mode with a waypoint, that is
    /// neither in the Service's namespace nor in the waypoint's (nor, for a DestinationRule, in Istio's root namespace).
    /// ## Why it matters
    /// Sidecars took such objects from their own namespace, so that callers could write them. A waypoint serves all
    /// callers: it takes them from the Service's namespace and its own, and passes over the others without a word.
    /// ## Evidence
    /// The object's host, the Service and its waypoint.
    /// ## How to confirm
    /// `istioctl proxy-config routes deploy/WAYPOINT` does not show the route.
    /// ## How to fix
    /// Move the object into the Service's namespace.
    /// ## False positives
    /// Where sidecars were seen the object may be meant for them: the rule is silent then.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/l7-features/>
    ConfigurationElsewhere {
        code: "AMBIENT105", name: "configuration-elsewhere", family: Mesh, severity: Warning, needs: [Objects],
        aliases: ["KIA0212", "KIA1114"],
    }
}

/// An object that the waypoint of its host does not read.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    service: &'a Service,
    /// Namespace and name.
    waypoint: (String, String),
}

impl Check for ConfigurationElsewhere {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if snapshot.pods.iter().any(|pod| snapshot.has_istio_proxy(pod)) {
            return vec![];
        }
        let root = snapshot.istio.root_namespace.as_str();
        let mut out = vec![];
        let mut look = |object: &'a Object, path: String, host: &str| {
            let own = object.namespace();
            let Some((namespace, name)) = service_of_host(&full_host(host, own)) else { return };
            let Some(service) = snapshot.service(&ServiceName::new(&namespace, name)) else { return };
            let Some(waypoint) = enrolment::waypoint(snapshot, &service.object) else { return };
            let read = own == namespace || own == waypoint.0 || !configured(own);
            if !read && enrolment::service_is_ambient(snapshot, service) {
                out.push(Fact { object, path, service, waypoint });
            }
        };
        for route in snapshot.istio.virtual_services.iter().filter(|vs| for_the_mesh(vs)) {
            for (index, host) in route.hosts.iter().enumerate() {
                look(&route.object, format!("spec.hosts[{index}]"), host);
            }
        }
        for rule in snapshot.istio.destination_rules.iter().filter(|rule| rule.object.namespace() != root) {
            look(&rule.object, "spec.host".to_owned(), &rule.host);
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(&fact.path);
        let service = fact.service.reference();
        let (namespace, name) = &fact.waypoint;
        Finding::new(Self::META, subject.clone(), &[&service.namespace, &service.name])
            .title(format!("{own} is for {service} and stands in a namespace where its waypoint does not look"))
            .message(format!(
                "Requests to {service} pass waypoint {namespace}/{name}, which takes such objects from namespace {} and from its own. {own} is in {}: it is not applied.",
                service.namespace, own.namespace
            ))
            .mechanism("ambient: VirtualService or DestinationRule outside the Service's namespace")
            .role(Role::Cause, Confidence::Configured)
            .service(Some(fact.service.service_name()))
            .evidence(Evidence::object(&subject, format!("is for {service}")))
            .evidence(Evidence::object(service, format!("has waypoint {namespace}/{name}")))
            .related(service.clone())
            .remedy(Remedy::manual(format!("Move {own} into namespace {}", service.namespace)))
            .prevention(Prevention::of("Policy", "What is for a Service stands in its namespace: an admission policy"))
    }
}

/// Whether a VirtualService has rules for HTTP inside the mesh.
fn for_the_mesh(vs: &VirtualService) -> bool {
    vs.gateways.iter().any(|gateway| gateway == "mesh")
        && vs.routes.iter().any(|route| route.protocol == "http")
}
