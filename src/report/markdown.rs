//! A diagnosis as Markdown, for tickets and chats.

use std::fmt::Write;

use super::answer::{Line, Section, percent};
use super::{flow, walk};
use crate::analyze::diagnosis::{Diagnosis, Verdict};

/// Renders a diagnosis; `name` is what was asked about.
pub fn render(diagnosis: &Diagnosis, name: &str) -> String {
    let answer = super::answer::answer(diagnosis);
    let mut out = String::new();
    let severity = answer.severity.map(|s| format!(" · {}", s.as_str())).unwrap_or_default();
    let probability = match (answer.verdict, answer.causes.first()) {
        (Verdict::RootCauseFound, Some(cause)) => format!(" · {}", percent(cause.probability)),
        _ => String::new(),
    };
    let _ = writeln!(out, "# {}\n\n**{}**{severity}{probability}\n", escape(name), answer.verdict.as_str());
    if answer.causes.is_empty() {
        let _ = writeln!(out, "{}\n", escape(&answer.headline));
    }
    for told in &answer.causes {
        let _ = writeln!(
            out,
            "## {}. {} (`{}`, {})\n",
            told.rank,
            escape(&told.title),
            told.code,
            percent(told.probability)
        );
        told.sections.iter().for_each(|part| section(&mut out, part));
    }
    if !answer.others.is_empty() {
        let _ = writeln!(out, "## Other findings\n");
        for (severity, title, code) in &answer.others {
            let _ = writeln!(out, "- {}: {} (`{code}`)", severity.as_str(), escape(title));
        }
        let _ = writeln!(out);
    }
    answer.closing.iter().for_each(|part| section(&mut out, part));
    map(&mut out, diagnosis);
    if !diagnosis.timeline.is_empty() {
        let _ = writeln!(out, "### Timeline\n");
        for entry in &diagnosis.timeline {
            let _ = writeln!(out, "- `{}` {}: {}", entry.time, entry.kind, escape(&entry.text));
        }
    }
    if let Some(asked) = &diagnosis.request {
        // A fence longer than any in the text holds it as it is.
        let walk = walk::render(&asked.title(), &asked.answer, false);
        let _ = write!(out, "\n~~~~~~text\n{walk}~~~~~~\n");
    }
    out
}

/// Calls of the map; the JSON document has all.
const MAX_CALLS: usize = 40;

/// Who called whom, as a table.
fn map(out: &mut String, diagnosis: &Diagnosis) {
    let calls = flow::calls(diagnosis);
    if calls.is_empty() || diagnosis.verdict == Verdict::Healthy {
        return;
    }
    let _ =
        writeln!(out, "### Map\n\n| caller | Service | requests | failed | 95 of 100 within | counted by |");
    let _ = writeln!(out, "| --- | --- | ---: | ---: | ---: | --- |");
    for (from, to, edge) in calls.iter().take(MAX_CALLS) {
        let p95 = edge.p95_ms.map(flow::duration).unwrap_or_default();
        let (from, to) = (escape(&from.name), escape(&to.to_string()));
        let (failed, source) = (flow::failed(edge), flow::source(edge));
        let _ = writeln!(out, "| {from} | {to} | {} | {failed} | {p95} | {source} |", edge.requests);
    }
    if calls.len() > MAX_CALLS {
        let _ = writeln!(out, "\n{} more are in the JSON report.", calls.len() - MAX_CALLS);
    }
    let _ = writeln!(out);
}

fn section(out: &mut String, section: &Section) {
    let _ = writeln!(out, "### {}\n", section.heading);
    let mut open = false;
    for line in &section.lines {
        if let Line::Command(text) = line {
            if !open {
                let _ = writeln!(out, "\n```sh");
                open = true;
            }
            let _ = writeln!(out, "{}", text.replace("```", "'''"));
            continue;
        }
        if open {
            let _ = writeln!(out, "```\n");
            open = false;
        }
        match line {
            Line::Text(text) => {
                let _ = writeln!(out, "- {}", escape(text));
            }
            Line::Quote(text) => {
                let _ = writeln!(out, "  > {}", code(text));
            }
            Line::Command(_) => {}
        }
    }
    if open {
        let _ = writeln!(out, "```");
    }
    let _ = writeln!(out);
}

/// Text of the cluster as a code span that it cannot leave.
fn code(text: &str) -> String {
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    let longest = line.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    format!("{fence} {line} {fence}")
}

/// Text in which nothing is markup.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_text_stays_in_its_code_span() {
        assert_eq!(code("a ``` b"), "```` a ``` b ````");
        assert_eq!(escape("<b>[x](y)"), r"\<b\>\[x\](y)");
    }
}
