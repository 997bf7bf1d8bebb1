//! What there is: `/version`, `/api`, `/apis` in the legacy and the aggregated form.

use crate::model::json::{Value, json};

use super::kinds::{Kind, Kinds};

/// The version of Kubernetes that a replay claims where the recording does not tell.
const VERSION: (&str, &str) = ("1", "35");

/// `/version`. The recorded kubelets tell the real one; clients choose what they ask for by it.
pub(super) fn version(kubelet: Option<&str>) -> Value {
    let recorded = kubelet.and_then(|text| {
        let mut parts = text.strip_prefix('v')?.splitn(3, '.');
        let number = |part: Option<&str>| Some(part?.parse::<u16>().ok()?.to_string());
        Some((number(parts.next())?, number(parts.next())?, text.to_owned()))
    });
    let (major, minor, git) = recorded.unwrap_or((
        VERSION.0.to_owned(),
        VERSION.1.to_owned(),
        format!("v{}.{}.0", VERSION.0, VERSION.1),
    ));
    json!({
        "major": major, "minor": minor, "gitVersion": git, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "meshscope/replay",
    })
}

/// Subresources of a kind, with their verbs.
fn subresources(kind: &Kind) -> Vec<(&'static str, &'static [&'static str])> {
    let mut out: Vec<(&str, &[&str])> = vec![];
    if kind.status {
        out.push(("status", if kind.writable { &["get", "patch", "update"] } else { &["get"] }));
    }
    if kind.group.is_empty() && kind.plural == "pods" {
        out.push(("log", &["get"]));
    }
    out
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub(super) fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let groups = kinds.groups();
    let served = groups.get(group)?.iter().filter(|kind| kind.versions.iter().any(|v| v == version));
    let mut resources = vec![];
    for kind in served {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": kind.verbs(), "shortNames": kind.short, "categories": kind.categories,
        }));
        for (name, verbs) in subresources(kind) {
            resources.push(json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": kind.kind, "verbs": verbs,
            }));
        }
    }
    if group == REVIEWS && version == "v1" {
        resources.extend(reviews().iter().map(|(plural, kind, namespaced)| {
            json!({"name": plural, "singularName": kind.to_ascii_lowercase(), "namespaced": namespaced, "kind": kind,
                   "verbs": ["create"]})
        }));
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    }))
}

/// The group in which one asks what one may do.
pub(super) const REVIEWS: &str = "authorization.k8s.io";

/// Plural, kind and scope of the reviews.
pub(super) fn reviews() -> &'static [(&'static str, &'static str, bool)] {
    &[
        ("localsubjectaccessreviews", "LocalSubjectAccessReview", true),
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
        ("selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
        ("subjectaccessreviews", "SubjectAccessReview", false),
    ]
}

/// Versions of a group, the preferred one first.
fn versions(kinds: &[&Kind]) -> Vec<String> {
    let mut out: Vec<String> = vec![];
    for version in kinds.iter().flat_map(|kind| &kind.versions) {
        if !out.contains(version) {
            out.push(version.clone());
        }
    }
    out
}

/// `/api`.
pub(super) fn core() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis/GROUP`.
pub(super) fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let versions = match kinds.groups().get(name) {
        Some(of) if !name.is_empty() => versions(of),
        None if name == REVIEWS => vec!["v1".to_owned()],
        _ => return None,
    };
    let entry = |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let preferred = versions.first().map(entry);
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(), "preferredVersion": preferred,
    }))
}

/// `/apis`.
pub(super) fn groups(kinds: &Kinds) -> Value {
    let mut names: Vec<&str> = kinds.groups().into_keys().filter(|name| !name.is_empty()).collect();
    names.push(REVIEWS);
    let groups: Vec<Value> = names.into_iter().filter_map(|name| group(kinds, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// The aggregated form of `/api` (`core`) or `/apis`, in version `v2` or `v2beta1`.
pub(super) fn aggregated(kinds: &Kinds, core: bool, form: &str) -> Value {
    let mut items = vec![];
    for (name, of) in kinds.groups() {
        if name.is_empty() != core {
            continue;
        }
        let versions: Vec<Value> = versions(&of)
            .iter()
            .map(|version| {
                let served = of.iter().filter(|kind| kind.versions.contains(version));
                let resources: Vec<Value> = served.map(|kind| aggregated_resource(kind, version)).collect();
                json!({"version": version, "freshness": "Current", "resources": resources})
            })
            .collect();
        items.push(json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions}));
    }
    if !core {
        let resources: Vec<Value> = reviews()
            .iter()
            .map(|(plural, kind, namespaced)| {
                json!({"resource": plural, "responseKind": {"group": REVIEWS, "version": "v1", "kind": kind},
                       "scope": scope(*namespaced), "singularResource": kind.to_ascii_lowercase(), "verbs": ["create"]})
            })
            .collect();
        items.push(json!({"metadata": {"name": REVIEWS, "creationTimestamp": null},
            "versions": [{"version": "v1", "freshness": "Current", "resources": resources}]}));
    }
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {}, "items": items,
    })
}

fn scope(namespaced: bool) -> &'static str {
    if namespaced { "Namespaced" } else { "Cluster" }
}

fn aggregated_resource(kind: &Kind, version: &str) -> Value {
    let response = json!({"group": kind.group, "version": version, "kind": kind.kind});
    let subresources: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|(name, verbs)| json!({"subresource": name, "responseKind": response, "verbs": verbs}))
        .collect();
    json!({
        "resource": kind.plural, "responseKind": response, "scope": scope(kind.namespaced),
        "singularResource": kind.singular, "verbs": kind.verbs(), "shortNames": kind.short,
        "categories": kind.categories, "subresources": subresources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fields::Fields;

    #[test]
    fn both_forms_name_the_same_kinds() {
        let kinds = Kinds::of(&[], &[]);
        let legacy = resources(&kinds, "apps", "v1").unwrap();
        let names: Vec<String> = legacy.list("resources").iter().map(|r| r.string("name")).collect();
        assert!(
            names.contains(&"deployments".to_owned()) && names.contains(&"deployments/status".to_owned())
        );
        let aggregated = aggregated(&kinds, false, "v2");
        let apps =
            aggregated.list("items").iter().find(|item| item.text("metadata.name") == Some("apps")).unwrap();
        let count = apps["versions"][0]["resources"].as_array().unwrap().len();
        assert_eq!(count, names.iter().filter(|name| !name.contains('/')).count());
        assert!(resources(&kinds, "apps", "v9").is_none());
        assert!(group(&kinds, "").is_none());
        assert!(group(&kinds, REVIEWS).is_some());
    }

    #[test]
    fn the_version_is_that_of_the_recorded_nodes() {
        assert_eq!(version(Some("v1.33.5-gke.100"))["minor"], "33");
        assert_eq!(version(Some("nonsense"))["minor"], VERSION.1);
    }
}
