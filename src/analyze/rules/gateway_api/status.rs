//! What a controller wrote into an object's status, as far as it is about the object as it is now.

use crate::model::json::Value;

use crate::model::fields::Fields;
use crate::model::object::Object;

/// Whether a condition was written for the object's present generation. Where either side does not say, it counts.
pub fn current(object: &Object, condition: &Value) -> bool {
    match (condition.int("observedGeneration"), object.generation) {
        (Some(seen), Some(now)) => seen >= now,
        _ => true,
    }
}

/// Whether current conditions hold one of this type with this status.
pub fn says(object: &Object, conditions: &[Value], kind: &str, status: &str) -> bool {
    conditions.iter().any(|condition| {
        condition.text("type") == Some(kind)
            && condition.text("status") == Some(status)
            && current(object, condition)
    })
}

/// The current conditions of an object's ancestors or parents that name one object: kind and name.
pub fn of_ancestor<'a>(object: &'a Object, kind: &'a str, name: &'a str) -> impl Iterator<Item = &'a Value> {
    let entries = object.body.list("status.ancestors").iter();
    let mine = entries.filter(move |entry| {
        entry.text("ancestorRef.kind") == Some(kind) && entry.text("ancestorRef.name") == Some(name)
    });
    mine.flat_map(|entry| entry.list("conditions")).filter(move |condition| current(object, condition))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn a_condition_of_an_older_generation_says_nothing() {
        let object = |seen: i64| {
            Object::read(json!({"kind": "Gateway", "metadata": {"name": "g", "namespace": "n", "generation": 3},
                "status": {"conditions": [{"type": "Programmed", "status": "True", "observedGeneration": seen}]}}))
            .unwrap()
        };
        let says =
            |object: &Object| says(object, object.body.list("status.conditions"), "Programmed", "True");
        assert!(says(&object(3)) && !says(&object(2)));
    }
}
