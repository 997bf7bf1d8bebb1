//! Erlang and Elixir: the reason for which a process ended.

use super::{Exception, Language};

pub(super) fn read(lines: &[&str]) -> Option<Exception> {
    // `(shop 0.1.0) lib/a.ex:1: Shop.A.f/1` without the number in its midst.
    let frames: Vec<String> = lines
        .iter()
        .filter(|line| line.trim_start().starts_with('(') && line.contains(':'))
        .map(|line| match line.trim().split_once(": ") {
            Some((place, function)) => {
                let file = place.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':');
                format!("{file}: {function}")
            }
            None => line.trim().to_owned(),
        })
        .collect();
    let frames = || frames.iter().map(String::as_str);
    if let Some(line) = lines.iter().find_map(|line| line.trim_start().strip_prefix("** (")) {
        let (kind, message) = line.split_once(") ")?;
        return Exception::new(Language::Erlang, [(kind, message)], frames());
    }
    let at = lines.iter().position(|line| line.contains("Reason for termination"))?;
    let line = lines.get(at)?;
    let same = line
        .split_once("==")
        .or_else(|| line.split_once("= "))
        .map(|(_, reason)| reason.trim())
        .unwrap_or_default();
    let reason = if same.is_empty() { lines.get(at + 1)?.trim_start_matches("** ").trim() } else { same };
    Exception::new(Language::Erlang, [("termination", reason)], frames())
}
