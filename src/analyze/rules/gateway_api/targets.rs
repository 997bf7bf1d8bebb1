//! What policies are attached to: whether a `targetRef` leads anywhere.

use super::prelude::*;

/// A reference of a policy to what it is for, in the policy's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Group of the target; empty for the core group.
    pub group: String,
    /// Kind of the target.
    pub kind: String,
    /// Namespace of the target.
    pub namespace: String,
    /// Name of the target.
    pub name: String,
    /// A part of it: a port's name, a listener, a rule; empty means all of it.
    pub section: String,
    /// Where the reference stands: `spec.targetRefs[0]`.
    pub path: String,
}

impl Target {
    /// The object that it names.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(&self.kind, &self.namespace, &self.name)
    }
}

/// The references in `spec.targetRefs`, and the one in `spec.targetRef`.
pub fn of(policy: &Object) -> Vec<Target> {
    let read = |entry: &Value, path: String| Target {
        group: entry.text("group").filter(|group| *group != "core").unwrap_or_default().to_owned(),
        kind: entry.string("kind"),
        namespace: entry.text("namespace").unwrap_or(policy.namespace()).to_owned(),
        name: entry.string("name"),
        section: entry.string("sectionName"),
        path,
    };
    let list = policy.body.list("spec.targetRefs").iter().enumerate();
    let mut out: Vec<Target> =
        list.map(|(index, entry)| read(entry, format!("spec.targetRefs[{index}]"))).collect();
    out.extend(policy.body.at("spec.targetRef").map(|entry| read(entry, "spec.targetRef".to_owned())));
    out.retain(|target| !target.kind.is_empty() && !target.name.is_empty());
    out
}

/// What came of looking for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is there, with the part that is asked for.
    There,
    /// It is not there; a name beside it that was probably meant.
    Nothing(Option<String>),
    /// It is there without this part; the parts that it has.
    NoSection(Vec<String>),
    /// Nobody can say.
    Unknown,
}

/// Looks for a target.
pub fn find(snapshot: &Snapshot, target: &Target) -> Found {
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let known = attach::knows_namespace(snapshot, namespace);
    let missing = |names: Vec<&str>| {
        if known { Found::Nothing(nearest(name, names).map(str::to_owned)) } else { Found::Unknown }
    };
    match (target.group.as_str(), target.kind.as_str()) {
        ("", "Service") => match snapshot.service(&ServiceName::new(namespace, name)) {
            Some(service) => section(target, service.ports.iter().map(|p| p.name.clone()).collect()),
            None => {
                let beside = snapshot.services.iter().filter(|s| s.object.namespace() == namespace);
                missing(beside.map(|s| s.object.name()).collect())
            }
        },
        ("networking.istio.io", "ServiceEntry") => match snapshot.object("ServiceEntry", namespace, name) {
            Some(entry) => {
                section(target, entry.body.list("spec.ports").iter().map(|p| p.string("name")).collect())
            }
            None => {
                let entries = snapshot.istio.service_entries.iter();
                let beside = entries.filter(|e| e.object.namespace() == namespace);
                missing(beside.map(|e| e.object.name()).collect())
            }
        },
        (attach::GROUP, "Gateway") => match attach::gateway(snapshot, namespace, name) {
            Some(gateway) => section(target, gateway.listeners.iter().map(|l| l.name.clone()).collect()),
            None => {
                let gateways = snapshot.gateway_api.gateways.iter();
                let beside = gateways.filter(|g| g.object.namespace() == namespace);
                missing(beside.map(|g| g.object.name()).collect())
            }
        },
        (attach::GROUP, kind) if Route::KINDS.contains(&kind) => match snapshot.object(kind, namespace, name)
        {
            Some(route) => {
                section(target, route.body.list("spec.rules").iter().map(|r| r.string("name")).collect())
            }
            None => {
                let beside = snapshot.objects_of(kind).filter(|o| o.namespace() == namespace);
                missing(beside.map(Object::name).collect())
            }
        },
        (_, kind @ ("ListenerSet" | "XListenerSet" | "XBackend" | "InferencePool"))
            if snapshot.knows_kind(kind) =>
        {
            match snapshot.object(kind, namespace, name) {
                Some(_) => Found::There,
                None => missing(vec![]),
            }
        }
        _ => Found::Unknown,
    }
}

fn section(target: &Target, mut parts: Vec<String>) -> Found {
    if target.section.is_empty() || parts.contains(&target.section) {
        return Found::There;
    }
    parts.retain(|part| !part.is_empty());
    Found::NoSection(parts)
}
