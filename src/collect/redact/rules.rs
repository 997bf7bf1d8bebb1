//! What a secret looks like.

use regex::bytes::Captures;

/// Of a text and a candidate in it, the bytes to mask.
pub(super) type Select = fn(&[u8], &Captures<'_>) -> Option<(usize, usize)>;

/// One kind of secret.
pub(super) struct Rule {
    /// The word in the mask.
    pub(super) kind: &'static str,
    /// A cheap pattern without which the kind cannot occur in a line.
    pub(super) trigger: &'static str,
    /// Finds candidates.
    pub(super) pattern: &'static str,
    /// The bytes to mask, if the candidate is a secret.
    pub(super) select: Select,
}

/// A name that ends with one of the words, an equals sign or colon, and the beginning of a value; or the two fields of a
/// Kubernetes `EnvVar`. Quotes may be escaped, as in JSON inside JSON.
macro_rules! key_value {
    ($words:expr) => {
        concat!(
            r#"(?i)(?:"#,
            $words,
            r#")[0-9]{0,2}(?:\\{0,3}["']?\]?[ \t]*(?::=|=>|[:=])[ \t]*|\\{0,3}"[ \t]*,[ \t]*\\{0,3}"value\\{0,3}"[ \t]*:[ \t]*|,?[ \t]+value:[ \t]*)"#
        )
    };
}

/// All rules, the specific ones first: what they masked no later one sees.
pub(super) const RULES: &[Rule] = &[
    Rule {
        kind: "private-key",
        trigger: r"-----BEGIN",
        pattern: r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY",
        select: |text, found| {
            let start = found.get_match().start();
            Some((start, start + private_key(text.get(start..)?)?))
        },
    },
    Rule {
        kind: "jwt",
        trigger: r"eyJ",
        pattern: r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,4}",
        select: whole,
    },
    Rule {
        kind: "token",
        trigger: r"gh[pousr]_|github_pat_|gl[a-z]{2,4}-|xox[a-z]-|xapp-|AIza|ya29\.|sk-|[srp]k_(?:live|test)_|npm_|hvs\.|SG\.|pypi-|dckr_pat_|dop_v1_",
        pattern: r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl(?:pat|cbt|rt|ptt|ft|dt|soat)-[\w.-]{16,}|xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{20,}|AIza[\w-]{35}|ya29\.[\w-]{20,}|sk-[\w-]{20,}|[srp]k_(?:live|test)_\w{10,}|npm_[A-Za-z0-9]{30,}|hvs\.[\w-]{20,}|SG\.[\w-]{16,}\.[\w-]{16,}|pypi-[\w-]{50,}|dckr_pat_[\w-]{20,}|dop_v1_[a-f0-9]{40,})",
        select: |text, found| random(text, found.get_match().range()),
    },
    Rule { kind: "aws-key", trigger: r"AKIA|ASIA", pattern: r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", select: whole },
    Rule {
        kind: "authorization",
        trigger: r"(?i)authorization|bearer|basic ",
        pattern: r#"(?i)\bauthorization\\{0,3}["']?\]?[ \t]*[:=][ \t]*\[?\\{0,3}["']?((?:bearer|basic|digest|negotiate|apikey|token|key)[ \t:=]+)?([^\s"'\\,;\])}]{4,})|\b(?:bearer|basic)[ \t]+([A-Za-z0-9._~+/=-]{12,})"#,
        select: |text, found| match (found.get(1), found.get(2), found.get(3)) {
            (Some(_), Some(value), _) => not_prose(text, value.range()),
            (None, Some(value), _) | (_, _, Some(value)) => random(text, value.range()),
            _ => None,
        },
    },
    Rule {
        kind: "cookie",
        trigger: r"(?i)cookie",
        pattern: r#"(?i)\b(?:set-)?cookie\\{0,3}["']?[ \t]*[:=][ \t]*\\{0,3}["']?([\w.-]{1,80}=[^"'\\\n]{4,})"#,
        select: first,
    },
    Rule {
        kind: "url-credentials",
        trigger: r"@",
        pattern: r#"://([^\s:/?\#@"'<>\\]*):([^\s/?\#"'<>\\]+)@|://([A-Za-z0-9_~.-]{16,})@|(?:^|[\s"'=(])[\w.-]+:([^\s@"'<>\\/]+)@(?:tcp|udp|unix)\("#,
        select: |text, found| match (found.get(2).or(found.get(4)), found.get(3)) {
            (Some(password), _) => fresh(text, password.range()),
            (_, Some(user)) => random(text, user.range()),
            _ => None,
        },
    },
    Rule {
        kind: "password",
        trigger: r"(?i)passw|passphrase|pwd|_pass|-pass",
        pattern: key_value!(r"passw(?:or)?d|passphrase|passwd|pwd|[\w][_-]pass"),
        select: value,
    },
    Rule {
        kind: "secret",
        trigger: r"(?i)secret|token|credential|[a-z]_?-?key",
        pattern: key_value!(
            r"secret|token|credentials?|(?:api|access|secret|private|signing|encryption|auth|account|shared|master|storage|service|webhook|app|license|session)[_.-]?key"
        ),
        select: value,
    },
    Rule {
        kind: "signature",
        trigger: r"(?i)signature=|sig=",
        pattern: r"(?i)[?&;](?:x-amz-signature|x-goog-signature|sig)=([A-Za-z0-9%+/=_-]{16,})",
        select: first,
    },
    Rule {
        kind: "email",
        trigger: r"@",
        pattern: r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}([A-Za-z]{2,24})\b",
        select: |text, found| {
            let top = found.get(1)?.as_bytes();
            // systemd units, names inside a cluster, and `git@`, which is nobody.
            let other =
                [&b"service"[..], b"timer", b"socket", b"mount", b"target", b"local", b"internal", b"svc"];
            let address = found.get_match();
            let ours = other.iter().any(|word| top.eq_ignore_ascii_case(word))
                || address.as_bytes().starts_with(b"git@");
            if ours { None } else { fresh(text, address.range()) }
        },
    },
];

type Span = std::ops::Range<usize>;

fn whole(text: &[u8], found: &Captures<'_>) -> Option<(usize, usize)> {
    fresh(text, found.get_match().range())
}

fn first(text: &[u8], found: &Captures<'_>) -> Option<(usize, usize)> {
    fresh(text, found.get(1)?.range())
}

const MASK: &[u8] = b"[redacted:";

/// Whether the text begins with a mask: a whole one, of a kind that there is.
fn mask_of(text: &[u8]) -> Option<usize> {
    let kind = text.strip_prefix(MASK)?;
    let rule = RULES
        .iter()
        .find(|rule| kind.strip_prefix(rule.kind.as_bytes()).is_some_and(|rest| rest.starts_with(b"]")))?;
    Some(MASK.len() + rule.kind.len() + 1)
}

/// Whether a part of the span stands in a mask, or a mask in it.
fn masked(text: &[u8], span: &Span) -> bool {
    let longest = MASK.len() + RULES.iter().map(|rule| rule.kind.len()).max().unwrap_or(0) + 1;
    let from = span.start.saturating_sub(longest);
    let near = text.get(from..span.end).unwrap_or_default();
    memchr::memmem::find_iter(near, MASK).any(|at| {
        let length = text.get(from + at..).and_then(mask_of);
        length.is_some_and(|length| from + at + length > span.start)
    })
}

/// What was masked already stays as it is, so that redacting twice changes nothing.
fn fresh(text: &[u8], span: Span) -> Option<(usize, usize)> {
    if masked(text, &span) { None } else { Some((span.start, span.end)) }
}

/// Only what looks drawn at random: words and prose do not.
fn random(text: &[u8], span: Span) -> Option<(usize, usize)> {
    let value = text.get(span.clone())?;
    let digit = value.iter().any(u8::is_ascii_digit);
    let upper = value.iter().skip(1).any(u8::is_ascii_uppercase);
    let lower = value.iter().any(u8::is_ascii_lowercase);
    // Before a mask an equals sign is no padding: it stands between a name and what was masked.
    let padded = value.ends_with(b"=") && mask_of(text.get(span.end..)?).is_none();
    if digit && (upper || lower) || (upper && lower) || padded { fresh(text, span) } else { None }
}

/// Words that follow "password:" or "token=" in prose and in configuration, and are no secret.
const PROSE: &[&str] = &[
    "absent",
    "an",
    "and",
    "are",
    "authentication",
    "bad",
    "by",
    "cannot",
    "change",
    "changed",
    "could",
    "created",
    "credentials",
    "denied",
    "does",
    "empty",
    "error",
    "expired",
    "failed",
    "false",
    "for",
    "found",
    "from",
    "has",
    "in",
    "incorrect",
    "invalid",
    "is",
    "key",
    "line",
    "malformed",
    "mismatch",
    "missing",
    "must",
    "na",
    "nil",
    "no",
    "none",
    "not",
    "null",
    "of",
    "ok",
    "on",
    "or",
    "please",
    "rejected",
    "required",
    "secret",
    "set",
    "string",
    "the",
    "this",
    "to",
    "token",
    "true",
    "type",
    "undefined",
    "unexpected",
    "unknown",
    "unset",
    "using",
    "valid",
    "was",
    "with",
    "wrong",
    "you",
    "your",
];

fn not_prose(text: &[u8], span: Span) -> Option<(usize, usize)> {
    let value = text.get(span.clone())?;
    let word: &[u8] = value.strip_suffix(b".").or(value.strip_suffix(b":")).unwrap_or(value);
    let prose = PROSE.iter().any(|prose| word.eq_ignore_ascii_case(prose.as_bytes()));
    if prose { None } else { fresh(text, span) }
}

/// The value behind a name: quoted, quoted and escaped, or up to the next delimiter.
fn value(text: &[u8], found: &Captures<'_>) -> Option<(usize, usize)> {
    let start = found.get_match().end();
    // The kind in a mask is no name of what stands behind the mask.
    let name = found.get_match().start();
    if masked(text, &(name..name)) {
        return None;
    }
    let rest = text.get(start..)?;
    let escapes = rest.iter().take_while(|byte| **byte == b'\\').count();
    let quote = rest.get(escapes).copied().filter(|byte| matches!(byte, b'"' | b'\''));
    if let Some(quote) = quote {
        let begin = start + escapes + 1;
        let length = quoted(text.get(begin..)?, quote, escapes);
        let span = begin..begin + length;
        // An empty value, a path and a reference are what one needs to see.
        return if reference(text.get(span.clone())?) { None } else { not_prose(text, span) };
    }
    let stop = |byte: &u8| {
        byte.is_ascii_whitespace()
            || matches!(byte, b'"' | b'\'' | b'&' | b';' | b',' | b')' | b'}' | b'\\' | b'<')
    };
    let length = rest.iter().position(stop).unwrap_or(rest.len());
    let span = start..start + length;
    let value = text.get(span.clone())?;
    if reference(value) || value.starts_with(b"[") || value.starts_with(b"{") {
        None
    } else {
        not_prose(text, span)
    }
}

/// The length of a quoted text. `escapes` backslashes stand before its quotes; one more pair is a quote inside.
fn quoted(text: &[u8], quote: u8, escapes: usize) -> usize {
    let mut run = 0;
    for (index, byte) in text.iter().enumerate() {
        match *byte {
            b'\\' => run += 1,
            byte if byte == quote && (run == escapes || (escapes == 0 && run % 2 == 0)) => {
                return index - run.min(escapes);
            }
            b'\n' => return index,
            _ => run = 0,
        }
    }
    text.len()
}

/// Not the secret but where it is: a path, a variable, a template.
fn reference(value: &[u8]) -> bool {
    value.is_empty()
        || value.starts_with(b"/")
        || value.starts_with(b"$")
        || value.starts_with(b"{{")
        || value.starts_with(b"%(")
}

/// The length of a private key that begins here, up to its end line; without one, as far as lines look like one.
pub(super) fn private_key(text: &[u8]) -> Option<usize> {
    let head = text.strip_prefix(b"-----BEGIN ")?;
    let label = memchr::memmem::find(head.get(..head.len().min(60))?, b"PRIVATE KEY")?;
    let body = text.get(..text.len().min(MAX_KEY))?;
    if let Some(end) = memchr::memmem::find(body, b"-----END ") {
        let rest = body.get(end + 9..)?;
        let close = memchr::memmem::find(rest, b"-----").map_or(rest.len(), |at| at + 5);
        return Some(end + 9 + close.min(60));
    }
    // Cut off: as long as a line ends in a long run of base64.
    let mut length = 11 + label + 11;
    for line in body.get(length..)?.split_inclusive(|byte| *byte == b'\n') {
        let tail = line.trim_ascii_end();
        let run = tail
            .iter()
            .rev()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
            .count();
        let rule = tail.iter().all(|byte| *byte == b'-');
        if run < 16 && !rule {
            break;
        }
        length += line.len();
    }
    Some(length)
}

/// No private key in text is longer; RSA with 16,384 bits takes 13 KiB.
const MAX_KEY: usize = 32 << 10;
