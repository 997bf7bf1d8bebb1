//! Go: a panic, or a fatal error of its runtime, and the goroutines that it prints.

use super::{Exception, Language};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    let goroutine = lines.iter().position(|line| line.starts_with("goroutine ") && line.contains(" ["))?;
    let before = || lines.iter().take(goroutine);
    let (kind, message) = before().find_map(|line| thrown(line)).unwrap_or(("panic", ""));
    let message = message.trim_end_matches(" [recovered]");
    // A function at the margin, its place below it; only the first goroutine is the one that failed.
    let below = lines.iter().copied().skip(goroutine + 1).take_while(|line| !line.starts_with("goroutine "));
    let mut frames: Vec<String> = vec![];
    let mut function = "";
    for line in below {
        match line.strip_prefix('\t') {
            Some(place) => {
                let file = place.split(" +0x").next().unwrap_or(place);
                let file = file.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':');
                frames.push(format!("{} {file}", name(function)));
            }
            None => function = line,
        }
    }
    // What stands above the call of `panic` is the machinery of panicking.
    let panicked =
        frames.iter().rposition(|frame| frame.starts_with("panic ") || frame.starts_with("runtime.gopanic"));
    let frames = frames.iter().skip(panicked.map_or(0, |at| at + 1)).map(String::as_str);
    Exception::new(Language::Go, [(kind, message)], frames)
}

/// `panic: msg`, `fatal error: msg`, `http: panic serving ADDRESS: msg`.
fn thrown(line: &str) -> Option<(&'static str, &str)> {
    if let Some((_, rest)) = line.split_once("panic serving ") {
        return Some(("panic", rest.split_once(": ").map_or(rest, |(_, message)| message)));
    }
    for kind in ["fatal error", "panic"] {
        if let Some(at) = line.find(kind)
            && let Some(message) = line.get(at + kind.len()..).and_then(|rest| rest.strip_prefix(": "))
        {
            return Some((kind, message));
        }
    }
    None
}

/// A function without its arguments: `main.(*Cache).Put` of `main.(*Cache).Put(0xc0, …)`.
fn name(function: &str) -> &str {
    let function = function.strip_prefix("created by ").unwrap_or(function);
    let function = function.split(" in goroutine ").next().unwrap_or(function);
    if !function.ends_with(')') {
        return function;
    }
    // The arguments are the last pair of brackets; values in braces may hold none.
    function.rfind('(').and_then(|at| function.get(..at)).unwrap_or(function)
}
