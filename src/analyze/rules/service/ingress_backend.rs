//! SVC107.

use crate::model::json::json;

use super::ingress::{Backend, backends};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen;
use crate::model::network::{Service, ServiceName};
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An Ingress leads to a Service or to a port of one that does not exist.
    ///
    /// ## What it detects
    /// A backend of an Ingress whose Service the namespace lacks, or whose Service has no port of that name or number.
    /// ## Why it matters
    /// The ingress controller has nowhere to send the requests for that host and path, and answers them with 503 or 404 itself.
    /// ## Evidence
    /// The backend, the Services of the namespace, and the ports of the Service.
    /// ## How to confirm
    /// `kubectl describe ingress NAME` shows the backend with `<error: …>` in place of addresses.
    /// ## How to fix
    /// Correct the name or the port of the backend, or bring the Service back.
    /// ## False positives
    /// A backend that is another resource, and a namespace of which no Service was seen.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/ingress/>
    IngressBackendMissing {
        code: "SVC107", name: "ingress-backend-missing", family: Network, severity: Error,
        needs: [Objects], aliases: ["K8S-SVCMESHLESS-LB"],
    }
}

/// A backend that leads nowhere.
#[derive(Debug)]
pub struct Fact<'a> {
    ingress: &'a Object,
    backend: Backend,
    /// The Service, where only its port is missing.
    service: Option<&'a Service>,
}

impl Check for IngressBackendMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for ingress in snapshot.objects_of("Ingress").filter(|i| seen::wanted(snapshot, i.namespace())) {
            let namespace = ingress.namespace();
            if !snapshot.services.iter().any(|s| s.object.namespace() == namespace) {
                continue;
            }
            for backend in backends(ingress) {
                let service = snapshot.service(&ServiceName::new(namespace, &backend.service));
                let has = |service: &Service| {
                    service.kind == "ExternalName"
                        || backend.port.is_empty()
                        || service
                            .ports
                            .iter()
                            .any(|p| p.name == backend.port || p.number.to_string() == backend.port)
                };
                if service.is_none_or(|service| !has(service)) {
                    out.push(Fact { ingress, backend, service });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (r, backend) = (&fact.ingress.reference, &fact.backend);
        let target = ServiceName::new(&r.namespace, &backend.service);
        let (field, what) = match fact.service {
            Some(service) => {
                let ports: Vec<String> = service.ports.iter().map(|p| p.number.to_string()).collect();
                let what =
                    format!("Service {target} has no port {} (it has {})", backend.port, ports.join(", "));
                (format!("{}.service.port", backend.path), what)
            }
            None => (format!("{}.service.name", backend.path), format!("Service {target} does not exist")),
        };
        Finding::new(Self::META, r.field(&field), &[])
            .title(format!("{r} leads {} nowhere: {what}", backend.takes))
            .message(format!("{r} sends requests for {} to port {} of Service {target}, and {what}. The ingress controller answers them itself, with 503 or 404.", backend.takes, backend.port))
            .mechanism(if fact.service.is_some() { "ingress backend names a port that its Service lacks" } else { "ingress backend names a Service that does not exist" })
            .severity(if snapshot.runs() { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Configured)
            .service(Some(target.clone()))
            .related(target.reference())
            .evidence(Evidence::object(&r.field(&field), if fact.service.is_some() { backend.port.clone() } else { backend.service.clone() }))
            .effect(Effect::requests(&target, &["503", "404", "5xx"]))
            .maybe_remedy(correct(fact, snapshot))
            .remedy(Remedy::commands("Correct the backend, or bring back the Service that it names", vec![common::describe_command(r)], vec![]))
            .prevention(Prevention::alert(
                "Alert on errors that the ingress controller answers itself",
                format!("sum by (ingress) (rate(nginx_ingress_controller_requests{{exported_namespace=\"{0}\",ingress=\"{1}\",status=~\"5..\"}}[5m])) / sum by (ingress) (rate(nginx_ingress_controller_requests{{exported_namespace=\"{0}\",ingress=\"{1}\"}}[5m])) > 0.05", r.namespace, r.name),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: every backend of an Ingress is a Service of the same release, with that port"))
    }
}

/// The Service of nearly that name, or the only port.
fn correct(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let (ingress, backend) = (fact.ingress, &fact.backend);
    if let Some(service) = fact.service {
        let [port] = service.ports.as_slice() else { return None };
        let path = format!("{}.service.port", backend.path);
        let operation = json!([{"op": "replace", "path": pointer(&path), "value": {"number": port.number}}]);
        return Remedy::patch(
            ingress,
            &operation,
            format!("Set the port of the backend to {}, the only one of the Service", port.number),
        );
    }
    let beside = snapshot.services.iter().filter(|s| s.object.namespace() == ingress.namespace());
    let near = nearest(&backend.service, beside.map(|s| s.object.name()))?;
    let path = format!("{}.service.name", backend.path);
    let operation = json!([{"op": "replace", "path": pointer(&path), "value": near}]);
    Remedy::patch(ingress, &operation, format!("Correct the Service of the backend to {near}, which exists"))
}
