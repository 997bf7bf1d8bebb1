//! Changes of headers on the way.

use std::collections::{BTreeMap, BTreeSet};

use super::operators::Value;

/// What a route, a cluster or a virtual host does to headers, in Envoy's order: remove, then set and add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderOps {
    /// Overwrites or creates.
    pub set: Vec<(String, String)>,
    /// Appends a value.
    pub add: Vec<(String, String)>,
    /// Takes away.
    pub remove: Vec<String>,
}

impl HeaderOps {
    /// Whether it does anything.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Applies it: takes away, then puts all values together from what is left, then sets and adds. `value` is asked what a
    /// value comes to beside those headers. Names are compared without case; the name that is there keeps its spelling.
    pub fn apply(&self, headers: &mut Carried, value: &dyn Fn(&str, &Carried) -> Value) {
        for name in &self.remove {
            headers.take(name);
        }
        let before = headers.clone();
        let read = |list: &[(String, String)]| -> Vec<(String, Value)> {
            let read = list.iter().map(|(name, text)| (name.clone(), value(text, &before)));
            // No value is no header, and leaves one that is there as it is.
            read.filter(|(_, value)| *value != Value::Nothing).collect()
        };
        let (set, add) = (read(&self.set), read(&self.add));
        for (name, value) in set {
            headers.take(&name);
            headers.put(name, value);
        }
        for (name, value) in add {
            headers.put(name, value);
        }
    }
}

/// Headers on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// Those whose value is known.
    pub known: BTreeMap<String, String>,
    /// Names, in lower case, of those that are there with a value that configuration does not decide, and the operator that it
    /// hangs on.
    pub undecided: BTreeMap<String, String>,
    /// Names, in lower case, of those that have several values: an operator reads the first one alone.
    several: BTreeSet<String>,
}

impl Carried {
    /// Headers all of whose values are known.
    pub fn of(known: BTreeMap<String, String>) -> Self {
        Carried { known, ..Carried::default() }
    }

    fn take(&mut self, name: &str) {
        let lower = name.to_ascii_lowercase();
        self.known.retain(|known, _| !known.eq_ignore_ascii_case(name));
        self.undecided.remove(&lower);
        self.several.remove(&lower);
    }

    fn put(&mut self, name: String, value: Value) {
        let lower = name.to_ascii_lowercase();
        match value {
            Value::Undecided(operator) => {
                self.take(&name);
                self.undecided.insert(lower, operator);
            }
            Value::Nothing => {}
            Value::Is(_) if self.undecided.contains_key(&lower) => {}
            Value::Is(value) => {
                match self.known.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                    Some((_, known)) => {
                        *known = format!("{known},{value}");
                        self.several.insert(lower);
                    }
                    None => {
                        self.known.insert(name, value);
                    }
                }
            }
        }
    }

    /// What an operator reads of a header: nothing where there is none, and `None` where nobody can tell, as of a missing one
    /// that is `expected` to be there though nothing says so.
    pub fn tell(&self, name: &str, expected: impl Fn(&str) -> bool) -> Option<String> {
        let own = ["x-envoy-", "x-forwarded-", "x-request-id"].iter().any(|family| name.starts_with(family));
        if self.undecided.contains_key(name) || self.several.contains(name) || (own && expected(name)) {
            return None;
        }
        match get(&self.known, name) {
            Some(value) => Some(value.to_owned()),
            None => (!expected(name)).then(String::new),
        }
    }
}

/// The value of a header, whatever the case of its name.
pub fn get<'h>(headers: &'h BTreeMap<String, String>, name: &str) -> Option<&'h str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(k: &str, v: &str) -> (String, String) {
        (k.to_owned(), v.to_owned())
    }

    /// What a value comes to where `?` is not decided and `=name` is another header's value.
    fn value(text: &str, headers: &Carried) -> Value {
        match text.strip_prefix('=') {
            Some(name) => match headers.tell(name, |_| false) {
                Some(missing) if missing.is_empty() => Value::Nothing,
                Some(known) => Value::Is(known),
                None => Value::Undecided(text.to_owned()),
            },
            None if text == "?" => Value::Undecided("?".to_owned()),
            None if text.is_empty() => Value::Nothing,
            None => Value::Is(text.trim().to_owned()),
        }
    }

    fn after(ops: &HeaderOps) -> Carried {
        let known = [("A", "1"), ("B", "1"), ("C", "1")].map(|(k, v)| pair(k, v)).into();
        let mut headers = Carried::of(known);
        ops.apply(&mut headers, &value);
        headers
    }

    #[test]
    fn headers_are_removed_set_and_appended_without_regard_to_case() {
        let ops = HeaderOps {
            set: vec![pair("a", "2")],
            add: vec![pair("b", "2"), pair("d", "2")],
            remove: vec!["c".into()],
        };
        let headers = after(&ops).known;
        assert_eq!(get(&headers, "A"), Some("2"));
        assert_eq!(get(&headers, "b"), Some("1,2"));
        assert_eq!((get(&headers, "C"), get(&headers, "D")), (None, Some("2")));
    }

    #[test]
    fn values_are_read_of_what_removal_leaves_and_before_others_are_set() {
        let set = vec![pair("a", "2"), pair("x", "=a"), pair("y", "=c"), pair("b", "")];
        let headers = after(&HeaderOps { set, add: vec![], remove: vec!["c".into()] }).known;
        assert_eq!((get(&headers, "x"), get(&headers, "y")), (Some("1"), None));
        assert_eq!(get(&headers, "b"), Some("1"), "no value leaves what is there");
        let blank = after(&HeaderOps { set: vec![pair("a", " ")], ..HeaderOps::default() }).known;
        assert_eq!(get(&blank, "a"), Some(""), "blanks are a value");
    }

    #[test]
    fn what_is_not_decided_is_no_value_until_it_is_set_again() {
        let first = HeaderOps { set: vec![pair("A", "?")], add: vec![pair("b", "?")], remove: vec![] };
        let mut headers = after(&first);
        assert_eq!(headers.undecided.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((get(&headers.known, "a"), headers.tell("a", |_| false)), (None, None));
        let second = HeaderOps { set: vec![pair("a", "3")], add: vec![pair("B", "3")], remove: vec![] };
        second.apply(&mut headers, &value);
        assert_eq!(get(&headers.known, "a"), Some("3"));
        assert!(headers.undecided.contains_key("b") && get(&headers.known, "b").is_none());
    }
}
