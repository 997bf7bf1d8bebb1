//! ISTIO168.

use crate::model::json::{Value, json};
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::gateway_api::classes::route_is_istios;
use crate::analyze::traffic::text;
use crate::analyze::twin::http::operators;
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::Route;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route adds a header with a value that Envoy refuses, and with it the whole route table.
    ///
    /// ## What it detects
    /// Values of headers that a VirtualService (`headers`), an HTTPRoute or a GRPCRoute of Istio's (`RequestHeaderModifier`,
    /// `ResponseHeaderModifier`) sets or adds, in which a percent sign begins no operator that Envoy knows: `100%`, `%foo%`.
    /// ## Why it matters
    /// Envoy takes a route table as a whole or not at all. Proxies keep the one that they had: no change of any route of that
    /// port, whoever made it, arrives any more. A proxy that starts now gets no routes and answers 404, though the API server took
    /// the object and its status says that all is well.
    /// ## Evidence
    /// The value, and where its operator breaks off.
    /// ## How to confirm
    /// `istioctl proxy-status` shows RDS as stale, and istiod logs `ACK ERROR` for it; `pilot_total_xds_rejects{type="rds"}` counts.
    /// ## How to fix
    /// Write a percent sign that is meant as one twice (`100%%`), or name an operator that exists, such as `%REQ(x-user)%`.
    /// ## False positives
    /// Operators of an extension that was built into the proxies.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#custom-request-response-headers>
    HeaderValueRefused {
        code: "ISTIO168", name: "header-value-refused", family: Mesh, severity: Error,
        needs: [], aliases: [],
    }
}

/// A value that Envoy does not take.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// The value's field as a JSON pointer, and as it is written.
    pointer: String,
    field: String,
    value: &'a str,
    why: String,
    services: BTreeSet<ServiceName>,
}

impl Check for HeaderValueRefused {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            let (object, namespace) = (&*virtual_service.object, virtual_service.object.namespace());
            for route in virtual_service.routes.iter().filter(|route| route.protocol == "http") {
                let hosts = route.destinations.iter().map(|to| full_host(&to.host, namespace));
                let services = hosts.filter_map(|host| service_of_host(&host));
                let services: BTreeSet<ServiceName> =
                    services.map(|(namespace, name)| ServiceName::new(namespace, name)).collect();
                let own = std::iter::once((route.path.clone(), route.body.child("headers")));
                let to = route.body.list("route").iter().enumerate();
                let to = to.map(|(at, to)| (format!("{}.route[{at}]", route.path), to.child("headers")));
                for (place, headers) in own.chain(to) {
                    let Some(headers) = headers else { continue };
                    for way in ["request", "response"] {
                        for kind in ["set", "add"] {
                            let path = format!("{place}.headers.{way}.{kind}");
                            let all = headers.at(way).and_then(|ops| ops.map(kind)).into_iter().flatten();
                            for (name, value) in all {
                                let Some(value) = value.as_str() else { continue };
                                let Some(why) = operators::refused(value) else { continue };
                                let pointer = format!("{}/{}", pointer(&path), pointer_segment(name));
                                let field = format!("{path}.{name}");
                                let services = services.clone();
                                out.push(Fact { object, pointer, field, value, why, services });
                            }
                        }
                    }
                }
            }
        }
        let api = &snapshot.gateway_api;
        for route in api.routes.iter().filter(|route| route_is_istios(snapshot, route)) {
            for (at, rule) in route.object.body.list("spec.rules").iter().enumerate() {
                let own = std::iter::once((format!("spec.rules[{at}]"), rule));
                let to = rule.list("backendRefs").iter().enumerate();
                let to = to.map(|(to, backend)| (format!("spec.rules[{at}].backendRefs[{to}]"), backend));
                for (place, holder) in own.chain(to) {
                    modifiers(route, &place, holder, &mut out);
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.object.reference;
        let subject = object.field(&fact.field);
        let value = text::plain(fact.value, 60);
        let plain = doubled(fact.value);
        let service = fact.services.first().cloned();
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("Envoy refuses the header value {value} of {object}, and every route beside it"))
            .message(format!(
                "{}. Envoy takes a route table as a whole: with this value in it proxies keep the table that they had, so that no change of a route of the same port arrives, and proxies that start now have no routes.",
                text::plain(&fact.why, 200)
            ))
            .mechanism("header value with a malformed operator: Envoy rejects the route table (RDS) and keeps the old one")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Configured)
            .service(service)
            .evidence(Evidence::object(&subject, value))
            .effects(fact.services.iter().map(|service| Effect::requests(service, &["NR", "404"])))
            .maybe_remedy(Remedy::patch(
                fact.object,
                &json!([{"op": "replace", "path": fact.pointer, "value": plain}]),
                format!("Write the percent signs as such: {}", text::plain(&plain, 60)),
            ))
            .maybe_remedy(Remedy::patch(
                fact.object,
                &json!([{"op": "remove", "path": fact.pointer}]),
                "Take the header out of the route",
            ))
            .prevention(Prevention::alert(
                "Alert when proxies refuse what the control plane sends",
                "increase(pilot_total_xds_rejects{type=\"rds\"}[5m]) > 0",
            ))
            .prevention(Prevention::of("Test", "In the pipeline: `meshscope analyze` on the manifests"))
    }
}

/// What the header modifiers of a rule, or of one of its backends, put in.
fn modifiers<'a>(route: &'a Route, place: &str, holder: &'a Value, out: &mut Vec<Fact<'a>>) {
    let backends = route.backends.iter().filter(|backend| backend.kind == "Service");
    let services: BTreeSet<ServiceName> =
        backends.map(|backend| ServiceName::new(&backend.namespace, &backend.name)).collect();
    for (at, filter) in holder.list("filters").iter().enumerate() {
        for kind in ["requestHeaderModifier", "responseHeaderModifier"] {
            for operation in ["set", "add"] {
                let list = filter.child(kind).map_or(&[][..], |ops| ops.list(operation));
                for (entry, header) in list.iter().enumerate() {
                    let Some(value) = header.text("value") else { continue };
                    let Some(why) = operators::refused(value) else { continue };
                    let field = format!("{place}.filters[{at}].{kind}.{operation}[{entry}].value");
                    let pointer = pointer(&field);
                    let (object, services) = (&*route.object, services.clone());
                    out.push(Fact { object, pointer, field, value, why, services });
                }
            }
        }
    }
}

/// The value with every percent sign written as one.
fn doubled(value: &str) -> String {
    value.replace("%%", "%").replace('%', "%%")
}
