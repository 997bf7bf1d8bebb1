//! Who keeps a session: a person, or a tool that would make it again or call it missing.

use kube::api::ObjectMeta;

/// Labels and annotations by which GitOps tools mark what they own.
const MARKS: &[(&str, &str)] = &[
    ("argocd.argoproj.io/tracking-id", "Argo CD"),
    ("argocd.argoproj.io/instance", "Argo CD"),
    ("kustomize.toolkit.fluxcd.io/name", "Flux"),
    ("helm.toolkit.fluxcd.io/name", "Flux"),
    ("meta.helm.sh/release-name", "Helm"),
];

/// The tool or object that keeps this session, in words for a message. `None` where nothing does, and its TTL may
/// delete it.
pub fn keeper(metadata: &ObjectMeta) -> Option<String> {
    let labels = metadata.labels.as_ref();
    let annotations = metadata.annotations.as_ref();
    let has = |key: &str| {
        labels.is_some_and(|map| map.contains_key(key))
            || annotations.is_some_and(|map| map.contains_key(key))
    };
    if let Some((_, tool)) = MARKS.iter().find(|(key, _)| has(key)) {
        return Some((*tool).to_owned());
    }
    if labels.and_then(|map| map.get("app.kubernetes.io/managed-by")).is_some_and(|by| by == "Helm") {
        return Some("Helm".to_owned());
    }
    let owner = metadata.owner_references.as_ref().and_then(|owners| owners.first())?;
    Some(format!("{} {}", owner.kind, owner.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keeper_of(metadata: serde_json::Value) -> Option<String> {
        keeper(&serde_json::from_value(metadata).unwrap())
    }

    #[test]
    fn what_git_or_helm_owns_is_kept() {
        for (metadata, tool) in [
            (json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}}), "Helm"),
            (json!({"annotations": {"argocd.argoproj.io/tracking-id": "a:b"}}), "Argo CD"),
            (json!({"labels": {"argocd.argoproj.io/instance": "a"}}), "Argo CD"),
            (json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "a"}}), "Flux"),
            (json!({"labels": {"helm.toolkit.fluxcd.io/name": "a"}}), "Flux"),
            (
                json!({"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u"}]}),
                "ConfigMap a",
            ),
        ] {
            assert_eq!(keeper_of(metadata.clone()).as_deref(), Some(tool), "{metadata}");
        }
        assert_eq!(keeper_of(json!({"labels": {"app.kubernetes.io/managed-by": "kubectl"}})), None);
        assert_eq!(keeper_of(json!({})), None);
    }
}
