//! Labels and annotations: maps of short texts, of which a snapshot holds several for each object.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use thin_vec::ThinVec;

use super::json::Text;

/// A map of texts, such as the labels of an object, in the order of its keys.
///
/// A `BTreeMap` has room for eleven entries in its smallest node (544 bytes), and each of its texts an allocation of its own. Most objects have two
/// labels: here these take 112 bytes in one.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(ThinVec<(Text, Text)>);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Labels::default()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str())
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Puts a value there, in place of the one that was.
    pub fn insert(&mut self, key: impl Into<Text>, value: impl Into<Text>) {
        let (key, value) = (key.into(), value.into());
        match self.0.binary_search_by(|(own, _)| own.cmp(&key)) {
            Ok(at) => {
                if let Some((_, old)) = self.0.get_mut(at) {
                    *old = value;
                }
            }
            Err(at) => self.0.insert(at, (key, value)),
        }
    }

    /// Takes an entry out, and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Text> {
        let at = self.0.iter().position(|(own, _)| own == key)?;
        Some(self.0.remove(at).1)
    }

    /// The entries.
    pub fn iter(&self) -> Iter<'_> {
        self.0.iter().map(pair)
    }

    /// The keys.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator + Clone {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// The values.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator + Clone {
        self.0.iter().map(|(_, value)| value.as_str())
    }
}

/// The entries of [`Labels`].
pub type Iter<'l> = std::iter::Map<std::slice::Iter<'l, (Text, Text)>, fn(&(Text, Text)) -> (&str, &str)>;

fn pair((key, value): &(Text, Text)) -> (&str, &str) {
    (key, value)
}

impl<'l> IntoIterator for &'l Labels {
    type Item = (&'l str, &'l str);
    type IntoIter = Iter<'l>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Labels {
    type Item = (Text, Text);
    type IntoIter = thin_vec::IntoIter<(Text, Text)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Entries take the place of those of their keys.
impl<K: Into<Text>, V: Into<Text>> Extend<(K, V)> for Labels {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(key, value)| self.insert(key, value));
    }
}

/// Of two equal keys the later one counts.
impl<K: Into<Text>, V: Into<Text>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries = entries.into_iter();
        let mut labels = Labels(ThinVec::with_capacity(entries.size_hint().0));
        labels.extend(entries);
        labels.0.shrink_to_fit();
        labels
    }
}

impl<K: Into<Text>, V: Into<Text>, const N: usize> From<[(K, V); N]> for Labels {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl From<&BTreeMap<String, String>> for Labels {
    fn from(entries: &BTreeMap<String, String>) -> Self {
        entries.iter().collect()
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        BTreeMap::<String, String>::deserialize(from).map(|entries| Labels::from(&entries))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_hold_what_a_tree_holds(entries in prop::collection::vec(("[a-d]{1,2}", "[a-b]?"), 0..8), gone in "[a-d]{1,2}") {
            let mut tree: BTreeMap<String, String> = entries.iter().cloned().collect();
            let mut labels: Labels = entries.into_iter().collect();
            prop_assert_eq!(&labels, &Labels::from(&tree));
            prop_assert_eq!(labels.get(&gone), tree.get(&gone).map(String::as_str));
            prop_assert_eq!(labels.remove(&gone).map(String::from), tree.remove(&gone));
            prop_assert!(labels.iter().eq(tree.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
            prop_assert_eq!((labels.len(), labels.is_empty()), (tree.len(), tree.is_empty()));
        }
    }
}
