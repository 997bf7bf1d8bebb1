//! What an application said last before it ended: the line of its log that names the error.

use jiff::Timestamp;
use regex::Regex;
use std::sync::LazyLock;

use crate::analyze::finding::Evidence;
use crate::model::log::{LogLine, LogStream};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerStatus, Pod};

/// The line that names the error, and what sort of line it is.
#[derive(Debug, Clone)]
pub(crate) struct LastWords<'a> {
    /// The stream it stands in.
    pub stream: &'a LogStream,
    /// The line.
    pub text: &'a str,
    /// When it was written.
    pub time: Option<Timestamp>,
    /// Whether it is an error by its shape (an exception, a panic, a line of level error), not just the last line.
    pub error: bool,
}

impl LastWords<'_> {
    /// It as evidence.
    pub(crate) fn evidence(&self) -> Evidence {
        let which = if self.stream.previous { ", previous instance" } else { "" };
        let place = format!(
            "Pod {}/{}, container {}{which}",
            self.stream.namespace, self.stream.pod, self.stream.container
        );
        let what = if self.error { "the last error that it logged" } else { "the last line that it logged" };
        Evidence::new("Log", place, what).excerpt(self.text).at(self.time)
    }
}

/// This many lines before the end are looked at: a long stack trace with its head.
const LOOK_BACK: usize = 300;

/// What a container said before its latest end: from the previous instance's log where there is one, else from the current.
pub(crate) fn last_words<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    status: &ContainerStatus,
) -> Option<LastWords<'a>> {
    let (namespace, name) = (pod.object.namespace(), pod.object.name());
    let previous = snapshot.log(namespace, name, &status.name, true).filter(|log| !log.lines.is_empty());
    let stream = previous
        .or_else(|| snapshot.log(namespace, name, &status.name, false))
        .or_else(|| only_log(snapshot, pod))?;
    in_stream(stream)
}

/// The log of a pod with a single container whose log was kept under another name.
fn only_log<'a>(snapshot: &'a Snapshot, pod: &Pod) -> Option<&'a LogStream> {
    let own = |log: &&LogStream| log.namespace == pod.object.namespace() && log.pod == pod.object.name();
    if pod.statuses.len() != 1 {
        return None;
    }
    let mut logs = snapshot.logs.iter().filter(own);
    let first = logs.next()?;
    let second = logs.next();
    let other = second.is_some_and(|log| log.container != first.container);
    (!other).then(|| second.filter(|log| log.previous && !log.lines.is_empty()).unwrap_or(first))
}

/// The same for one stream.
pub(crate) fn in_stream(stream: &LogStream) -> Option<LastWords<'_>> {
    let lines = stream.lines.get(stream.lines.len().saturating_sub(LOOK_BACK)..)?;
    let found = error_line(lines);
    let line = found
        .or_else(|| lines.iter().rev().find(|line| !is_frame(&line.text) && !line.text.trim().is_empty()))?;
    Some(LastWords { stream, text: &line.text, time: line.time, error: found.is_some() })
}

/// Heads of errors, by how surely they name the cause: an innermost exception before an exception, an exception before a line
/// of level error.
static HEADS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        // The innermost exception of Java and .NET, the `cause` of Node.
        r"^\s*Caused by: |^ ---> |\[cause\]: ",
        // Exceptions and panics by their own form.
        r"^(?:[\w.$]+\.)?\w*(?:Error|Exception|Interrupt|Fault)\b: |\bException in thread |^(?:panic|fatal error): |^Unhandled exception\. |^PHP Fatal error: |^thread '.*' .*panicked at |^Uncaught |: \w*(?:Error|Exception): ",
        // A line that calls itself fatal.
        r#"(?i)\b(?:fatal|critical|panic|emerg(?:ency)?|severe)\b"#,
        // A line of level error, or what a program writes before it exits.
        r#"(?i)\berror\b|\berr\b|\[E\]|^E\d{4} |(?i:\b(?:cannot|can't|could not|failed to|unable to|no such file|not found|missing|invalid|required|denied|refused)\b)"#,
    ]
    .iter()
    .filter_map(|pattern| Regex::new(pattern).ok())
    .collect()
});

/// Of the best sort of head that is there, the last line.
fn error_line(lines: &[LogLine]) -> Option<&LogLine> {
    HEADS
        .iter()
        .find_map(|head| lines.iter().rev().find(|line| head.is_match(&line.text) && !is_frame(&line.text)))
}

/// Whether a line is only part of a stack trace.
fn is_frame(text: &str) -> bool {
    static FRAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"^\s+at |^\s+File "|^\s*\.\.\. \d+ (?:more|common)|^goroutine \d+|^\t|^\s+\d+: |^#\d+ |^Traceback |^stack backtrace:|^note: run with|^\s+\^|^created by |^\s*[})\]]+$"#).ok()
    });
    FRAME.as_ref().is_some_and(|frame| frame.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(log: &str) -> String {
        let stream = LogStream::read("n", "p", "c", true, log.as_bytes(), false);
        in_stream(&stream).unwrap().text.to_owned()
    }

    #[test]
    fn each_language_names_its_error_somewhere_else() {
        let python = "starting\nTraceback (most recent call last):\n  File \"/a.py\", line 1, in <module>\n    go()\nRuntimeError: no table\n";
        assert_eq!(words(python), "RuntimeError: no table");
        let java = "Exception in thread \"main\" a.B: boom\n\tat a.B.c(B.java:1)\nCaused by: a.C: inner\n\tat a.C.d(C.java:2)\n\t... 2 more\n";
        assert_eq!(words(java), "Caused by: a.C: inner");
        let go = "panic: assignment to nil map\n\ngoroutine 1 [running]:\nmain.main()\n\t/a.go:3 +0x1d\nexit status 2\n";
        assert_eq!(words(go), "panic: assignment to nil map");
        let wrapped = "up\n\"data\": \"Exception in thread \\\"main\\\" java.lang.StackOverflowError\n\\tat a.B.c(B.java:1)\n";
        assert!(words(wrapped).ends_with("java.lang.StackOverflowError"), "{}", words(wrapped));
        let level = "level=info msg=up\nlevel=error msg=\"disk full\"\nlevel=info msg=bye\n";
        assert_eq!(words(level), "level=error msg=\"disk full\"");
        assert_eq!(words("one\ntwo\n"), "two");
    }

    #[test]
    fn an_empty_log_says_nothing() {
        assert!(in_stream(&LogStream::read("n", "p", "c", true, b"", false)).is_none());
    }
}
