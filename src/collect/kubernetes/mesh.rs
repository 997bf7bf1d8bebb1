//! Where the mesh's control plane lives, and what it is configured to do.

use crate::model::json::Value;
use std::collections::BTreeSet;

use crate::collect::plan::is_label;
use crate::model::fields::Fields;

/// Where Istio is installed unless somebody chose otherwise.
pub const DEFAULT_NAMESPACE: &str = "istio-system";

/// The namespaces of Istio's control planes, by the webhooks that inject its proxies.
pub fn control_planes(objects: &[Value]) -> BTreeSet<String> {
    let webhooks =
        objects.iter().filter(|object| object.text("kind") == Some("MutatingWebhookConfiguration"));
    let services = webhooks.flat_map(|object| object.list("webhooks")).filter_map(|hook| {
        let name = hook.text("clientConfig.service.name")?;
        let path = hook.text("clientConfig.service.path").unwrap_or_default();
        let injects = name.starts_with("istiod") || path.starts_with("/inject");
        let namespace = hook.text("clientConfig.service.namespace")?;
        // The name goes into a path.
        (injects && hook.string("name").contains("istio.io") && is_label(namespace))
            .then(|| namespace.to_owned())
    });
    services.collect()
}

/// The names that MeshConfig may have, the likelier first, for a namespace with these labels.
pub fn config_map_names(namespace: Option<&Value>) -> Vec<String> {
    let labels = namespace.map(|object| object.text_map("metadata.labels")).unwrap_or_default();
    let revision = labels.get("istio.io/rev").filter(|rev| *rev != "default" && is_label(rev));
    revision.map(|rev| format!("istio-{rev}")).into_iter().chain(["istio".to_owned()]).collect()
}

/// Whether a ConfigMap is the mesh's own configuration, whose values stay: it holds no secrets of applications.
pub fn is_mesh_config(object: &Value, control_planes: &BTreeSet<String>) -> bool {
    let name = object.text("metadata.name").unwrap_or_default();
    let known = control_planes.contains(object.text("metadata.namespace").unwrap_or_default());
    known && (name == "istio" || (name.starts_with("istio-") && object.at("data.mesh").is_some()))
}

/// MeshConfig out of its ConfigMap. `Null` where it holds none that can be read.
pub fn mesh_config(config_map: &Value) -> Value {
    let text = config_map.text("data.mesh").unwrap_or_default();
    serde_saphyr::from_str(text).unwrap_or(Value::Null)
}

/// The mesh's root namespace: the one that MeshConfig names, else the control plane's own.
pub fn root_namespace(mesh_config: &Value, control_plane: &str) -> String {
    let named = mesh_config.text("rootNamespace").filter(|name| is_label(name));
    named.unwrap_or(control_plane).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn the_injector_says_where_istio_lives() {
        let hook = |name: &str, service: &str, namespace: &str| {
            json!({"kind": "MutatingWebhookConfiguration", "webhooks": [{"name": name,
                "clientConfig": {"service": {"name": service, "namespace": namespace, "path": "/inject"}}}]})
        };
        let objects = [
            hook("namespace.sidecar-injector.istio.io", "istiod-1-31", "mesh"),
            hook("policy.example.com", "gatekeeper", "gatekeeper-system"),
            hook("x.istio.io", "istiod", "../kube-system"),
        ];
        assert_eq!(control_planes(&objects), ["mesh".to_owned()].into());
    }

    #[test]
    fn mesh_config_is_read_from_its_yaml() {
        let map = json!({"metadata": {"name": "istio", "namespace": "mesh"}, "data": {"mesh": "rootNamespace: root\nenableTracing: true\n"}});
        let config = mesh_config(&map);
        assert_eq!(config.at("enableTracing"), Some(&json!(true)));
        assert_eq!(root_namespace(&config, "mesh"), "root");
        assert_eq!(root_namespace(&Value::Null, "mesh"), "mesh");
        assert_eq!(mesh_config(&json!({"data": {"mesh": "a: [unclosed"}})), Value::Null);
        let planes = ["mesh".to_owned()].into();
        assert!(is_mesh_config(&map, &planes));
        assert!(!is_mesh_config(&json!({"metadata": {"name": "istio", "namespace": "shop"}}), &planes));
    }

    #[test]
    fn a_revision_has_a_mesh_config_of_its_own() {
        let namespace = json!({"metadata": {"labels": {"istio.io/rev": "1-31"}}});
        assert_eq!(config_map_names(Some(&namespace)), ["istio-1-31", "istio"]);
        assert_eq!(config_map_names(None), ["istio"]);
    }
}
