//! Field paths as findings write them: `spec.http[0].route[1].destination`, `metadata.annotations[sidecar.istio.io/inject]`,
//! `spec.containers[name=app].image`.

use crate::model::json::Value;

use super::fields::Fields;

/// One step of a field path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// An entry of a map.
    Key(&'a str),
    /// An item of a list, by its place.
    Index(usize),
    /// An item of a list, by one of its fields: `[name=app]`.
    Item(&'a str, &'a str),
}

/// The steps of a field path. What stands in brackets is one step, whatever it holds.
pub fn steps(path: &str) -> Vec<Step<'_>> {
    let mut out = vec![];
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (step, after) = inside.split_once(']').unwrap_or((inside, ""));
            out.push(match (step.parse(), step.split_once('=')) {
                (Ok(index), _) => Step::Index(index),
                (Err(_), Some((key, value))) if !key.contains('/') => Step::Item(key, value),
                _ => Step::Key(step),
            });
            rest = after;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (step, after) = rest.split_at(end);
            if !step.is_empty() {
                out.push(Step::Key(step));
            }
            rest = after;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    out
}

/// The place of the item that a step means.
pub fn index_of(list: &[Value], step: Step<'_>) -> Option<usize> {
    match step {
        Step::Index(index) => (index < list.len()).then_some(index),
        Step::Item(key, value) => list.iter().position(|item| item.text(key) == Some(value)),
        Step::Key(_) => None,
    }
}

/// The value at a field path.
pub fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).into_iter().try_fold(value, |value, step| match (value, step) {
        (Value::Object(map), Step::Key(key)) => map.get(key),
        // A key of a map may look like a number (a port) or like an assignment.
        (Value::Object(map), Step::Index(index)) => map.get(&index.to_string()),
        (Value::Object(map), Step::Item(key, item)) => map.get(&format!("{key}={item}")),
        (Value::Array(list), step) => list.get(index_of(list, step)?),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn brackets_hold_one_step() {
        assert_eq!(
            steps("metadata.annotations[a.b/c].spec[12][name=app].x"),
            [
                Step::Key("metadata"),
                Step::Key("annotations"),
                Step::Key("a.b/c"),
                Step::Key("spec"),
                Step::Index(12),
                Step::Item("name", "app"),
                Step::Key("x")
            ]
        );
        assert!(steps("").is_empty());
        assert_eq!(steps("a[b"), [Step::Key("a"), Step::Key("b")]);
    }

    #[test]
    fn values_are_found_by_place_and_by_name() {
        let value = json!({"spec": {"containers": [{"name": "a"}, {"name": "app", "image": "i"}], "ports": {"80": 1}}});
        assert_eq!(find(&value, "spec.containers[name=app].image"), Some(&json!("i")));
        assert_eq!(find(&value, "spec.containers[0].name"), Some(&json!("a")));
        assert_eq!(find(&value, "spec.ports[80]"), Some(&json!(1)));
        assert_eq!(find(&value, "spec.containers[2]"), None);
        assert_eq!(find(&value, ""), Some(&value));
    }
}
