//! ISTIO150.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::seen::configured;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::Gateway;
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Service or namespace asks for a waypoint that does not exist or does not serve.
    ///
    /// ## What it detects
    /// The label `istio.io/use-waypoint` whose Gateway is not there, or is not programmed.
    /// ## Why it matters
    /// In ambient mode ztunnel alone carries the traffic then: routes and rules for HTTP are not applied, and rules that
    /// allow by method or path deny everything where ztunnel has to enforce them.
    /// ## Evidence
    /// The label, the Gateways of that namespace, the condition `Programmed`.
    /// ## How to confirm
    /// `istioctl waypoint list -A`, and the condition `istio.io/WaypointBound` of the Service.
    /// ## How to fix
    /// Make the waypoint (`istioctl waypoint apply`), or name the one that exists.
    /// ## False positives
    /// A waypoint in a namespace that was not read is not reported.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/waypoint/>
    WaypointMissing {
        code: "ISTIO150", name: "waypoint-missing", family: Mesh, severity: Warning,
        needs: [Objects], aliases: ["IST0171", "KIA1313"],
    }
}

const LABEL: &str = "istio.io/use-waypoint";
const LABEL_NAMESPACE: &str = "istio.io/use-waypoint-namespace";

/// A label that leads to no waypoint.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    name: String,
    namespace: String,
    /// Why the Gateway that is there does not serve.
    unready: Option<String>,
    near: Option<String>,
}

impl Check for WaypointMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let services = snapshot.services.iter().map(|s| &*s.object);
        let mut out = vec![];
        for object in snapshot.objects_of("Namespace").chain(services) {
            let own = if object.namespace().is_empty() { object.name() } else { object.namespace() };
            let Some(name) = object.labels.get(LABEL).filter(|name| *name != "none" && configured(own))
            else {
                continue;
            };
            let namespace = object.labels.get(LABEL_NAMESPACE).unwrap_or(own);
            let beside =
                || snapshot.gateway_api.gateways.iter().filter(|g| g.object.namespace() == namespace);
            let found = beside().find(|gateway| gateway.object.name() == name);
            let unready = found.and_then(not_programmed);
            // Nothing at all of that namespace was read.
            let seen = snapshot.services.iter().any(|s| s.object.namespace() == namespace)
                || beside().next().is_some();
            if !seen || (found.is_some() && unready.is_none()) {
                continue;
            }
            let near = nearest(name, beside().map(|gateway| gateway.object.name())).map(str::to_owned);
            out.push(Fact { object, name: name.to_owned(), namespace: namespace.to_owned(), unready, near });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let subject = fact.object.reference.field(format!("metadata.labels[{LABEL}]"));
        let target = format!("{}/{}", text::plain(&fact.namespace, 63), text::plain(&fact.name, 63));
        let what = match &fact.unready {
            Some(reason) => format!("is not programmed ({})", text::plain(reason, 60)),
            None => "does not exist".to_owned(),
        };
        let services: Vec<ServiceName> = match fact.object.reference.kind.as_str() {
            "Service" => vec![ServiceName::new(fact.object.namespace(), fact.object.name())],
            _ => vec![],
        };
        let at = format!("/metadata/labels/{}", pointer_segment(LABEL));
        Finding::new(Self::META, subject.clone(), &[&target])
            .title(format!("{} asks for waypoint {target}, which {what}", fact.object.reference))
            .message(format!(
                "The label {LABEL} of {} names Gateway {target}, which {what}. Routes and HTTP rules for it are not applied: ztunnel carries the connections as they are.",
                fact.object.reference
            ))
            .mechanism("waypoint missing: HTTP policy not enforced in ambient mode")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .service(services.first().cloned())
            .evidence(Evidence::object(&subject, format!("waypoint {target} {what}")))
            .effects(services.iter().map(|service| Effect::requests(service, &["rbac", "reset"])))
            .maybe_remedy(fact.near.as_ref().and_then(|near| {
                Remedy::patch(fact.object, &json!([{"op": "replace", "path": at, "value": near}]), format!("Set {LABEL} to {}, which exists", text::plain(near, 63)))
            }))
            .remedy(Remedy::commands(
                "Make the waypoint",
                vec![format!("istioctl waypoint apply -n {} --name {}", crate::analyze::remedy::quote(&fact.namespace), crate::analyze::remedy::quote(&fact.name))],
                vec![format!("istioctl waypoint delete -n {} {}", crate::analyze::remedy::quote(&fact.namespace), crate::analyze::remedy::quote(&fact.name))],
            ))
            .prevention(Prevention::of("Test", "After each change ask once for a path that an HTTP rule denies: it must be refused"))
    }
}

/// Why a Gateway is not programmed; `None` where it is, or where nothing says.
fn not_programmed(gateway: &Gateway) -> Option<String> {
    let conditions = gateway.object.body.list("status.conditions");
    let found = conditions.iter().find(|condition| condition.text("type") == Some("Programmed"))?;
    (found.text("status") == Some("False")).then(|| found.string("reason"))
}
