//! Which routes name which parent, indexed once for a snapshot.

use std::collections::BTreeMap;

use crate::model::memo::Derived;
use crate::model::mesh::gateway_api::Route;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// Kind, namespace and name of a parent.
type Parent = (String, String, String);

/// Places in the snapshot's list of routes, by parent.
#[derive(Debug)]
struct ByParent(BTreeMap<Parent, Vec<usize>>);

impl Derived for ByParent {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut all: BTreeMap<Parent, Vec<usize>> = BTreeMap::new();
        for (at, route) in snapshot.gateway_api.routes.iter().enumerate() {
            for parent in &route.parents {
                let key = (parent.kind.clone(), parent.namespace.clone(), parent.name.clone());
                let list = all.entry(key).or_default();
                // A route may name several listeners of one parent.
                if list.last() != Some(&at) {
                    list.push(at);
                }
            }
        }
        ByParent(all)
    }
}

/// The routes of some kinds that name an object as a parent, whether it takes them or not; in the snapshot's order.
pub fn to<'a>(snapshot: &'a Snapshot, parent: &ObjectRef, kinds: &[&str]) -> Vec<&'a Route> {
    let all = snapshot.derived::<ByParent>();
    let key = (parent.kind.clone(), parent.namespace.clone(), parent.name.clone());
    let own = all.0.get(&key).into_iter().flatten().filter_map(|at| snapshot.gateway_api.routes.get(*at));
    own.filter(|route| kinds.contains(&route.reference().kind.as_str())).collect()
}
