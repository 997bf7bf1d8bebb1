//! ISTIO134.

use crate::model::json::json;

use super::support::services_of;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer_segment, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::{Labels, Selector};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A namespace asks for a revision of the mesh that no injector serves.
    ///
    /// ## What it detects
    /// The label `istio.io/rev` of a namespace that none of the cluster's injection webhooks selects: the revision was removed,
    /// its tag was never set, or its name is misspelt.
    /// ## Why it matters
    /// New pods come up without a proxy. Old ones keep theirs, so it shows only at the next rollout, as plaintext to strict
    /// mutual TLS or as policies that no longer hold.
    /// ## Evidence
    /// The label, the webhooks' selectors, and pods of the namespace without a proxy.
    /// ## How to confirm
    /// `istioctl tag list` and `kubectl get mutatingwebhookconfigurations -l app=sidecar-injector`.
    /// ## How to fix
    /// Set the label to a revision or tag that exists, then restart the workloads.
    /// ## False positives
    /// A namespace in ambient mode needs no injector; this rule is silent about it.
    /// ## References
    /// <https://istio.io/latest/docs/setup/upgrade/canary/>
    RevisionUnknown {
        code: "ISTIO134", name: "revision-unknown", family: Mesh, severity: Warning,
        needs: [Objects], aliases: ["IST0123", "IST0139"],
    }
}

const LABEL: &str = "istio.io/rev";

/// A namespace whose revision nobody serves.
#[derive(Debug)]
pub struct Fact<'a> {
    namespace: &'a Object,
    revision: String,
    known: Vec<String>,
    /// Workloads that have pods without a proxy.
    bare: Vec<ObjectRef>,
}

impl Check for RevisionUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let hooks: Vec<(Selector, Selector)> = snapshot
            .objects_of("MutatingWebhookConfiguration")
            .flat_map(|object| object.body.list("webhooks"))
            .filter(|hook| hook.text("name").is_some_and(|name| name.ends_with("sidecar-injector.istio.io")))
            .map(|hook| {
                let read = |field: &str| hook.at(field).map(Selector::read).unwrap_or_default();
                (read("namespaceSelector"), read("objectSelector"))
            })
            .collect();
        // Without any injector in sight, their list was not read or Istio is installed in another way.
        if hooks.is_empty() {
            return vec![];
        }
        let mut out = vec![];
        for namespace in snapshot.objects_of("Namespace") {
            let Some(revision) = namespace.labels.get(LABEL).filter(|_| snapshot.in_scope(namespace.name()))
            else {
                continue;
            };
            let mut labels = namespace.labels.clone();
            labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.name().to_owned());
            let ambient = labels.get("istio.io/dataplane-mode").is_some_and(|mode| mode == "ambient");
            // The older label wins where both are set.
            let by_older = labels.contains_key("istio-injection");
            let served = hooks.iter().any(|(of_namespace, of_object)| {
                of_namespace.matches(&labels) && of_object.matches(&Labels::new())
            });
            if ambient || by_older || served {
                continue;
            }
            let bare = snapshot
                .pods
                .iter()
                .filter(|pod| {
                    pod.object.namespace() == namespace.name()
                        && !pod.ended()
                        && !snapshot.has_istio_proxy(pod)
                })
                .map(|pod| snapshot.owner(pod))
                .collect::<std::collections::BTreeSet<_>>();
            out.push(Fact {
                namespace,
                revision: revision.to_owned(),
                known: known(snapshot),
                bare: bare.into_iter().collect(),
            });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let object = fact.namespace;
        let subject = object.reference.field(format!("metadata.labels[{LABEL}]"));
        let revision = text::plain(&fact.revision, 40);
        let known =
            if fact.known.is_empty() { "none".to_owned() } else { text::plain(&fact.known.join(", "), 100) };
        let bare: Vec<&str> = fact.bare.iter().take(3).map(|w| w.name.as_str()).collect();
        let shown = if bare.is_empty() {
            "Its pods still carry the proxies of before.".to_owned()
        } else {
            format!(
                "{} without a proxy: {}.",
                text::several(fact.bare.len() as u64, "workload"),
                bare.join(", ")
            )
        };
        let services: Vec<ServiceName> = fact.bare.iter().flat_map(|w| services_of(snapshot, w)).collect();
        let at = format!("/metadata/labels/{}", pointer_segment(LABEL));
        let restart = format!("kubectl -n {} rollout restart deployment", quote(object.name()));
        let target = nearest(&fact.revision, fact.known.iter().map(String::as_str))
            .or_else(|| fact.known.first().filter(|_| fact.known.len() == 1).map(String::as_str));
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("Namespace {} asks for revision {revision}, which no injection webhook serves", object.name()))
            .message(format!(
                "The label {LABEL} of namespace {} is {revision}; the webhooks of the cluster serve {known}. New pods get no proxy. {shown}",
                object.name()
            ))
            .mechanism("sidecar injection: revision without webhook")
            .severity(if fact.bare.is_empty() { Severity::Warning } else { Severity::Error })
            .role(Role::Cause, if fact.bare.is_empty() { Confidence::Possible } else { Confidence::Configured })
            .service(services.first().cloned())
            .evidence(Evidence::object(&subject, format!("{LABEL} {revision}; served are {known}")))
            .effects(fact.bare.iter().map(Effect::calls))
            .effects(services.iter().map(|service| Effect::requests(service, &["tls", "NR", "UC", "reset", "rbac"])))
            .maybe_remedy(target.and_then(|target| {
                Remedy::patch(object, &json!([{"op": "replace", "path": at, "value": target}]), format!("Set {LABEL} to {}, and restart the workloads", text::plain(target, 40)))
                    .map(|remedy| remedy.then(restart))
            }))
            .prevention(Prevention::alert(
                "Alert when injection fails or is skipped",
                "sum(increase(sidecar_injection_failure_total[10m])) > 0",
            ))
    }
}

/// Revisions and tags that webhooks or control planes carry as a label.
fn known(snapshot: &Snapshot) -> Vec<String> {
    let hooks = snapshot.objects_of("MutatingWebhookConfiguration");
    let named = hooks.flat_map(|o| {
        ["istio.io/tag", LABEL].into_iter().filter_map(|key| o.labels.get(key).map(str::to_owned))
    });
    let mut out: Vec<String> = named.collect();
    out.sort();
    out.dedup();
    out
}
