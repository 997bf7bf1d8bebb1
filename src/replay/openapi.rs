//! As much of OpenAPI as clients need: that the server validates fields itself, and the schemas of custom resources.

use crate::model::json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

use super::kinds::{Kind, Kinds};
use crate::model::fields::Fields;

/// `/openapi/v2`. Clients since Kubernetes 1.27 ask for it only where the third version lacks something.
pub(super) fn v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "meshscope replay", "version": "v1"}, "paths": {}, "definitions": {}})
}

/// `/openapi/v3`: one document for each group and version.
pub(super) fn index(kinds: &Kinds) -> Value {
    let mut paths = BTreeSet::new();
    for kind in kinds.groups().into_values().flatten() {
        for version in &kind.versions {
            paths.insert(prefix(kind, version));
        }
    }
    let entry = |path: &String| (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}")}));
    json!({ "paths": paths.iter().map(entry).collect::<Map>() })
}

fn prefix(kind: &Kind, version: &str) -> String {
    if kind.group.is_empty() { format!("api/{version}") } else { format!("apis/{}/{version}", kind.group) }
}

/// The document of one group and version.
pub(super) fn document(
    kinds: &Kinds,
    crds: &HashMap<(String, String), Value>,
    group: &str,
    version: &str,
) -> Option<Value> {
    let groups = kinds.groups();
    let served = groups.get(group)?.iter().filter(|kind| kind.versions.iter().any(|v| v == version));
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in served {
        let gvk = json!({"group": group, "version": version, "kind": kind.kind});
        let namespace = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let path = format!("/{}{namespace}/{}/{{name}}", prefix(kind, version), kind.plural);
        let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation", "force"]
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        let content = json!({
            "application/apply-patch+yaml": {}, "application/json-patch+json": {}, "application/merge-patch+json": {},
        });
        paths.insert(
            path,
            json!({"patch": {"x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": gvk,
                             "parameters": parameters, "requestBody": {"content": content}, "responses": {}}}),
        );
        let definition = crds.get(&(kind.group.clone(), kind.plural.clone()));
        let schema = definition.and_then(|crd| schema(crd, version)).cloned();
        let mut schema = schema.unwrap_or_else(|| json!({"type": "object"}));
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("x-kubernetes-group-version-kind".to_owned(), json!([gvk]));
        }
        let name = group.split('.').rev().chain([version, kind.kind.as_str()]).collect::<Vec<_>>().join(".");
        schemas.insert(name, schema);
    }
    if paths.is_empty() {
        return None;
    }
    Some(json!({"openapi": "3.0.0", "info": {"title": "meshscope replay", "version": version},
                "paths": paths, "components": {"schemas": schemas}}))
}

/// The schema of one version of a CRD.
pub(super) fn schema<'a>(crd: &'a Value, version: &str) -> Option<&'a Value> {
    let versions = crd.list("spec.versions").iter();
    let mut of_version = versions.filter(|entry| entry.text("name") == Some(version));
    of_version.next()?.at("schema.openAPIV3Schema")
}
