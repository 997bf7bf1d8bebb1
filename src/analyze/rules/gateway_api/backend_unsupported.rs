//! GWAPI111.

use super::fault::{Fault, set};
use super::prelude::*;
use super::{classes, references, status};

crate::rule! {
    /// A route refers to a backend of a kind or protocol that it cannot send requests to.
    ///
    /// ## What it detects
    /// A `backendRef` (also of a mirror, or of external authorization) whose kind is no backend, one of a kind that Istio does
    /// not know where Istio serves the route, and one to a Service's port of another transport than the route's: UDP for an
    /// HTTPRoute, TCP for a UDPRoute.
    /// ## Why it matters
    /// The reference is not resolved: requests that would go there are answered with 500, connections are closed.
    /// ## Evidence
    /// Group and kind of the reference, or the protocol of the Service's port.
    /// ## How to confirm
    /// `kubectl describe` of the route shows `ResolvedRefs=False` with `InvalidKind` or `UnsupportedProtocol`.
    /// ## How to fix
    /// Name a Service, and a port of it that carries the route's protocol.
    /// ## False positives
    /// Kinds of other groups are left out where a controller other than Istio's serves the route, or where the route's status
    /// says that its references are resolved.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#backendobjectreference>
    BackendUnsupported {
        code: "GWAPI111", name: "backend-unsupported", family: Gateway, severity: Warning,
        needs: [Objects, GatewayApi], aliases: ["IST0171"],
    }
}

/// Kinds that Istio sends requests to, with their groups.
const ISTIOS: &[(&str, &str)] = &[
    ("", "Service"),
    ("networking.istio.io", "Hostname"),
    ("multicluster.x-k8s.io", "ServiceImport"),
    ("inference.networking.k8s.io", "InferencePool"),
    ("inference.networking.x-k8s.io", "InferencePool"),
    ("gateway.networking.x-k8s.io", "XBackend"),
];

impl Check for BackendUnsupported {
    type Fact<'a> = Fault<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fault<'a>> {
        let mut out = vec![];
        for route in snapshot.gateway_api.routes.iter().filter(|r| seen::configured(r.object.namespace())) {
            for backend in references::all(route) {
                out.extend(kind(snapshot, route, &backend));
                out.extend(transport(snapshot, route, &backend));
            }
        }
        out
    }

    fn describe(&self, fact: &Fault<'_>, _: &Snapshot) -> Finding {
        fact.finding(Self::META)
    }
}

fn kind<'a>(snapshot: &Snapshot, route: &'a Route, backend: &Reference) -> Option<Fault<'a>> {
    let group = if backend.group == "core" { "" } else { backend.group.as_str() };
    let pair = (group, backend.kind.as_str());
    let fits = match group {
        _ if ISTIOS.contains(&pair) => return None,
        // The API's own groups hold no other backend, whoever implements it.
        "" | attach::GROUP => false,
        _ => !classes::route_is_istios(snapshot, route) || resolved(route),
    };
    let of = if group.is_empty() { String::new() } else { format!(" of group {group}") };
    let why =
        format!("it sends requests to {}{of} {}, a kind that is no backend", backend.kind, backend.name);
    let service = snapshot.service(&ServiceName::new(&backend.namespace, &backend.name));
    let path = format!("{}.kind", backend.path);
    (!fits).then(|| {
        Fault::new(&route.object, path.clone(), "InvalidKind", why)
            .means(
                "The reference is not resolved: requests that would go there are answered with 500.",
                "backendRef of an unsupported kind",
            )
            .hits(attach::service(snapshot, route).into_iter().collect(), &["5xx", "direct_response"])
            .fix(service.and_then(|_| {
                set(&route.object, &path, json!("Service"), "Set the kind of the backendRef to Service")
            }))
    })
}

/// Whether the controller says, of the route as it is now, that it resolved all references.
fn resolved(route: &Route) -> bool {
    let parents = route.object.body.list("status.parents");
    parents.iter().any(|p| status::says(&route.object, p.list("conditions"), "ResolvedRefs", "True"))
}

fn transport<'a>(snapshot: &Snapshot, route: &'a Route, backend: &Reference) -> Option<Fault<'a>> {
    if backend.kind != "Service" || !matches!(backend.group.as_str(), "" | "core") {
        return None;
    }
    let service = snapshot.service(&ServiceName::new(&backend.namespace, &backend.name))?;
    let wanted = if route.reference().kind == "UDPRoute" { "UDP" } else { "TCP" };
    // One number can serve two transports.
    let mut ports = service.ports.iter().filter(|p| Some(p.number) == backend.port).peekable();
    let first = ports.peek()?.transport.clone();
    if ports.any(|p| p.transport == wanted) {
        return None;
    }
    let why = format!(
        "port {} of {} carries {first}, and a {} sends {wanted}",
        backend.port.unwrap_or_default(),
        service.reference(),
        route.reference().kind
    );
    let mut fitting = service.ports.iter().filter(|p| p.transport == wanted);
    let only = fitting.next().filter(|_| fitting.next().is_none());
    let path = format!("{}.port", backend.path);
    let fix = only.and_then(|p| {
        set(&route.object, &path, json!(p.number), format!("Set the port of the backendRef to {}", p.number))
    });
    Some(
        Fault::new(&route.object, path, "UnsupportedProtocol", why)
            .means(
                "Nothing answers there in the route's protocol: requests fail.",
                "backendRef to a port of another transport protocol",
            )
            .hits(vec![service.service_name()], &["UF", "5xx", "timeout"])
            .fix(fix),
    )
}
