//! Rust: a panic names its place in its first line and its words in the second, or both in one before 1.73.

use super::{Exception, Language};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    let at = lines.iter().position(|line| line.contains("thread '") && line.contains(" panicked at "))?;
    let (_, told) = lines.get(at)?.split_once(" panicked at ")?;
    let (message, place) = match told.strip_prefix('\'') {
        Some(quoted) => quoted.rsplit_once("', ").unwrap_or((quoted.trim_end_matches('\''), "")),
        None => (lines.get(at + 1).copied().unwrap_or_default(), told.trim_end_matches(':')),
    };
    // `   1: shop::price::of` and below it its place.
    let below = lines.iter().copied().skip(at + 1).filter_map(|line| {
        let line = line.trim_start();
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        line.get(digits..)?.strip_prefix(": ").filter(|_| digits > 0)
    });
    let own = |name: &&str| {
        !["core::", "std::", "tokio::", "rust_begin_unwind", "__", "alloc::", "<core::", "<std::", "<alloc::"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let mut frames: Vec<&str> = below.filter(own).collect();
    if frames.is_empty() {
        frames.push(place.trim_end_matches(|c: char| c.is_ascii_digit() || c == ':'));
    }
    Exception::new(Language::Rust, [("panic", message)], frames)
}
