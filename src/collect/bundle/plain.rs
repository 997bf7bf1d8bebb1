//! YAML as tools write it, read in one pass: block mappings and lists, texts on one line, literal blocks.
//!
//! Reading YAML is the costliest part of an analysis of thousands of manifests, and nearly all of them use this much of the language. What
//! goes beyond it, or might (anchors, tags, flow collections, folded texts, numbers but whole ones, tabs, anything that is not ASCII), is left
//! to the full parser, document by document; so is whatever is wrong, and saying what. The tests hold both against each other.

use crate::model::json::{List, Map, Text, Value};

/// Levels of nesting read here; the full parser judges what is deeper.
const MAX_DEPTH: usize = 32;

/// Nodes of one document read here, far more than the largest list by hand; the full parser bounds what is larger.
const MAX_NODES: usize = 1_000_000;

/// Characters of a key with its colon; YAML has a bound for them, and the full parser knows it.
const MAX_KEY: usize = 512;

/// Plain words that YAML 1.1 or 1.2 reads as something else than text, in lower case. Of these only `true` and `false` as such are read here.
const WORDS: &[&str] =
    &["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf", "infinity"];

/// The document, where it holds nothing but a mapping or a list in the plain part of YAML. `None` says nothing about the rest.
pub(super) fn read(text: &str) -> Option<Value> {
    let ascii = |byte: &u8| *byte == b'\n' || (0x20..0x7f).contains(byte);
    if !text.as_bytes().iter().all(ascii) {
        return None;
    }
    let text = text.strip_prefix("---\n").unwrap_or(text);
    let mut reader = Reader { rest: text, line: None, nodes: 0, entries: vec![], items: vec![] };
    reader.advance();
    let first = reader.line?;
    let value = reader.node(first, 0)?;
    (reader.line.is_none() && matches!(value, Value::Object(_) | Value::Array(_))).then_some(value)
}

/// A line, or what is left of it behind a dash.
#[derive(Debug, Clone, Copy)]
struct Line<'t> {
    /// The column of its first character, from 0.
    indent: usize,
    /// From that character on, without spaces at its end. Never empty.
    text: &'t str,
}

impl Line<'_> {
    fn is_item(self) -> bool {
        matches!(self.text.as_bytes(), [b'-'] | [b'-', b' ', ..])
    }
}

struct Reader<'t> {
    /// What follows the line.
    rest: &'t str,
    /// The line to be read next; `None` at the end.
    line: Option<Line<'t>>,
    nodes: usize,
    /// The entries of the maps and the items of the lists that are being read, the inner ones behind the outer ones: how long each will be is
    /// known once it ends.
    entries: Vec<(Text, Value)>,
    items: Vec<Value>,
}

impl<'t> Reader<'t> {
    /// Goes to the next line that is neither blank nor a comment.
    fn advance(&mut self) {
        self.line = None;
        while !self.rest.is_empty() {
            let end = memchr::memchr(b'\n', self.rest.as_bytes()).unwrap_or(self.rest.len());
            let line = self.rest.get(..end).unwrap_or_default();
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            let text = line.trim_start_matches(' ');
            if !matches!(text.as_bytes(), [] | [b'#', ..]) {
                let indent = line.len() - text.len();
                self.line = Some(Line { indent, text: text.trim_end_matches(' ') });
                return;
            }
        }
    }

    /// The value that begins with this line, which is the current one.
    fn node(&mut self, line: Line<'t>, depth: usize) -> Option<Value> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return None;
        }
        if line.is_item() {
            self.list(line.indent, depth)
        } else if is_pair(line.text) {
            self.map(line.indent, depth)
        } else {
            self.advance();
            scalar(line.text)
        }
    }

    fn map(&mut self, indent: usize, depth: usize) -> Option<Value> {
        let from = self.entries.len();
        while let Some(line) = self.line.filter(|line| line.indent == indent && !line.is_item()) {
            let (key, rest) = pair(line.text)?;
            let value = self.behind(rest, indent, depth, true)?;
            self.entries.push((key, value));
        }
        Some(Value::Object(self.entries.drain(from..).collect()))
    }

    fn list(&mut self, indent: usize, depth: usize) -> Option<Value> {
        let from = self.items.len();
        while let Some(line) = self.line.filter(|line| line.indent == indent && line.is_item()) {
            let rest = line.text.strip_prefix('-')?;
            let text = rest.trim_start_matches(' ');
            let inside = Line { indent: indent + line.text.len() - text.len(), text };
            let item = if !text.is_empty() && (inside.is_item() || is_pair(text)) {
                self.line = Some(inside);
                let value = self.node(inside, depth + 1)?;
                // What stands deeper than the list and is none of its item's would be an error.
                if self.line.is_some_and(|line| line.indent > indent) {
                    return None;
                }
                value
            } else {
                self.behind(text, indent, depth, false)?
            };
            self.items.push(item);
        }
        Some(Value::Array(self.items.drain(from..).collect()))
    }

    /// What stands behind a key or a dash: on the same line, or below it.
    fn behind(&mut self, rest: &'t str, indent: usize, depth: usize, key: bool) -> Option<Value> {
        if rest.starts_with('|') {
            return self.literal(rest, indent);
        }
        self.advance();
        if !rest.is_empty() {
            self.nodes += 1;
            // A line that is deeper goes on with the text.
            if self.line.is_some_and(|line| line.indent > indent) {
                return None;
            }
            return scalar(rest);
        }
        match self.line {
            // A list may stand below its key without being deeper.
            Some(line) if line.indent > indent || (key && line.indent == indent && line.is_item()) => {
                let value = self.node(line, depth + 1)?;
                // What stands deeper still, or a text that goes on, is beyond this reader.
                let after = self.line.is_some_and(|line| line.indent > indent);
                (!after && !matches!(value, Value::String(_))).then_some(value)
            }
            _ => Some(Value::Null),
        }
    }

    /// A literal block: `|` or `|-` and the deeper lines.
    fn literal(&mut self, header: &str, indent: usize) -> Option<Value> {
        let keep_last = match header {
            "|" => true,
            "|-" => false,
            _ => return None,
        };
        let mut out = String::new();
        let mut own = None;
        // Blank lines count once something follows them.
        let mut blank = 0;
        while !self.rest.is_empty() {
            // Whether the last line ends with a line break would matter.
            let (line, rest) = self.rest.split_once('\n')?;
            let text = line.trim_start_matches(' ');
            let deep = line.len() - text.len();
            if text.is_empty() {
                let own = own?;
                if deep > own {
                    return None;
                }
                blank += 1;
            } else if deep <= indent {
                break;
            } else {
                let own = *own.get_or_insert(deep);
                if !out.is_empty() {
                    out.push('\n');
                }
                (0..blank).for_each(|_| out.push('\n'));
                blank = 0;
                out.push_str(line.get(own..).filter(|_| deep >= own)?);
            }
            self.rest = rest;
        }
        own?;
        if keep_last {
            out.push('\n');
        }
        self.nodes += 1;
        self.advance();
        Some(Value::from(out))
    }
}

/// Whether a line holds a key and not a value alone.
fn is_pair(text: &str) -> bool {
    if text.starts_with(['"', '\'']) {
        return quoted(text).is_some_and(|(_, rest)| rest.starts_with(':'));
    }
    colon(text).is_some()
}

/// A key, and what stands behind its colon.
fn pair(text: &str) -> Option<(Text, &str)> {
    let (key, rest) = if text.starts_with(['"', '\'']) {
        let (key, rest) = quoted(text)?;
        let rest = rest.strip_prefix(':').filter(|rest| rest.is_empty() || rest.starts_with(' '))?;
        (key.into(), rest)
    } else {
        let colon = colon(text)?;
        let key = text.get(..colon)?.trim_end_matches(' ');
        if !key.starts_with(|c: char| c.is_ascii_alphabetic()) || has_comment(key) || is_word(key) {
            return None;
        }
        (key.into(), text.get(colon + 1..)?)
    };
    (text.len() - rest.len() <= MAX_KEY).then(|| (key, rest.trim_start_matches(' ')))
}

/// The place of the first colon that ends a key.
fn colon(text: &str) -> Option<usize> {
    memchr::memchr_iter(b':', text.as_bytes())
        .find(|at| matches!(text.as_bytes().get(at + 1), None | Some(b' ')))
}

/// Whether a comment begins within a text.
fn has_comment(text: &str) -> bool {
    let before = |at: usize| at.checked_sub(1).and_then(|before| text.as_bytes().get(before));
    memchr::memchr_iter(b'#', text.as_bytes()).any(|at| before(at) == Some(&b' '))
}

fn is_word(text: &str) -> bool {
    text.len() <= 8 && WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// A value on one line.
fn scalar(text: &str) -> Option<Value> {
    match text {
        "{}" => return Some(Value::Object(Map::new())),
        "[]" => return Some(Value::Array(List::new())),
        "true" | "false" => return Some(Value::Bool(text == "true")),
        _ => {}
    }
    let mut bytes = text.bytes();
    let (first, second) = (bytes.next()?, bytes.next());
    if matches!(first, b'"' | b'\'') {
        return quoted(text).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| Value::from(value));
    }
    if first.is_ascii_digit() {
        if text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit()) {
            let octal = first == b'0' && text.len() > 1;
            return if octal { None } else { text.parse::<u64>().ok().map(Value::from) };
        }
        // Letters of no way to write a number: `2s`, `500m`, `128Mi`.
        let text_only = |b: u8| matches!(b, b'g'..=b'n' | b'p'..=b'w' | b'y' | b'z' | b'G'..=b'N' | b'P'..=b'W' | b'Y' | b'Z' | b'/');
        if !text.bytes().any(text_only) {
            return None;
        }
    } else {
        let option = first == b'-' && second == Some(b'-');
        let begins = first.is_ascii_alphabetic() || matches!(first, b'/' | b'$' | b'(') || option;
        if !begins || is_word(text) {
            return None;
        }
    }
    let plain = colon(text).is_none() && !has_comment(text);
    plain.then(|| Value::from(text))
}

/// A text in quotes that ends on its line, and what stands behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    if let Some(mut rest) = text.strip_prefix('\'') {
        loop {
            let (piece, behind) = rest.split_once('\'')?;
            out.push_str(piece);
            let Some(more) = behind.strip_prefix('\'') else { return Some((out, behind)) };
            out.push('\'');
            rest = more;
        }
    }
    let mut rest = text.strip_prefix('"')?;
    loop {
        let at = memchr::memchr2(b'"', b'\\', rest.as_bytes())?;
        out.push_str(rest.get(..at)?);
        let behind = rest.get(at + 1..)?;
        if rest.as_bytes().get(at) == Some(&b'"') {
            return Some((out, behind));
        }
        out.push(match behind.as_bytes().first()? {
            b'"' => '"',
            b'\\' => '\\',
            b'n' => '\n',
            b't' => '\t',
            _ => return None,
        });
        rest = behind.get(1..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::parse_fully;
    use super::*;
    use crate::model::json::json;
    use proptest::prelude::*;

    #[test]
    fn a_manifest_is_read() {
        let text = "---\n# of a shop\nkind: A\nmetadata:\n  name: a\n  labels: {}\n  annotations:\n    x.y/z: \"on\"\n    'it''s': \"a\\n\\\"b\\\"\"\n\
            spec:\n  replicas: 2\n  paused: false\n  limits:\n    cpu: 500m\n  args:\n  - --port=80\n  -\n    - x\n  - - w\n    - z\n  - name: web\n    port: 80\n\n    \
            env: []\n  - script: |\n      a: 1\n\n        b\n    empty:\n  url: http://a:80/x\n  text: |-\n    last\n\n";
        let expected = json!({"kind": "A", "metadata": {"name": "a", "labels": {}, "annotations": {"x.y/z": "on", "it's": "a\n\"b\""}},
            "spec": {"replicas": 2, "paused": false, "limits": {"cpu": "500m"}, "url": "http://a:80/x", "text": "last",
                "args": ["--port=80", ["x"], ["w", "z"], {"name": "web", "port": 80, "env": []}, {"script": "a: 1\n\n  b\n", "empty": null}]}});
        assert_eq!(read(text), Some(expected.clone()));
        assert_eq!(parse_fully(text).unwrap(), expected);
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_full_parser() {
        for text in [
            "a: yes",
            "a: 0644",
            "a: 1.5",
            "a: -1",
            "a: ~",
            "a: 1e3",
            "a: 12:30",
            "a: &b c",
            "a: *b",
            "a: !t c",
            "a: >\n  b",
            "a: |2\n  b",
            "a: |+\n  b\n",
            "a: {b: c}",
            "a: [b]",
            "a: b # c",
            "a: b\n  c",
            "a: b: c",
            "a:\tb",
            "a: b\r\n",
            "a: \u{e4}",
            "a: 'b",
            "a: \"\\x41\"",
            "? a",
            "<<: a",
            "on: a",
            "1: a",
            "a: b\n c: d",
            "a: |\n  b",
            "- a\n b",
            "a\n",
            "",
            "# a\n",
            "--- a",
            "%YAML 1.2\n---\na: b",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    /// Pieces that mean much to YAML, and ordinary ones.
    const PIECES: &[&str] = &[
        "a",
        "b1",
        "kind",
        "x.y/z",
        "f:spec",
        "true",
        "Yes",
        "n",
        "null",
        "~",
        "12",
        "007",
        "0x1F",
        "1.5",
        "1.2.3",
        "1e3",
        "2s",
        "1:30",
        "500m",
        "--v",
        "-1",
        "-",
        "- ",
        "- - ",
        ": ",
        ":",
        " :",
        " ",
        "  ",
        "\n",
        "\n  ",
        "\n    ",
        "\n- ",
        "\n  - ",
        "\n\n",
        "|",
        "|-",
        "|\n",
        ": |\n  ",
        "{}",
        "[]",
        "{",
        "]",
        "\"a\"",
        "'b'",
        "''",
        "\"",
        "'",
        "\\n",
        "#",
        " # ",
        "&",
        "*a",
        "!x",
        "@",
        "%",
        ",",
        "?",
        "? ",
        "<<",
        "=",
        "/p",
        "$V",
        "(x)",
        ".inf",
        "nan",
        "\u{e4}",
        "\t",
        ": a\n",
        ": a\n  b: c\n",
        ":\n  - a\n",
        ":\n- ",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_is_what_the_full_parser_reads(pieces in prop::collection::vec(prop::sample::select(PIECES), 1..24)) {
            let text = pieces.concat();
            if let Some(value) = read(&text) {
                let full = parse_fully(&text);
                prop_assert!(full.as_ref().is_ok_and(|full| *full == value), "{text:?}: {value} and {full:?}");
            }
        }

        #[test]
        fn lines_of_mappings_and_lists_too(lines in prop::collection::vec((0usize..6, prop::sample::select(&["- ", "- - ", "", "", ""][..]), prop::sample::select(PIECES),
            prop::sample::select(&[":", ": ", ": ", ""][..]), prop::sample::select(PIECES)), 1..10)) {
            let mut text = String::new();
            for (indent, dash, key, colon, value) in lines {
                text.push_str(&format!("{}{dash}{key}{colon}{value}\n", " ".repeat(indent)));
            }
            if let Some(value) = read(&text) {
                let full = parse_fully(&text);
                prop_assert!(full.as_ref().is_ok_and(|full| *full == value), "{text:?}: {value} and {full:?}");
            }
        }
    }
}
