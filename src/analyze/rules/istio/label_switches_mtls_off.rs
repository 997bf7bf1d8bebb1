//! ISTIO169.

use crate::model::json::json;

use super::support::{failing, parts, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common::undo_last_rollout;
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, text};
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A label of the callee's pods tells callers to speak plaintext, and its own proxy takes mutual TLS alone.
    ///
    /// ## What it detects
    /// Connections that a callee's proxy refuses as plaintext (`NR filter_chain_not_found`) while its mutual TLS is STRICT, and whose
    /// pod template sets the label `security.istio.io/tlsMode` to something else than `istio`.
    /// ## Why it matters
    /// The injector writes this label so that callers' proxies know whom to speak mutual TLS with. A value of the template's own stands,
    /// and automatic mutual TLS is off for these pods, though they have a proxy.
    /// ## Evidence
    /// The label on the pod template, the callee's mode, and the refused connections in its access log.
    /// ## How to confirm
    /// `istioctl proxy-config endpoints POD --cluster CLUSTER -o json` of a caller shows the endpoint without `tlsMode: istio`.
    /// ## How to fix
    /// Take the label out of the template.
    /// ## False positives
    /// Pods that are to be called in plaintext: then their PeerAuthentication must not be STRICT.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/labels/#SecurityTlsMode>
    LabelSwitchesMtlsOff {
        code: "ISTIO169", name: "label-switches-mtls-off", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

const LABEL: &str = "security.istio.io/tlsMode";

/// A workload whose callers are told to speak plaintext.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    service: &'a Service,
    value: &'a str,
    policy: Option<ObjectRef>,
    seen: Failures,
}

impl Check for LabelSwitchesMtlsOff {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        let told = |seen: &Failures| seen.severity().is_some();
        for (seen, service) in failing(snapshot, Way::NoFilterChain).filter(|(seen, _)| told(seen)) {
            for workload in snapshot.workloads_behind(service).filter(|w| w.object.owners.is_empty()) {
                let labels = &workload.template.labels;
                let Some(value) = labels.get(LABEL).filter(|value| *value != "istio") else { continue };
                let (mode, policy) = snapshot.istio.peer_mode(service.object.namespace(), labels, None);
                let known = |fact: &Fact<'_>| fact.workload.reference() == workload.reference();
                if mode == "STRICT" && !out.iter().any(known) {
                    out.push(Fact { workload, service, value, policy, seen: seen.clone() });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let workload = fact.workload.reference();
        let field = fact.workload.template_path(&format!("metadata.labels.{LABEL}"));
        let (name, value) = (fact.service.service_name(), text::plain(fact.value, 60));
        let strict = fact.policy.as_ref().map(|policy| format!(", as {policy} says")).unwrap_or_default();
        let labels = fact.workload.template_path("metadata.labels");
        let path = format!("{}/{}", pointer(&labels), pointer_segment(LABEL));
        let operation = json!([{"op": "remove", "path": path}]);
        let mut finding = Finding::new(Self::META, workload.field(&field), &[])
            .title(format!("{workload}: label tlsMode \"{value}\" makes callers speak plaintext, and its proxy takes mutual TLS alone"))
            .message(format!(
                "The pods of {workload} carry {LABEL}: {value}, so callers' proxies take them for pods without mutual TLS. Their own proxy accepts nothing else{strict}: {} of Service {name} were refused{}.",
                text::share(fact.seen.count, fact.seen.requests, "connections and requests"),
                since(fact.seen.onset)
            ))
            .mechanism("tlsMode label: automatic mutual TLS (mTLS) is off for pods whose policy is STRICT")
            .severity(fact.seen.severity().unwrap_or(Severity::Error))
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&workload.field(&field), format!("{LABEL} \"{value}\"")))
            .evidences(parts(&fact.seen))
            .effect(Effect::requests(&name, &["NR", "UC", "UF", "tls", "reset", "5xx"]))
            .maybe_remedy(
                Remedy::patch(
                    &fact.workload.object,
                    &operation,
                    format!("Take the label tlsMode out of {workload}: its new pods are spoken to in mutual TLS"),
                )
                .map(|remedy| remedy.risk(Risk::Medium)),
            )
            .maybe_remedy(undo_last_rollout(snapshot, workload, "tlsMode"))
            .prevention(Prevention::alert(
                "Alert when a proxy refuses plaintext",
                "sum by (pod) (rate(envoy_listener_no_filter_chain_match[5m])) > 0",
            ))
            .prevention(Prevention::of("Policy", "Refuse pod templates that set security.istio.io/tlsMode themselves: the injector writes it"));
        finding.related.extend(fact.policy.clone());
        finding
    }
}
