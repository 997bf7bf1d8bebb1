//! Conditions on a text.

use regex::{Regex, RegexBuilder};
use std::sync::{Arc, OnceLock};

/// Bytes that a compiled expression may take. Envoy bounds its own programs likewise; an expression that needs more was
/// written to hurt.
const MAX_PROGRAM: usize = 1 << 20;

/// A condition on a text.
#[derive(Debug, Clone)]
pub enum TextMatch {
    /// Anything, as long as there is something.
    Present,
    /// This text.
    Exact(String),
    /// A text that begins so.
    Prefix(String),
    /// A text that ends so.
    Suffix(String),
    /// A text that fits an expression as a whole.
    Regex(Pattern),
}

/// A regular expression as RE2 reads it, which has to fit the whole text. It is compiled when it is first asked for: of a
/// mesh's thousands of routes a request meets a few.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// As it is written.
    pub text: String,
    compiled: Arc<OnceLock<Option<Regex>>>,
}

impl Pattern {
    /// An expression. One that cannot be compiled fits nothing; [`Pattern::is_valid`] tells.
    pub fn new(text: &str) -> Self {
        Pattern { text: text.to_owned(), compiled: Arc::default() }
    }

    fn regex(&self) -> Option<&Regex> {
        let compile = || {
            let bounded = |text: &str| RegexBuilder::new(text).size_limit(MAX_PROGRAM).build().ok();
            // Parentheses that close what the wrapping opened are no expression of their own.
            bounded(&self.text).and_then(|_| bounded(&format!("^(?:{})$", self.text)))
        };
        self.compiled.get_or_init(compile).as_ref()
    }

    /// Whether the expression could be compiled.
    pub fn is_valid(&self) -> bool {
        self.regex().is_some()
    }

    /// Whether it fits the whole text.
    pub fn matches(&self, text: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(text))
    }
}

impl TextMatch {
    /// Whether it fits; `ignore_case` does not concern expressions, as in Envoy.
    pub fn matches(&self, text: &str, ignore_case: bool) -> bool {
        let fold = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        match self {
            TextMatch::Present => true,
            TextMatch::Exact(own) if ignore_case => own.eq_ignore_ascii_case(text),
            TextMatch::Exact(own) => own == text,
            TextMatch::Prefix(own) if !ignore_case => text.starts_with(own.as_str()),
            TextMatch::Suffix(own) if !ignore_case => text.ends_with(own.as_str()),
            TextMatch::Prefix(own) => fold(text).starts_with(&fold(own)),
            TextMatch::Suffix(own) => fold(text).ends_with(&fold(own)),
            TextMatch::Regex(pattern) => pattern.matches(text),
        }
    }

    /// Whether an expression in it could not be compiled.
    pub fn is_invalid(&self) -> bool {
        matches!(self, TextMatch::Regex(pattern) if !pattern.is_valid())
    }
}

impl std::fmt::Display for TextMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TextMatch::Present => f.write_str("present"),
            TextMatch::Exact(text) => write!(f, "= {text:?}"),
            TextMatch::Prefix(text) => write!(f, "prefix {text:?}"),
            TextMatch::Suffix(text) => write!(f, "suffix {text:?}"),
            TextMatch::Regex(pattern) => write!(f, "regex {:?}", pattern.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_fits_the_whole_text() {
        let regex = TextMatch::Regex(Pattern::new("/a|/b"));
        assert!(regex.matches("/b", false) && !regex.matches("/bc", false) && !regex.matches("x/a", false));
        assert!(TextMatch::Regex(Pattern::new("(?=x)")).is_invalid());
        assert!(TextMatch::Regex(Pattern::new("a)(?:b")).is_invalid());
    }
}
