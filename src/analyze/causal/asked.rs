//! Whether a finding concerns what was asked about.

use super::explain::Explainer;
use crate::analyze::finding::{Effect, Finding};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::{Snapshot, Target};

/// Whether a finding concerns what was asked about: a Service of the target, one that it depends on, or, where there is no Service of
/// that name, the workload or pods of that name. A finding that names neither Service nor effect concerns everybody.
pub fn concerns(snapshot: &Snapshot, explainer: &Explainer<'_>, finding: &Finding) -> bool {
    let Some(target) = snapshot.target.as_ref().filter(|target| !target.services.is_empty()) else {
        return true;
    };
    let asked = |service: &ServiceName| {
        target.services.iter().any(|name| {
            let own = ServiceName::new(&target.namespace, name);
            own == *service || explainer.depends_on(&own, service)
        })
    };
    let behind = |workload: &ObjectRef| {
        snapshot.graph.services_of(workload).any(asked) || stands_for(snapshot, target, workload)
    };
    let touched = |effect: &Effect| match effect {
        Effect::Requests { service, .. } => asked(service),
        Effect::Pods { workload } | Effect::Calls { workload } => behind(workload),
    };
    let nameless = finding.service.is_none() && finding.effects.is_empty();
    nameless || finding.service.as_ref().is_some_and(asked) || finding.effects.iter().any(touched)
}

/// Whether a workload, or a pod whose owner was not seen, is what a name without a Service means: jobs and workers have none.
fn stands_for(snapshot: &Snapshot, target: &Target, workload: &ObjectRef) -> bool {
    workload.namespace == target.namespace
        && target.services.iter().any(|name| {
            let no_service = snapshot.service(&ServiceName::new(&target.namespace, name)).is_none();
            let of_it = workload.kind == "Pod"
                && workload.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-'));
            no_service && (workload.name == *name || of_it)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::registry::RULES;
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    /// Whether a finding about the pods of a workload concerns somebody who asked about `name`.
    fn asked(name: &str, workload: &ObjectRef) -> bool {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "n"}, "spec": {"selector": {"app": "web"}}}));
        builder.target(Some(Target { namespace: "n".to_owned(), services: vec![name.to_owned()] }));
        let snapshot = builder.finish();
        let finding = RULES
            .first()
            .map(|rule| Finding::new(rule.meta(), workload.clone(), &[]).effect(Effect::pods(workload)));
        finding.is_some_and(|finding| concerns(&snapshot, &Explainer::new(&snapshot.graph), &finding))
    }

    #[test]
    fn a_name_without_a_service_means_the_workload_of_that_name() {
        assert!(asked("nightly", &ObjectRef::new("Job", "n", "nightly")));
        assert!(asked("nightly", &ObjectRef::new("Pod", "n", "nightly-x7k2p")));
        assert!(!asked("nightly", &ObjectRef::new("Job", "other", "nightly")));
        assert!(!asked("nightly", &ObjectRef::new("Pod", "n", "nightlybuild-x7k2p")));
        // A Service of that name is what was meant, and what it selects.
        assert!(!asked("web", &ObjectRef::new("Pod", "n", "web-tools-1")));
    }
}
