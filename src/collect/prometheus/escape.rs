//! Text as a PromQL string: whatever it holds, it stays inside its quotes.

use std::fmt::Write;

/// A text as a quoted PromQL string. The escapes are those of Go, which PromQL shares.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Also what a terminal or a log would act on: they match as they are, and are never sent as they are.
            c if c.is_control() => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A regular expression that matches exactly one of the texts, as a quoted PromQL string. Prometheus anchors it at both
/// ends. No text at all matches the empty label only.
pub fn quote_any<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let alternatives: Vec<String> = texts.into_iter().map(regex::escape).collect();
    quote(&alternatives.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use promql_parser::label::MatchOp;
    use promql_parser::parser::{Expr, parse};
    use proptest::prelude::*;

    /// The value of the only matcher of a query, and whether it is a regular expression.
    fn only_matcher(query: &str) -> Option<(String, bool)> {
        let Ok(Expr::VectorSelector(selector)) = parse(query) else { return None };
        let [matcher] = selector.matchers.matchers.as_slice() else { return None };
        Some((matcher.value.clone(), matches!(matcher.op, MatchOp::Re(_))))
    }

    #[test]
    fn hostile_values_stay_inside() {
        for text in ["\"} or up{x=\"", "a\\", "\\\"", "a\nb", "{{}}", "`", "é\u{202e}", "\u{7}\u{7f}\u{85}"]
        {
            assert_eq!(only_matcher(&format!("up{{a={}}}", quote(text))), Some((text.to_owned(), false)));
        }
    }

    #[test]
    fn a_dot_in_a_name_is_a_dot() {
        assert_eq!(quote_any(["a.b", "c|d"]), r#""a\\.b|c\\|d""#);
    }

    proptest! {
        #[test]
        fn no_text_can_leave_its_matcher(text in any::<String>()) {
            prop_assume!(!text.is_empty());
            let matcher = only_matcher(&format!("up{{namespace={}}}", quote(&text)));
            prop_assert_eq!(matcher, Some((text, false)));
        }

        #[test]
        fn alternatives_match_their_texts_and_nothing_else(texts in prop::collection::vec("[ -~]{1,12}", 1..4), other in "[ -~]{1,12}") {
            let matcher = only_matcher(&format!("up{{a=~{}}}", quote_any(texts.iter().map(String::as_str))));
            let (pattern, is_regex) = matcher.unwrap();
            prop_assert!(is_regex);
            let pattern = regex::Regex::new(&format!("^(?s:{pattern})$")).unwrap();
            for text in &texts {
                prop_assert!(pattern.is_match(text));
            }
            prop_assert_eq!(pattern.is_match(&other), texts.contains(&other));
        }
    }
}
