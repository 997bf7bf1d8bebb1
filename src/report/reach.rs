//! Who can reach a Service, for a terminal.

use owo_colors::{OwoColorize, Style};
use std::fmt::Write;

use super::terminal::printable;
use crate::analyze::twin::reach::{Access, Passage, Reach};
use crate::model::source::Location;

/// Requests of one source that are shown.
const MAX_REQUESTS: usize = 4;

/// Renders who reaches each Service in full. With `colour` it holds ANSI sequences.
pub fn render(all: &[Reach], colour: bool) -> String {
    let paint =
        |style: Style, text: &str| if colour { text.style(style).to_string() } else { text.to_owned() };
    let mut out = String::new();
    for reach in all {
        let (there, sources) = reach.counts();
        let title = printable(&format!("Service {}", reach.service));
        let _ =
            writeln!(out, "{}   {there} of {sources} sources reach it\n", paint(Style::new().bold(), &title));
        let place = |passage: &Passage| {
            let port = passage.port.map_or_else(String::new, |port| format!(" :{port}"));
            printable(&format!("{}{port}", passage.from))
        };
        let width = reach.passages.iter().map(|p| place(p).chars().count()).max().unwrap_or(0);
        for passage in &reach.passages {
            let (style, word) = match passage.access {
                Access::Reaches => (Style::new().green(), "reaches"),
                Access::Refused => (Style::new().red(), "refused"),
                Access::NotModelled => (Style::new().yellow(), "unknown"),
            };
            let _ = writeln!(
                out,
                "  {}  {:<width$}   {}",
                paint(style, word),
                place(passage),
                printable(&told(passage))
            );
            if let Some(by) = passage.by.as_ref().filter(|_| passage.access == Access::Refused) {
                let field =
                    if by.field_path.is_empty() { String::new() } else { format!(": {}", by.field_path) };
                let _ = writeln!(
                    out,
                    "           {}",
                    paint(Style::new().dimmed(), &printable(&format!("{by}{field}")))
                );
            }
        }
        if reach.left_out > 0 {
            let _ = writeln!(out, "  {} further pairs of source and port were not asked", reach.left_out);
        }
        let _ = writeln!(out);
    }
    out
}

fn told(passage: &Passage) -> String {
    match passage.access {
        Access::Reaches => {
            let more = passage.requests.len().saturating_sub(MAX_REQUESTS);
            let shown: Vec<&str> = passage.requests.iter().take(MAX_REQUESTS).map(String::as_str).collect();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{more}: {}", shown.join(", "), passage.seen)
        }
        Access::Refused => format!("{}: {}", passage.seen, passage.detail),
        Access::NotModelled => passage.detail.clone(),
    }
}

/// All Services in short: how many sources reach each, and which nobody does.
pub fn overview(all: &[Reach], colour: bool) -> String {
    let paint =
        |style: Style, text: &str| if colour { text.style(style).to_string() } else { text.to_owned() };
    let mut out = String::new();
    let width = all.iter().map(|reach| reach.service.to_string().chars().count()).max().unwrap_or(0);
    for reach in all {
        let (there, sources) = reach.counts();
        let name = printable(&format!("{:<width$}", reach.service.to_string()));
        let line = format!("{there} of {sources} sources reach it");
        let style = if there == 0 && sources > 0 { Style::new().red() } else { Style::new() };
        let _ = writeln!(out, "{name}  {}", paint(style, &line));
    }
    let nobody: Vec<String> = all
        .iter()
        .filter(|reach| matches!(reach.counts(), (0, sources) if sources > 0))
        .filter(|reach| !reach.passages.iter().any(|p| p.access == Access::NotModelled))
        .map(|reach| reach.service.to_string())
        .collect();
    if !nobody.is_empty() {
        let _ = writeln!(out, "\nNobody reaches {}", printable(&nobody.join(", ")));
    }
    out
}

/// The routes that no request can match: what is said of each, and where it stands.
pub fn unmatched<'r>(routes: impl Iterator<Item = (&'r str, Option<&'r Location>)>) -> String {
    let mut out = String::new();
    for (title, location) in routes {
        if out.is_empty() {
            let _ = writeln!(out, "Routes that never match");
        }
        let place = location.map_or_else(String::new, |location| format!(" ({location})"));
        let _ = writeln!(out, "  {}{}", printable(title), printable(&place));
    }
    out
}
