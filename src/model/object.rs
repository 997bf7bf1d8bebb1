//! Any Kubernetes object: what names it, who made and edited it, and its body.

use crate::model::json::Value;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

use super::fields::Fields;
use super::memo::{Derived, Memo};
use super::selector::Labels;

/// Names an object, and where it matters a field in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Group and version: `networking.istio.io/v1`; empty where unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// `VirtualService`.
    pub kind: String,
    /// Empty for a cluster-scoped object, and for one whose file names no namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.http[0].route[0].destination.subset`; empty where the object as a whole is meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

impl ObjectRef {
    /// A reference without group, version and field.
    pub fn new(kind: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectRef {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..ObjectRef::default()
        }
    }

    /// What names the object with this body.
    pub fn of(body: &Value) -> Self {
        ObjectRef {
            api_version: body.string("apiVersion"),
            kind: body.string("kind"),
            namespace: body.string("metadata.namespace"),
            name: body.string("metadata.name"),
            field_path: String::new(),
        }
    }

    /// The same object, and the field in it that matters.
    #[must_use]
    pub fn field(&self, path: impl Into<String>) -> Self {
        ObjectRef { field_path: path.into(), ..self.clone() }
    }

    /// The group alone: `networking.istio.io`; empty for the core group.
    pub fn group(&self) -> &str {
        let slash = self.api_version.bytes().position(|byte| byte == b'/');
        slash.and_then(|end| self.api_version.get(..end)).unwrap_or_default()
    }

    /// Whether both name the same object, whatever the version and the field.
    pub fn same_object(&self, other: &ObjectRef) -> bool {
        self.kind == other.kind
            && self.name == other.name
            && self.namespace == other.namespace
            && (self.api_version.is_empty() || other.api_version.is_empty() || self.group() == other.group())
    }
}

/// `Kind namespace/name`, the one way in which an object is written everywhere.
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One entry of `metadata.managedFields`: who last owned which fields, and when they wrote them.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// The field manager: `kubectl-client-side-apply`, `helm`, `argocd-controller`.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// `status`, or empty for the object itself.
    pub subresource: String,
    /// When they last wrote.
    pub time: Option<Timestamp>,
    /// The fields they own, dotted: `spec.template.spec.containers[name=app].image`.
    pub fields: Vec<String>,
}

/// One object as a source gave it.
#[derive(Debug, Clone)]
pub struct Object {
    /// What names it.
    pub reference: ObjectRef,
    /// `metadata.uid`; empty where unknown.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`, without `kubectl.kubernetes.io/last-applied-configuration`.
    pub annotations: Labels,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp`: set while it is going away.
    pub deleted: Option<Timestamp>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.ownerReferences` with the object's own namespace; the controller first.
    pub owners: Vec<ObjectRef>,
    /// Who edited which fields when.
    pub edits: Vec<Edit>,
    /// All of it, but for `metadata.managedFields`.
    pub body: Arc<Value>,
    /// What was derived from it.
    pub memo: Memo,
}

impl Object {
    /// Reads any object. `None` where it has no kind or no name.
    pub fn read(mut body: Value) -> Option<Self> {
        let kind = body.text("kind")?.to_owned();
        let name = body.text("metadata.name")?.to_owned();
        let edits = body.list("metadata.managedFields").iter().map(read_edit).collect();
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let namespace = body.string("metadata.namespace");
        let mut owners: Vec<(bool, ObjectRef)> = body
            .list("metadata.ownerReferences")
            .iter()
            .map(|owner| {
                let reference = ObjectRef {
                    api_version: owner.string("apiVersion"),
                    kind: owner.string("kind"),
                    namespace: namespace.clone(),
                    name: owner.string("name"),
                    field_path: String::new(),
                };
                (!owner.flag("controller"), reference)
            })
            .collect();
        owners.sort();
        let mut annotations = body.text_map("metadata.annotations");
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        Some(Object {
            reference: ObjectRef {
                api_version: body.string("apiVersion"),
                kind,
                namespace,
                name,
                field_path: String::new(),
            },
            uid: body.string("metadata.uid"),
            labels: body.text_map("metadata.labels"),
            annotations,
            created: body.time("metadata.creationTimestamp"),
            deleted: body.time("metadata.deletionTimestamp"),
            generation: body.int("metadata.generation"),
            owners: owners.into_iter().map(|(_, owner)| owner).collect(),
            edits,
            body: Arc::new(body),
            memo: Memo::default(),
        })
    }

    /// What follows from this object alone, computed once: all snapshots that hold the object share it.
    pub fn derived<T: Derived<Object>>(&self) -> Arc<T> {
        self.memo.get(self)
    }

    /// Its namespace; empty for a cluster-scoped object.
    pub fn namespace(&self) -> &str {
        &self.reference.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.reference.name
    }
}

fn read_edit(entry: &Value) -> Edit {
    let mut fields = vec![];
    if let Some(tree) = entry.at("fieldsV1") {
        field_paths(tree, "", &mut fields);
    }
    Edit {
        manager: entry.string("manager"),
        operation: entry.string("operation"),
        subresource: entry.string("subresource"),
        time: entry.time("time"),
        fields,
    }
}

/// At most this many paths of one managed-fields entry are kept; more say nothing more about who changed what.
const MAX_EDIT_FIELDS: usize = 512;

/// The leaves of a `fieldsV1` tree. `f:` keys are fields, `k:` keys select a list item by its keys, `v:` by its value.
fn field_paths(tree: &Value, prefix: &str, out: &mut Vec<String>) {
    let Some(map) = tree.as_object() else { return };
    let children: Vec<_> = map.iter().filter(|(key, _)| key.as_str() != ".").collect();
    if children.is_empty() && !prefix.is_empty() && out.len() < MAX_EDIT_FIELDS {
        out.push(prefix.to_owned());
        return;
    }
    for (key, child) in children {
        let path = match key.split_once(':') {
            Some(("f", name)) if prefix.is_empty() => name.to_owned(),
            Some(("f", name)) => format!("{prefix}.{name}"),
            Some(("k", keys)) => {
                let keys: Value = serde_json::from_str(keys).unwrap_or_default();
                let pairs =
                    keys.as_object().into_iter().flatten().map(|(name, value)| match value.as_str() {
                        Some(text) => format!("{name}={text}"),
                        None => format!("{name}={value}"),
                    });
                format!("{prefix}[{}]", pairs.collect::<Vec<_>>().join(","))
            }
            Some(("v", value)) => format!("{prefix}[{}]", value.trim_matches('"')),
            _ => continue,
        };
        field_paths(child, &path, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn managed_fields_become_paths() {
        let object = Object::read(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "n", "managedFields": [{
                "manager": "kubectl", "operation": "Update", "time": "2026-11-21T10:00:00Z",
                "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {".": {}, "f:image": {}}}}}}}
            }]}
        }))
        .unwrap();
        assert_eq!(object.edits[0].fields, ["spec.template.spec.containers[name=app].image"]);
        assert!(object.body.at("metadata.managedFields").is_none());
        assert_eq!(object.reference.to_string(), "Deployment n/a");
    }

    #[test]
    fn an_object_without_a_name_is_none() {
        assert!(Object::read(json!({"kind": "Pod", "metadata": {}})).is_none());
        assert!(Object::read(json!([])).is_none());
    }
}
