//! PHP: an uncaught exception in one line, numbered frames below it.

use super::{Exception, Language};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    let told = lines.iter().find_map(|line| {
        line.split_once("PHP Fatal error:  ")
            .or_else(|| line.split_once("Fatal error: "))
            .map(|(_, told)| told)
    })?;
    let (what, place) = told.rsplit_once(" in ").unwrap_or((told, ""));
    let (kind, message) = match what.trim_start().strip_prefix("Uncaught ") {
        Some(thrown) => thrown.split_once(": ").unwrap_or((thrown, "")),
        None => ("Fatal error", what),
    };
    let place = place
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches(':')
        .trim_end_matches(" on line ");
    let frames = lines.iter().filter_map(|line| {
        let (_, frame) = line.strip_prefix('#')?.split_once(' ')?;
        let (file, call) = frame.split_once("): ")?;
        Some(format!("{} {call}", file.rsplit_once('(').map_or(file, |(file, _)| file)))
    });
    let frames: Vec<String> =
        std::iter::once(place.to_owned()).filter(|place| !place.is_empty()).chain(frames).collect();
    Exception::new(Language::Php, [(kind, message)], frames.iter().map(String::as_str))
}
