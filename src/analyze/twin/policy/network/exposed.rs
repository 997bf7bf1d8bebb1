//! What an ingress controller connects to: the pods' ports that Ingresses and OpenShift's Routes name.

use crate::model::json::Value;

use super::{PodEnd, Port};
use crate::model::fields::Fields;
use crate::model::network::{Service, ServiceName, ServicePort, TargetPort};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::PodTemplate;

/// The Ingress or Route, and the field in it, that leads a controller to this port of a pod.
pub fn leads_to(snapshot: &Snapshot, pod: &PodEnd<'_>, port: Port<'_>) -> Option<ObjectRef> {
    // Controllers speak HTTP or TLS.
    if port.transport != "TCP" {
        return None;
    }
    let ingresses = snapshot.objects_of("Ingress").filter(|o| o.namespace() == pod.namespace);
    let routes = snapshot
        .objects_of("Route")
        .filter(|o| o.namespace() == pod.namespace && o.reference.group() == "route.openshift.io");
    let named = ingresses.flat_map(ingress).chain(routes.flat_map(route));
    let mut leading = named.filter(|backend| backend.reaches(snapshot, pod, port.number));
    leading.next().map(|backend| backend.object)
}

/// A Service that an object names, and which of its ports.
struct Backend {
    /// The object and the field.
    object: ObjectRef,
    service: ServiceName,
    port: Wanted,
}

enum Wanted {
    /// All ports of the Service.
    All,
    /// A port of the Service by its number.
    Number(i64),
    /// A port of the Service by its name.
    Name(String),
    /// A port of the pods by its number.
    Target(i64),
}

impl Backend {
    fn reaches(&self, snapshot: &Snapshot, pod: &PodEnd<'_>, number: i64) -> bool {
        let Some(service) = snapshot.service(&self.service) else { return false };
        service.selects_labels(pod.namespace, pod.labels)
            && wanted_ports(service, &self.port, pod.template)
                .any(|port| on(port, pod.template) == Some(number))
    }
}

fn wanted_ports<'a>(
    service: &'a Service,
    wanted: &'a Wanted,
    template: Option<&'a PodTemplate>,
) -> impl Iterator<Item = &'a ServicePort> {
    service.ports.iter().filter(|port| port.transport == "TCP").filter(move |port| match wanted {
        Wanted::All => true,
        Wanted::Number(number) => port.number == *number,
        Wanted::Name(name) => port.name == *name,
        Wanted::Target(number) => on(port, template) == Some(*number),
    })
}

fn on(port: &ServicePort, template: Option<&PodTemplate>) -> Option<i64> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(_) => port.on(template?),
    }
}

fn ingress(object: &Object) -> Vec<Backend> {
    let body = &object.body;
    let mut found: Vec<(String, &Value)> = vec![];
    found.extend(body.at("spec.defaultBackend").map(|at| ("spec.defaultBackend".to_owned(), at)));
    for (rule, entry) in body.list("spec.rules").iter().enumerate() {
        for (index, path) in entry.list("http.paths").iter().enumerate() {
            let field = format!("spec.rules[{rule}].http.paths[{index}].backend");
            found.extend(path.at("backend").map(|at| (field, at)));
        }
    }
    let backends = found.into_iter().filter_map(|(field, backend)| {
        let port = match (backend.int("service.port.number"), backend.text("service.port.name")) {
            (Some(number), _) => Wanted::Number(number),
            (None, Some(name)) => Wanted::Name(name.to_owned()),
            (None, None) => return None,
        };
        Some(Backend {
            object: object.reference.field(field),
            service: ServiceName::new(object.namespace(), backend.text("service.name")?),
            port,
        })
    });
    backends.collect()
}

fn route(object: &Object) -> Vec<Backend> {
    let body = &object.body;
    let to = body.at("spec.to").map(|to| ("spec.to".to_owned(), to));
    let others = body.list("spec.alternateBackends").iter().enumerate();
    let others = others.map(|(index, to)| (format!("spec.alternateBackends[{index}]"), to));
    let services = to
        .into_iter()
        .chain(others)
        .filter(|(_, to)| to.text("kind").unwrap_or("Service") == "Service" && to.int("weight") != Some(0));
    let backends = services.filter_map(|(field, to)| {
        let port = match body.at("spec.port.targetPort") {
            None => Wanted::All,
            // A name is one of the Service's ports, a number one of its pods'.
            Some(Value::String(name)) => match name.parse() {
                Ok(number) => Wanted::Target(number),
                Err(_) => Wanted::Name(name.to_string()),
            },
            Some(number) => Wanted::Target(number.as_i64()?),
        };
        Some(Backend {
            object: object.reference.field(field),
            service: ServiceName::new(object.namespace(), to.text("name")?),
            port,
        })
    });
    backends.collect()
}
