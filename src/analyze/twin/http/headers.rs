//! Changes of headers on the way.

use std::collections::BTreeMap;

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

    /// Applies it. Names are compared without case; the name that is there keeps its spelling.
    pub fn apply(&self, headers: &mut BTreeMap<String, String>) {
        for name in &self.remove {
            headers.retain(|known, _| !known.eq_ignore_ascii_case(name));
        }
        for (name, value) in &self.set {
            headers.retain(|known, _| !known.eq_ignore_ascii_case(name));
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            match headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
                Some((_, known)) => *known = format!("{known},{value}"),
                None => {
                    headers.insert(name.clone(), value.clone());
                }
            }
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

    #[test]
    fn headers_are_removed_set_and_appended_without_regard_to_case() {
        let mut headers: BTreeMap<String, String> =
            [("A", "1"), ("B", "1"), ("C", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let ops = HeaderOps {
            set: vec![pair("a", "2")],
            add: vec![pair("b", "2"), pair("d", "2")],
            remove: vec!["c".into()],
        };
        ops.apply(&mut headers);
        assert_eq!(get(&headers, "A"), Some("2"));
        assert_eq!(get(&headers, "b"), Some("1,2"));
        assert_eq!((get(&headers, "C"), get(&headers, "D")), (None, Some("2")));
    }
}
