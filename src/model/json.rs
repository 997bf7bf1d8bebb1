//! JSON values as objects hold them: with the meaning and the names of `serde_json`'s, in a fraction of their memory.
//!
//! A cluster's objects are tens of thousands of small maps with short keys. `serde_json` keeps each map in a tree whose smallest node has
//! room for eleven entries, and each text in an allocation of its own; here a map is a sorted list, as long as it is, and texts of up
//! to 24 bytes stand in place.

mod serde;

use compact_str::CompactString;
use serde_json::Number;
use std::fmt;
use std::ops;
use thin_vec::ThinVec;

/// A text of a value: a key, or a string.
pub type Text = CompactString;

/// The items of an array.
pub type List = ThinVec<Value>;

/// Any JSON value.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, whole or not.
    Number(Number),
    /// A string.
    String(Text),
    /// An array.
    Array(List),
    /// An object.
    Object(Map),
}

/// Makes a [`Value`] from JSON with expressions in it, as `serde_json::json!` does.
#[macro_export]
macro_rules! json {
    ($($json:tt)+) => { $crate::model::json::Value::from(serde_json::json!($($json)+)) };
}
pub use json;

static NULL: Value = Value::Null;

impl Value {
    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether it is a string.
    pub fn is_string(&self) -> bool {
        matches!(self, Value::String(_))
    }

    /// Whether it is a number.
    pub fn is_number(&self) -> bool {
        matches!(self, Value::Number(_))
    }

    /// Whether it is a whole number that fits into 64 bits with a sign.
    pub fn is_i64(&self) -> bool {
        self.as_i64().is_some()
    }

    /// Whether it is a whole number that is not negative.
    pub fn is_u64(&self) -> bool {
        self.as_u64().is_some()
    }

    /// Whether it is `true` or `false`.
    pub fn is_boolean(&self) -> bool {
        matches!(self, Value::Bool(_))
    }

    /// Whether it is an array.
    pub fn is_array(&self) -> bool {
        matches!(self, Value::Array(_))
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        matches!(self, Value::Object(_))
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A number as a whole one, where it is one.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_number().and_then(Number::as_i64)
    }

    /// A number as a whole one that is not negative, where it is one.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_number().and_then(Number::as_u64)
    }

    /// A number.
    pub fn as_f64(&self) -> Option<f64> {
        self.as_number().and_then(Number::as_f64)
    }

    /// A number as it was written.
    pub fn as_number(&self) -> Option<&Number> {
        match self {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The items of an array.
    pub fn as_array(&self) -> Option<&List> {
        match self {
            Value::Array(list) => Some(list),
            _ => None,
        }
    }

    /// The items of an array, to change them.
    pub fn as_array_mut(&mut self) -> Option<&mut List> {
        match self {
            Value::Array(list) => Some(list),
            _ => None,
        }
    }

    /// The entries of an object.
    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }

    /// The entries of an object, to change them.
    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        match self {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }

    /// The entry of an object by its key, or the item of an array by its place.
    pub fn get(&self, place: impl Place) -> Option<&Value> {
        place.of(self)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, place: impl Place) -> Option<&mut Value> {
        place.of_mut(self)
    }

    /// The value at a JSON pointer (RFC 6901).
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        steps(pointer)?.try_fold(self, |value, step| match value {
            Value::Object(map) => map.get(&step),
            Value::Array(list) => list.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The same, to change it.
    pub fn pointer_mut(&mut self, pointer: &str) -> Option<&mut Value> {
        steps(pointer)?.try_fold(self, |value, step| match value {
            Value::Object(map) => map.get_mut(&step),
            Value::Array(list) => list.get_mut(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The value, with `null` left in its place.
    pub fn take(&mut self) -> Value {
        std::mem::take(self)
    }

    /// The value with a JSON patch (RFC 6902) applied; none where it does not fit.
    pub fn patched(&self, operations: &Value) -> Option<Value> {
        let steps: json_patch::Patch = operations.clone().read().ok()?;
        let mut value = self.clone().into();
        json_patch::patch(&mut value, &steps).ok()?;
        Some(value.into())
    }

    /// What the value says, as a type that is read from JSON. Errors: where it does not fit.
    pub fn read<T: ::serde::de::DeserializeOwned>(self) -> Result<T, serde_json::Error> {
        serde_json::from_value(self.into())
    }
}

/// The steps of a JSON pointer; none where it is no pointer.
fn steps(pointer: &str) -> Option<impl Iterator<Item = String>> {
    let steps = if pointer.is_empty() { None } else { Some(pointer.strip_prefix('/')?.split('/')) };
    Some(steps.into_iter().flatten().map(|step| step.replace("~1", "/").replace("~0", "~")))
}

/// What finds a value in another one: a key or a place.
pub trait Place {
    /// The value there.
    fn of<'v>(&self, value: &'v Value) -> Option<&'v Value>;
    /// The same, to change it.
    fn of_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value>;
}

impl Place for &str {
    fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.as_object()?.get(self)
    }

    fn of_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.as_object_mut()?.get_mut(self)
    }
}

impl Place for &usize {
    fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        (**self).of(value)
    }

    fn of_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        (**self).of_mut(value)
    }
}

impl Place for &String {
    fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.as_str().of(value)
    }

    fn of_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        self.as_str().of_mut(value)
    }
}

impl Place for &Text {
    fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.as_str().of(value)
    }

    fn of_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        self.as_str().of_mut(value)
    }
}

impl Place for usize {
    fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.as_array()?.get(*self)
    }

    fn of_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.as_array_mut()?.get_mut(*self)
    }
}

/// `null` where nothing is.
impl<P: Place> ops::Index<P> for Value {
    type Output = Value;

    fn index(&self, place: P) -> &Value {
        place.of(self).unwrap_or(&NULL)
    }
}

/// The entry of that key, made where there is none; what is no object becomes one.
impl ops::IndexMut<&str> for Value {
    fn index_mut(&mut self, key: &str) -> &mut Value {
        if !self.is_object() {
            *self = Value::Object(Map::new());
        }
        match self {
            Value::Object(map) => map.entry(key).or_insert(Value::Null),
            other => other,
        }
    }
}

/// Up to so many entries are looked through one by one: where both ways of finding a key take the same time, on objects of a mesh.
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
    fn of(mut entries: ThinVec<(Text, Value)>) -> Self {
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

/// As JSON.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As JSON; `{:#}` with a line for each entry.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text =
            if f.alternate() { serde_json::to_string_pretty(self) } else { serde_json::to_string(self) };
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => Value::Number(number),
            serde_json::Value::String(text) => text.into(),
            serde_json::Value::Array(list) => list.into_iter().map(Value::from).collect(),
            serde_json::Value::Object(map) => {
                Value::Object(map.into_iter().map(|(k, v)| (k, v.into())).collect())
            }
        }
    }
}

impl From<Value> for serde_json::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => serde_json::Value::Bool(value),
            Value::Number(number) => serde_json::Value::Number(number),
            Value::String(text) => serde_json::Value::String(text.into()),
            Value::Array(list) => list.into_iter().collect(),
            Value::Object(map) => {
                serde_json::Value::Object(map.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
            }
        }
    }
}

impl<V: Into<Value>> FromIterator<V> for Value {
    fn from_iter<I: IntoIterator<Item = V>>(items: I) -> Self {
        Value::Array(items.into_iter().map(Into::into).collect())
    }
}

impl<V: Into<Value>> From<Vec<V>> for Value {
    fn from(items: Vec<V>) -> Self {
        items.into_iter().collect()
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Value::Object(map)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),+) => { $(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Value::$variant(value.into())
            }
        }
    )+ };
}
from!(bool => Bool, i32 => Number, i64 => Number, u16 => Number, u32 => Number, u64 => Number, usize => Number, &str => String, String => String, &String => String, Text => String);

macro_rules! same {
    ($($type:ty: $as:ident),+) => { $(
        impl PartialEq<$type> for Value {
            fn eq(&self, other: &$type) -> bool {
                self.$as().is_some_and(|own| own == *other)
            }
        }
    )+ };
}
same!(&str: as_str, String: as_str, bool: as_bool, i64: as_i64, u64: as_u64);

impl PartialEq<str> for Value {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<i32> for Value {
    fn eq(&self, other: &i32) -> bool {
        *self == i64::from(*other)
    }
}

#[cfg(test)]
mod tests;
