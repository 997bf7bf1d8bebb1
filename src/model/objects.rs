//! All objects of a snapshot, by kind, namespace and name.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use super::object::{Object, ObjectRef};

/// Objects in order of kind, namespace and name, each once. What names them stands in them alone: of tens of thousands no key is held besides.
#[derive(Debug, Clone, Default)]
pub struct Objects(Vec<Arc<Object>>);

/// The kind that an object is found under. Several APIs share some names; the core's, Istio's and the Gateway API's routes keep them, and others
/// stand with their group before them: `gateway.networking.k8s.io/Gateway`.
pub fn kind(reference: &ObjectRef) -> Cow<'_, str> {
    let (kind, group) = (reference.kind.as_str(), reference.group());
    let shared = match kind {
        "Gateway" => group != "networking.istio.io",
        "Service" => !group.is_empty(),
        "AuthorizationPolicy" | "HTTPRoute" => group == "policy.linkerd.io",
        _ => false,
    };
    if shared { Cow::Owned(format!("{group}/{kind}")) } else { Cow::Borrowed(kind) }
}

fn compare(object: &Object, other_kind: &str, namespace: &str, name: &str) -> Ordering {
    let reference = &object.reference;
    let own = || (reference.namespace.as_str(), reference.name.as_str());
    (*kind(reference)).cmp(other_kind).then_with(|| own().cmp(&(namespace, name)))
}

impl FromIterator<Arc<Object>> for Objects {
    /// Of two with the same kind, namespace and name the later one counts.
    fn from_iter<T: IntoIterator<Item = Arc<Object>>>(all: T) -> Self {
        let mut all: Vec<Arc<Object>> = all.into_iter().collect();
        let order = |a: &Object, b: &Object| {
            let r = &b.reference;
            compare(a, &kind(r), &r.namespace, &r.name)
        };
        // Stable: of equal ones the later stays behind the earlier, and takes its place.
        all.sort_by(|a, b| order(a, b));
        all.dedup_by(|later, earlier| {
            let same = order(earlier, later) == Ordering::Equal;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        all.shrink_to_fit();
        Objects(all)
    }
}

impl Objects {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Object>> {
        self.0.iter()
    }

    /// The one of this [`kind()`], namespace and name.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Object> {
        let at = self.0.binary_search_by(|object| compare(object, kind, namespace, name)).ok()?;
        self.0.get(at).map(|object| &**object)
    }

    /// Those of a [`kind()`], in order of namespace and name.
    pub fn of_kind<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a Object> {
        let from = self.0.partition_point(|object| *kind(&object.reference) < *wanted);
        let rest = self.0.get(from..).unwrap_or_default().iter();
        rest.take_while(move |object| kind(&object.reference) == wanted).map(|object| &**object)
    }
}

impl<'a> IntoIterator for &'a Objects {
    type Item = &'a Arc<Object>;
    type IntoIter = std::slice::Iter<'a, Arc<Object>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn object(api: &str, kind: &str, namespace: &str, name: &str, mark: i64) -> Arc<Object> {
        let body = json!({"apiVersion": api, "kind": kind, "mark": mark, "metadata": {"name": name, "namespace": namespace}});
        Arc::new(Object::read(body).unwrap())
    }

    #[test]
    fn each_is_found_by_its_names_and_the_later_one_counts() {
        let istio = "networking.istio.io/v1";
        let all: Objects = [
            object("v1", "Service", "b", "x", 1),
            object(istio, "Gateway", "a", "x", 2),
            object("gateway.networking.k8s.io/v1", "Gateway", "a", "x", 3),
            object("v1", "Service", "a", "y", 4),
            object("v1", "Service", "b", "x", 5),
            object("serving.knative.dev/v1", "Service", "b", "x", 6),
        ]
        .into_iter()
        .collect();
        let mark = |kind: &str, namespace: &str, name: &str| {
            all.get(kind, namespace, name).and_then(|object| object.body.get("mark")?.as_i64())
        };
        assert_eq!((all.len(), mark("Service", "b", "x")), (5, Some(5)));
        assert_eq!(
            (mark("Gateway", "a", "x"), mark("gateway.networking.k8s.io/Gateway", "a", "x")),
            (Some(2), Some(3))
        );
        assert_eq!(mark("Service", "b", "y"), None);
        let services: Vec<&str> = all.of_kind("Service").map(Object::name).collect();
        assert_eq!(services, ["y", "x"]);
        assert_eq!(all.of_kind("Pod").count(), 0);
    }
}
