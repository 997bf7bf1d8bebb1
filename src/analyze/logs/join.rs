//! Lines that belong together: a stack trace is one entry and not thirty.

use jiff::Timestamp;

use crate::model::log::LogLine;

/// Lines of one entry; a longer stack trace repeats itself.
pub const MAX_LINES: usize = 1000;
/// Bytes of one entry.
pub const MAX_BYTES: usize = 256 * 1024;
/// Lines further apart than this do not belong together, in milliseconds: nobody prints a stack trace that slowly.
pub const MAX_PAUSE: i64 = 5000;

/// One entry: a line and those that continue it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    lines: &'a [LogLine],
}

impl<'a> Entry<'a> {
    /// The line it begins with.
    pub fn head(&self) -> &'a str {
        self.lines.first().map_or("", |line| line.text.as_str())
    }

    /// The lines that continue it.
    pub fn rest(&self) -> impl DoubleEndedIterator<Item = &'a str> + use<'a> {
        self.lines.iter().skip(1).map(|line| line.text.as_str())
    }

    /// When the runtime took its first line.
    pub fn time(&self) -> Option<Timestamp> {
        self.lines.first().and_then(|line| line.time)
    }

    /// Whether it has more than one line.
    pub fn is_joined(&self) -> bool {
        self.lines.len() > 1
    }
}

/// The entries of a log, in order.
pub fn entries(lines: &[LogLine]) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let (mut count, mut bytes, mut last) = (1, first.text.len(), first);
        // What a traceback reports stands below it, at the margin.
        let mut open_traceback = is_traceback(&first.text);
        for line in rest.iter().skip(1) {
            bytes += line.text.len();
            let late = match (last.time, line.time) {
                (Some(a), Some(b)) => b.as_millisecond() - a.as_millisecond() > MAX_PAUSE,
                _ => false,
            };
            if count >= MAX_LINES || bytes > MAX_BYTES || late {
                break;
            }
            let continues = continues(&line.text);
            let closes = open_traceback && !continues && is_exception_head(&line.text);
            let heads_a_stack = !continues
                && is_exception_head(&line.text)
                && rest.get(count + 1).is_some_and(|next| is_frame(&next.text));
            if !(continues || closes || (heads_a_stack && count == 1 && !is_exception_head(&first.text))) {
                break;
            }
            open_traceback = (open_traceback && !closes) || is_traceback(&line.text);
            last = line;
            count += 1;
        }
        let (entry, tail) = rest.split_at_checked(count)?;
        rest = tail;
        Some(Entry { lines: entry })
    })
}

fn is_traceback(text: &str) -> bool {
    text.starts_with("Traceback (most recent call last):")
}

/// A stack frame of any of the usual languages.
pub fn is_frame(text: &str) -> bool {
    let trimmed = text.trim_start();
    trimmed.len() < text.len()
        && (trimmed.starts_with("at ")
            || trimmed.starts_with("File \"")
            || trimmed.starts_with("from ")
            || trimmed.contains(".go:"))
}

/// Whether a line goes on with the entry before it.
fn continues(text: &str) -> bool {
    const STARTS: &[&str] = &[
        "Caused by: ",
        "Suppressed: ",
        "... ",
        "Traceback (most recent call last):",
        "During handling of the above exception",
        "The above exception was the direct cause",
        "goroutine ",
        "created by ",
        "[signal ",
        "stack backtrace:",
        "note: run with",
        "--- End of ",
        "node:internal",
    ];
    if text.trim().is_empty() {
        return false;
    }
    text.starts_with([' ', '\t'])
        || STARTS.iter().any(|start| text.starts_with(start))
        || text.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        || matches!(text.trim_end(), "}" | ")" | "]")
}

/// `a.b.SomeException: message`, `RuntimeError: message`, `Exception in thread …`, `panic: …`.
pub fn is_exception_head(text: &str) -> bool {
    if text.starts_with("panic: ")
        || text.starts_with("fatal error: ")
        || text.starts_with("Exception in thread ")
    {
        return true;
    }
    let name = text.split([':', ' ', '\t']).next().unwrap_or_default();
    let last = name.rsplit(['.', '$']).next().unwrap_or_default();
    let ends = ["Exception", "Error", "Failure", "Warning", "Interrupt", "Exit", "Fault"];
    name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '$' | '/'))
        && last.starts_with(|c: char| c.is_ascii_uppercase())
        && last.len() > 5
        && ends.iter().any(|end| last.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> Vec<(String, usize)> {
        let lines: Vec<LogLine> =
            text.lines().map(|text| LogLine { time: None, text: text.to_owned() }).collect();
        entries(&lines).map(|e| (e.head().to_owned(), e.rest().count() + 1)).collect()
    }

    #[test]
    fn a_java_stack_belongs_to_the_line_that_logged_it() {
        let text = "2026-11-21 10:00:00.1 ERROR 1 --- [x] a.B : failed\norg.x.SomeException: outer\n\tat a.b.C.d(C.java:1)\nCaused by: java.net.ConnectException: Connection refused\n\t... 3 more\n2026-11-21 10:00:01.1  INFO 1 --- [x] a.B : fine";
        let entries = joined(text);
        assert_eq!(entries.iter().map(|e| e.1).collect::<Vec<_>>(), [5, 1]);
    }

    #[test]
    fn a_traceback_ends_with_its_exception() {
        let text = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x()\nRuntimeError: no\nlistening on 8080";
        assert_eq!(joined(text).iter().map(|e| e.1).collect::<Vec<_>>(), [4, 1]);
    }

    #[test]
    fn a_panic_keeps_its_goroutine() {
        let text = "panic: oh\n\ngoroutine 1 [running]:\nmain.f()\n\t/a.go:1 +0x1d";
        // The blank line is dropped when a log is read.
        let text = text.replace("\n\n", "\n");
        assert_eq!(joined(&text)[0].1, 2);
    }

    #[test]
    fn plain_lines_stay_alone_and_bounds_hold() {
        assert_eq!(joined("a\nb\nError handling is on").len(), 3);
        let endless = format!("head\n{}", " x\n".repeat(MAX_LINES * 2));
        assert_eq!(joined(&endless)[0].1, MAX_LINES);
        assert!(joined("").is_empty());
    }

    #[test]
    fn exception_names_are_told_from_sentences() {
        assert!(is_exception_head("java.lang.IllegalStateException: x"));
        assert!(is_exception_head("requests.exceptions.ConnectionError: x"));
        assert!(!is_exception_head("Error: x"));
        assert!(!is_exception_head("Some Exception"));
    }
}
