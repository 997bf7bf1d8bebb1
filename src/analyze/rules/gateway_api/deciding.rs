//! Which field a negative condition is about: the reason says what is wrong, the spec where.

use super::prelude::*;
use super::{grants, listener_sets, references, route_checks, targets};

/// Where in the status a condition stands.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// Of the object itself.
    Object,
    /// Of a listener: its entry in `status.listeners`.
    Listener(&'a Value),
    /// For a parent: its entry in `status.parents`.
    Parent(&'a Value),
    /// For an ancestor: its entry in `status.ancestors`.
    Ancestor(&'a Value),
}

/// The field that decides, and other objects that decide as much.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Deciding {
    /// A path in the object's spec.
    pub path: String,
    /// The listener, the grant, the backend, the certificate on the other side.
    pub related: Vec<ObjectRef>,
}

fn only(path: impl Into<String>) -> Deciding {
    Deciding { path: path.into(), related: vec![] }
}

/// What decides a condition with this reason. `message` is the controller's own text: it is only searched for names that the
/// spec holds.
pub fn field(
    snapshot: &Snapshot,
    object: &Object,
    place: Place<'_>,
    reason: &str,
    message: &str,
) -> Deciding {
    let kind = object.reference.kind.as_str();
    match place {
        Place::Parent(entry) if Route::KINDS.contains(&kind) => {
            of_route(snapshot, &Route::read(object.clone()), entry, reason, message)
        }
        Place::Parent(_) => match reason {
            "InvalidExtensionRef" if object.body.at("spec.extensionRef").is_some() => {
                only("spec.extensionRef")
            }
            "InvalidExtensionRef" => only("spec.endpointPickerRef"),
            _ => only("spec"),
        },
        Place::Listener(entry) => of_listener(object, &entry.string("name"), reason),
        Place::Ancestor(entry) => of_policy(object, entry, reason),
        Place::Object if listener_sets::KINDS.contains(&kind) => of_set(snapshot, object, reason),
        Place::Object => only(of_object(kind, reason)),
    }
}

fn of_object(kind: &str, reason: &str) -> &'static str {
    match (kind, reason) {
        ("GatewayClass", "InvalidParameters") => "spec.parametersRef",
        ("GatewayClass", _) => "spec.controllerName",
        ("Gateway", "InvalidParameters") => "spec.infrastructure.parametersRef",
        ("Gateway", "AddressNotUsable" | "AddressNotAssigned" | "UnsupportedAddress") => "spec.addresses",
        ("Gateway", "InvalidClientCertificateRef" | "RefNotPermitted") => {
            "spec.tls.backend.clientCertificateRef"
        }
        ("Gateway", "InvalidCACertificateRef" | "InvalidCACertificateKind" | "NoValidCACertificate") => {
            "spec.tls.frontend"
        }
        ("Gateway", _) => "spec.listeners",
        ("Service" | "ServiceEntry" | "Namespace", _) => "metadata.labels[istio.io/use-waypoint]",
        ("XBackend", _) => "spec.tls",
        _ => "spec.targetRefs",
    }
}

fn of_set(snapshot: &Snapshot, set: &Object, reason: &str) -> Deciding {
    let gateway = listener_sets::parent(snapshot, set);
    match reason {
        "NotAllowed" => Deciding {
            path: "spec.parentRef".to_owned(),
            related: gateway.map(|g| g.object.reference.field("spec.allowedListeners")).into_iter().collect(),
        },
        "ParentNotAccepted" | "ParentNotProgrammed" | "UnsupportedAddress" => Deciding {
            path: "spec.parentRef".to_owned(),
            related: gateway.map(|g| g.object.reference.field("spec")).into_iter().collect(),
        },
        _ => only("spec.listeners"),
    }
}

fn of_listener(object: &Object, name: &str, reason: &str) -> Deciding {
    let Some(listener) = attach::listeners(object).into_iter().find(|l| l.name == name) else {
        return only("spec.listeners");
    };
    let part = match reason {
        "InvalidCertificateRef" | "RefNotPermitted" | "OverlappingCertificates" => ".tls.certificateRefs",
        "InvalidRouteKinds" => ".allowedRoutes.kinds",
        "HostnameConflict" | "OverlappingHostnames" => ".hostname",
        "ProtocolConflict" | "UnsupportedProtocol" => ".protocol",
        "PortUnavailable" => ".port",
        "InvalidCACertificateRef" | "InvalidCACertificateKind" | "NoValidCACertificate" => {
            return only("spec.tls.frontend");
        }
        "Invalid" | "UnsupportedValue" if listener.body.at("tls").is_some() => ".tls",
        _ => "",
    };
    let certificates =
        listener.body.list("tls.certificateRefs").iter().filter(|_| part == ".tls.certificateRefs");
    let related = certificates.map(|entry| {
        let namespace = entry.text("namespace").unwrap_or(object.namespace());
        ObjectRef::new(entry.text("kind").unwrap_or("Secret"), namespace, entry.string("name"))
    });
    Deciding { path: format!("{}{part}", listener.path), related: related.collect() }
}

fn of_policy(object: &Object, entry: &Value, reason: &str) -> Deciding {
    match reason {
        "NoValidCACertificate" | "InvalidCACertificateRef" | "InvalidKind" => {
            return only("spec.validation.caCertificateRefs");
        }
        "Invalid" if object.body.at("spec.validation").is_some() => return only("spec.validation"),
        _ => {}
    }
    let ancestor = entry.at("ancestorRef");
    let same = |t: &&targets::Target| {
        ancestor.is_some_and(|a| {
            a.text("name") == Some(t.name.as_str())
                && a.text("kind").unwrap_or("Gateway") == t.kind
                && a.text("sectionName").unwrap_or_default() == t.section
        })
    };
    let all = targets::of(object);
    match all.iter().find(same).or(all.first().filter(|_| all.len() == 1)) {
        Some(target) => Deciding { path: target.path.clone(), related: vec![target.reference()] },
        None => only("spec.targetRefs"),
    }
}

fn of_route(snapshot: &Snapshot, route: &Route, entry: &Value, reason: &str, message: &str) -> Deciding {
    let own = route.parents.iter().find(|parent| is_parent(parent, entry, route.object.namespace()));
    let parent_path = own.map_or("spec.parentRefs", |parent| parent.path.as_str());
    match reason {
        "NoMatchingParent" => {
            let field = match own {
                Some(parent) if !parent.section.is_empty() => ".sectionName",
                Some(parent) if parent.port.is_some() => ".port",
                Some(_) => ".name",
                None => "",
            };
            only(format!("{parent_path}{field}"))
        }
        "NotAllowedByListeners" => {
            Deciding { path: parent_path.to_owned(), related: listeners(snapshot, own, "allowedRoutes") }
        }
        "NoMatchingListenerHostname" => {
            Deciding { path: "spec.hostnames".to_owned(), related: listeners(snapshot, own, "hostname") }
        }
        "IncompatibleFilters" | "UnsupportedValue" | "InvalidFilter" => {
            let found = route_checks::check(route).into_iter().next();
            only(found.map_or_else(|| "spec.rules".to_owned(), |problem| problem.path))
        }
        "RefNotPermitted" | "BackendNotFound" | "InvalidKind" | "UnsupportedProtocol" => {
            backend(snapshot, route, reason, message)
        }
        _ => only(parent_path),
    }
}

/// Whether an entry of the status is about a parent that the route names.
fn is_parent(parent: &Reference, entry: &Value, namespace: &str) -> bool {
    let same = |field: &str, own: &str, default: &str| {
        entry.text(&format!("parentRef.{field}")).unwrap_or(default) == own
    };
    same("name", &parent.name, "")
        && same("namespace", &parent.namespace, namespace)
        && same("kind", &parent.kind, "Gateway")
        && same("sectionName", &parent.section, "")
        && entry.int("parentRef.port") == parent.port
}

/// The same field of every listener that a reference is for.
fn listeners(snapshot: &Snapshot, parent: Option<&Reference>, field: &str) -> Vec<ObjectRef> {
    let Some(parent) = parent else { return vec![] };
    let Some(object) = attach::parent_object(snapshot, parent) else { return vec![] };
    let asked = attach::listeners(object)
        .into_iter()
        .filter(|l| parent.section.is_empty() || l.name == parent.section);
    asked.take(4).map(|l| object.reference.field(format!("{}.{field}", l.path))).collect()
}

/// The backend that a reason is about: the one that the configuration shows to be so, else the one that the message names.
fn backend(snapshot: &Snapshot, route: &Route, reason: &str, message: &str) -> Deciding {
    let all: Vec<Reference> = references::all(route).collect();
    let to = |b: &Reference| ObjectRef::new(&b.kind, &b.namespace, &b.name);
    let decides = |b: &&Reference| match reason {
        "RefNotPermitted" => !grants::granted(snapshot, route.reference(), &b.group, &to(b)),
        "BackendNotFound" => {
            b.kind == "Service" && snapshot.service(&ServiceName::new(&b.namespace, &b.name)).is_none()
        }
        "InvalidKind" => b.kind != "Service" || !matches!(b.group.as_str(), "" | "core"),
        _ => false,
    };
    let named = |b: &&Reference| !b.name.is_empty() && message.contains(&b.name);
    let found = all
        .iter()
        .find(|b| decides(b) && named(b))
        .or_else(|| all.iter().find(decides))
        .or_else(|| all.iter().find(named))
        .or(all.first().filter(|_| all.len() == 1));
    let Some(found) = found else { return only("spec.rules") };
    let field = match reason {
        "RefNotPermitted" => ".namespace",
        "BackendNotFound" => ".name",
        "InvalidKind" => ".kind",
        _ => ".port",
    };
    let mut related = vec![to(found)];
    if reason == "RefNotPermitted" {
        let grant =
            grants::of_namespace(snapshot, &found.namespace).first().map(|g| g.reference.field("spec"));
        related.push(grant.unwrap_or_else(|| ObjectRef::new("ReferenceGrant", &found.namespace, "")));
    }
    Deciding { path: format!("{}{field}", found.path), related }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Builder;

    fn snapshot() -> Snapshot {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "n"},
            "spec": {"parentRefs": [{"name": "g", "sectionName": "a"}, {"name": "g", "sectionName": "b"}], "hostnames": ["x.y"],
                     "rules": [{"backendRefs": [{"name": "here", "port": 80}, {"name": "gone", "port": 80}, {"name": "far", "namespace": "m", "port": 80}]}]}}));
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "here", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}}));
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "far", "namespace": "m"}, "spec": {"ports": [{"port": 80}]}}));
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "b", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "s"}]}}]}}));
        builder.finish()
    }

    #[test]
    fn each_reason_leads_to_its_field() {
        let snapshot = snapshot();
        let route = &snapshot.gateway_api.routes[0].object;
        let entry = json!({"parentRef": {"name": "g", "sectionName": "b"}});
        let path = |reason: &str| field(&snapshot, route, Place::Parent(&entry), reason, "").path;
        assert_eq!(path("NoMatchingParent"), "spec.parentRefs[1].sectionName");
        assert_eq!(path("NotAllowedByListeners"), "spec.parentRefs[1]");
        assert_eq!(path("NoMatchingListenerHostname"), "spec.hostnames");
        assert_eq!(path("BackendNotFound"), "spec.rules[0].backendRefs[1].name");
        assert_eq!(path("RefNotPermitted"), "spec.rules[0].backendRefs[2].namespace");
        let gateway = &snapshot.gateway_api.gateways[0].object;
        let listener = json!({"name": "b"});
        let found = field(&snapshot, gateway, Place::Listener(&listener), "InvalidCertificateRef", "");
        assert_eq!(found.path, "spec.listeners[1].tls.certificateRefs");
        assert_eq!(found.related[0].to_string(), "Secret n/s");
    }
}
