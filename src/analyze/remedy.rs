//! What to do about a finding, as data: a patch or a command, its inverse, and how to prevent the next one.

use crate::model::json::{Value, json};
use serde::{Deserialize, Serialize};

use super::trial::Trial;
use crate::model::object::{Object, ObjectRef};

/// How much can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Risk {
    /// Touches only what is broken.
    Low,
    /// Touches traffic or pods that are well.
    Medium,
    /// Loosens a protection, or may lose something.
    High,
}

/// A JSON patch (RFC 6902) of one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patch {
    /// The object.
    pub target: ObjectRef,
    /// The operations.
    pub operations: Value,
}

/// A change as data where it is no patch of fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Whole {
    /// These are made, as manifests.
    Create(Vec<Value>),
    /// This one goes.
    Delete(ObjectRef),
    /// This workload gets so many pods.
    Scale(ObjectRef, i64),
}

/// One fix: something to do, and how to take it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remedy {
    /// What it does, in one sentence.
    pub summary: String,
    /// How much can go wrong.
    pub risk: Risk,
    /// Commands, ready to paste.
    pub commands: Vec<String>,
    /// The change as data, where it is one object's patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
    /// Commands that take it back, made from the state before; empty only where the fix changes nothing in the cluster, or
    /// where `no_rollback` says why nothing takes it back.
    pub rollback: Vec<String>,
    /// Why nothing takes it back, in one sentence; empty where `rollback` does, or where it changes nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub no_rollback: String,
    /// The inverse as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inverse: Option<Patch>,
    /// The change as data, where it makes, deletes or scales something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Whole>,
    /// The way back as data, where it makes, deletes or scales something: what the commands of `rollback` do, in their order.
    #[serde(skip)]
    pub back: Vec<Whole>,
    /// What came of trying it on the snapshot; none where nobody tried.
    #[serde(skip)]
    pub trial: Option<Trial>,
}

impl Remedy {
    /// A patch of an object, with its inverse read off the object. `None` where an operation does not fit the object.
    /// `operations` is a JSON patch of `add`, `replace` and `remove`.
    pub fn patch(object: &Object, operations: &Value, summary: impl Into<String>) -> Option<Self> {
        let mut inverse = vec![];
        let mut body = (*object.body).clone();
        for operation in operations.as_array()? {
            let undo = invert(&body, operation)?;
            body = body.patched(&json!([operation]))?;
            inverse.insert(0, undo);
        }
        let target = ObjectRef { field_path: String::new(), ..object.reference.clone() };
        let inverse = Value::from(inverse);
        Some(Remedy {
            summary: summary.into(),
            risk: Risk::Low,
            commands: vec![patch_command(&target, operations)],
            patch: Some(Patch { target: target.clone(), operations: operations.clone() }),
            rollback: vec![patch_command(&target, &inverse)],
            no_rollback: String::new(),
            inverse: Some(Patch { target, operations: inverse }),
            whole: None,
            back: vec![],
            trial: None,
        })
    }

    /// Commands, and those that take them back.
    pub fn commands(summary: impl Into<String>, commands: Vec<String>, rollback: Vec<String>) -> Self {
        Remedy {
            summary: summary.into(),
            risk: Risk::Low,
            commands,
            patch: None,
            rollback,
            no_rollback: String::new(),
            inverse: None,
            whole: None,
            back: vec![],
            trial: None,
        }
    }

    /// Something that a person does outside the cluster, or a command that only looks.
    pub fn manual(summary: impl Into<String>) -> Self {
        Remedy {
            summary: summary.into(),
            risk: Risk::Low,
            commands: vec![],
            patch: None,
            rollback: vec![],
            no_rollback: String::new(),
            inverse: None,
            whole: None,
            back: vec![],
            trial: None,
        }
    }

    /// Commands that change something which no command brings back, with the reason: a pod that is deleted stays so, and
    /// its workload makes another.
    pub fn lasting(summary: impl Into<String>, commands: Vec<String>, why: impl Into<String>) -> Self {
        Remedy { no_rollback: why.into(), ..Remedy::commands(summary, commands, vec![]) }
    }

    /// Whether it changes something in the cluster, rather than look or tell somebody what to do.
    pub fn changes(&self) -> bool {
        !self.rollback.is_empty() || !self.no_rollback.is_empty()
    }

    /// `kubectl rollout undo` of a Deployment, DaemonSet or StatefulSet; taken back by undoing once more.
    pub fn undo_rollout(workload: &ObjectRef, summary: impl Into<String>) -> Self {
        let command = format!(
            "kubectl {}rollout undo {}/{}",
            scope(workload),
            resource(workload),
            quote(&workload.name)
        );
        Remedy { risk: Risk::Medium, ..Remedy::commands(summary, vec![command.clone()], vec![command]) }
    }

    /// `kubectl scale`, taken back by the number before.
    pub fn scale(workload: &ObjectRef, from: i64, to: i64, summary: impl Into<String>) -> Self {
        let command = |n: i64| {
            format!(
                "kubectl {}scale {}/{} --replicas={n}",
                scope(workload),
                resource(workload),
                quote(&workload.name)
            )
        };
        Remedy {
            whole: Some(Whole::Scale(workload.field(""), to)),
            back: vec![Whole::Scale(workload.field(""), from)],
            ..Remedy::commands(summary, vec![command(to)], vec![command(from)])
        }
    }

    /// `kubectl apply` of objects that are not there yet, taken back by deleting them.
    pub fn create(manifests: Vec<Value>, summary: impl Into<String>) -> Self {
        let texts: Vec<String> = manifests.iter().map(Value::to_string).collect();
        let made = manifests.iter().rev().filter_map(|manifest| Object::read(manifest.clone()));
        let made: Vec<ObjectRef> = made.map(|object| object.reference).collect();
        let delete = made
            .iter()
            .map(|r| format!("kubectl {}delete {} {}", scope(r), resource(r), quote(&r.name)))
            .collect();
        let apply = format!("kubectl apply -f - <<'EOF'\n{}\nEOF", texts.join("\n---\n"));
        Remedy {
            whole: Some(Whole::Create(manifests)),
            back: made.into_iter().map(Whole::Delete).collect(),
            ..Remedy::commands(summary, vec![apply], delete)
        }
    }

    /// `kubectl delete` of an object, taken back by applying it as it was.
    pub fn delete(object: &Object, summary: impl Into<String>) -> Self {
        let r = &object.reference;
        let body = written(&object.body);
        let apply = format!("kubectl apply -f - <<'EOF'\n{body}\nEOF");
        Remedy {
            risk: Risk::Medium,
            whole: Some(Whole::Delete(r.clone())),
            back: vec![Whole::Create(vec![body])],
            ..Remedy::commands(
                summary,
                vec![format!("kubectl {}delete {} {}", scope(r), resource(r), quote(&r.name))],
                vec![apply],
            )
        }
    }

    /// Adds a command after the others, such as a restart that a changed ConfigMap needs.
    #[must_use]
    pub fn then(mut self, command: impl Into<String>) -> Self {
        let command = command.into();
        self.rollback.push(command.clone());
        self.commands.push(command);
        self
    }

    /// Sets how much can go wrong.
    #[must_use]
    pub fn risk(mut self, risk: Risk) -> Self {
        self.risk = risk;
        self
    }
}

/// What somebody wrote of an object: without what the API server and controllers add.
pub fn written(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(top) = body.as_object_mut() {
        top.remove("status");
    }
    if let Some(meta) = body.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "selfLink"] {
            meta.remove(field);
        }
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    body
}

/// The inverse of one operation on a body.
fn invert(body: &Value, operation: &Value) -> Option<Value> {
    let path = operation.get("path")?.as_str()?;
    let old = body.pointer(path);
    match (operation.get("op")?.as_str()?, old) {
        ("replace", Some(old)) => Some(json!({"op": "replace", "path": path, "value": old})),
        ("remove", Some(old)) => Some(json!({"op": "add", "path": path, "value": old})),
        ("add", old) => {
            let (parent, last) = path.rsplit_once('/')?;
            let in_list = body.pointer(parent)?.as_array();
            match (in_list, old) {
                (Some(list), _) if last == "-" => {
                    Some(json!({"op": "remove", "path": format!("{parent}/{}", list.len())}))
                }
                (Some(_), _) | (None, None) => Some(json!({"op": "remove", "path": path})),
                (None, Some(old)) => Some(json!({"op": "replace", "path": path, "value": old})),
            }
        }
        _ => None,
    }
}

/// `-n NAMESPACE ` for a namespaced object, nothing for others.
pub fn scope(reference: &ObjectRef) -> String {
    if reference.namespace.is_empty() {
        String::new()
    } else {
        format!("-n {} ", quote(&reference.namespace))
    }
}

/// What kubectl calls a kind: in lower case, and with its group where several APIs share the name.
pub fn resource(reference: &ObjectRef) -> String {
    let kind = reference.kind.to_ascii_lowercase();
    match (reference.kind.as_str(), reference.group()) {
        ("Gateway", group) if !group.is_empty() => format!("gateways.{group}"),
        ("Service", group) if !group.is_empty() => format!("services.{group}"),
        ("AuthorizationPolicy", "policy.linkerd.io") => "authorizationpolicies.policy.linkerd.io".to_owned(),
        ("HTTPRoute", "policy.linkerd.io") => "httproutes.policy.linkerd.io".to_owned(),
        _ => kind,
    }
}

/// The `kubectl patch` command of a JSON patch.
pub fn patch_command(target: &ObjectRef, operations: &Value) -> String {
    format!(
        "kubectl {}patch {} {} --type=json -p {}",
        scope(target),
        resource(target),
        quote(&target.name),
        quote(&operations.to_string())
    )
}

/// A word of a shell command: as it is where it is harmless, in single quotes where not.
pub fn quote(word: &str) -> String {
    let harmless = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '=' | ',' | '@' | '%' | '+')
    };
    if !word.is_empty() && word.chars().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The last part of a JSON pointer, escaped as RFC 6901 says.
pub fn pointer_segment(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The JSON pointer of a field path: `spec.http[0].route` is `/spec/http/0/route`.
pub fn pointer(field_path: &str) -> String {
    let mut out = String::new();
    for part in field_path.split('.') {
        for (index, piece) in part.split('[').enumerate() {
            out.push('/');
            out.push_str(&pointer_segment(if index == 0 { piece } else { piece.trim_end_matches(']') }));
        }
    }
    out
}

/// A way to keep it from happening again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prevention {
    /// `Alert`, `Policy`, `Probe`, `Test` or `Setting`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What to set up.
    pub summary: String,
    /// A PromQL expression or a snippet, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snippet: String,
}

impl Prevention {
    /// An alert on a PromQL expression.
    pub fn alert(summary: impl Into<String>, expression: impl Into<String>) -> Self {
        Prevention { kind: "Alert".to_owned(), summary: summary.into(), snippet: expression.into() }
    }

    /// Something else: `Policy`, `Probe`, `Test` or `Setting`.
    pub fn of(kind: &str, summary: impl Into<String>) -> Self {
        Prevention { kind: kind.to_owned(), summary: summary.into(), snippet: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Object {
        Object::read(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "a", "namespace": "n"}, "spec": {"http": [{"timeout": "1s", "fault": {"abort": {}}}]}}))
        .unwrap()
    }

    #[test]
    fn a_patch_knows_its_inverse() {
        let operations = json!([{"op": "remove", "path": "/spec/http/0/fault"}, {"op": "replace", "path": "/spec/http/0/timeout", "value": "5s"},
            {"op": "add", "path": "/spec/http/-", "value": {}}]);
        let remedy = Remedy::patch(&object(), &operations, "s").unwrap();
        let mut body = (*object().body).clone();
        for step in [&operations, &remedy.inverse.unwrap().operations] {
            body = body.patched(step).unwrap();
        }
        assert_eq!(body, *object().body);
        assert!(remedy.commands[0].starts_with("kubectl -n n patch virtualservice a --type=json -p '["));
    }

    #[test]
    fn a_patch_that_does_not_fit_is_none() {
        assert!(Remedy::patch(&object(), &json!([{"op": "remove", "path": "/spec/tcp"}]), "s").is_none());
    }

    #[test]
    fn hostile_names_are_quoted() {
        assert_eq!(quote("a b'; rm"), r"'a b'\''; rm'");
        assert_eq!(pointer("spec.http[0].match"), "/spec/http/0/match");
    }
}
