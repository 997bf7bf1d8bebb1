//! Which kinds this API server serves, and in which version: what is not served is absent, not broken.

use crate::model::json::Value;
use std::collections::BTreeMap;

use super::kinds::{KINDS, Kind};
use crate::model::fields::Fields;

/// A resource in the version in which it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version that the server prefers among those that serve the resource.
    pub version: String,
    /// The plural.
    pub resource: String,
    /// Every version that serves it, the preferred first.
    pub versions: Vec<String>,
}

impl Served {
    /// A resource in one version.
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        let (group, version, resource) = (group.to_owned(), version.to_owned(), resource.to_owned());
        Served { group, versions: vec![version.clone()], version, resource }
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// All that the server serves of [`KINDS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    served: BTreeMap<(String, String), Served>,
}

impl Catalogue {
    /// The kind as it is served; `None` where it is not installed.
    pub fn served(&self, kind: &Kind) -> Option<&Served> {
        self.served.get(&(kind.group.to_owned(), kind.resource.to_owned()))
    }

    /// Whether nothing of the table is served: then this is no Kubernetes API.
    pub fn is_empty(&self) -> bool {
        self.served.is_empty()
    }

    /// Adds a resource of a group's version. Versions come in the server's order of preference.
    pub fn add(&mut self, group: &str, version: &str, resource: &str) {
        let wanted = KINDS.iter().any(|kind| kind.group == group && kind.resource == resource);
        // A version stands in paths: anything but a word would lead elsewhere.
        if !wanted || version.is_empty() || !version.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return;
        }
        match self.served.get_mut(&(group.to_owned(), resource.to_owned())) {
            Some(known) if known.versions.iter().any(|v| v == version) => {}
            Some(known) => known.versions.push(version.to_owned()),
            None => {
                let key = (group.to_owned(), resource.to_owned());
                self.served.insert(key, Served::new(group, version, resource));
            }
        }
    }

    /// Adds an answer of aggregated discovery (`/api` or `/apis`, Kubernetes 1.27 and later). `false` where the answer is
    /// of another kind: then the server is asked group by group.
    pub fn add_aggregated(&mut self, answer: &Value) -> bool {
        if answer.text("kind") != Some("APIGroupDiscoveryList") {
            return false;
        }
        for group in answer.list("items") {
            let name = group.string("metadata.name");
            for version in group.list("versions") {
                let version_name = version.string("version");
                for resource in version.list("resources") {
                    if resource.texts("verbs").iter().any(|verb| verb == "list") {
                        self.add(&name, &version_name, resource.text("resource").unwrap_or_default());
                    }
                }
            }
        }
        true
    }

    /// Adds an `APIResourceList`, the answer of one group's version.
    pub fn add_resources(&mut self, group: &str, version: &str, answer: &Value) {
        for resource in answer.list("resources") {
            if resource.texts("verbs").iter().any(|verb| verb == "list") {
                self.add(group, version, resource.text("name").unwrap_or_default());
            }
        }
    }
}

/// The groups of an `APIGroupList` that the table wants, each with its versions, the preferred first.
pub fn wanted_groups(answer: &Value) -> Vec<(String, Vec<String>)> {
    let wanted = |group: &str| KINDS.iter().any(|kind| kind.group == group);
    let groups = answer.list("groups").iter().filter(|group| group.text("name").is_some_and(wanted));
    groups
        .map(|group| {
            let preferred = group.string("preferredVersion.version");
            let mut versions: Vec<String> =
                group.list("versions").iter().map(|version| version.string("version")).collect();
            versions.sort_by_key(|version| *version != preferred);
            (group.string("name"), versions)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::kubernetes::kinds;
    use crate::model::json::json;

    #[test]
    fn the_version_that_the_server_prefers_is_taken() {
        let mut catalogue = Catalogue::default();
        assert!(catalogue.add_aggregated(&json!({"kind": "APIGroupDiscoveryList", "items": [
            {"metadata": {"name": "networking.istio.io"}, "versions": [
                {"version": "v1", "resources": [{"resource": "virtualservices", "verbs": ["get", "list"]}]},
                {"version": "v1beta1", "resources": [
                    {"resource": "virtualservices", "verbs": ["list"]},
                    {"resource": "proxyconfigs", "verbs": ["list"]},
                    {"resource": "gateways", "verbs": ["get"]}]}]}]})));
        let of = |resource| catalogue.served(kinds::find("networking.istio.io", resource).unwrap());
        assert_eq!(of("virtualservices").unwrap().versions, ["v1", "v1beta1"]);
        assert_eq!(of("proxyconfigs").unwrap().api_version(), "networking.istio.io/v1beta1");
        assert_eq!(of("gateways"), None, "what cannot be listed is not served to us");
        assert_eq!(of("sidecars"), None);
    }

    #[test]
    fn an_old_server_is_asked_group_by_group() {
        let list = json!({"kind": "APIGroupList", "groups": [
            {"name": "apps", "versions": [{"version": "v1beta1"}, {"version": "v1"}], "preferredVersion": {"version": "v1"}},
            {"name": "metrics.k8s.io", "versions": [{"version": "v1"}]}]});
        let mut catalogue = Catalogue::default();
        assert!(!catalogue.add_aggregated(&list));
        assert_eq!(wanted_groups(&list), [("apps".to_owned(), vec!["v1".to_owned(), "v1beta1".to_owned()])]);
        catalogue.add_resources(
            "apps",
            "v1",
            &json!({"resources": [{"name": "deployments", "verbs": ["list"]}]}),
        );
        assert!(catalogue.served(kinds::find("apps", "deployments").unwrap()).is_some());
    }

    #[test]
    fn a_hostile_version_is_not_taken_into_a_path() {
        let mut catalogue = Catalogue::default();
        catalogue.add("apps", "v1/../../api/v1/namespaces/x/secrets?", "deployments");
        assert!(catalogue.is_empty());
    }
}
