//! AMBIENT101.

use crate::model::json::{Value, json};

use super::enrolment::{self, WAYPOINT};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer_segment, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::gateway_api::targets;
use crate::analyze::rules::seen::configured;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::{Service, ServiceName};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// In ambient mode, something that only a waypoint carries out is configured for a Service without one.
    ///
    /// ## What it detects
    /// An AuthorizationPolicy, RequestAuthentication, WasmPlugin or Telemetry that is attached to a Service (`targetRefs`), an
    /// HTTPRoute or GRPCRoute whose parent is a Service, a VirtualService with rules for HTTP inside the mesh, or a
    /// DestinationRule with a traffic policy or subsets, where ztunnel carries the Service's traffic and neither the Service
    /// nor its namespace names a waypoint.
    /// ## Why it matters
    /// ztunnel sees connections, not requests: nothing of it is applied. Rules that were meant to deny let everything pass,
    /// routes and time-outs do not hold.
    /// ## Evidence
    /// The reference, the labels `istio.io/dataplane-mode` and `istio.io/use-waypoint` of the Service and its namespace.
    /// ## How to confirm
    /// `istioctl ztunnel-config service` shows no waypoint for the Service; the policy's status says `WaypointAccepted=False`.
    /// ## How to fix
    /// Make a waypoint (`istioctl waypoint apply`) and enrol the Service or its namespace.
    /// ## False positives
    /// VirtualServices and DestinationRules are left out where sidecars were seen, whose proxies carry them out themselves.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/l7-features/>
    PolicyWithoutWaypoint {
        code: "AMBIENT101", name: "policy-without-waypoint", family: Mesh, severity: Warning, needs: [Objects],
        aliases: ["IST0171", "KIA0109", "KIA0210", "KIA0211", "KIA1109", "KIA1110", "KIA1111", "KIA1112", "KIA1113", "KIA1317"],
    }
}

/// Something that nobody carries out.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    service: &'a Service,
    /// A waypoint of the Service's namespace that could be used.
    waypoint: Option<String>,
}

/// Kinds that are attached by `targetRefs` and need a proxy that reads HTTP.
const ATTACHED: &[&str] = &["AuthorizationPolicy", "RequestAuthentication", "WasmPlugin", "Telemetry"];

impl Check for PolicyWithoutWaypoint {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        if !enrolment::is_used(snapshot) {
            return out;
        }
        let mut look = |object: &'a Object, path: String, name: ServiceName| {
            if !configured(object.namespace()) {
                return;
            }
            let Some(service) = snapshot.service(&name) else { return };
            let bare = enrolment::service_is_ambient(snapshot, service)
                && enrolment::waypoint(snapshot, &service.object).is_none();
            if bare {
                let waypoint = enrolment::offered(snapshot, service.object.namespace());
                let waypoint = waypoint.map(|gateway| gateway.object.name().to_owned());
                out.push(Fact { object, path, service, waypoint });
            }
        };
        for object in ATTACHED.iter().flat_map(|kind| snapshot.objects_of(kind)) {
            for target in
                targets::of(object).into_iter().filter(|t| t.kind == "Service" && t.group.is_empty())
            {
                look(object, target.path, ServiceName::new(target.namespace, target.name));
            }
        }
        for route in &snapshot.gateway_api.routes {
            let http = matches!(route.reference().kind.as_str(), "HTTPRoute" | "GRPCRoute");
            for parent in route.parents.iter().filter(|p| http && p.kind == "Service") {
                look(&route.object, parent.path.clone(), ServiceName::new(&parent.namespace, &parent.name));
            }
        }
        let sidecars = snapshot.pods.iter().any(|pod| snapshot.has_istio_proxy(pod));
        for vs in snapshot.istio.virtual_services.iter().filter(|_| !sidecars) {
            if !vs.gateways.iter().any(|g| g == "mesh") || vs.routes.iter().all(|r| r.protocol != "http") {
                continue;
            }
            for (index, host) in vs.hosts.iter().enumerate() {
                let full = full_host(host, vs.object.namespace());
                if let Some((namespace, name)) = service_of_host(&full) {
                    look(&vs.object, format!("spec.hosts[{index}]"), ServiceName::new(namespace, name));
                }
            }
        }
        for rule in snapshot.istio.destination_rules.iter().filter(|_| !sidecars) {
            let set = rule.object.body.at("spec.trafficPolicy").is_some() || !rule.subsets.is_empty();
            if let Some((namespace, name)) = service_of_host(&rule.full_host()).filter(|_| set) {
                look(&rule.object, "spec.host".to_owned(), ServiceName::new(namespace, name));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let subject = fact.object.reference.field(&fact.path);
        let service = fact.service.reference();
        let label = service.field(format!("metadata.labels[{WAYPOINT}]"));
        let space = ObjectRef::new("Namespace", "", fact.service.object.namespace());
        Finding::new(Self::META, subject.clone(), &[&service.namespace, &service.name])
            .title(format!("{} is for {service}, which has no waypoint: it is not applied", fact.object.reference))
            .message(format!(
                "ztunnel carries the connections to {service} and looks at no request. {} needs a proxy that does, and neither {service} nor {space} names a waypoint in the label {WAYPOINT}.",
                fact.object.reference
            ))
            .mechanism("ambient: policy or route needs a waypoint and there is none (use-waypoint missing)")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .service(Some(fact.service.service_name()))
            .evidence(Evidence::object(&subject, format!("is attached to {service}")))
            .evidence(Evidence::object(&label, "is not set, and not on the namespace either"))
            .maybe_remedy(fact.waypoint.as_ref().and_then(|name| enrol(fact.service, name)))
            .remedy(make(snapshot, fact.service))
            .prevention(Prevention::of("Test", "After each change ask once for a path that an HTTP rule denies: it must be refused"))
            .related(label)
    }
}

/// Names a waypoint in the Service's label.
fn enrol(service: &Service, waypoint: &str) -> Option<Remedy> {
    let at = format!("/metadata/labels/{}", pointer_segment(WAYPOINT));
    let operations: Value = if service.object.labels.is_empty() {
        json!([{"op": "add", "path": "/metadata/labels", "value": {WAYPOINT: waypoint}}])
    } else {
        json!([{"op": "add", "path": at, "value": waypoint}])
    };
    Remedy::patch(&service.object, &operations, format!("Set {WAYPOINT} to {waypoint}, which exists"))
}

/// Makes a waypoint for the whole namespace.
fn make(_: &Snapshot, service: &Service) -> Remedy {
    let namespace = quote(service.object.namespace());
    Remedy::commands(
        format!("Make a waypoint for namespace {} and enrol the namespace", service.object.namespace()),
        vec![format!("istioctl waypoint apply -n {namespace} --enroll-namespace")],
        vec![
            format!("kubectl label namespace {namespace} {WAYPOINT}-"),
            format!("istioctl waypoint delete -n {namespace} waypoint"),
        ],
    )
}
