//! Python: the innermost frame stands last and the exception below it; of a chain the first traceback is the root.

use super::{Exception, Language, head};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    let mut chain: Vec<(&str, &str)> = vec![];
    let mut frames: Vec<&str> = vec![];
    let mut inside = false;
    for line in lines {
        if line.contains("Traceback (most recent call last):") {
            inside = true;
            continue;
        }
        let trimmed = line.trim_start_matches(['|', '+', ' ', '\t']);
        if inside && trimmed.starts_with("File \"") {
            if chain.is_empty() {
                frames.push(trimmed);
            }
        } else if inside && !line.starts_with([' ', '\t', '|', '+']) {
            chain.push(head(line));
            inside = false;
        }
    }
    if chain.is_empty() {
        // The end was cut off: the frames alone still say where.
        if frames.is_empty() {
            return None;
        }
        chain.push(("exception", ""));
    }
    chain.reverse();
    Exception::new(Language::Python, chain, frames.into_iter().rev())
}
