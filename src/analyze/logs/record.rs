//! One entry of a log: its level, its message and its fields, whatever the application's style.

use crate::model::json::Value;
use std::borrow::Cow;

use crate::model::log::without_colours;

/// How grave the application says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Trace or debug.
    Debug,
    /// Information, notices, plain log lines of databases.
    Info,
    /// Warnings.
    Warn,
    /// Errors.
    Error,
    /// Fatal, critical, panic.
    Fatal,
}

impl Level {
    /// Reads a level's name in any case, or a number as pino and bunyan write it.
    pub fn read(word: &str) -> Option<Self> {
        if word.len() > 11 {
            return None;
        }
        Some(match word.to_ascii_lowercase().as_str() {
            "trace" | "debug" | "finest" | "finer" | "fine" | "verbose" | "dbug" | "trce" | "dbg" | "vrb"
            | "trc" | "10" | "20" => Level::Debug,
            "info" | "information" | "inf" | "notice" | "log" | "config" | "statement" | "detail"
            | "hint" | "30" => Level::Info,
            "warn" | "warning" | "wrn" | "40" => Level::Warn,
            "error" | "err" | "severe" | "fail" | "50" => Level::Error,
            "fatal" | "ftl" | "critical" | "crit" | "alert" | "emerg" | "emergency" | "panic" | "dpanic"
            | "60" => Level::Fatal,
            _ => return None,
        })
    }
}

/// A line, read.
#[derive(Debug, Clone, Default)]
pub struct Record<'a> {
    /// `None` where the line says nothing of it.
    pub level: Option<Level>,
    /// The words.
    pub message: Cow<'a, str>,
    /// Named values, nested names joined by dots. Empty for plain text.
    pub fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// Fields of one record that are kept; more are data and not something that anybody wrote to be read.
const MAX_FIELDS: usize = 64;
/// A JSON line nested deeper than this is left as text where it is.
const MAX_DEPTH: usize = 4;

impl Record<'_> {
    /// The first of these fields that is there and not empty.
    pub fn field(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| {
            self.fields
                .iter()
                .find(|(key, value)| key == name && !value.is_empty())
                .map(|(_, value)| value.as_ref())
        })
    }

    /// What went wrong, in the application's words: the field for it, else the message.
    pub fn error_text(&self) -> &str {
        self.field(&[
            "error",
            "err",
            "error.message",
            "err.message",
            "exception.message",
            "cause",
            "reason",
            "exception",
        ])
        .unwrap_or(&self.message)
    }
}

/// Reads one line.
pub fn parse(line: &str) -> Record<'_> {
    let trimmed = line.trim();
    if trimmed.starts_with('{')
        && let Some(record) = parse_json(trimmed)
    {
        return record;
    }
    if let Some(record) = parse_logfmt(trimmed) {
        return record;
    }
    parse_text(trimmed)
}

fn parse_json(line: &str) -> Option<Record<'_>> {
    let body: Value = serde_json::from_str(line).ok()?;
    let mut fields = vec![];
    flatten(&body, String::new(), 0, &mut fields);
    let mut record = Record { level: None, message: Cow::Borrowed(""), fields };
    record.level = record
        .field(&[
            "level",
            "severity",
            "severity_text",
            "severityText",
            "lvl",
            "log.level",
            "loglevel",
            "levelname",
            "@level",
            "@l",
            "LogLevel",
            "Level",
            "priority",
        ])
        .and_then(Level::read);
    let message = record.field(&[
        "msg",
        "message",
        "@message",
        "@m",
        "@mt",
        "Message",
        "event",
        "log",
        "body",
        "textPayload",
        "short_message",
        "text",
    ]);
    let message = message.unwrap_or_default().to_owned();
    // A collector that wraps lines leaves their level inside.
    if record.level.is_none() && !message.is_empty() {
        record.level = parse_text(message.lines().next().unwrap_or_default()).level;
    }
    record.message = Cow::Owned(message);
    Some(record)
}

fn flatten<'a>(value: &Value, prefix: String, depth: usize, out: &mut Vec<(Cow<'a, str>, Cow<'a, str>)>) {
    if out.len() >= MAX_FIELDS {
        return;
    }
    match value {
        Value::Object(map) if depth < MAX_DEPTH => {
            for (key, child) in map {
                let path = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
                flatten(child, path, depth + 1, out);
            }
        }
        Value::Null => {}
        Value::String(text) => out.push((Cow::Owned(prefix), Cow::Owned(without_colours(text).into_owned()))),
        // A stack that its logger split into lines.
        Value::Array(lines) if !lines.is_empty() && lines.iter().all(Value::is_string) => {
            let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
            out.push((Cow::Owned(prefix), Cow::Owned(lines.join("\n"))));
        }
        other => out.push((Cow::Owned(prefix), Cow::Owned(other.to_string()))),
    }
}

/// `time=… level=info msg="…" key=value`: at least two pairs, from the first word on.
fn parse_logfmt(line: &str) -> Option<Record<'_>> {
    let mut fields: Vec<(Cow<'_, str>, Cow<'_, str>)> = vec![];
    let mut rest = line;
    while !rest.is_empty() && fields.len() < MAX_FIELDS {
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '@' | '/')))
            .unwrap_or(rest.len());
        let (key, tail) = rest.split_at_checked(end)?;
        let Some(tail) = tail.strip_prefix('=').filter(|_| !key.is_empty()) else {
            // A lone word between pairs is a flag; at the beginning it is prose.
            if fields.len() < 2 {
                return None;
            }
            rest = rest.split_once(' ').map_or("", |(_, tail)| tail).trim_start();
            continue;
        };
        let (value, tail) = match tail.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted),
            None => {
                let (value, tail) = tail.split_once(' ').unwrap_or((tail, ""));
                (Cow::Borrowed(value), tail)
            }
        };
        fields.push((Cow::Borrowed(key), value));
        rest = tail.trim_start();
    }
    if fields.len() < 2 {
        return None;
    }
    let mut record = Record { level: None, message: Cow::Borrowed(""), fields };
    record.level = record.field(&["level", "lvl", "severity", "log.level"]).and_then(Level::read);
    record.message = Cow::Owned(record.field(&["msg", "message", "event"]).unwrap_or_default().to_owned());
    Some(record)
}

/// A value up to its closing quote, escapes taken out, and what follows it.
fn quoted_value(text: &str) -> (Cow<'_, str>, &str) {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let (value, tail) = text.split_at_checked(at).unwrap_or((text, ""));
                let value = if value.contains('\\') {
                    Cow::Owned(
                        value
                            .replace("\\\"", "\"")
                            .replace("\\n", "\n")
                            .replace("\\t", "\t")
                            .replace("\\\\", "\\"),
                    )
                } else {
                    Cow::Borrowed(value)
                };
                return (value, tail.get(1..).unwrap_or_default());
            }
            _ => {}
        }
    }
    (Cow::Borrowed(text), "")
}

/// Plain text: a time, perhaps a process, a level, and words.
fn parse_text(line: &str) -> Record<'_> {
    if let Some(record) = parse_klog(line).or_else(|| parse_redis(line)) {
        return record;
    }
    let mut rest = line;
    let timed = is_timed(line);
    // The level stands among the first words, behind a time, a process, a thread, a file or a logger.
    for at in 0..8 {
        rest = rest.trim_start_matches([' ', '\t', '|']);
        let (word, tail) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        if word.is_empty() {
            break;
        }
        let marked = word.starts_with(['[', '<', '(']) || word.ends_with(':');
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        // `INFO:app:words`, as Python's basicConfig writes it.
        let bare_head = bare.split(':').next().unwrap_or(bare);
        let shouted = bare_head.bytes().all(|b| b.is_ascii_uppercase()) && bare_head.len() > 2;
        let is_level = shouted || marked || (at > 0 && timed && bare.bytes().all(|b| b.is_ascii_lowercase()));
        if is_level
            && let Some(level) = Level::read(bare_head)
            && !bare_head.bytes().all(|b| b.is_ascii_digit())
        {
            let message = if bare_head.len() < bare.len() {
                word.split_once(':').map_or("", |(_, tail)| tail).len()
            } else {
                0
            };
            let tail = if message > 0 { rest.get(word.len() - message..).unwrap_or(tail) } else { tail };
            return Record { level: Some(level), message: Cow::Borrowed(words(tail)), fields: vec![] };
        }
        rest = tail;
    }
    let level = if super::shape::is_exception_head(line) || line.starts_with("Traceback (most recent") {
        Some(Level::Error)
    } else {
        None
    };
    Record { level, message: Cow::Borrowed(line), fields: vec![] }
}

/// Whether a line begins with a time: then a level in lower case may follow.
fn is_timed(line: &str) -> bool {
    line.trim_start_matches('[').bytes().take(4).filter(u8::is_ascii_digit).count() >= 2
}

/// What follows the level: without process, thread and logger where they are marked as such.
fn words(tail: &str) -> &str {
    let tail = tail.trim_start();
    // Logback and Spring: `1 --- [thread] logger   : words`.
    if let Some((head, words)) = tail.split_once(" : ")
        && head.contains("---")
    {
        return words.trim_start();
    }
    tail.trim_start_matches(['-', ':', '|', ' ', '\t'])
}

/// `E1122 02:42:52.123456       1 file.go:12] words`.
fn parse_klog(line: &str) -> Option<Record<'_>> {
    let mut bytes = line.bytes();
    let level = match bytes.next()? {
        b'I' => Level::Info,
        b'W' => Level::Warn,
        b'E' => Level::Error,
        b'F' => Level::Fatal,
        _ => return None,
    };
    if !bytes.by_ref().take(4).all(|b| b.is_ascii_digit()) || bytes.next() != Some(b' ') {
        return None;
    }
    let (_, message) = line.split_once("] ")?;
    Some(Record { level: Some(level), message: Cow::Borrowed(message), fields: vec![] })
}

/// `1:M 22 Nov 2026 10:00:00.123 # words`: a process, its role, a time, and a sign for the level.
fn parse_redis(line: &str) -> Option<Record<'_>> {
    let (process, rest) = line.split_once(':')?;
    let is_process = !process.is_empty() && process.bytes().all(|b| b.is_ascii_digit());
    let role = is_process && rest.starts_with(['M', 'S', 'C', 'X']) && rest.get(1..2) == Some(" ");
    let mut words = rest.splitn(7, ' ').skip(4).filter(|_| role);
    let (clock, sign) = (words.next()?, words.next()?);
    let level = match sign {
        "." | "-" => Level::Debug,
        "*" => Level::Info,
        "#" => Level::Warn,
        _ => return None,
    };
    clock.contains(':').then(|| Record {
        level: Some(level),
        message: Cow::Borrowed(words.next().unwrap_or_default()),
        fields: vec![],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> (Option<Level>, String) {
        let record = parse(line);
        (record.level, record.message.into_owned())
    }

    #[test]
    fn short_names_and_signs_of_levels() {
        assert_eq!(
            text("[10:00:00 WRN] Thread pool grew"),
            (Some(Level::Warn), "Thread pool grew".to_owned())
        );
        assert_eq!(text("10:00:00 INF started"), (Some(Level::Info), "started".to_owned()));
        assert_eq!(
            text("1:M 22 Nov 2026 10:00:00.123 # Connection with replica lost."),
            (Some(Level::Warn), "Connection with replica lost.".to_owned())
        );
        assert_eq!(parse(r#"{"@t":"x","@l":"Error","@m":"no"}"#).level, Some(Level::Error));
        assert_eq!(text("12:M at 10:00 # no").0, None);
    }

    #[test]
    fn json_with_nested_fields_and_levels_in_numbers() {
        let record =
            parse(r#"{"level":50,"msg":"failed","http":{"status_code":503},"err":{"message":"no"}}"#);
        assert_eq!(record.level, Some(Level::Error));
        assert_eq!(record.field(&["http.status_code"]), Some("503"));
        assert_eq!(record.error_text(), "no");
        assert_eq!(parse(r#"{"severity_text": "WARN", "msg": "a"}"#).level, Some(Level::Warn));
        assert_eq!(text("{ not json").0, None);
        let wrapped = parse(r#"{"log":"2026-11-22 02:38:48 ERROR failed","stack":["a.B: c","\tat d"]}"#);
        assert_eq!((wrapped.level, wrapped.field(&["stack"])), (Some(Level::Error), Some("a.B: c\n\tat d")));
        assert_eq!(text(r#"{"level":"error","msg":"\u001b[31mred\u001b[0m"}"#).1, "red");
    }

    #[test]
    fn logfmt_with_escapes() {
        let record = parse(
            r#"time=2026-11-21T10:00:00Z level=error msg="call failed" error="Get \"http://pay/a\": refused" tookMs="201""#,
        );
        assert_eq!((record.level, record.message.as_ref()), (Some(Level::Error), "call failed"));
        assert_eq!(record.error_text(), "Get \"http://pay/a\": refused");
        assert_eq!(record.field(&["tookMs"]), Some("201"));
        assert!(parse("a=b").fields.is_empty());
        assert!(parse("retry with x=1 y=2").fields.is_empty());
    }

    #[test]
    fn text_styles() {
        for (line, level, words) in [
            (
                "2026-11-22 02:38:48.680  INFO 1 --- [           main] a.Application  : handled 38 requests",
                Level::Info,
                "handled 38 requests",
            ),
            (
                "2026-11-22 02:37:39.638 ERROR 1 --- [nio-8080-exec-8] c.a.Controller             : threw exception",
                Level::Error,
                "threw exception",
            ),
            ("2025-05-29 10:14:26,367 - DEBUG - Starting", Level::Debug, "Starting"),
            ("[2026-11-22 02:42:52 +0000] [7] [INFO] Booting worker", Level::Info, "Booting worker"),
            (
                "2026-11-22 02:38:47.964 UTC [77] LOG:  checkpoint complete",
                Level::Info,
                "checkpoint complete",
            ),
            (
                "2026-11-22 02:38:47.964 UTC [77] FATAL:  sorry, too many clients already",
                Level::Fatal,
                "sorry, too many clients already",
            ),
            (
                "2025/01/01 00:00:00 [error] 31#31: *1 connect() failed",
                Level::Error,
                "31#31: *1 connect() failed",
            ),
            (
                "2026-11-22T02:42:39.588928Z\twarn\tOS CA Cert could not be found",
                Level::Warn,
                "OS CA Cert could not be found",
            ),
            ("E1122 02:42:52.123456       1 file.go:12] broken", Level::Error, "broken"),
            ("INFO:app:Received request", Level::Info, "app:Received request"),
            ("INFO:     Started server process [1]", Level::Info, "Started server process [1]"),
            ("Nov 22 02:42:52 host app[12]: ERROR: disk", Level::Error, "disk"),
        ] {
            assert_eq!(text(line), (Some(level), words.to_owned()), "{line}");
        }
        assert_eq!(text("failed to log an error").0, None);
        assert_eq!(text("").0, None);
    }

    #[test]
    fn hostile_lines_end() {
        for line in [
            "=",
            "a= b=",
            "\u{1b}",
            "\u{1b}[",
            "{\"a\":{\"b\":{\"c\":{\"d\":{\"e\":{}}}}}}",
            "k=\"open",
            "ä=1 b=2",
        ] {
            parse(line);
        }
    }
}
