//! .NET: inner exceptions follow an arrow, in the line itself or below it; the innermost prints its frames first.

use super::{Exception, Language, head, is_exception_head};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    let frame = |line: &&str| {
        let trimmed = line.trim_start();
        trimmed.starts_with("at ")
            && (trimmed.contains(":line ")
                || trimmed.starts_with("at System.")
                || trimmed.starts_with("at Microsoft."))
    };
    let arrow = lines.iter().any(|line| line.contains(" ---> "));
    if !arrow && !lines.iter().any(frame) {
        return None;
    }
    let start = lines.iter().position(|line| is_head(line))?;
    let mut chain: Vec<(&str, &str)> = vec![];
    for (at, line) in lines.iter().enumerate().skip(start) {
        let line = line.trim_start().trim_start_matches("Unhandled exception. ");
        if at > start && !line.contains("---> ") {
            continue;
        }
        chain.extend(line.split("---> ").filter(|part| !part.trim().is_empty()).map(head));
    }
    let frames = lines.iter().copied().filter(|line| line.trim_start().starts_with("at "));
    Exception::new(Language::DotNet, chain, frames)
}

fn is_head(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Unhandled exception. ")
        || is_exception_head(line)
        || (line.starts_with("System.") && line.contains("Exception"))
}
