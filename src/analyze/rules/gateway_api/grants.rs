//! ReferenceGrants: who permits whom to refer to what across namespaces.

use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

/// The grants of a namespace.
pub fn of_namespace<'a>(snapshot: &'a Snapshot, namespace: &str) -> Vec<&'a Object> {
    let grants = snapshot.gateway_api.grants.iter().map(|grant| &**grant);
    grants.filter(|grant| grant.namespace() == namespace).collect()
}

/// Whether the grants could not be read: then nothing follows from the absence of one.
pub fn unread(snapshot: &Snapshot) -> bool {
    crate::analyze::rules::istio::hosts::unread(snapshot, "referencegrants")
}

/// The grant in the target's namespace that admits a reference from an object to an object of this group.
pub fn admitting<'a>(
    snapshot: &'a Snapshot,
    from: &ObjectRef,
    to_group: &str,
    to: &ObjectRef,
) -> Option<&'a Object> {
    let core = |group: &str| if group == "core" { String::new() } else { group.to_owned() };
    of_namespace(snapshot, &to.namespace).into_iter().find(|grant| {
        let admits = grant.body.list("spec.from").iter().any(|entry| {
            entry.text("kind") == Some(from.kind.as_str())
                && entry.text("namespace") == Some(from.namespace.as_str())
                && entry.text("group").unwrap_or_default() == from.group()
        });
        let covers = grant.body.list("spec.to").iter().any(|entry| {
            entry.text("kind") == Some(to.kind.as_str())
                && core(entry.text("group").unwrap_or_default()) == core(to_group)
                && entry.text("name").is_none_or(|name| name.is_empty() || name == to.name)
        });
        admits && covers
    })
}

/// Whether a reference is permitted: within one namespace always, across by a grant.
pub fn granted(snapshot: &Snapshot, from: &ObjectRef, to_group: &str, to: &ObjectRef) -> bool {
    from.namespace == to.namespace || admitting(snapshot, from, to_group, to).is_some()
}
