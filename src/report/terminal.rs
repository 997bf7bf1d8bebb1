//! A diagnosis for a terminal: colour where it is wanted, plain otherwise.

use owo_colors::{OwoColorize, Style};
use std::fmt::Write;

use super::answer::{Answer, Line, Section, Told, clock, percent};
use super::walk;
use crate::analyze::diagnosis::{Diagnosis, Verdict};
use crate::analyze::finding::Severity;

/// Renders a diagnosis; `name` is what was asked about (`shop/checkout-5xx`, a bundle's path). With `colour` it holds ANSI
/// sequences. Cluster text in it has been stripped of control characters when it was collected; what is left of them here is
/// dropped again, since this goes to a terminal.
pub fn render(diagnosis: &Diagnosis, name: &str, colour: bool) -> String {
    let answer = super::answer::answer(diagnosis);
    let paint = Paint { colour };
    let mut out = String::new();
    head(&mut out, &paint, diagnosis, &answer, name);
    for told in &answer.causes {
        cause(&mut out, &paint, told);
    }
    if answer.causes.is_empty() {
        let _ = writeln!(out, "\n  {}", printable(&answer.headline));
    }
    if !answer.others.is_empty() {
        let _ = writeln!(out);
        for (severity, title, code) in &answer.others {
            let label = paint.severity(*severity, &format!("{:<9}", severity.as_str()));
            let _ = writeln!(out, "  {label} {}  {}", printable(title), paint.dim(code));
        }
    }
    // What was not seen stands last: it says how far the rest can be trusted.
    let at = answer.closing.iter().take_while(|part| !part.heading.starts_with("Not ")).count();
    let (first, last) = answer.closing.split_at_checked(at).unwrap_or_default();
    let closing = [first, super::flow::sections(diagnosis).as_slice(), last].concat();
    if !closing.is_empty() {
        let _ = writeln!(out);
        for part in &closing {
            section(&mut out, &paint, part);
        }
    }
    if let Some(asked) = &diagnosis.request {
        let _ = write!(out, "\n{}", walk::render(&asked.title(), &asked.answer, colour));
    }
    out
}

struct Paint {
    colour: bool,
}

impl Paint {
    fn with(&self, style: Style, text: &str) -> String {
        if self.colour { text.style(style).to_string() } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    fn dim(&self, text: &str) -> String {
        self.with(Style::new().dimmed(), text)
    }

    fn severity(&self, severity: Severity, text: &str) -> String {
        let style = match severity {
            Severity::Critical | Severity::Error => Style::new().red().bold(),
            Severity::Warning => Style::new().yellow(),
            Severity::Info => Style::new().cyan(),
        };
        self.with(style, text)
    }
}

fn head(out: &mut String, paint: &Paint, diagnosis: &Diagnosis, answer: &Answer, name: &str) {
    let verdict = match answer.verdict {
        Verdict::Healthy => paint.with(Style::new().green().bold(), "Healthy"),
        Verdict::RootCauseFound => paint.with(Style::new().red().bold(), "RootCauseFound"),
        other => paint.with(Style::new().yellow().bold(), other.as_str()),
    };
    let mut parts = vec![paint.bold(name), verdict];
    parts.extend(answer.severity.map(|severity| paint.severity(severity, severity.as_str())));
    if answer.verdict == Verdict::RootCauseFound {
        parts.extend(answer.causes.first().map(|cause| percent(cause.probability)));
    }
    if let Some(window) = diagnosis.window {
        parts.push(paint.dim(&format!("window {}–{}", clock(window.start), clock(window.end))));
    }
    let _ = writeln!(out, "{}", parts.join("   "));
}

fn cause(out: &mut String, paint: &Paint, told: &Told) {
    let rank = if told.rank == 1 {
        String::new()
    } else {
        format!("{}. {}  ", told.rank, percent(told.probability))
    };
    let _ = writeln!(out, "\n  {rank}{}.  {}\n", paint.bold(&printable(&told.title)), paint.dim(told.code));
    for part in &told.sections {
        section(out, paint, part);
    }
}

fn section(out: &mut String, paint: &Paint, section: &Section) {
    let mut first = true;
    for line in &section.lines {
        let shown: Vec<String> = match line {
            Line::Text(text) => wrap(&printable(text)),
            // A command keeps its line breaks and its length: it is pasted as it stands.
            Line::Command(text) => text.lines().map(|part| paint.bold(&printable(part))).collect(),
            Line::Quote(text) => {
                wrap(&printable(text)).iter().map(|part| paint.dim(&format!("│ {part}"))).collect()
            }
        };
        for part in shown {
            let heading = if std::mem::take(&mut first) { section.heading } else { "" };
            let heading = paint.with(Style::new().cyan(), &format!("{heading:<9}"));
            let _ = writeln!(out, "  {heading} {part}");
        }
    }
}

/// Columns for the text of a section: a terminal of 120 less the headings.
const WIDTH: usize = 106;

/// Breaks a text between words. A word that is longer than a line keeps its length.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![];
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// A line without control characters and without those that turn the direction of writing.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| {
            !c.is_control()
                && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_breaks_between_words_and_long_words_stay_whole() {
        let long = "x".repeat(200);
        let lines = wrap(&format!("{} {long} end", "word ".repeat(40).trim_end()));
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH || *line == long));
        assert_eq!(lines.join(" "), format!("{} {long} end", "word ".repeat(40).trim_end()));
    }

    #[test]
    fn nothing_from_a_cluster_steers_a_terminal() {
        assert_eq!(printable("a\x1b[31mb\u{202e}c\n"), "a[31mbc");
    }
}
