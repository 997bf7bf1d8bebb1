//! What a single line of a log looks like: the beginning of a record, a frame of a stack, the head of an exception.

/// Whether a line begins a record of its own: a time, a level or an object of JSON stands at its margin.
pub fn begins_record(text: &str) -> bool {
    let bytes = text.as_bytes();
    let open = bytes.first().is_some_and(|b| matches!(b, b'[' | b'<'));
    let rest = if open { bytes.get(1..).unwrap_or_default() } else { bytes };
    match rest.first() {
        Some(b'{') => true,
        // `2026-11-22…`, `2026/11/22…`, `10:00:00…`, `22/Nov/2026…`, `22-Nov-2026…`.
        Some(b'0'..=b'9') => {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            (digits == 4 || digits == 2)
                && rest.get(digits).is_some_and(|b| matches!(b, b'-' | b'/' | b':'))
                && rest.get(digits + 1).is_some_and(u8::is_ascii_alphanumeric)
        }
        Some(b'A'..=b'Z') => {
            let word = rest.iter().take_while(|b| b.is_ascii_uppercase()).count();
            let after = rest.get(word).copied().unwrap_or(b' ');
            let level = rest.get(..word).is_some_and(|w| {
                matches!(
                    w,
                    b"TRACE"
                        | b"DEBUG"
                        | b"INFO"
                        | b"NOTICE"
                        | b"WARN"
                        | b"WARNING"
                        | b"ERROR"
                        | b"FATAL"
                        | b"CRITICAL"
                        | b"SEVERE"
                )
            });
            // klog's `E1122 02:42:52…`, and what calls itself by a level.
            (level && !after.is_ascii_alphanumeric())
                || (word == 1
                    && matches!(rest.first(), Some(b'I' | b'W' | b'E' | b'F'))
                    && rest.get(1..6).is_some_and(|day| {
                        day.get(..4).is_some_and(|d| d.iter().all(u8::is_ascii_digit)) && day.ends_with(b" ")
                    }))
        }
        _ => text.starts_with("level=") || text.starts_with("time=") || text.starts_with("ts="),
    }
}

/// A stack frame of any of the usual languages.
pub fn is_frame(text: &str) -> bool {
    let trimmed = text.trim_start();
    if trimmed.len() == text.len() {
        // PHP's frames stand at the margin.
        return trimmed.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    }
    trimmed.starts_with("at ")
        || trimmed.starts_with("File \"")
        || trimmed.starts_with("from ")
        || trimmed.contains(".go:")
        || (trimmed.starts_with('(') && (trimmed.contains(".ex:") || trimmed.contains(".erl:")))
        || is_numbered(trimmed)
}

/// `0: std::panicking::begin_panic`, a frame of Rust.
fn is_numbered(trimmed: &str) -> bool {
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && digits < 4 && trimmed.get(digits..).is_some_and(|rest| rest.starts_with(": "))
}

/// Whether a line can stand nowhere but inside a stack.
pub fn is_inside_stack(text: &str) -> bool {
    is_frame(text) || text.starts_with("Caused by: ") || is_more(text.trim_start())
}

/// `... 23 more`, `... 2 common frames omitted`.
fn is_more(trimmed: &str) -> bool {
    trimmed.strip_prefix("... ").is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_digit()) && (rest.contains("more") || rest.contains("omitted"))
    })
}

/// Whether a line opens a stack: what stands before it is another line's business, unless that line announces an error.
pub fn opens_stack(text: &str) -> bool {
    text.starts_with("Traceback (most recent call last):")
        || text.starts_with("goroutine ")
        || text.starts_with("[signal ")
        || text.starts_with("node:internal")
        || is_exception_head(text)
}

/// Whether a line goes on with the entry before it, whatever that is.
pub fn continues(text: &str) -> bool {
    const STARTS: &[&str] = &[
        "Caused by: ",
        "Suppressed: ",
        "During handling of the above exception",
        "The above exception was the direct cause",
        "created by ",
        "stack backtrace:",
        "note: run with",
        "note: Some details are omitted",
        "--- End of ",
        "Stack trace:",
        "[Previous exception]",
        "Next exception",
        "exit status 2",
        "Node.js v",
    ];
    match text.as_bytes().first() {
        None => false,
        Some(b' ' | b'\t') => !text.trim().is_empty(),
        Some(b'#') => is_frame(text),
        Some(b'.') => is_more(text),
        Some(b'}' | b')' | b']') => matches!(text.trim_end(), "}" | ")" | "]" | "},"),
        _ => STARTS.iter().any(|start| text.starts_with(start)),
    }
}

/// `a.b.SomeException: message`, `RuntimeError: message`, `Exception in thread …`, `panic: …`, `thread 'x' panicked at …`.
pub fn is_exception_head(text: &str) -> bool {
    const HEADS: &[&str] = &[
        "panic: ",
        "fatal error: ",
        "Exception in thread ",
        "Unhandled exception. ",
        "PHP Fatal error: ",
        "=CRASH REPORT====",
        "=ERROR REPORT====",
        "** (",
    ];
    if HEADS.iter().any(|head| text.starts_with(head))
        || (text.starts_with("thread '") && text.contains(" panicked at "))
    {
        return true;
    }
    let name = text.split([':', ' ', '\t']).next().unwrap_or_default();
    let last = name.rsplit(['.', '$', ':', '\\']).next().unwrap_or_default();
    let ends = [
        "Exception",
        "Error",
        "Failure",
        "Warning",
        "Interrupt",
        "Exit",
        "Fault",
        "Timeout",
        "Throwable",
        "Cancelled",
    ];
    let named = name.len() < 256
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'$' | b'/' | b'\\'))
        && last.starts_with(|c: char| c.is_ascii_uppercase())
        && (last == "Exception" || ends.iter().any(|end| last.len() > end.len() && last.ends_with(end)));
    let rest = text.get(name.len()..).unwrap_or_default();
    named
        && (rest.starts_with(": ")
            || rest == ":"
            || rest.starts_with(" [")
            || (rest.is_empty() && name.contains('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_begin_with_a_time_a_level_or_an_object() {
        for line in [
            "2026-11-22 10:00:00 x",
            "2026-11-22T10:00:00Z x",
            "[2026-11-22 10:00:00 +0000] x",
            "2026/11/22 10:00:00 x",
            "22/Nov/2026 x",
            "10:00:00.123 [main] x",
            "{\"level\":\"info\"}",
            "ERROR: x",
            "[ERROR] x",
            "INFO:app:x",
            "E1122 02:42:52.123456       1 file.go:12] x",
            "level=info msg=x",
        ] {
            assert!(begins_record(line), "{line}");
        }
        for line in [
            "",
            "main.f(0x1)",
            "  at x",
            "12 rows",
            "Error: x",
            "INFORMATION",
            "Infinity",
            "[cause]: x",
            "E: x",
        ] {
            assert!(!begins_record(line), "{line}");
        }
    }

    #[test]
    fn exception_names_are_told_from_sentences() {
        for line in [
            "java.lang.IllegalStateException: x",
            "requests.exceptions.ConnectTimeout: x",
            "java.lang.NullPointerException",
            "thread 'tokio-runtime-worker' (7) panicked at src/main.rs:12:5:",
            "PHP Fatal error:  Uncaught X: y in f.php:1",
        ] {
            assert!(is_exception_head(line), "{line}");
        }
        for line in ["Error: x", "Some Exception", "Timeout: x", "thread 'x' started", "WARN: x"] {
            assert!(!is_exception_head(line), "{line}");
        }
    }

    #[test]
    fn frames_of_many_languages() {
        for line in [
            "\tat a.B.c(B.java:1)",
            "    at f (/app/x.js:1:2)",
            "   at A.B() in f.cs:line 3",
            "  File \"x.py\", line 12, in f",
            "\t/app/main.go:12 +0x1d",
            "   0: core::panicking::panic",
            "             at /rustc/abc/library/core/src/panicking.rs:1:5",
            "\tfrom file.rb:2:in 'f'",
            "#0 f.php(2): f()",
            "    (app 0.1.0) lib/a.ex:1: A.f/1",
        ] {
            assert!(is_frame(line), "{line}");
        }
        assert!(!is_frame("at last it works") && !is_frame("  key: value") && !is_frame("  1 row"));
    }
}
