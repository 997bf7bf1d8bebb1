//! What varies from line to line of one statement is masked, so that its lines are equal.
//!
//! Numbers, times, durations, identifiers, addresses, paths, URLs, mail addresses and quoted text all become [`WILD`]; so do the
//! contents of brackets that hold data and no words, and lists come to one mark whatever their length. The place in the source that a
//! logger adds (`pay.go:12`, `PayService#12`) stays: nothing tells two statements apart better.

use crate::analyze::finding::cut;

/// What stands for everything that varies.
pub const WILD: char = '*';
/// Messages are looked at up to this many bytes; what follows tells no two statements apart.
const MAX_MESSAGE: usize = 768;
/// A word without separators that is longer than this is encoded data.
const MAX_WORD: usize = 40;
/// A text in single quotes is at most this long: beyond it the first one was an apostrophe.
const MAX_QUOTED: usize = 128;
/// Brackets that hold more than this and brackets of their own hold data.
const MAX_BRACKET: usize = 96;

/// The message with all that varies masked.
pub fn mask(message: &str) -> String {
    let mut out = String::new();
    mask_into(message, &mut out);
    out
}

/// The same, into a buffer that is emptied first: the one for all lines of a log.
pub fn mask_into(message: &str, out: &mut String) {
    out.clear();
    let text = cut(message, MAX_MESSAGE).trim();
    // What stands in quotes as a whole is said and not quoted.
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    // Looking for the end of a bracket costs its length: a line of nothing but brackets must not cost the square of it.
    let mut budget = 4 * text.len();
    let mut at = 0;
    let bytes = text.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                }
                at += 1;
            }
            b'"' | b'`' | b'\'' => match end_of_quote(rest, byte, out) {
                Some(end) => {
                    out.push(byte as char);
                    wild(out);
                    out.push(byte as char);
                    at += end + 1;
                }
                None => {
                    out.push(byte as char);
                    at += 1;
                }
            },
            b'(' | b'[' | b'{' => {
                out.push(byte as char);
                match end_of_data(rest.as_bytes(), &mut budget) {
                    Some(end) => {
                        out.push(WILD);
                        at += end;
                    }
                    None => at += 1,
                }
            }
            _ if is_word(byte) => {
                let length = word_length(rest.as_bytes());
                let (head, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
                word(head, tail, out);
                at += length.max(1);
            }
            _ => {
                out.push(byte as char);
                at += 1;
            }
        }
    }
    out.truncate(out.trim_end().len());
}

#[inline]
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || byte >= 0x80
        || matches!(
            byte,
            b'-' | b'_'
                | b'.'
                | b'/'
                | b':'
                | b'@'
                | b'#'
                | b'%'
                | b'+'
                | b'~'
                | b'\\'
                | b'$'
                | b'&'
                | b'*'
                | b'?'
                | b'!'
        )
}

/// The length of the word at the beginning; URLs and paths go on where other words end.
fn word_length(bytes: &[u8]) -> usize {
    let plain = bytes.iter().take_while(|b| is_word(**b)).count();
    let head = bytes.get(..plain).unwrap_or_default();
    let begins_path = head.first() == Some(&b'/') && plain > 1;
    let is_url = plain > 3 && head.windows(3).any(|w| w == b"://");
    if !begins_path && !is_url {
        return plain;
    }
    let more = bytes.iter().skip(plain);
    plain + more.take_while(|b| is_word(**b) || matches!(b, b'=' | b';' | b',')).count()
}

/// Marks something that varies. Neighbours become one: a list of three is the same statement as one of two.
fn wild(out: &mut String) {
    let before = out.trim_end_matches([' ', ',', ':', ';', '/', '.', '-', '_', '|', '@', '+']).len();
    if out.get(..before).is_some_and(|head| head.ends_with(WILD)) {
        out.truncate(before);
    } else {
        out.push(WILD);
    }
}

/// Where a quoted text ends, as an offset from its opening quote.
fn end_of_quote(rest: &str, quote: u8, before: &str) -> Option<usize> {
    let apostrophe = quote == b'\'';
    if apostrophe && before.ends_with(|c: char| c.is_alphanumeric()) {
        return None;
    }
    let bytes = rest.as_bytes();
    let limit = if apostrophe { MAX_QUOTED } else { bytes.len() };
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate().take(limit).skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if *byte == quote => {
                let inside_word = apostrophe && bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric);
                if !inside_word {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Where a bracket that holds data ends, as the offset of its closing one (or the end, where the text was cut). `None` where it
/// holds words.
fn end_of_data(bytes: &[u8], budget: &mut usize) -> Option<usize> {
    let first = *bytes.first()?;
    let (mut depth, mut pairs, mut colons, mut commas, mut nested) = (0usize, 0, 0, 0, false);
    // Blanks that follow no comma: a list of single words has none.
    let (mut prose, mut before) = (false, first);
    let mut quoted = false;
    let mut end = None;
    for (at, byte) in bytes.iter().enumerate() {
        *budget = budget.checked_sub(1)?;
        match byte {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'(' | b'[' | b'{' => {
                depth += 1;
                nested |= depth > 1;
            }
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    end = Some(at);
                    break;
                }
            }
            b'=' => pairs += 1,
            b':' => colons += 1,
            b',' => commas += 1,
            b' ' if before != b',' => prose = true,
            _ => {}
        }
        before = *byte;
    }
    let length = end.unwrap_or(bytes.len());
    let is_data = pairs >= 3
        || commas >= 3
        || (first == b'[' && commas > 0 && !prose)
        || (first == b'{' && pairs + colons > 0)
        || (first == b'[' && bytes.get(1) == Some(&b'{'))
        || (nested && length > MAX_BRACKET && pairs + colons + commas > 0);
    (is_data && (end.is_some() || length > MAX_BRACKET / 2)).then_some(length)
}

/// A word, masked as far as it varies.
fn word(word: &str, next: &str, out: &mut String) {
    if word.len() <= MAX_WORD && word.bytes().all(|b| b.is_ascii_alphabetic()) {
        return plain(word, next, out.ends_with('='), out);
    }
    let core = word.trim_end_matches([':', '.', '!', '?', '-']);
    let tail = word.get(core.len()..).unwrap_or_default();
    if core.is_empty() {
        out.push_str(word);
        return;
    }
    let (mut has_digit, mut has_slash, mut has_at) = (false, false, false);
    for byte in core.bytes() {
        has_digit |= byte.is_ascii_digit();
        has_slash |= matches!(byte, b'/' | b'\\');
        has_at |= byte == b'@';
    }
    let is_value = out.ends_with('=');
    let is_place = has_slash && (is_url(core) || is_path(core));
    if is_place || (has_at && is_mail(core)) || is_encoded(core) {
        wild(out);
    } else if !has_digit {
        plain(core, next, is_value, out);
    } else if is_location(core) {
        out.push_str(core);
    } else if is_uuid(core) || is_ipv6(core) {
        wild(out);
    } else {
        parts(core, out);
    }
    if !(out.ends_with(WILD) && tail == "-") {
        out.push_str(tail);
    }
}

/// A word without digits.
fn plain(core: &str, next: &str, is_value: bool, out: &mut String) {
    let after_wild = out.ends_with([WILD, ' ']) && out.trim_end().ends_with(WILD);
    if after_wild && core.len() <= 4 && (is_unit(core) || is_zone(core)) {
        out.truncate(out.trim_end().len());
        return;
    }
    let is_date = core.len() == 3
        && is_of_calendar(core)
        && (after_wild
            || next.trim_start_matches([' ', ',']).starts_with(|c: char| c.is_ascii_digit())
            || next.trim_start().get(..3).is_some_and(is_of_calendar));
    if is_date || (is_value && !says_what(out)) {
        wild(out);
    } else {
        out.push_str(core);
    }
}

/// Whether the key before `=` takes a word that says what happened, and no name of something.
fn says_what(out: &str) -> bool {
    const KEYS: &[&str] = &[
        "error",
        "err",
        "reason",
        "cause",
        "state",
        "status",
        "phase",
        "result",
        "outcome",
        "type",
        "kind",
        "method",
        "code",
        "action",
        "event",
        "operation",
        "op",
    ];
    let head = out.trim_end_matches('=');
    let key = head.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
    KEYS.iter().any(|known| {
        key.len() >= known.len()
            && key.is_char_boundary(key.len() - known.len())
            && key.get(key.len() - known.len()..).is_some_and(|end| end.eq_ignore_ascii_case(known))
    })
}

/// A word with digits, part by part between its separators: `web-5d8f7c9b6-x2k4p`, `10:00:00,123`, `orders.v1`.
fn parts(core: &str, out: &mut String) {
    // A sign belongs to its number.
    let signed = core.strip_prefix(['-', '+', '~', '$', '#']);
    let core = signed.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(core);
    let mut rest = core;
    let mut masked = false;
    loop {
        if let Some((_, after)) = rest.split_at_checked(36).filter(|(head, _)| is_uuid(head)) {
            wild(out);
            masked = true;
            rest = after;
        }
        let end = rest.find(|c: char| !(c.is_alphanumeric())).unwrap_or(rest.len());
        let (part, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let has_digit = part.bytes().any(|b| b.is_ascii_digit());
        let varies =
            if has_digit { !is_name(part) } else { masked && (is_hash(part) || is_of_calendar(part)) };
        if varies {
            wild(out);
            masked = true;
        } else {
            out.push_str(part);
        }
        let mut chars = tail.chars();
        let Some(separator) = chars.next() else { break };
        out.push(separator);
        rest = chars.as_str();
    }
}

/// `v1`, `http2`, `IPv4`, `log4j`: letters with a short number are a name.
fn is_name(part: &str) -> bool {
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let runs = part.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()).count();
    part.len() <= 8 && digits <= 2 && runs <= 3 && part.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// The last part of a pod's name: Kubernetes draws it from an alphabet without vowels.
fn is_hash(part: &str) -> bool {
    part.len() == 5 && part.bytes().all(|b| b.is_ascii_lowercase() && !b"aeiou".contains(&b))
}

fn is_url(word: &str) -> bool {
    word.contains("://")
}

/// `/var/log/x`, `a/b/c`, `C:\x`, but neither `HTTP/1.1` nor `and/or`.
fn is_path(word: &str) -> bool {
    let slashes = word.bytes().filter(|b| *b == b'/').count();
    if word.starts_with('/') {
        return word.len() > 1 && word.bytes().any(|b| b.is_ascii_alphanumeric());
    }
    // A date with slashes is a time, and not a path.
    let letters = word.bytes().any(|b| b.is_ascii_alphabetic() && b != b'T' && b != b'Z');
    (slashes >= 2 && letters && !word.starts_with(|c: char| c.is_ascii_digit()))
        || word.get(1..3) == Some(":\\")
}

fn is_mail(word: &str) -> bool {
    word.split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && host.contains('.') && !host.contains('@'))
}

/// A token, a digest, something in base 64: long, without a separator that words have.
fn is_encoded(word: &str) -> bool {
    word.len() > MAX_WORD
        && word.is_ascii()
        && !word.contains("::")
        && word.split(['.', '-', '_', '/', ':', '\\', '#', '$']).any(|part| {
            part.len() > MAX_WORD / 2 && {
                let upper = part.bytes().filter(u8::is_ascii_uppercase).count();
                let digits = part.bytes().filter(u8::is_ascii_digit).count();
                digits > 1 || upper * 3 > part.len()
            }
        })
}

fn is_uuid(word: &str) -> bool {
    word.len() == 36
        && word
            .bytes()
            .enumerate()
            .all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
}

fn is_ipv6(word: &str) -> bool {
    word.bytes().filter(|b| *b == b':').count() >= 2
        && word.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'%'))
}

/// Where in the source a line was written: `pay.go:12`, `Pay.java:12`, `c.s.PayService#12`, `app/pay.py:12`.
fn is_location(word: &str) -> bool {
    const SOURCES: &[&str] = &[
        "go", "py", "rs", "java", "kt", "scala", "js", "ts", "mjs", "cjs", "rb", "cs", "cc", "cpp", "cxx",
        "c", "h", "php", "ex", "exs", "erl", "swift", "lua", "clj", "groovy",
    ];
    let Some((file, line)) = word.split_once([':', '#']) else { return false };
    let line = line.trim_end_matches(|c: char| c == ':' || c.is_ascii_digit());
    if !line.is_empty() || file.is_empty() || !word.ends_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let (stem, last) = file.rsplit_once('.').unwrap_or(("", file));
    if !stem.is_empty() && SOURCES.contains(&last) {
        return true;
    }
    // A class and a line: its name begins with a capital and goes on in small letters.
    word.contains('#')
        && last.starts_with(|c: char| c.is_ascii_uppercase())
        && last.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'$')
        && last.bytes().any(|b| b.is_ascii_lowercase())
}

fn is_unit(word: &str) -> bool {
    matches!(
        word,
        "B" | "KB"
            | "MB"
            | "GB"
            | "TB"
            | "kB"
            | "KiB"
            | "MiB"
            | "GiB"
            | "TiB"
            | "ns"
            | "us"
            | "µs"
            | "ms"
            | "s"
            | "sec"
            | "secs"
            | "min"
            | "mins"
            | "h"
    )
}

fn is_zone(word: &str) -> bool {
    matches!(
        word,
        "UTC"
            | "GMT"
            | "CET"
            | "CEST"
            | "EST"
            | "EDT"
            | "CST"
            | "CDT"
            | "MST"
            | "PST"
            | "PDT"
            | "IST"
            | "JST"
            | "BST"
            | "AM"
            | "PM"
    )
}

fn is_of_calendar(word: &str) -> bool {
    matches!(
        word,
        "Jan"
            | "Feb"
            | "Mar"
            | "Apr"
            | "May"
            | "Jun"
            | "Jul"
            | "Aug"
            | "Sep"
            | "Oct"
            | "Nov"
            | "Dec"
            | "Mon"
            | "Tue"
            | "Wed"
            | "Thu"
            | "Fri"
            | "Sat"
            | "Sun"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sort_of_value_is_masked() {
        for (message, masked) in [
            ("request 6f1c2b-77 for 10.0.0.1:80 took 12ms", "request * for * took *"),
            ("took 1.5s after 3 tries", "took * after * tries"),
            ("id=6ba7b810-9dad-11d1-80b4-00c04fd430c8 done", "id=* done"),
            ("at 2026-11-22T10:00:00.123Z and 2026-11-22 10:00:00,123", "at * and *"),
            ("started Sat May 04 08:00:00 CST 2013", "started *"),
            ("22/Nov/2026:10:00:00 +0000 served", "* served"),
            ("open /var/lib/x/y.db: no such file", "open *: no such file"),
            ("GET http://pay:80/a?b=1&c=2 failed", "GET * failed"),
            ("mail to jo.doe@example.org bounced", "mail to * bounced"),
            ("user \"jo doe\" and 'x y' of `z`", "user \"*\" and '*' of `*`"),
            ("it can't be the user's", "it can't be the user's"),
            ("pod web-5d8f7c9b6-x2k4p and web-5d8f7c9b6-xkqpz", "pod web-* and web-*"),
            ("size 1.13 KB of 3 MB, at -5", "size * of *, at *"),
            ("ids [1, 2, 3] of 0x7f5966fb6e90", "ids [*] of *"),
            ("AccountId:6ba7b810-9dad-11d1-80b4-00c04fd430c8, ok", "AccountId:*, ok"),
            ("peer fe80::12ab:1 joined", "peer * joined"),
            ("trips: [Trip(id=1, no=G12), Trip(id=2, no=D1)]", "trips: [*]"),
            ("flags [amber, quartz] of [the user, and more]", "flags [*] of [the user, and more]"),
            ("sent {\"id\":\"x\",\"n\":1} to mq", "sent {*} to mq"),
            ("pool (total=1, waiting=3)", "pool (total=*, waiting=*)"),
            ("user=alice state=FAILED ok=true", "user=* state=FAILED ok=*"),
            ("key eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJmZHNlX21pY3Jvc2VydmljZSIsInJvbGVzIjpbIlJPTEVf", "key *"),
            (
                "main.go:12] started c.s.Pay2Service#93 on :8080",
                "main.go:12] started c.s.Pay2Service#93 on :*",
            ),
            ("\"all of it in quotes 7\"", "all of it in quotes *"),
        ] {
            assert_eq!(mask(message), masked);
        }
    }

    #[test]
    fn words_stay() {
        for text in [
            "starting v1 on http2 over IPv4 with log4j",
            "org.example.Pay and/or n/a by HTTP/x",
            "cannot open file",
            "",
            "(no more)",
        ] {
            assert_eq!(mask(text), text);
        }
    }

    #[test]
    fn lists_of_any_length_are_one() {
        assert_eq!(mask("ids 1, 2, 3 done"), mask("ids 7 done"));
        assert_eq!(mask("got [a1, b22, c3, d4]"), mask("got [a1, b22, c3, d4, e5, f6]"));
    }

    #[test]
    fn nothing_makes_it_slow_or_longer_without_bound() {
        for text in [
            "(".repeat(100_000),
            "'".repeat(100_000),
            "1 ".repeat(100_000),
            "[=".repeat(100_000),
            "ä1".repeat(9999),
        ] {
            assert!(mask(&text).len() <= 2 * MAX_MESSAGE);
        }
    }
}
