//! Values of JSON whose type no writer agrees on: a 64-bit number in quotes or not, a flag as text, a status as a word.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A value that is no list and no object; those, and null, read as [`Scalar::None`].
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Scalar<'a> {
    #[default]
    None,
    Text(Cow<'a, str>),
    Int(i64),
    Float(f64),
    Bool(bool),
}

impl Scalar<'_> {
    pub(super) fn is_none(&self) -> bool {
        *self == Scalar::None
    }

    /// As text; numbers and flags are written out.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Scalar::None => Cow::Borrowed(""),
            Scalar::Text(text) => Cow::Borrowed(text.as_ref()),
            Scalar::Int(number) => Cow::Owned(number.to_string()),
            Scalar::Float(number) => Cow::Owned(number.to_string()),
            Scalar::Bool(flag) => Cow::Borrowed(if *flag { "true" } else { "false" }),
        }
    }

    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Scalar::Int(number) => Some(*number),
            Scalar::Text(text) => {
                let text = text.trim();
                text.parse().ok().or_else(|| whole(text.parse().ok()?))
            }
            Scalar::Float(number) => whole(*number),
            _ => None,
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Scalar::Int(number) => Some(*number as f64),
            Scalar::Float(number) => Some(*number).filter(|n| n.is_finite()),
            Scalar::Text(text) => text.trim().parse().ok().filter(|n: &f64| n.is_finite()),
            _ => None,
        }
    }

    /// A flag; any text but `false`, `0` and nothing counts, since some write an error's text there.
    pub(super) fn flag(&self) -> bool {
        match self {
            Scalar::None => false,
            Scalar::Bool(flag) => *flag,
            Scalar::Int(number) => *number != 0,
            Scalar::Float(number) => *number != 0.0,
            Scalar::Text(text) => !matches!(text.as_ref(), "" | "0" | "false" | "False"),
        }
    }
}

fn whole(number: f64) -> Option<i64> {
    // Beyond that no i64 stands.
    (number.is_finite() && number.abs() < 9.2e18).then_some(number as i64)
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Any<'a> {
            type Value = Scalar<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Int(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(v).map_or(Scalar::Float(v as f64), Scalar::Int))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(v.to_owned())))
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(v)))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Scalar::None)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::None)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::None)
            }
        }
        deserializer.deserialize_any(Any(std::marker::PhantomData))
    }
}

/// A list that may also be null or absent.
#[derive(Debug)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(vec![])
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(List(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default()))
    }
}

/// The entries of an object, in order; anything else is empty.
#[derive(Debug, Default)]
pub(super) struct Entries<'a>(pub(super) Vec<(Cow<'a, str>, Scalar<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Map<'a> {
            type Value = Entries<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Entries::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = vec![];
                while let Some((key, value)) = map.next_entry::<Scalar<'a>, Scalar<'a>>()? {
                    if let Scalar::Text(key) = key {
                        out.push((key, value));
                    }
                }
                Ok(Entries(out))
            }
        }
        deserializer.deserialize_any(Map(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_quotes_flags_as_text_and_what_is_no_scalar() {
        let read = |text: &'static str| serde_json::from_str::<Scalar<'_>>(text).unwrap();
        assert_eq!(read(r#""17""#).int(), Some(17));
        assert_eq!(read("1.7e3").int(), Some(1700));
        assert_eq!(read(r#""x""#).int(), None);
        assert_eq!(read("18446744073709551615").int(), None);
        assert!(read(r#""timeout""#).flag() && !read(r#""false""#).flag() && read("true").flag());
        assert!(read(r#"{"a": [1, {}]}"#).is_none() && read("[[1], 2]").is_none() && read("null").is_none());
        assert!(matches!(read(r#""plain""#), Scalar::Text(Cow::Borrowed("plain"))), "no copy is made");
    }
}
