//! ISTIO215.

use crate::model::json::{Value, json};

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::{Labels, Selector};
use crate::model::snapshot::Snapshot;
use crate::model::workload::PodTemplate;

crate::rule! {
    /// A template has `image: auto` for its proxy, and no injector will replace it.
    ///
    /// ## What it detects
    /// A container `istio-proxy` with image `auto` in a pod (nobody replaced it), or in a template whose labels, with
    /// those of its namespace, no webhook of an injector selects, where such webhooks were seen.
    /// ## Why it matters
    /// `auto` is for the injector to replace. Left as it is the pod waits for ever for an image that does not exist.
    /// ## Evidence
    /// The image, the labels of pods and namespace, and the webhooks.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows ErrImagePull for `auto`.
    /// ## How to fix
    /// Label the template `sidecar.istio.io/inject: "true"` (with `istio.io/rev` for a revision).
    /// ## False positives
    /// Webhooks that were not part of what was read: without any, templates are not judged.
    /// ## References
    /// <https://istio.io/latest/docs/setup/additional-setup/gateway/>
    ProxyImagePlaceholder {
        code: "ISTIO215", name: "proxy-image-placeholder", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0146", "IST0147"],
    }
}

/// A placeholder that stays.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    subject: ObjectRef,
    /// Whether this is a pod already: it cannot start.
    pod: bool,
}

fn waits(template: &PodTemplate) -> bool {
    template.container("istio-proxy").is_some_and(|container| container.image == "auto")
}

impl Check for ProxyImagePlaceholder {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let hooks: Vec<&Value> = snapshot
            .objects_of("MutatingWebhookConfiguration")
            .flat_map(|configuration| configuration.body.list("webhooks"))
            .filter(|hook| hook.text("name").is_some_and(|name| name.ends_with("istio.io")))
            .collect();
        let pods = snapshot.pods.iter().filter(|pod| waits(&pod.template)).map(|pod| Fact {
            object: &pod.object,
            subject: pod.object.reference.field("spec.containers"),
            pod: true,
        });
        let none = Labels::new();
        let templates =
            snapshot.workloads.iter().filter(|w| w.object.owners.is_empty() && waits(&w.template));
        let templates = templates.filter(|workload| {
            let namespace = snapshot.object("Namespace", "", workload.object.namespace());
            let of_namespace = namespace.map_or(&none, |namespace| &namespace.labels);
            !hooks.is_empty()
                && !hooks.iter().any(|hook| calls(hook, of_namespace, &workload.template.labels))
        });
        let templates = templates.map(|workload| Fact {
            object: &workload.object,
            subject: workload.reference().field(workload.template_path("metadata.labels")),
            pod: false,
        });
        pods.chain(templates).filter(|fact| snapshot.in_scope(fact.object.namespace())).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let severity = if fact.pod { Severity::Error } else { Severity::Warning };
        let title = if fact.pod {
            format!("{own} kept image auto for its proxy: no injector replaced it")
        } else {
            format!("{own} has image auto for its proxy, and no injector is called for its pods")
        };
        let path = pointer(&fact.subject.field_path);
        let operations =
            json!([{"op": "add", "path": format!("{path}/sidecar.istio.io~1inject"), "value": "true"}]);
        let fix =
            (!fact.pod).then(|| Remedy::patch(fact.object, &operations, "Label the template for injection"));
        Finding::new(Self::META, fact.subject.clone(), &[])
            .severity(severity)
            .title(title)
            .message("auto is a placeholder that an injector replaces when the pod is made. A pod that keeps it cannot pull its image.")
            .mechanism("image auto without injection")
            .role(Role::Cause, Confidence::Configured)
            .evidence(Evidence::object(own, "container istio-proxy, image auto"))
            .effect(crate::analyze::finding::Effect::pods(own))
            .maybe_remedy(fix.flatten())
            .remedy(Remedy::manual("Check that the injector runs and that its webhook selects these labels, then make the pods anew"))
            .prevention(Prevention::alert("Alert on pods that cannot pull", "sum by (namespace, pod) (kube_pod_container_status_waiting_reason{reason=~\"ErrImagePull|ImagePullBackOff\", container=\"istio-proxy\"}) > 0"))
    }
}

/// Whether a webhook is called for such pods. A selector that is absent selects all.
fn calls(hook: &Value, namespace: &Labels, pod: &Labels) -> bool {
    let matches =
        |field: &str, labels: &Labels| hook.at(field).is_none_or(|s| Selector::read(s).matches(labels));
    matches("namespaceSelector", namespace) && matches("objectSelector", pod)
}
