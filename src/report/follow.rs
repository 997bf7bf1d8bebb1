//! A request that was followed, for a terminal: where it broke first, then its way, step by step.

use owo_colors::{OwoColorize, Style};
use std::fmt::Write;

use super::answer::{Line, Section};
use super::terminal::printable;
use crate::analyze::follow::{Followed, Seen, Step};

/// Characters of a step's text that fit on a line of most terminals.
const MAX_TEXT: usize = 110;

/// Renders it; with `colour` it holds ANSI sequences.
pub fn render(followed: &Followed, colour: bool) -> String {
    let paint = |style: Style, text: String| if colour { text.style(style).to_string() } else { text };
    let (red, dim) = (Style::new().red().bold(), Style::new().dimmed());
    let mut out = String::new();
    let mut services: Vec<&str> = followed.steps.iter().map(|step| step.service.as_str()).collect();
    services.sort_unstable();
    services.dedup();
    let verdict = match (&followed.broke, followed.steps.is_empty()) {
        (_, true) => paint(Style::new().yellow().bold(), "not found".to_owned()),
        (Some(_), _) => paint(red, "broke".to_owned()),
        (None, _) => paint(Style::new().green().bold(), "nothing failed".to_owned()),
    };
    let title = paint(Style::new().bold(), printable(&followed.id));
    let _ =
        writeln!(out, "{title}   {verdict}   {} steps in {} services", followed.steps.len(), services.len());
    let start = followed.steps.iter().find_map(|step| step.time);
    let broken = followed.broke.as_ref().and_then(|broke| Some((broke, followed.steps.get(broke.step)?)));
    if let Some((broke, step)) = broken {
        let _ = writeln!(out, "\n  {}  {}: {}", paint(red, "Broke at".to_owned()), step.service, text(step));
        let _ = writeln!(out, "            {}", printable(&broke.why));
        if !broke.said.is_empty() {
            let _ = writeln!(out, "            it logged: {}", printable(&broke.said));
        }
    }
    if !followed.steps.is_empty() {
        let _ = writeln!(out);
    }
    for (at, step) in followed.steps.iter().enumerate() {
        let offset = step.time.zip(start).map(|(time, start)| time.duration_since(start).as_secs_f64() * 1e3);
        let offset = offset.map_or_else(|| " ".repeat(11), |ms| format!("{ms:>+8.1} ms"));
        let took = step.took_ms.map(|ms| format!("  {ms:.1} ms")).unwrap_or_default();
        let mark = if broken.is_some_and(|(broke, _)| broke.step == at) { "►" } else { " " };
        let kind = match step.seen {
            Seen::Span => "",
            Seen::AccessLog => "proxy: ",
            Seen::Log => "log: ",
        };
        // Deeper than this the text would leave the screen.
        let indent = "  ".repeat(step.depth.min(20));
        let line = format!("{}  {kind}{}{took}", step.service, text(step));
        let line = if step.failed { paint(red, line) } else { line };
        let _ = writeln!(out, "{mark} {}  {indent}{line}", paint(dim, offset));
    }
    let mut facts: Vec<(&str, String)> = vec![];
    if !followed.also.is_empty() {
        facts.push(("Also", followed.also.join(", ")));
    }
    for clock in &followed.clocks {
        let (size, way) = (clock.ahead_ms.abs(), if clock.ahead_ms < 0.0 { "behind" } else { "ahead" });
        facts.push(("Clock", format!("{} is about {size:.0} ms {way}; put right above", clock.place)));
    }
    facts.extend(followed.notes.iter().map(|note| ("Not seen", note.clone())));
    if !facts.is_empty() {
        let _ = writeln!(out);
    }
    for (name, value) in facts {
        let _ = writeln!(out, "  {} {}", paint(dim, format!("{name:<10}")), printable(&value));
    }
    out
}

/// Steps that a report tells; `meshscope follow` prints all.
const MAX_TOLD: usize = 12;

/// The same as a section of a report: where it broke, and the steps up to there.
pub(super) fn section(followed: &Followed) -> Section {
    let broken = followed.broke.as_ref().and_then(|broke| Some((broke, followed.steps.get(broke.step)?)));
    let mut lines = vec![Line::Text(match (broken, followed.steps.is_empty()) {
        (_, true) => format!("{}: nothing that was collected carries it", followed.id),
        (Some((broke, step)), _) => format!("{} broke at {}: {}", followed.id, step.service, broke.why),
        (None, _) => format!("{}: {} steps, none of which failed", followed.id, followed.steps.len()),
    })];
    let until = followed.broke.as_ref().map_or(followed.steps.len(), |broke| broke.step + 1);
    let steps = followed.steps.iter().take(until).skip(until.saturating_sub(MAX_TOLD));
    lines.extend(steps.map(|step| Line::Quote(format!("{}  {}", step.service, text(step)))));
    lines.extend(
        broken.filter(|(broke, _)| !broke.said.is_empty()).map(|(broke, _)| Line::Quote(broke.said.clone())),
    );
    Section { heading: "Request", lines }
}

fn text(step: &Step) -> String {
    let outcome = if step.outcome.is_empty() { String::new() } else { format!("  {}", step.outcome) };
    let line = printable(&format!("{}{outcome}", step.what));
    if line.chars().count() <= MAX_TEXT {
        return line;
    }
    line.chars().take(MAX_TEXT - 1).chain(['…']).collect()
}
