//! A part of an object's body.

use std::ops::Deref;
use std::sync::Arc;

use crate::model::json::Value;

use crate::model::fields::Fields;

/// What a part is where its body does not have it.
static NOTHING: Value = Value::Null;

/// A field of an object's body, an entry of a list in it, or of a list in such an entry. It shares the body: of thousands of
/// routes none is held twice.
#[derive(Debug, Clone)]
pub struct Part {
    whole: Arc<Value>,
    /// Fields by their paths, and the places in those that are lists.
    at: [Option<(&'static str, Option<usize>)>; 2],
}

impl Part {
    /// A field: `spec.template.spec`.
    pub fn field(whole: &Arc<Value>, path: &'static str) -> Self {
        Part { whole: Arc::clone(whole), at: [Some((path, None)), None] }
    }

    /// An entry of a list: `spec.http` and 0 is `spec.http[0]`.
    pub fn of(whole: &Arc<Value>, list: &'static str, index: usize) -> Self {
        Part { whole: Arc::clone(whole), at: [Some((list, Some(index))), None] }
    }

    /// An entry of a list in this part, which must be an entry of the body itself.
    pub fn inner(&self, list: &'static str, index: usize) -> Self {
        let [own, _] = self.at;
        match own {
            Some(_) => Part { whole: Arc::clone(&self.whole), at: [own, Some((list, Some(index)))] },
            None => Part::of(&self.whole, list, index),
        }
    }

    /// A value that is part of no body.
    pub fn own(value: Value) -> Self {
        Part { whole: Arc::new(value), at: [None, None] }
    }
}

impl Deref for Part {
    type Target = Value;

    fn deref(&self) -> &Value {
        let mut value: &Value = &self.whole;
        for (path, index) in self.at.iter().flatten() {
            let field = value.at(path);
            value = match index {
                Some(index) => field.and_then(|list| list.get(*index)),
                None => field,
            }
            .unwrap_or(&NOTHING);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn a_part_reads_as_the_value_that_stands_there() {
        let whole = Arc::new(json!({"spec": {"http": [{"match": [{"port": 1}, {"port": 2}]}]}}));
        let route = Part::of(&whole, "spec.http", 0);
        assert_eq!(route.list("match").len(), 2);
        assert_eq!(route.inner("match", 1).int("port"), Some(2));
        assert_eq!(*Part::of(&whole, "spec.http", 7), Value::Null);
        assert_eq!(Part::field(&whole, "spec").list("http").len(), 1);
        assert_eq!(*Part::field(&whole, "status"), Value::Null);
        let own = Part::own(json!({"match": [{"port": 3}]}));
        assert_eq!((own.list("match").len(), own.inner("match", 0).int("port")), (1, Some(3)));
    }
}
