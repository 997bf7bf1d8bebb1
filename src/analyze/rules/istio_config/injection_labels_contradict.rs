//! ISTIO203.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::object::Object;
use crate::model::snapshot::{Snapshot, is_system_namespace};

crate::rule! {
    /// A namespace's labels ask for two injectors at once.
    ///
    /// ## What it detects
    /// A Namespace with `istio.io/rev` beside `istio-injection: enabled`.
    /// ## Why it matters
    /// Which one wins is not what most people expect: `istio-injection` outranks the revision, so pods stay with the
    /// old control plane through an upgrade.
    /// ## Evidence
    /// The labels of the Namespace.
    /// ## How to confirm
    /// `istioctl experimental check-inject -n NAMESPACE deploy/NAME` says which webhook injects and why.
    /// ## How to fix
    /// Keep the one label that is meant, and restart the workloads.
    /// ## False positives
    /// `istio-injection: disabled` beside a revision: that is a plain no.
    /// ## References
    /// <https://istio.io/latest/docs/setup/upgrade/canary/>
    InjectionLabelsContradict {
        code: "ISTIO203", name: "injection-labels-contradict", family: Mesh, severity: Warning,
        needs: [Objects], aliases: ["IST0123"],
    }
}

const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";

/// A Namespace with labels that exclude each other.
#[derive(Debug)]
pub struct Fact<'a> {
    namespace: &'a Object,
    labels: Vec<&'static str>,
}

impl Check for InjectionLabelsContradict {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let asked = snapshot
            .objects_of("Namespace")
            .filter(|n| !is_system_namespace(n.name()) && snapshot.in_scope(n.name()));
        asked
            .filter_map(|namespace| {
                let value = |label: &str| namespace.labels.get(label);
                if value(INJECTION).is_some_and(|value| value != "enabled") {
                    return None;
                }
                let mut labels: Vec<&str> = vec![];
                labels.extend(value(INJECTION).map(|_| INJECTION));
                labels.extend(value(REVISION).filter(|revision| !revision.is_empty()).map(|_| REVISION));
                (labels.len() > 1).then_some(Fact { namespace, labels })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.namespace.reference;
        let first = fact.labels.first().copied().unwrap_or_default();
        let subject = own.field(format!("metadata.labels[{first}]"));
        let shown: Vec<String> = fact
            .labels
            .iter()
            .map(|label| {
                format!("{label}={}", text::plain(fact.namespace.labels.get(label).unwrap_or(""), 40))
            })
            .collect();
        // The newer way is the one that somebody added on purpose.
        let path = format!("/metadata/labels/{}", pointer_segment(first));
        let fix = Remedy::patch(
            fact.namespace,
            &json!([{"op": "remove", "path": path}]),
            format!("Remove {first}, if the other is meant"),
        );
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} asks for two injectors: {}", shown.join(", ")))
            .message(format!(
                "{} stand beside each other on {own}. Of the two {INJECTION} wins, so pods are injected by the default revision.",
                shown.join(" and ")
            ))
            .mechanism("contradicting injection labels")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, shown.join(", ")))
            .maybe_remedy(fix)
            .prevention(Prevention::of("Policy", "An admission policy that allows one of the two labels on a Namespace"))
    }
}
