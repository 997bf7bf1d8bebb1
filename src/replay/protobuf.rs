//! The one message that `kubectl` sends as Protobuf only: "may I?".

use crate::model::json::{Map, Value, json};

/// The fields of a message: number, and content where it is text or a message.
struct Message<'a>(&'a [u8]);

impl<'a> Iterator for Message<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.varint()?;
            match key & 7 {
                0 => drop(self.varint()?),
                1 => drop(self.take(8)?),
                2 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    return Some((key >> 3, self.take(length)?));
                }
                5 => drop(self.take(4)?),
                _ => return None,
            }
        }
    }
}

impl<'a> Message<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn field(bytes: &'a [u8], number: u64) -> Option<&'a [u8]> {
        Message(bytes).find(|(field, _)| *field == number).map(|(_, content)| content)
    }
}

/// Reads a SelfSubjectAccessReview, or a SelfSubjectRulesReview whose spec does not matter. `None` where it is none.
pub(super) fn review(body: &[u8]) -> Option<Value> {
    // The envelope: a magic number, and a message whose second field is the object.
    let raw = Message::field(body.strip_prefix(b"k8s\0")?, 2)?;
    let spec = Message::field(raw, 2)?;
    let read = |bytes: &[u8], names: &[&str]| {
        let mut out = Map::new();
        for (number, content) in Message(bytes) {
            let name = usize::try_from(number).ok().and_then(|number| names.get(number.checked_sub(1)?));
            if let (Some(name), Ok(text)) = (name, std::str::from_utf8(content)) {
                out.insert((*name).to_owned(), json!(text));
            }
        }
        Value::Object(out)
    };
    let resource = Message::field(spec, 1).map(|bytes| {
        read(bytes, &["namespace", "verb", "group", "version", "resource", "subresource", "name"])
    });
    let other = Message::field(spec, 2).map(|bytes| read(bytes, &["path", "verb"]));
    let mut out = Map::new();
    let fields = [("resourceAttributes", resource), ("nonResourceAttributes", other)];
    out.extend(fields.into_iter().filter_map(|(name, value)| Some((name.into(), value?))));
    Some(json!({ "spec": out }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = vec![];
        for (number, content) in fields {
            out.extend([number << 3 | 2, content.len() as u8]);
            out.extend_from_slice(content);
        }
        out
    }

    #[test]
    fn what_is_asked_is_read() {
        let attributes = message(&[(1, b"shop"), (2, b"delete"), (3, b"apps"), (5, b"deployments")]);
        let object = message(&[(1, b""), (2, &message(&[(1, &attributes)]))]);
        let body = [b"k8s\0".as_slice(), &message(&[(1, b"type"), (2, &object)])].concat();
        let review = review(&body).unwrap();
        assert_eq!(
            review["spec"]["resourceAttributes"],
            json!({"namespace": "shop", "verb": "delete", "group": "apps", "resource": "deployments"})
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = review(&[b"k8s\0".as_slice(), &bytes].concat());
        }
    }
}
