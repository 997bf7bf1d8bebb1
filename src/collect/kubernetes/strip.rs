//! What is taken out of an object before anything else sees it: values that nobody may read, and weight that nobody
//! needs.

use crate::model::json::{Value, json};
use std::collections::BTreeSet;

use crate::model::fields::Fields;
use crate::model::mesh::istio;
use crate::model::network::ServiceName;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes out of an object what must not be kept:
///
/// - the annotation with the whole applied object, which holds the values of a ConfigMap once more;
/// - the values of a ConfigMap, but for the mesh's own configuration (`keep_values`); the keys stay;
/// - the values that a HelmRelease or an Application gives to its chart;
/// - certificates of webhooks and API services, the list of images of a node, the schemas of a CRD.
///
/// Managed fields stay: they say who changed what and when.
pub fn strip(object: &mut Value, keep_values: bool) {
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    match object.text("kind").unwrap_or_default() {
        "ConfigMap" if !keep_values => {
            for field in ["data", "binaryData"] {
                for (_, value) in object.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
                    *value = Value::from(String::new());
                }
            }
        }
        // Never asked for; should a server send one, nothing of it stays but its name.
        "Secret" => {
            for field in ["data", "stringData"] {
                remove(object, "", field);
            }
        }
        "ServiceAccount" => remove(object, "", "secrets"),
        "Node" => remove(object, "/status", "images"),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            for hook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
                remove(hook, "/clientConfig", "caBundle");
            }
        }
        "APIService" => remove(object, "/spec", "caBundle"),
        "HelmRelease" => {
            remove(object, "/spec", "values");
            remove(object, "/spec", "postRenderers");
        }
        "Application" => strip_application(object),
        "CustomResourceDefinition" => strip_definition(object),
        _ => {}
    }
}

fn remove(object: &mut Value, parent: &str, field: &str) {
    if let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
        parent.remove(field);
    }
}

/// Of an Application, nothing of what it gives to a chart, a plugin or kustomize: wherever a source of it is written down.
fn strip_application(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for inputs in ["helm", "plugin", "kustomize", "directory"] {
                fields.remove(inputs);
            }
            fields.values_mut().for_each(strip_application);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_application),
        _ => {}
    }
}

/// Of a CRD, its names and versions: its schemas are by far the largest thing that an API server stores.
fn strip_definition(object: &mut Value) {
    let versions: Vec<Value> = object
        .list("spec.versions")
        .iter()
        .map(|version| {
            json!({"name": version.string("name"), "served": version.flag("served"), "storage": version.flag("storage")})
        })
        .collect();
    let spec = json!({
        "group": object.string("spec.group"),
        "names": {"kind": object.string("spec.names.kind"), "plural": object.string("spec.names.plural")},
        "scope": object.string("spec.scope"),
        "versions": versions,
    });
    if let Some(fields) = object.as_object_mut() {
        fields.insert("spec".to_owned(), spec);
        fields.remove("status");
    }
    remove(object, "/metadata", "managedFields");
}

/// Services that the values of a ConfigMap name, taken before the values are dropped. A bare name must be a Service
/// beside it; a name with a namespace must be in `namespaces`, so that `example.com` is no Service.
pub fn services_named(
    config_map: &Value,
    services: &BTreeSet<ServiceName>,
    namespaces: &BTreeSet<String>,
) -> BTreeSet<ServiceName> {
    let beside = config_map.string("metadata.namespace");
    let values = config_map.map("data").into_iter().flatten().filter_map(|(_, value)| value.as_str());
    values
        .flat_map(host_words)
        .filter_map(|word| service_of_word(word, &beside, namespaces))
        .filter(|name| name.namespace != beside || services.contains(name))
        .collect()
}

/// The words of a text that can be host names.
pub fn host_words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))).filter(|word| word.len() > 1)
}

/// The Service that a word may name, seen from `namespace`.
pub fn service_of_word(word: &str, namespace: &str, namespaces: &BTreeSet<String>) -> Option<ServiceName> {
    let (of, name) = istio::service_of_host(&istio::full_host(word, namespace))?;
    let sure = of == namespace || namespaces.contains(&of);
    sure.then(|| ServiceName::new(of, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_config_map_survives() {
        let mut map = json!({"kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n", "annotations": {
            LAST_APPLIED: "{\"data\":{\"password\":\"hunter2\"}}", "team": "x"}},
            "data": {"password": "hunter2"}, "binaryData": {"key": "aHVudGVyMg=="}});
        strip(&mut map, false);
        let text = map.to_string();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        assert_eq!(map.at("data").unwrap(), &json!({"password": ""}));
        assert_eq!(map.text("metadata.annotations.team"), Some("x"));
    }

    #[test]
    fn the_mesh_configuration_stays() {
        let mut map = json!({"kind": "ConfigMap", "metadata": {"name": "istio"}, "data": {"mesh": "a: b"}});
        strip(&mut map, true);
        assert_eq!(map.text("data.mesh"), Some("a: b"));
    }

    #[test]
    fn values_of_charts_are_dropped_wherever_they_stand() {
        let source =
            json!({"repoURL": "https://git.example/shop", "helm": {"valuesObject": {"password": "hunter2"}}});
        let mut application = json!({"kind": "Application", "metadata": {"name": "a"}, "spec": {"source": source},
            "status": {"history": [{"revision": "a1", "source": source}], "sync": {"comparedTo": {"sources": [source]}}}});
        strip(&mut application, false);
        assert!(!application.to_string().contains("hunter2"), "{application}");
        assert_eq!(application.list("status.history")[0].text("revision"), Some("a1"));
        let mut release = json!({"kind": "HelmRelease", "metadata": {"name": "a"}, "spec": {"values": {"password": "hunter2"}, "interval": "5m"}});
        strip(&mut release, false);
        assert!(!release.to_string().contains("hunter2"));
        assert_eq!(release.text("spec.interval"), Some("5m"));
    }

    #[test]
    fn weight_goes_and_names_stay() {
        let mut crd = json!({"kind": "CustomResourceDefinition", "metadata": {"name": "x.y"}, "spec": {"group": "y", "scope": "Namespaced",
            "names": {"kind": "X", "plural": "x"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"big": 1}}]}});
        strip(&mut crd, false);
        assert!(!crd.to_string().contains("big"));
        assert_eq!(crd.list("spec.versions")[0].text("name"), Some("v1"));

        let mut hook = json!({"kind": "MutatingWebhookConfiguration", "webhooks": [{"name": "a", "clientConfig": {"caBundle": "LS0t", "service": {"name": "s"}}}, 7]});
        strip(&mut hook, false);
        assert!(!hook.to_string().contains("LS0t"));
        assert_eq!(hook.list("webhooks")[0].text("clientConfig.service.name"), Some("s"));
    }

    #[test]
    fn services_are_found_in_values_before_these_are_dropped() {
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, "data": {
            "app.yaml": "url: http://pay:8080/x\nledger: ledger.bank.svc.cluster.local:80\nsite: https://example.com\nother: nope",
            "n": 5}});
        let services: BTreeSet<_> = [ServiceName::new("n", "pay")].into();
        let namespaces: BTreeSet<_> = ["n", "bank"].map(str::to_owned).into();
        let found = services_named(&map, &services, &namespaces);
        assert_eq!(found, [ServiceName::new("bank", "ledger"), ServiceName::new("n", "pay")].into());
    }
}
