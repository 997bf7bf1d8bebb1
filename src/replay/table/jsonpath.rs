//! The part of JSONPath that printer columns of CRDs use.

use crate::model::json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(i64),
    All,
    /// `[?(@.key=="value")]`, or `!=`.
    Where {
        path: Vec<String>,
        value: String,
        equal: bool,
    },
}

/// A path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(Vec<Step>);

impl Path {
    /// `None` where the path uses more than columns may.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = vec![];
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let (step, next) = bracket(inner)?;
                steps.push(step);
                rest = next;
            } else {
                let (key, next) = key(rest.strip_prefix('.')?)?;
                steps.push(if key == "*" { Step::All } else { Step::Key(key) });
                rest = next;
            }
        }
        Some(Path(steps))
    }

    /// The first value that it leads to.
    pub(super) fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        follow(&self.0, value).filter(|value| !value.is_null())
    }
}

fn follow<'a>(steps: &[Step], value: &'a Value) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Key(key) => follow(rest, value.get(key)?),
        Step::Index(index) => {
            let list = value.as_array()?;
            let at = if *index < 0 {
                list.len().checked_sub(index.unsigned_abs() as usize)?
            } else {
                *index as usize
            };
            follow(rest, list.get(at)?)
        }
        Step::All => match value {
            Value::Array(items) => items.iter().find_map(|item| follow(rest, item)),
            Value::Object(map) => map.values().find_map(|item| follow(rest, item)),
            _ => None,
        },
        Step::Where { path, value: wanted, equal } => value.as_array()?.iter().find_map(|item| {
            let found = path.iter().try_fold(item, |at, key| at.get(key));
            let same = match found {
                Some(Value::String(text)) => text == wanted,
                Some(other) => serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *other),
                None => false,
            };
            if same == *equal { follow(rest, item) } else { None }
        }),
    }
}

/// A key up to the next dot or bracket; `\.` is a dot of the key.
fn key(text: &str) -> Option<(String, &str)> {
    let mut key = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => key.push(chars.next()?.1),
            '.' | '[' => return (!key.is_empty()).then_some((key, text.get(at..)?)),
            c => key.push(c),
        }
    }
    (!key.is_empty()).then_some((key, ""))
}

/// What stands in brackets, after the opening one.
fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(filter) = text.strip_prefix("?(@") {
        let (condition, rest) = filter.split_once(")]")?;
        let (path, value, equal) = match condition.split_once("==") {
            Some((path, value)) => (path, value, true),
            None => condition.split_once("!=").map(|(path, value)| (path, value, false))?,
        };
        let path = path.trim().trim_start_matches('.').split('.').map(str::to_owned).collect();
        let value = value.trim().trim_matches(['"', '\'']).to_owned();
        return Some((Step::Where { path, value, equal }, rest));
    }
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let (name, rest) = text.get(1..)?.split_once(quote)?;
        return Some((Step::Key(name.to_owned()), rest.strip_prefix(']')?));
    }
    let (inner, rest) = text.split_once(']')?;
    let step = if inner == "*" { Step::All } else { Step::Index(inner.parse().ok()?) };
    Some((step, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn paths_of_columns() {
        let object = json!({"metadata": {"labels": {"a.b/c": "x"}}, "spec": {"hosts": ["h1", "h2"], "n": null},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True", "n": 3}]}});
        let get = |path: &str| Path::parse(path).unwrap().first(&object).cloned();
        assert_eq!(get(".spec.hosts"), Some(json!(["h1", "h2"])));
        assert_eq!(get(".spec.hosts[1]"), Some(json!("h2")));
        assert_eq!(get(".spec.hosts[-1]"), Some(json!("h2")));
        assert_eq!(get(".spec.hosts[*]"), Some(json!("h1")));
        assert_eq!(get(".spec.hosts[7]"), None);
        assert_eq!(get(".spec.n"), None);
        assert_eq!(get(r#"{.status.conditions[?(@.type=="Ready")].status}"#), Some(json!("True")));
        assert_eq!(get(".status.conditions[?(@.type!='A')].n"), Some(json!(3)));
        assert_eq!(get(r".metadata.labels.a\.b/c"), Some(json!("x")));
        assert_eq!(get("$.metadata.labels['a.b/c']"), Some(json!("x")));
        for wrong in ["spec", ".a..b", ".a[", ".a[x]", ".a[?(@.b)]", ".a\\"] {
            assert_eq!(Path::parse(wrong), None, "{wrong}");
        }
    }
}
