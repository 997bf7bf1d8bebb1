//! ISTIO212.

use crate::model::json::json;

use super::support::{Carriers, labels_text, of_istio};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A policy selects pods that take policies by reference alone.
    ///
    /// ## What it detects
    /// An AuthorizationPolicy, RequestAuthentication, Telemetry or WasmPlugin with a `selector`, and without
    /// `targetRefs`, that the pods of a waypoint or of another Gateway of the Gateway API carry.
    /// ## Why it matters
    /// Such proxies apply what is attached to them with `targetRefs`. A selector does nothing there: what is to be
    /// denied is allowed.
    /// ## Evidence
    /// The selector and the Gateway whose pods carry it.
    /// ## How to confirm
    /// `istioctl experimental waypoint status`, and for a gateway `istioctl proxy-config listener POD -o json | grep
    /// rbac`.
    /// ## How to fix
    /// Replace `selector` by `targetRefs` with the Gateway (or, at a waypoint, the Service).
    /// ## False positives
    /// A selector that also covers pods with sidecars: for those it counts.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/l7-features/>
    SelectorIgnoredByGateway {
        code: "ISTIO212", name: "selector-ignored-by-gateway", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0166", "KIA0110", "KIA1115", "KIA1116", "KIA1117"],
    }
}

const KINDS: &[&str] = &["AuthorizationPolicy", "RequestAuthentication", "Telemetry", "WasmPlugin"];
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// A selector that does nothing for a Gateway.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    gateway: String,
    /// Whether it selects other pods too.
    others: bool,
}

impl Check for SelectorIgnoredByGateway {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let carriers = Carriers::of(snapshot);
        let mut out = vec![];
        for object in KINDS.iter().flat_map(|kind| of_istio(snapshot, kind)) {
            let selector = object.body.text_map("spec.selector.matchLabels");
            let attached =
                object.body.at("spec.targetRef").is_some() || !object.body.list("spec.targetRefs").is_empty();
            if selector.is_empty() || attached {
                continue;
            }
            let gateway_of = |carrier: &Object| {
                if Workload::KINDS.contains(&carrier.reference.kind.as_str()) {
                    let labels = carrier.body.at("spec.template.metadata.labels")?;
                    return Some(labels.child(GATEWAY_NAME)?.as_str()?.to_owned());
                }
                carrier.labels.get(GATEWAY_NAME).map(str::to_owned)
            };
            let all: Vec<Option<String>> =
                carriers.selected(object.namespace(), &selector).map(gateway_of).collect();
            let mut gateways: Vec<String> = all.iter().flatten().cloned().collect();
            gateways.sort();
            gateways.dedup();
            let others = all.iter().any(Option::is_none);
            out.extend(gateways.into_iter().map(|gateway| Fact { object, gateway, others }));
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field("spec.selector");
        let gateway = text::plain(&fact.gateway, 63);
        let shown = text::plain(&labels_text(&fact.object.body.text_map("spec.selector.matchLabels")), 80);
        let operations = json!([
            {"op": "remove", "path": "/spec/selector"},
            {"op": "add", "path": "/spec/targetRefs", "value": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": fact.gateway}]}
        ]);
        let fix = (!fact.others)
            .then(|| Remedy::patch(fact.object, &operations, format!("Attach it to Gateway {gateway}")));
        Finding::new(Self::META, subject.clone(), &[&gateway])
            .title(format!("{own} selects pods of Gateway {gateway}, where selectors do nothing"))
            .message(format!(
                "Gateway {gateway} is one of the Gateway API: its proxies apply what names it in targetRefs. {own} selects {shown} and is not in force there."
            ))
            .mechanism("selector has no effect on a Gateway API gateway")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("selects {shown}")))
            .maybe_remedy(fix.flatten())
            .remedy(Remedy::manual(format!("Add an object of the same kind with targetRefs to Gateway {gateway}")))
            .prevention(Prevention::of("Test", "After each change ask once for a path that the policy denies: it must be refused"))
    }
}
