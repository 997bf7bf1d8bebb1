//! How a change is taken back: with the value before, or with the tool that brought it in.

use crate::model::json::{Value, json};

use super::remedy::{Remedy, Risk, patch_command, quote, resource, scope};
use crate::model::change::{Change, ChangeKind, Release, Tool, applied, path};
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

/// A larger edit is taken back from where its manifest is kept.
const MAX_OPERATIONS: usize = 8;

/// What takes a change back; `None` where what was before is not known, or where something newer lies on top of it.
pub fn take_back(snapshot: &Snapshot, change: &Change) -> Option<Remedy> {
    match change.kind {
        ChangeKind::Rollout => rollout(snapshot, change),
        ChangeKind::Scaled => scaled(change),
        ChangeKind::Edited => edited(snapshot, change),
        ChangeKind::Released => released(change),
        ChangeKind::Created | ChangeKind::Deleted | ChangeKind::NodeState => None,
    }
}

fn time(change: &Change) -> String {
    change.time.strftime("%H:%M:%SZ").to_string()
}

fn rollout(snapshot: &Snapshot, change: &Change) -> Option<Remedy> {
    let subject = &change.subject;
    let newer =
        |c: &Change| c.kind == ChangeKind::Rollout && c.time > change.time && c.subject.same_object(subject);
    if snapshot.changes.iter().any(newer)
        || !matches!(subject.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet")
        || is_restart(change)
    {
        return None;
    }
    // What somebody rolled out past the tool is undone past the tool.
    let by_tool = |tool: Tool| change.by.is_empty() || tool.is(&change.by);
    let Some(release) = change.release.as_ref().filter(|r| by_tool(r.tool)) else {
        return Some(Remedy::undo_rollout(
            subject,
            format!("Take the rollout of {} back: the revision before runs again", time(change)),
        ));
    };
    let undo = Remedy::undo_rollout(subject, "").commands;
    let act = |verb: &str| command(release, verb);
    let remedy = match release.tool {
        Tool::Helm => Remedy::commands(
            format!(
                "Take the rollout of {} back with {release}: its revision before is deployed again",
                time(change)
            ),
            vec![act("history"), act("rollback")],
            vec![act("rollback")],
        ),
        Tool::ArgoCd => Remedy::commands(
            format!(
                "Take the rollout of {} back with {release} (its automated sync must be off meanwhile), and revert the commit that it came with",
                time(change)
            ),
            vec![act("history"), act("rollback")],
            vec![act("sync")],
        ),
        Tool::FluxHelm | Tool::FluxKustomize => {
            let with = |first: Option<String>, last: Option<String>| {
                first.into_iter().chain(undo.clone()).chain(last).collect()
            };
            Remedy::commands(
                format!(
                    "Take the rollout of {} back: stop {release}, which would write it again, go to the revision before, and revert the commit that it came with",
                    time(change)
                ),
                with(Some(act("suspend")), None),
                with(None, Some(act("resume"))),
            )
        }
    };
    Some(remedy.risk(Risk::Medium))
}

/// What the tool of a release is told about it: `helm -n shop rollback shop`.
pub fn command(release: &Release, verb: &str) -> String {
    let name = quote(&release.name);
    let of = match release.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" -n {}", quote(namespace)),
    };
    match release.tool {
        Tool::Helm => format!("helm{of} {verb} {name}"),
        Tool::ArgoCd => format!("argocd app {verb} {name}"),
        Tool::FluxHelm => format!("flux{of} {verb} helmrelease {name}"),
        Tool::FluxKustomize => format!("flux{of} {verb} kustomization {name}"),
    }
}

/// Whether pods were only made anew, as `kubectl rollout restart` does: the revision before is the same one. What they read
/// when they started is what has changed.
fn is_restart(change: &Change) -> bool {
    change.differences.is_empty() && change.by == "kubectl-rollout"
}

fn scaled(change: &Change) -> Option<Remedy> {
    let difference = change.differences.iter().find(|d| d.path == "spec.replicas")?;
    let (before, after) = (difference.before.parse().ok()?, difference.after.parse().ok()?);
    let scales = matches!(change.subject.kind.as_str(), "Deployment" | "StatefulSet" | "ReplicaSet");
    scales.then(|| {
        let summary =
            format!("Take the scaling of {} back: spec.replicas {before} instead of {after}", time(change));
        Remedy::scale(&change.subject, after, before, summary)
    })
}

/// Writes what `kubectl apply` wrote last over what was edited since, or makes a cordoned node take pods again.
fn edited(snapshot: &Snapshot, change: &Change) -> Option<Remedy> {
    let r = &change.subject;
    let object = snapshot.find(r)?;
    if r.kind == "Node" {
        return uncordon(object, change);
    }
    let Some(before) = applied(object) else { return reapply(object, change) };
    if change.differences.is_empty() {
        return None;
    }
    let mut operations = vec![];
    for field in change.fields.iter().filter(|field| field.starts_with("spec.")) {
        let (pointer, now) = path::locate(&object.body, field)?;
        match path::locate(&before, field) {
            Some((_, old)) if old == now => {}
            Some((_, old)) => operations.push(json!({"op": "replace", "path": pointer, "value": old})),
            // Taking an item out of a list moves those behind it: such an edit is left to a person.
            None if field.ends_with(']') => return None,
            None => operations.push(json!({"op": "remove", "path": pointer})),
        }
    }
    if operations.is_empty() || operations.len() > MAX_OPERATIONS {
        return None;
    }
    let by = if change.by.is_empty() { String::new() } else { format!(" by {}", change.by) };
    let summary =
        format!("Take the edit of {}{by} back: what was applied before it stands again", time(change));
    Remedy::patch(object, &Value::from(operations), summary)
}

/// What was applied last, written over the edit. The annotation that holds it is never collected, and stands in the cluster
/// where the object was made by `kubectl apply` and edited by something else since.
fn reapply(object: &Object, change: &Change) -> Option<Remedy> {
    const APPLY: &str = "kubectl-client-side-apply";
    let r = &object.reference;
    let applied =
        object.edits.iter().filter(|edit| edit.manager == APPLY).filter_map(|edit| edit.time).max()?;
    // Values of a ConfigMap are not known here, so there would be no way back.
    if change.by == APPLY || change.time <= applied || r.kind == "ConfigMap" {
        return None;
    }
    let fields = change.fields.iter().filter(|field| field.starts_with("spec."));
    let edited: Option<Vec<String>> =
        fields.map(|field| path::locate(&object.body, field).map(|(pointer, _)| pointer)).collect();
    // What the edit took away comes back with what was applied, and is not known here: so the way back is the whole of what
    // holds all edited fields, as it stands now.
    let whole = common_parent(&edited?)?;
    let now = object.body.pointer(&whole)?;
    let operations = json!([{"op": "replace", "path": whole, "value": now}]);
    if operations.to_string().len() > LONGEST_WAY_BACK {
        return None;
    }
    let (ns, of, name) = (scope(r), resource(r), quote(&r.name));
    let by = if change.by.is_empty() { String::new() } else { format!(" by {}", change.by) };
    Some(
        Remedy::commands(
            format!("Take the edit of {}{by} back: what kubectl apply wrote before it stands again", time(change)),
            vec![format!(
                "kubectl {ns}apply view-last-applied {of}/{name} -o yaml | kubectl {ns}replace --save-config -f -"
            )],
            vec![patch_command(r, &operations)],
        )
        .risk(Risk::Medium),
    )
}

/// Bytes of a patch that somebody still pastes.
const LONGEST_WAY_BACK: usize = 4096;

/// The JSON pointer of what holds all of these: of one, itself. `None` where that is the whole object.
fn common_parent(pointers: &[String]) -> Option<String> {
    let (first, rest) = pointers.split_first()?;
    let mut shared: Vec<&str> = first.split('/').collect();
    for pointer in rest {
        let same = shared.iter().zip(pointer.split('/')).take_while(|(a, b)| **a == *b).count();
        shared.truncate(same);
    }
    (shared.len() > 1).then(|| shared.join("/"))
}

fn uncordon(node: &Object, change: &Change) -> Option<Remedy> {
    let wrote = change.fields.iter().any(|field| field.starts_with("spec.unschedulable"));
    let name = quote(node.name());
    (wrote && node.body.flag("spec.unschedulable")).then(|| {
        Remedy::commands(
            format!("Let node {} take pods again: it was cordoned at {}", node.name(), time(change)),
            vec![format!("kubectl uncordon {name}")],
            vec![format!("kubectl cordon {name}")],
        )
    })
}

fn released(change: &Change) -> Option<Remedy> {
    let ObjectRef { kind, name, .. } = &change.subject;
    (kind == "Application").then(|| {
        let name = quote(name);
        Remedy::commands(
            format!("Take the sync of {} back (automated sync must be off meanwhile)", time(change)),
            vec![format!("argocd app history {name}"), format!("argocd app rollback {name}")],
            vec![format!("argocd app sync {name}")],
        )
        .risk(Risk::Medium)
    })
}

/// The place of a remedy among others that do the same.
pub fn place(remedies: &[Remedy], wanted: &Remedy) -> Option<usize> {
    let same = |r: &Remedy| match (&r.patch, &wanted.patch) {
        (Some(a), Some(b)) => a == b,
        (None, None) => !wanted.commands.is_empty() && r.commands == wanted.commands,
        _ => false,
    };
    remedies.iter().position(same)
}

/// A command that shows who wrote what when, for a change whose previous value nobody knows.
pub fn look(subject: &ObjectRef) -> String {
    format!(
        "kubectl {}get {} {} -o yaml --show-managed-fields",
        scope(subject),
        resource(subject),
        quote(&subject.name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Builder;

    fn service(port: u16, applied: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n", "creationTimestamp": "2026-11-21T09:00:00Z",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied},
            "managedFields": [{"manager": "kubectl-edit", "operation": "Update", "time": "2026-11-21T10:00:00Z",
                "fieldsV1": {"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:targetPort": {}}}}}}]},
            "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": port}]}})
    }

    #[test]
    fn an_edit_goes_back_to_what_was_applied() {
        let applied =
            json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}}).to_string();
        let mut builder = Builder::new();
        builder.object(service(9090, &applied));
        let snapshot = builder.finish();
        let change = snapshot.changes.iter().find(|c| c.kind == ChangeKind::Edited).unwrap();
        let remedy = take_back(&snapshot, change).unwrap();
        let expected = json!([{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 8080}]);
        assert_eq!(remedy.patch.unwrap().operations, expected);
        assert!(!remedy.rollback.is_empty());
    }

    #[test]
    fn without_the_annotation_the_cluster_is_asked_for_it() {
        let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n", "creationTimestamp": "2026-11-21T09:00:00Z",
            "managedFields": [
                {"manager": "kubectl-client-side-apply", "operation": "Update", "time": "2026-11-21T09:00:00Z", "fieldsV1": {"f:spec": {"f:selector": {}}}},
                {"manager": "kubectl-patch", "operation": "Update", "time": "2026-11-21T10:00:00Z", "fieldsV1": {"f:spec": {"f:externalName": {}, "f:type": {}}}}]},
            "spec": {"type": "ExternalName", "externalName": "a.example"}});
        let mut builder = Builder::new();
        builder.object(body);
        let snapshot = builder.finish();
        let change = snapshot.changes.iter().find(|c| c.kind == ChangeKind::Edited).unwrap();
        let remedy = take_back(&snapshot, change).unwrap();
        assert_eq!(
            remedy.commands,
            [
                "kubectl -n n apply view-last-applied service/a -o yaml | kubectl -n n replace --save-config -f -"
            ]
        );
        // What the edit took away, such as the selector, must not stay behind: the whole of the spec comes back.
        assert!(
            remedy.rollback[0].contains(
                r#""op":"replace","path":"/spec","value":{"externalName":"a.example","type":"ExternalName"}"#
            ),
            "{:?}",
            remedy.rollback
        );
    }

    #[test]
    fn a_rollout_by_helm_is_taken_back_by_helm_and_one_past_it_is_not() {
        let deployment = |manager: &str| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n", "creationTimestamp": "2026-11-21T08:00:00Z",
                "annotations": {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "n"},
                "managedFields": [{"manager": manager, "operation": "Update", "time": "2026-11-21T10:00:00Z",
                    "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {"f:image": {}}}}}}}}]}})
        };
        let set = |name: &str, revision: &str, made: &str| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "n", "creationTimestamp": made,
                "annotations": {"deployment.kubernetes.io/revision": revision},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "a", "controller": true}]},
                "spec": {"template": {"spec": {"containers": [{"name": "app", "image": name}]}}}})
        };
        let command = |manager: &str| {
            let mut builder = Builder::new();
            builder.object(deployment(manager));
            builder.object(set("a-1", "1", "2026-11-21T08:00:00Z"));
            builder.object(set("a-2", "2", "2026-11-21T10:00:00Z"));
            let snapshot = builder.finish();
            let change = snapshot.changes.iter().find(|c| c.kind == ChangeKind::Rollout).unwrap().clone();
            take_back(&snapshot, &change).unwrap().commands.pop().unwrap()
        };
        assert_eq!(command("helm"), "helm -n n rollback shop");
        assert_eq!(command("kubectl-set"), "kubectl -n n rollout undo deployment/a");
    }
    #[test]
    fn a_restart_has_no_revision_before_it() {
        let set = |name: &str, revision: &str, made: &str| {
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "n", "creationTimestamp": made,
                "annotations": {"deployment.kubernetes.io/revision": revision},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "a", "controller": true}]},
                "spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": made}}, "spec": {"containers": [{"name": "app", "image": "a"}]}}}})
        };
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n", "creationTimestamp": "2026-11-21T08:00:00Z",
            "managedFields": [{"manager": "kubectl-rollout", "operation": "Update", "time": "2026-11-21T10:00:00Z",
                "fieldsV1": {"f:spec": {"f:template": {"f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/restartedAt": {}}}}}}}]}}));
        builder.object(set("a-1", "1", "2026-11-21T08:00:00Z"));
        builder.object(set("a-2", "2", "2026-11-21T10:00:00Z"));
        let snapshot = builder.finish();
        let change = snapshot.changes.iter().find(|c| c.kind == ChangeKind::Rollout).unwrap();
        assert!(change.differences.is_empty(), "{:?}", change.differences);
        assert!(take_back(&snapshot, change).is_none());
    }
}
