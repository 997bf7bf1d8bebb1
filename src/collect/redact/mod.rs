//! Redaction of cluster text on its way in, of a bundle and of a live cluster alike.
//!
//! Secrets become `[redacted:KIND]`; control and bidirectional characters, which can make a terminal or an editor show
//! something else than what is there, are dropped. What an analysis lives on stays: IP addresses, request and trace ids,
//! hashes of images and ReplicaSets, addresses without credentials.
//!
//! A mask carries no hash of what it hides: a hash with a fixed key lets anybody confirm a guess, and one with a key per
//! run would make two runs over the same input differ.
//!
//! Text must be redacted *before* it is cut: half a token looks like no token.

mod clean;
mod json;
mod object;
mod proxy;
mod rules;

pub use json::redact_json;
pub use object::{redact_all, redact_object};
pub use proxy::redact_proxy_file;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use std::borrow::Cow;
use std::sync::LazyLock;

use rules::{RULES, Rule};

/// How often each kind of secret was masked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts([u64; RULES.len()]);

impl Counts {
    /// Kinds that were found, with their number.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let kinds = RULES.iter().map(|rule| rule.kind);
        kinds.zip(self.0.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds the counts of another text.
    pub fn add(&mut self, other: &Counts) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }

    fn one(&mut self, rule: usize) {
        if let Some(count) = self.0.get_mut(rule) {
            *count = count.saturating_add(1);
        }
    }
}

/// A compiled rule.
struct Compiled {
    index: usize,
    rule: &'static Rule,
    regex: Regex,
}

struct Engine {
    /// Whether a text needs a closer look at all: one pass, no captures.
    prefilter: Regex,
    /// Which rules a line needs.
    triggers: RegexSet,
    rules: Vec<Compiled>,
}

#[expect(clippy::expect_used, reason = "the patterns are constants, and the tests compile each of them")]
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    // Secrets are ASCII, and byte classes make automata a hundredth of the size.
    let compile =
        |pattern: &str| RegexBuilder::new(pattern).unicode(false).build().expect("a constant pattern");
    let any = RULES.iter().map(|rule| format!("(?:{})", rule.trigger)).collect::<Vec<_>>().join("|");
    let triggers = RegexSetBuilder::new(RULES.iter().map(|rule| rule.trigger)).unicode(false).build();
    let rules = RULES.iter().enumerate();
    let rules = rules.map(|(index, rule)| Compiled { index, rule, regex: compile(rule.pattern) });
    Engine {
        prefilter: compile(&any),
        triggers: triggers.expect("constant patterns"),
        rules: rules.collect(),
    }
});

/// Redacts log bytes; what needs nothing is borrowed. Counts are added to `counts`.
pub fn redact_bytes<'a>(bytes: &'a [u8], counts: &mut Counts) -> Cow<'a, [u8]> {
    match clean::clean(bytes) {
        Cow::Borrowed(bytes) => mask(bytes, counts),
        Cow::Owned(bytes) => Cow::Owned(mask(&bytes, counts).into_owned()),
    }
}

/// Redacts text; what needs nothing is borrowed. Counts are added to `counts`.
pub fn redact_text<'a>(text: &'a str, counts: &mut Counts) -> Cow<'a, str> {
    match redact_bytes(text.as_bytes(), counts) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Copies everything up to the next line that may hold a secret, looks at that line, and goes on behind it.
fn mask<'a>(bytes: &'a [u8], counts: &mut Counts) -> Cow<'a, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let (mut copied, mut from) = (0, 0);
    while let Some(hit) = ENGINE.prefilter.find_at(bytes, from) {
        let begin = memchr::memrchr(b'\n', bytes.get(from..hit.start()).unwrap_or_default())
            .map_or(from, |at| from + at + 1);
        let behind = |at: usize| bytes.get(at..).and_then(|rest| memchr::memchr(b'\n', rest)).map(|n| at + n);
        let mut end = behind(hit.start()).unwrap_or(bytes.len());
        if let Some(block) = bytes.get(hit.start()..).and_then(rules::private_key) {
            end = end.max(hit.start() + block);
            end = behind(end).unwrap_or(bytes.len());
        }
        let line = bytes.get(begin..end).unwrap_or_default();
        if let Some(masked) = mask_line(line, counts) {
            let out = out.get_or_insert_with(|| Vec::with_capacity(bytes.len()));
            out.extend_from_slice(bytes.get(copied..begin).unwrap_or_default());
            out.extend_from_slice(&masked);
            copied = end;
        }
        from = end;
        if from >= bytes.len() {
            break;
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

/// One line, or the lines of one private key. `None` where nothing was masked.
fn mask_line(line: &[u8], counts: &mut Counts) -> Option<Vec<u8>> {
    let mut current: Option<Vec<u8>> = None;
    let needed = ENGINE.triggers.matches(line);
    for Compiled { index, rule, regex } in &ENGINE.rules {
        if !needed.matched(*index) {
            continue;
        }
        let text = current.as_deref().unwrap_or(line);
        let mut next: Option<Vec<u8>> = None;
        let (mut copied, mut from) = (0, 0);
        while let Some(found) = regex.captures_at(text, from) {
            let whole = found.get_match();
            from = whole.end().max(from + 1);
            if let Some((start, end)) = (rule.select)(text, &found).filter(|(start, end)| start < end) {
                let next = next.get_or_insert_with(|| Vec::with_capacity(text.len()));
                next.extend_from_slice(text.get(copied..start).unwrap_or_default());
                next.extend_from_slice(b"[redacted:");
                next.extend_from_slice(rule.kind.as_bytes());
                next.push(b']');
                copied = end;
                from = end.max(from);
                counts.one(*index);
            }
            if from > text.len() {
                break;
            }
        }
        if let Some(mut next) = next {
            next.extend_from_slice(text.get(copied..).unwrap_or_default());
            current = Some(next);
        }
    }
    current
}

#[cfg(test)]
mod tests;
