//! Lines that belong together: a stack trace is one entry and not thirty.
//!
//! Lines of standard output and of standard error are joined each by themselves. Where a line of another thread stands in
//! the midst of a stack, the frames below it still belong to the stack, as far as that line can own none.

use jiff::Timestamp;
use std::collections::VecDeque;

use super::record::{Level, parse};
use super::shape::{begins_record, continues, is_exception_head, is_frame, is_inside_stack, opens_stack};
use crate::model::log::{LogLine, Output};

/// Lines of one entry; a longer stack trace repeats itself.
pub const MAX_LINES: usize = 1000;
/// Bytes of one entry.
pub const MAX_BYTES: usize = 256 * 1024;
/// Lines further apart than this do not belong together, in milliseconds: nobody prints a stack trace that slowly.
pub const MAX_PAUSE: i64 = 5000;
/// Lines between the head of an exception and its first frame: the message goes on there.
const MAX_MESSAGE_LINES: usize = 12;

/// One entry: a line and those that continue it.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    head: &'a LogLine,
    rest: Vec<&'a LogLine>,
}

impl<'a> Entry<'a> {
    /// The line it begins with.
    pub fn head(&self) -> &'a str {
        &self.head.text
    }

    /// The lines that continue it.
    pub fn rest(&self) -> impl DoubleEndedIterator<Item = &'a str> + '_ {
        self.rest.iter().map(|line| line.text.as_str())
    }

    /// When the runtime took its first line.
    pub fn time(&self) -> Option<Timestamp> {
        self.head.time
    }

    /// Whether it has more than one line.
    pub fn is_joined(&self) -> bool {
        !self.rest.is_empty()
    }
}

/// The entries of a log, in the order in which they end.
pub fn entries(lines: &[LogLine]) -> impl Iterator<Item = Entry<'_>> {
    let mut joiner = Joiner::default();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            if let Some(entry) = joiner.done.pop_front() {
                return Some(entry);
            }
            let Some(line) = lines.get(at) else {
                return joiner.flush();
            };
            at += 1;
            joiner.take(line, lines.get(at..).unwrap_or_default());
        }
    })
}

#[derive(Default)]
struct Joiner<'a> {
    /// One for each output.
    lanes: [Lane<'a>; 3],
    done: VecDeque<Entry<'a>>,
}

/// The lines of one output.
#[derive(Default)]
struct Lane<'a> {
    open: Option<Open<'a>>,
    /// A stack that a line of somebody else interrupted.
    interrupted: Option<Open<'a>>,
}

/// An entry that goes on.
struct Open<'a> {
    entry: Entry<'a>,
    bytes: usize,
    last: &'a LogLine,
    form: Form,
}

/// What an open entry waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing.
    Plain,
    /// The head of an exception stands last: its message may go on before the first frame.
    Head,
    /// Frames were there.
    Stack,
    /// Python's: the exception stands below its frames, at the margin.
    Traceback,
    /// Go's: functions stand at the margin, their places below them.
    Goroutine,
    /// Rust's: the message is the next line.
    Panicked,
    /// Erlang's: `** Reason for termination ==` and its like.
    Report,
}

impl<'a> Joiner<'a> {
    fn take(&mut self, line: &'a LogLine, next: &[LogLine]) {
        let lane = match line.output {
            Output::Merged => &mut self.lanes[0],
            Output::Out => &mut self.lanes[1],
            Output::Err => &mut self.lanes[2],
        };
        if let Some(open) = lane.open.as_mut().filter(|open| open.fits(line))
            && open.takes(line, next)
        {
            // Frames below a line that can own none are those of the stack before it.
            let orphan = open.form == Form::Plain
                && is_inside_stack(&line.text)
                && open.entry.rest.is_empty()
                && open.is_calm();
            match lane.interrupted.as_mut().filter(|stack| orphan && stack.fits(line)) {
                Some(stack) => stack.add(line),
                None => open.add(line),
            }
            return;
        }
        let before = lane.open.replace(Open::new(line));
        match before {
            Some(open) if matches!(open.form, Form::Stack | Form::Traceback) => {
                let older = lane.interrupted.replace(open);
                self.done.extend(older.map(|open| open.entry));
            }
            Some(open) => {
                let over = lane.interrupted.take_if(|stack| !stack.fits(line));
                self.done.extend(over.map(|stack| stack.entry));
                self.done.push_back(open.entry);
            }
            None => {}
        }
    }

    fn flush(&mut self) -> Option<Entry<'a>> {
        let mut lanes = self.lanes.iter_mut();
        lanes.find_map(|lane| lane.interrupted.take().or_else(|| lane.open.take())).map(|open| open.entry)
    }
}

impl<'a> Open<'a> {
    fn new(line: &'a LogLine) -> Self {
        let entry = Entry { head: line, rest: vec![] };
        Open { entry, bytes: line.text.len(), last: line, form: Form::of(&line.text, Form::Plain) }
    }

    /// Whether there is room for a line, and it comes soon enough.
    fn fits(&self, line: &LogLine) -> bool {
        let late = match (self.last.time, line.time) {
            (Some(a), Some(b)) => b.as_millisecond() - a.as_millisecond() > MAX_PAUSE,
            _ => false,
        };
        !late && self.entry.rest.len() + 1 < MAX_LINES && self.bytes + line.text.len() <= MAX_BYTES
    }

    fn add(&mut self, line: &'a LogLine) {
        self.bytes += line.text.len();
        self.form = Form::of(&line.text, self.form);
        self.last = line;
        self.entry.rest.push(line);
    }

    /// Whether its first line says itself that nothing is wrong.
    fn is_calm(&self) -> bool {
        parse(&self.entry.head.text).level.is_some_and(|level| level < Level::Warn)
    }

    /// Whether a line belongs to it.
    fn takes(&self, line: &LogLine, next: &[LogLine]) -> bool {
        let text = line.text.as_str();
        if continues(text) {
            return true;
        }
        match self.form {
            Form::Traceback => !begins_record(text),
            Form::Panicked => !begins_record(text),
            Form::Goroutine => is_go_line(text),
            Form::Report => {
                text.starts_with("** ") || text.starts_with("State: ") || text.starts_with("Last message")
            }
            Form::Head if !begins_record(text) && !is_exception_head(text) && leads_to_frame(next) => true,
            Form::Stack if text.starts_with("Traceback (most recent call last):") => !self.is_calm(),
            Form::Head | Form::Plain | Form::Stack => {
                opens_stack(text)
                    && !self.is_calm()
                    && (self.entry.rest.is_empty()
                        || self.form == Form::Head
                        || text.starts_with("goroutine ")
                        || text.starts_with('['))
                    && (!is_exception_head(text) || (self.form == Form::Plain && heads_a_stack(text, next)))
            }
        }
    }
}

impl Form {
    /// What an entry waits for after a line.
    fn of(text: &str, before: Form) -> Form {
        if text.starts_with("goroutine ") || text.starts_with("runtime stack:") {
            return Form::Goroutine;
        }
        if text.trim_end().ends_with("Traceback (most recent call last):") {
            return Form::Traceback;
        }
        if text.ends_with(':') && text.contains(" panicked at ") {
            return Form::Panicked;
        }
        if text.starts_with("** ")
            || (memchr::memchr(b'*', text.as_bytes()).is_some() && text.contains("** Generic server"))
            || text.starts_with("=CRASH REPORT")
            || text.starts_with("=ERROR REPORT")
        {
            return Form::Report;
        }
        match before {
            Form::Goroutine | Form::Report => before,
            // The exception itself ends it.
            Form::Traceback if !text.starts_with([' ', '\t', '+', '|']) => Form::Stack,
            Form::Traceback => Form::Traceback,
            Form::Panicked => Form::Stack,
            _ if is_frame(text) => Form::Stack,
            _ if is_exception_head(text) => Form::Head,
            other => other,
        }
    }
}

/// A line of Go's dump of its goroutines: a function with its arguments, registers of a signal, what was left out.
fn is_go_line(text: &str) -> bool {
    let call = text.ends_with(')') && text.contains('(') && !begins_record(text);
    let register = text.split_once(' ').is_some_and(|(name, value)| {
        name.len() <= 6
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && value.trim_start().starts_with("0x")
    });
    call || register
        || text.starts_with("goroutine ")
        || text.starts_with("...additional frames elided...")
        || text.starts_with("runtime stack:")
        || text.starts_with("\tpanic: ")
}

/// Whether frames follow before the next record.
fn leads_to_frame(next: &[LogLine]) -> bool {
    next.iter()
        .take(MAX_MESSAGE_LINES)
        .take_while(|line| !begins_record(&line.text))
        .any(|line| is_frame(&line.text))
}

/// Whether an exception's head has a stack of its own below it.
fn heads_a_stack(text: &str, next: &[LogLine]) -> bool {
    let below = next.first().is_some_and(|line| {
        is_frame(&line.text)
            || line.text.starts_with("Caused by: ")
            || line.text.starts_with("goroutine ")
            || line.text.starts_with("[signal ")
    });
    below || (!begins_record(text) && leads_to_frame(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<LogLine> {
        let line = |text: &str| LogLine { text: text.to_owned(), ..LogLine::default() };
        text.lines().filter(|text| !text.is_empty()).map(line).collect()
    }

    fn joined(text: &str) -> Vec<usize> {
        entries(&lines(text)).map(|e| e.rest().count() + 1).collect()
    }

    #[test]
    fn a_java_stack_belongs_to_the_line_that_logged_it() {
        let text = "2026-11-21 10:00:00.1 ERROR 1 --- [x] a.B : failed\norg.x.SomeException: outer\n\tat a.b.C.d(C.java:1)\n\tSuppressed: a.b.OtherException: x\nCaused by: java.net.ConnectException: Connection refused\n\t... 3 more\n2026-11-21 10:00:01.1  INFO 1 --- [x] a.B : fine";
        assert_eq!(joined(text), [6, 1]);
    }

    #[test]
    fn a_message_of_several_lines_stays_with_its_exception() {
        let text = "ERROR failed\norg.x.PersistenceException: \n### Error updating database.  Cause: x\n### SQL: insert\n\tat a.B.c(B.java:1)\nINFO fine";
        assert_eq!(joined(text), [5, 1]);
    }

    #[test]
    fn a_traceback_ends_with_its_exception() {
        let text = "ERROR:app:failed\nTraceback (most recent call last):\n  File \"a.py\", line 1, in f\n    x()\napp.NoRow: no\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"b.py\", line 1, in g\nRuntimeError: no\nlistening on 8080";
        assert_eq!(joined(text), [9, 1]);
    }

    #[test]
    fn a_panic_keeps_its_goroutines() {
        let text = "panic: runtime error: index out of range [recovered]\n\tpanic: again\n\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x1]\ngoroutine 1 [running]:\nmain.f({0x1, 0x2})\n\t/a.go:1 +0x1d\ncreated by main.g in goroutine 2\n\t/a.go:2 +0x3\n\ngoroutine 7 [chan receive]:\nmain.h()\n\t/a.go:3\nexit status 2";
        assert_eq!(joined(text), [12]);
        assert_eq!(
            joined(
                "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\nmain.main()\n\t/a.go:1\n2026-11-21 start"
            ),
            [4, 1]
        );
    }

    #[test]
    fn other_languages() {
        for text in [
            "thread 'main' (1) panicked at src/a.rs:1:2:\nthe message\nstack backtrace:\n   0: f\n             at src/a.rs:1\nnote: run with `RUST_BACKTRACE=full`",
            "Unhandled exception. System.X: msg\n ---> System.Y: inner\n   at A.B() in f.cs:line 3\n   --- End of inner exception stack trace ---\n   at C.D()",
            "/app/x.js:12\n        throw err;\n        ^\n",
            "TypeError: fetch failed\n    at f (/app/x.js:1:2) {\n  [cause]: Error: connect ECONNREFUSED 10.0.0.1:80\n      at g (node:net:1:2) {\n    code: 'ECONNREFUSED'\n  }\n}",
            "file.rb:1:in 'f': msg (ArgumentError)\n\tfrom file.rb:2:in 'g'",
            "PHP Fatal error:  Uncaught X: msg in f.php:1\nStack trace:\n#0 f.php(2): f()\n#1 {main}\n  thrown in f.php on line 1",
            "=CRASH REPORT==== 22-Nov-2026::10:00:00 ===\n  crasher:\n    pid: <0.1.0>\n** Reason for termination ==\n** {badmatch,x}",
            "10:00:00.000 [error] GenServer X terminating\n** (RuntimeError) no row\n    (app 0.1.0) lib/a.ex:1: A.f/1\nLast message: x\nState: %{}",
        ] {
            assert_eq!(joined(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_crash_does_not_hang_on_to_a_calm_line() {
        let text = "INFO listening\nTraceback (most recent call last):\n  File \"a.py\", line 1\nKeyError: 'x'\nINFO listening\nnode:internal/modules:1\n  throw err;\nINFO x\njava.lang.IllegalStateException: x\n\tat a.B.c(B.java:1)";
        let mut sizes = joined(text);
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_line_of_another_thread_does_not_end_a_stack() {
        let text = "2026-11-21 10:00:00 ERROR [a] failed\na.b.SomeException: x\n\tat a.B.c(B.java:1)\n2026-11-21 10:00:00 INFO [b] served\n\tat a.B.d(B.java:2)\nCaused by: a.b.RootException: y\n\t... 2 more\n2026-11-21 10:00:01 INFO [b] served";
        let lines = lines(text);
        let entries: Vec<_> = entries(&lines).collect();
        let stack = entries.iter().find(|e| e.is_joined()).unwrap();
        assert_eq!((entries.len(), stack.rest().count()), (3, 5));
        // A line that may have a stack of its own keeps what follows it.
        let text = "ERROR a\na.b.SomeException: x\n\tat a.B.c(B.java:1)\nERROR b\n\tat a.B.d(B.java:2)\nINFO configuration:\n  key: value";
        assert_eq!(joined(text).iter().sum::<usize>(), 7);
        assert_eq!(joined(text).len(), 3);
    }

    #[test]
    fn outputs_are_joined_each_by_itself() {
        let mut all = lines("ERROR a\ntoo late\n\tat a.B.c(B.java:1)\ncalm");
        for (line, output) in all.iter_mut().zip([Output::Err, Output::Out, Output::Err, Output::Out]) {
            line.output = output;
        }
        assert_eq!(entries(&all).map(|e| e.rest().count()).sum::<usize>(), 1);
        assert_eq!(entries(&all).count(), 3);
    }

    #[test]
    fn a_pause_ends_an_entry() {
        let mut all = lines("ERROR a\n\tat a.B.c(B.java:1)");
        all[0].time = "2026-11-21T10:00:00Z".parse().ok();
        all[1].time = "2026-11-21T10:00:06Z".parse().ok();
        assert_eq!(entries(&all).count(), 2);
    }

    #[test]
    fn plain_lines_stay_alone_and_bounds_hold() {
        assert_eq!(joined("a\nb\nError handling is on\nFileNotFoundError: x\nValueError: y").len(), 5);
        let endless = format!("head\n{}", " x\n".repeat(MAX_LINES * 2));
        assert_eq!(joined(&endless)[0], MAX_LINES);
        let large = format!("head\n {}\n {}\n", "x".repeat(MAX_BYTES / 2), "y".repeat(MAX_BYTES / 2));
        assert_eq!(joined(&large), [2, 1]);
        assert!(joined("").is_empty());
    }
}
