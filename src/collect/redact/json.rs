//! Redaction of JSON without a tree of it: a trace file may hold a million texts, and of these next to none a secret.

use memchr::{memchr, memchr2};
use std::borrow::Cow;

use super::{Counts, ENGINE, clean, redact_text};

/// Redacts every text of a JSON document. What needs nothing is borrowed, and what is no JSON stays as malformed as it was.
pub fn redact_json<'a>(bytes: &'a [u8], counts: &mut Counts) -> Cow<'a, [u8]> {
    let raw_control = matches!(clean::clean(bytes), Cow::Owned(_));
    let escaped_control = memchr::memmem::find(bytes, b"\\u").is_some();
    if !raw_control && !escaped_control && !ENGINE.prefilter.is_match(bytes) {
        return Cow::Borrowed(bytes);
    }
    let mut out: Option<Vec<u8>> = None;
    let (mut copied, mut at) = (0, 0);
    // The text before, for a pair of `"key": …, "value": …` whose name says that its value is secret.
    let mut name: Option<String> = None;
    while let Some(start) = bytes.get(at..).and_then(|rest| memchr(b'"', rest)).map(|skip| at + skip) {
        let Some(end) = end_of_text(bytes, start + 1) else { break };
        at = end + 1;
        let literal = bytes.get(start..at).unwrap_or_default();
        let Ok(text) = serde_json::from_slice::<String>(literal) else { continue };
        let masked = match &name {
            Some(name) => super::object::environment(name, &text, counts),
            None => None,
        };
        let masked = masked.or_else(|| match redact_text(&text, counts) {
            Cow::Owned(masked) => Some(masked),
            Cow::Borrowed(_) => None,
        });
        if let Some(masked) = masked
            && let Ok(literal) = serde_json::to_vec(&masked)
        {
            let out = out.get_or_insert_with(|| Vec::with_capacity(bytes.len()));
            out.extend_from_slice(bytes.get(copied..start).unwrap_or_default());
            out.extend_from_slice(&literal);
            copied = at;
        }
        // A key says what follows it; words of the format itself say nothing and leave what was said.
        if !matches!(
            text.as_str(),
            "key" | "value" | "stringValue" | "string_value" | "type" | "string" | "name"
        ) {
            name = Some(text);
        }
    }
    match out {
        None => Cow::Borrowed(bytes),
        Some(mut out) => {
            out.extend_from_slice(bytes.get(copied..).unwrap_or_default());
            Cow::Owned(out)
        }
    }
}

/// The place of the quote that ends a text.
fn end_of_text(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let found = at + memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes.get(found) {
            Some(b'"') => return Some(found),
            _ => at = found + 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        let out = redact_json(text.as_bytes(), &mut Counts::default()).into_owned();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_of_attributes_go_and_the_document_stays_one() {
        let plain = r#"{"resourceSpans":[{"spans":[{"traceId":"05b3a32e6f6930bef38fe164d1e23234","name":"a.B/getToken"}]}]}"#;
        assert!(matches!(redact_json(plain.as_bytes(), &mut Counts::default()), Cow::Borrowed(_)));
        for text in [
            r#"{"attributes":[{"key":"http.request.header.authorization","value":{"stringValue":"Bearer abcdef0123456789"}}]}"#,
            r#"{"tags":[{"key":"db.password","type":"string","value":"abcdef0123456789"}]}"#,
            r#"{"tags":{"url":"http://u:abcdef0123456789@h/"}}"#,
            r#"{"tags":{"password":"abcdef0123456789"}}"#,
        ] {
            let out = redacted(text);
            assert!(!out.contains("abcdef0123456789") && out.contains("[redacted:"), "{out}");
            assert!(serde_json::from_str::<crate::model::json::Value>(&out).is_ok(), "{out}");
        }
    }

    #[test]
    fn control_characters_go_in_either_writing() {
        assert_eq!(redacted(r#"{"name":"a\u001b[31mb \u202ec\"d\\"}"#), r#"{"name":"ab c\"d\\"}"#);
        assert_eq!(redacted("{\"name\":\"x\u{202e}y\"}"), r#"{"name":"xy"}"#);
        assert_eq!(redacted(r#"{"name": "never ends \"#), r#"{"name": "never ends \"#);
    }
}
