//! Whether what makes, deletes or scales objects is taken back by what follows it.

use crate::model::json::{Value, json};
use std::collections::BTreeMap;

use crate::analyze::remedy::{Whole, written};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

/// Objects that changes touch, as they stand; none where an object is not there.
struct Touched<'s> {
    before: &'s Snapshot,
    bodies: BTreeMap<ObjectRef, Option<Value>>,
}

/// Whether the objects that a change touches are as they were, as far as somebody wrote them, once the way back was gone, too.
/// `false` also where a step of it does not fit what is there then.
pub(super) fn leads_back(before: &Snapshot, there: &Whole, back: &[Whole]) -> bool {
    let mut touched = Touched { before, bodies: BTreeMap::new() };
    if back.is_empty() || touched.apply(there).is_none() {
        return false;
    }
    if back.iter().any(|step| touched.apply(step).is_none()) {
        return false;
    }
    touched.bodies.iter().all(|(reference, now)| {
        let old = before.find(reference).map(|object| plain(&object.body));
        old == now.as_ref().map(plain)
    })
}

/// What was written, with the number of pods that nothing written stands for.
fn plain(body: &Value) -> Value {
    let mut body = written(body);
    if let Some(spec) = body.get_mut("spec").and_then(Value::as_object_mut)
        && spec.contains_key("template")
    {
        spec.entry("replicas").or_insert(json!(1));
    }
    body
}

impl Touched<'_> {
    /// Carries one change out; `None` where it does not fit.
    fn apply(&mut self, change: &Whole) -> Option<()> {
        match change {
            Whole::Delete(reference) => {
                let body = self.body(reference);
                body.take().map(|_| ())
            }
            Whole::Scale(reference, replicas) => {
                let spec = self.body(reference).as_mut()?.get_mut("spec")?.as_object_mut()?;
                spec.insert("replicas".to_owned(), json!(replicas));
                Some(())
            }
            Whole::Create(manifests) => {
                for manifest in manifests {
                    let reference = Object::read(manifest.clone())?.reference;
                    let body = self.body(&reference);
                    if body.is_some() {
                        return None;
                    }
                    *body = Some(manifest.clone());
                }
                Some(())
            }
        }
    }

    fn body(&mut self, reference: &ObjectRef) -> &mut Option<Value> {
        let before = self.before;
        let found = || before.find(reference).map(|object| Value::clone(&object.body));
        self.bodies.entry(reference.field("")).or_insert_with(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::remedy::Remedy;
    use crate::model::snapshot::Builder;

    fn restores(before: &Snapshot, remedy: &Remedy) -> bool {
        leads_back(before, remedy.whole.as_ref().unwrap(), &remedy.back)
    }

    fn config(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "n", "uid": "u"}, "data": {"a": "b"}})
    }

    #[test]
    fn the_way_back_is_gone_and_not_believed() {
        let mut builder = Builder::new();
        builder.object(config("there"));
        builder.object(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c"}]}}}}),
        );
        builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one", "namespace": "n"},
            "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}));
        let before = builder.finish();
        let deployment = |name: &str| ObjectRef::new("Deployment", "n", name);
        assert!(restores(&before, &Remedy::scale(&deployment("d"), 3, 5, "s")));
        assert!(restores(&before, &Remedy::scale(&deployment("one"), 1, 5, "s")));
        // Back to a number that it never had.
        assert!(!restores(&before, &Remedy::scale(&deployment("d"), 0, 5, "s")));
        assert!(!restores(&before, &Remedy::scale(&deployment("gone"), 1, 5, "s")));
        let there = before.find(&ObjectRef::new("ConfigMap", "n", "there")).unwrap();
        assert!(restores(&before, &Remedy::delete(there, "s")));
        let mut other = Remedy::delete(there, "s");
        other.back = vec![Whole::Create(vec![config("other")])];
        assert!(!restores(&before, &other));
        assert!(restores(&before, &Remedy::create(vec![config("new"), config("newer")], "s")));
        let mut half = Remedy::create(vec![config("new"), config("newer")], "s");
        half.back.pop();
        assert!(!restores(&before, &half));
        // What is there already is not made, and deleting it again would not lead back.
        assert!(!restores(&before, &Remedy::create(vec![config("there")], "s")));
    }
}
