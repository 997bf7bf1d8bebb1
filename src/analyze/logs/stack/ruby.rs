//! Ruby: place, method, words and class in one line.

use super::{Exception, Language};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    let (file, rest, message, kind) = lines.iter().find_map(|line| told(line))?;
    let method = |rest: &str| rest.split_once(": ").map_or(rest, |(method, _)| method).to_owned();
    let first = format!("{file} in {}", method(rest));
    let frames = lines.iter().filter_map(|line| {
        let (file, rest) = line.trim_start().strip_prefix("from ")?.split_once(":in ")?;
        Some(format!("{} in {rest}", without_number(file)))
    });
    let frames: Vec<String> = std::iter::once(first).chain(frames).collect();
    Exception::new(Language::Ruby, [(kind, message)], frames.iter().map(String::as_str))
}

/// `file.rb:1:in 'f': msg (Err)`.
fn told(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (place, rest) = line.split_once(":in ")?;
    if !place.contains(".rb:") {
        return None;
    }
    let (_, words) = rest.split_once(": ")?;
    let (message, kind) = words.trim_end().strip_suffix(')')?.rsplit_once(" (")?;
    Some((without_number(place), rest, message, kind))
}

fn without_number(place: &str) -> &str {
    place.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':')
}
