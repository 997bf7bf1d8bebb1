//! ListenerSets: which belong to a Gateway, in which order, and which it does not take.

use std::collections::BTreeMap;

use super::attach;
use crate::model::fields::Fields;
use crate::model::memo::Derived;
use crate::model::mesh::gateway_api::Gateway;
use crate::model::object::Object;
use crate::model::selector::Selector;
use crate::model::snapshot::Snapshot;

/// The kinds under which they are found.
pub const KINDS: &[&str] = &["ListenerSet", "XListenerSet"];

/// Namespace and name of the Gateway that a set names.
pub fn parent_name(set: &Object) -> (String, String) {
    let parent = set.body.at("spec.parentRef");
    let namespace = parent.and_then(|p| p.text("namespace")).unwrap_or(set.namespace());
    (namespace.to_owned(), parent.map(|p| p.string("name")).unwrap_or_default())
}

/// The Gateway that a set names, where it exists.
pub fn parent<'a>(snapshot: &'a Snapshot, set: &Object) -> Option<&'a Gateway> {
    let (namespace, name) = parent_name(set);
    attach::gateway(snapshot, &namespace, &name)
}

/// Kind, namespace and name of a set.
type Key = (String, String, String);

/// The sets by the namespace and name of their Gateway.
#[derive(Debug)]
struct ByGateway(BTreeMap<(String, String), Vec<Key>>);

impl Derived for ByGateway {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut all: BTreeMap<(String, String), Vec<&Object>> = BTreeMap::new();
        for set in KINDS.iter().flat_map(|kind| snapshot.objects_of(kind)) {
            all.entry(parent_name(set)).or_default().push(set);
        }
        for sets in all.values_mut() {
            sets.sort_by_key(|set| {
                (set.created, set.reference.namespace.clone(), set.reference.name.clone())
            });
        }
        let key = |set: &Object| {
            let r = &set.reference;
            (r.kind.clone(), r.namespace.clone(), r.name.clone())
        };
        ByGateway(
            all.into_iter().map(|(parent, sets)| (parent, sets.into_iter().map(key).collect())).collect(),
        )
    }
}

/// The ListenerSets that name a Gateway as their parent: the oldest first, as conflicts between them are decided.
pub fn of<'a>(snapshot: &'a Snapshot, gateway: &Gateway) -> Vec<&'a Object> {
    let all = snapshot.derived::<ByGateway>();
    let parent = (gateway.object.namespace().to_owned(), gateway.object.name().to_owned());
    let keys = all.0.get(&parent).into_iter().flatten();
    keys.filter_map(|(kind, namespace, name)| snapshot.objects.get(kind, namespace, name)).collect()
}

/// Why a Gateway does not take a ListenerSet; `None` where it does, or where it depends on labels of a namespace that was
/// not read.
pub fn refused(snapshot: &Snapshot, gateway: &Gateway, set: &Object) -> Option<String> {
    if gateway.class == "istio-waypoint" {
        return Some(format!(
            "{} is of class istio-waypoint, which takes no ListenerSet",
            gateway.object.reference
        ));
    }
    let from = gateway.object.body.text("spec.allowedListeners.namespaces.from").unwrap_or("None");
    let refused = match from {
        "All" => false,
        "Same" => set.namespace() != gateway.object.namespace(),
        "Selector" => match gateway.object.body.at("spec.allowedListeners.namespaces.selector") {
            Some(selector) => attach::namespace_labels(snapshot, set.namespace())
                .is_some_and(|labels| !Selector::read(selector).matches(&labels)),
            None => true,
        },
        _ => true,
    };
    refused.then(|| {
        format!(
            "allowedListeners of {} is \"{from}\" and does not admit namespace {}",
            gateway.object.reference,
            set.namespace()
        )
    })
}
