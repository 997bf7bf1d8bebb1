//! Java and what runs on its machine. Whatever has no form of its own is read as this one, too.

use super::{Exception, Language, head, is_exception_head, is_frame};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    let start = lines.iter().position(|line| is_exception_head(line));
    let is_cause = |line: &str| line.starts_with("Caused by: ");
    let caused = lines.iter().rposition(|line| is_cause(line));
    let root = caused.or(start)?;
    let outer = start.and_then(|at| lines.get(at)).map(|line| named(line));
    let causes =
        lines.iter().filter(|line| is_cause(line)).map(|line| head(line.trim_start_matches("Caused by: ")));
    let frames =
        lines.iter().copied().skip(root + 1).take_while(|line| !is_cause(line)).filter(|line| is_frame(line));
    // `... 3 more` stands for the frames of the exception around it.
    let around = lines.iter().copied().take(root).filter(|line| is_frame(line));
    let mut frames: Vec<&str> = frames.collect();
    if frames.iter().all(|frame| super::is_runtime(frame)) {
        frames.extend(around);
    }
    Exception::new(Language::Java, outer.into_iter().chain(causes), frames)
}

/// `Exception in thread "x" a.b.C: msg` without its beginning.
fn named(line: &str) -> (&str, &str) {
    let line = line
        .strip_prefix("Exception in thread \"")
        .and_then(|rest| rest.split_once("\" "))
        .map_or(line, |(_, rest)| rest);
    head(line)
}
