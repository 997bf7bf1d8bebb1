//! Paths of managed fields and of differences, in an object: `spec.containers[name=app].image`.

use crate::model::json::Value;

use crate::model::fields::Fields;

/// The JSON pointer of a path in a body, and the value there. Items of lists are chosen by their keys (`[name=app]`,
/// `[containerPort=80,protocol=TCP]`) or by their place (`[0]`). `None` where there is no such field.
pub fn locate<'a>(body: &'a Value, path: &str) -> Option<(String, &'a Value)> {
    let (mut pointer, mut value) = (String::new(), body);
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (selector, after) = inside.split_once(']')?;
            let list = value.as_array()?;
            let index = match selector.parse::<usize>() {
                Ok(index) => index,
                Err(_) => list.iter().position(|item| selects(selector, item))?,
            };
            (value, rest) = (list.get(index)?, after.strip_prefix('.').unwrap_or(after));
            pointer += &format!("/{index}");
            continue;
        }
        let map = value.as_object()?;
        // Keys such as `app.kubernetes.io/name` hold dots themselves: the longest key that fits is the one.
        let ends = rest.char_indices().filter(|(_, c)| matches!(c, '.' | '[')).map(|(at, _)| at);
        let mut ends: Vec<usize> = ends.chain([rest.len()]).collect();
        ends.reverse();
        let (key, child) = ends.into_iter().find_map(|end| {
            let key = rest.get(..end)?;
            Some((key, map.get(key)?))
        })?;
        pointer += &format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        let after = rest.get(key.len()..).unwrap_or_default();
        (value, rest) = (child, after.strip_prefix('.').unwrap_or(after));
    }
    Some((pointer, value))
}

/// Whether an item of a list has all of these keys: `name=app`, `containerPort=80,protocol=TCP`.
fn selects(selector: &str, item: &Value) -> bool {
    selector.split(',').all(|pair| {
        let Some((key, wanted)) = pair.split_once('=') else { return false };
        item.child(key).is_some_and(|value| match value.as_str() {
            Some(text) => text == wanted,
            None => {
                let text = value.to_string();
                text == wanted
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn items_are_found_by_key_and_by_place() {
        let body = json!({"metadata": {"labels": {"a.b/c": "d"}}, "spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81, "name": "admin"}]}});
        let at = |path: &str| locate(&body, path).map(|(pointer, value)| (pointer, value.clone()));
        assert_eq!(at("spec.ports[name=admin].port"), Some(("/spec/ports/1/port".to_owned(), json!(81))));
        assert_eq!(at("spec.ports[port=80].name"), Some(("/spec/ports/0/name".to_owned(), json!("http"))));
        assert_eq!(at("spec.ports[0].port"), Some(("/spec/ports/0/port".to_owned(), json!(80))));
        assert_eq!(at("metadata.labels.a.b/c"), Some(("/metadata/labels/a.b~1c".to_owned(), json!("d"))));
        assert_eq!(at("spec.ports[name=none].port"), None);
        assert_eq!(at("spec.ports[9].port"), None);
    }
}
