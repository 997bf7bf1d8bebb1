//! JSON objects: sorted lists of entries, as long as they are.

use std::fmt;
use thin_vec::ThinVec;

use super::{Text, Value};

/// Up to so many entries are looked through one by one. Few maps of Kubernetes' and Istio's objects have more.
const SHORT: usize = 8;

/// Whether two keys are the same: of keys that differ, nearly all differ in length or in their last byte.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.last() == b.last() && a == b
}

/// The entries of a JSON object, in the order of their keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Map(ThinVec<(Text, Value)>);

impl Map {
    /// No entries.
    pub fn new() -> Self {
        Map::default()
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The place of a key, or where it would stand.
    fn place(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| own.as_str().cmp(key))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let entries = self.0.as_slice();
        // Most maps are short. There, comparing lengths along the list is faster than comparing texts halfway.
        if entries.len() <= SHORT {
            return entries
                .iter()
                .find(|(own, _)| same(own.as_bytes(), key.as_bytes()))
                .map(|(_, value)| value);
        }
        self.place(key).ok().and_then(|at| entries.get(at)).map(|(_, value)| value)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        let at = self.place(key).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.place(key).is_ok()
    }

    /// Puts a value there, and returns the one that it takes the place of.
    pub fn insert(&mut self, key: impl Into<Text>, value: Value) -> Option<Value> {
        let key = key.into();
        match self.place(&key) {
            Ok(at) => self.0.get_mut(at).map(|(_, old)| std::mem::replace(old, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// The place of a key, to put a value there where none is.
    pub fn entry(&mut self, key: impl Into<Text>) -> Entry<'_> {
        Entry { map: self, key: key.into() }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.place(key).ok().map(|at| self.0.remove(at).1)
    }

    /// Keeps the entries that are wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&str, &mut Value) -> bool) {
        self.0.retain_mut(|(key, value)| wanted(key, value));
    }

    /// The entries.
    pub fn iter(&self) -> Iter<'_> {
        self.0.iter().map(pair)
    }

    /// The entries, to change their values.
    pub fn iter_mut(&mut self) -> IterMut<'_> {
        self.0.iter_mut().map(pair_mut)
    }

    /// The keys.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Text> + ExactSizeIterator + Clone {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    /// The values, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Entries in any order. Of two equal keys the later one counts, as everywhere in JSON.
    pub(super) fn of(mut entries: ThinVec<(Text, Value)>) -> Self {
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            // Stable: equal keys keep their order, and the last of them is brought to the front.
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries.reverse();
            entries.dedup_by(|later, kept| later.0 == kept.0);
            entries.reverse();
        }
        // Most maps are short, and room for more would stay empty in all of them.
        entries.shrink_to_fit();
        Map(entries)
    }
}

/// The place of a key in a [`Map`].
#[derive(Debug)]
pub struct Entry<'m> {
    map: &'m mut Map,
    key: Text,
}

impl<'m> Entry<'m> {
    /// The value there, put there where none was.
    pub fn or_insert_with(self, value: impl FnOnce() -> Value) -> &'m mut Value {
        let at = self.map.place(&self.key).unwrap_or_else(|at| {
            self.map.0.insert(at, (self.key, value()));
            at
        });
        #[allow(clippy::indexing_slicing, reason = "it is there, or was put there")]
        let (_, value) = &mut self.map.0[at];
        value
    }

    /// The value there, put there where none was.
    pub fn or_insert(self, value: Value) -> &'m mut Value {
        self.or_insert_with(|| value)
    }
}

/// The entries of a [`Map`].
pub type Iter<'m> =
    std::iter::Map<std::slice::Iter<'m, (Text, Value)>, fn(&(Text, Value)) -> (&Text, &Value)>;

/// The entries of a [`Map`], to change their values.
pub type IterMut<'m> =
    std::iter::Map<std::slice::IterMut<'m, (Text, Value)>, fn(&mut (Text, Value)) -> (&Text, &mut Value)>;

fn pair((key, value): &(Text, Value)) -> (&Text, &Value) {
    (key, value)
}

fn pair_mut((key, value): &mut (Text, Value)) -> (&Text, &mut Value) {
    (key, value)
}

impl<'m> IntoIterator for &'m Map {
    type Item = (&'m Text, &'m Value);
    type IntoIter = Iter<'m>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'m> IntoIterator for &'m mut Map {
    type Item = (&'m Text, &'m mut Value);
    type IntoIter = IterMut<'m>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl Extend<(Text, Value)> for Map {
    fn extend<I: IntoIterator<Item = (Text, Value)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl IntoIterator for Map {
    type Item = (Text, Value);
    type IntoIter = thin_vec::IntoIter<(Text, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<K: Into<Text>> FromIterator<(K, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(entries: I) -> Self {
        Map::of(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}
