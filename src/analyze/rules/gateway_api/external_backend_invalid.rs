//! GWAPI113.

use super::fault::{Fault, set};
use super::prelude::*;
use super::{classes, references};

crate::rule! {
    /// A backend outside the cluster (XBackend) that the controller cannot reach as it is written.
    ///
    /// ## What it detects
    /// An XBackend without a host name or a port, one that asks for a client certificate (`tls.mode: ClientAndServer`) without
    /// naming one, and one that asks for it where Istio serves the routes, which has no client certificates for backends.
    /// ## Why it matters
    /// The backend is not accepted: requests of the routes that name it are answered with 500.
    /// ## Evidence
    /// The field and its value.
    /// ## How to confirm
    /// `kubectl describe xbackends.gateway.networking.x-k8s.io NAME` shows `Accepted=False` with `Invalid`.
    /// ## How to fix
    /// Complete the field; where Istio serves, let a DestinationRule with `tls.mode: MUTUAL` show the certificate.
    /// ## False positives
    /// Modes that another implementation has are left alone.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/geps/gep-4894/>
    ExternalBackendInvalid {
        code: "GWAPI113", name: "external-backend-invalid", family: Gateway, severity: Warning,
        needs: [Objects], aliases: ["IST0171"],
    }
}

const RESULT: &str = "The backend is not accepted: requests that routes send to it are answered with 500.";
const MECHANISM: &str = "XBackend not accepted";

impl Check for ExternalBackendInvalid {
    type Fact<'a> = Fault<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fault<'a>> {
        let istios = snapshot.gateway_api.gateways.iter().any(|g| classes::is_istios(snapshot, g));
        let mut out = vec![];
        for object in snapshot.objects_of("XBackend").filter(|o| seen::configured(o.namespace())) {
            let used: Vec<ObjectRef> = users(snapshot, object);
            let mut add = |path: &str, why: String, fix: Option<Remedy>| {
                let mut fault = Fault::new(object, path, "Invalid", why).means(RESULT, MECHANISM).fix(fix);
                fault.related.extend(used.iter().cloned());
                out.push(fault);
            };
            let kind = object.body.text("spec.type").unwrap_or("ExternalHostname");
            if kind == "ExternalHostname" && object.body.string("spec.externalHostname.hostname").is_empty() {
                add("spec.externalHostname.hostname", "it names no host".to_owned(), None);
            }
            let port = object.body.int("spec.port.port");
            if !port.is_some_and(|port| (1..=65535).contains(&port)) {
                add("spec.port.port", "it names no port between 1 and 65535".to_owned(), None);
            }
            match object.body.text("spec.tls.mode") {
                Some("ClientAndServer") if istios => {
                    let why = "tls.mode ClientAndServer asks for a client certificate, and Istio shows none to such a backend";
                    let to = "ServerOnly";
                    let fix = set(
                        object,
                        "spec.tls.mode",
                        json!(to),
                        "Set tls.mode to ServerOnly, where the backend takes clients without a certificate",
                    );
                    add("spec.tls.mode", why.to_owned(), fix);
                }
                Some("ClientAndServer") if object.body.at("spec.tls.clientCertificateRef").is_none() => {
                    let why = "tls.mode ClientAndServer asks for a client certificate, and clientCertificateRef names none";
                    add("spec.tls.clientCertificateRef", why.to_owned(), None);
                }
                Some(mode)
                    if !matches!(mode, "ClientAndServer" | "ServerOnly" | "None") && !mode.contains('/') =>
                {
                    add("spec.tls.mode", format!("tls.mode {mode} is none that the API has"), None);
                }
                _ => {}
            }
        }
        out
    }

    fn describe(&self, fact: &Fault<'_>, _: &Snapshot) -> Finding {
        fact.finding(Self::META)
    }
}

/// The fields of routes that send requests to a backend.
fn users(snapshot: &Snapshot, object: &Object) -> Vec<ObjectRef> {
    let mut out = vec![];
    for route in &snapshot.gateway_api.routes {
        let mut own = references::all(route).filter(|b| {
            b.kind == object.reference.kind && b.namespace == object.namespace() && b.name == object.name()
        });
        out.extend(own.next().map(|backend| route.reference().field(backend.path)));
    }
    out
}
