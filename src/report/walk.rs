//! The twin's answer for a terminal: the outcome first, then the way there, step by step.

use owo_colors::{OwoColorize, Style};
use std::fmt::Write;

use super::terminal::printable;
use crate::analyze::twin::answer::{Answer, Backend, Outcome};

/// Renders an answer; `title` says what was asked. With `colour` it holds ANSI sequences.
pub fn render(title: &str, answer: &Answer, colour: bool) -> String {
    let paint = |style: Style, text: String| if colour { text.style(style).to_string() } else { text };
    let mut out = String::new();
    let style = match (answer.outcome, answer.status) {
        (Outcome::Forwarded, None | Some(..400)) | (Outcome::Responded, Some(..400)) => {
            Style::new().green().bold()
        }
        (Outcome::NotModelled, _) => Style::new().yellow().bold(),
        _ => Style::new().red().bold(),
    };
    let _ =
        writeln!(out, "{}   {}", paint(Style::new().bold(), printable(title)), paint(style, verdict(answer)));
    if !answer.detail.is_empty() {
        let _ = writeln!(out, "\n  {}.", printable(&answer.detail));
    }
    if !answer.steps.is_empty() {
        let _ = writeln!(out);
    }
    for (at, step) in answer.steps.iter().enumerate() {
        let _ = write!(out, "  {:>2}  {}", at + 1, printable(&step.decision));
        if let Some(object) = &step.object {
            let field =
                if step.field_path.is_empty() { String::new() } else { format!(": {}", step.field_path) };
            let by = printable(&format!("{object}{field}"));
            let _ = write!(out, "\n      {}", paint(Style::new().dimmed(), by));
        }
        let _ = writeln!(out);
    }
    let facts = facts(answer);
    if !facts.is_empty() {
        let _ = writeln!(out);
    }
    for (name, value) in facts {
        let _ =
            writeln!(out, "  {} {}", paint(Style::new().dimmed(), format!("{name:<10}")), printable(&value));
    }
    out
}

/// The outcome in a few words.
fn verdict(answer: &Answer) -> String {
    let outcome = match answer.outcome {
        Outcome::Forwarded => "Forwarded",
        Outcome::Responded => "Responded",
        Outcome::Refused => "Refused",
        Outcome::NotModelled => "NotModelled",
    };
    let status = answer.status.map(|status| format!(" {status}")).unwrap_or_default();
    let flag = if answer.flag.is_empty() { String::new() } else { format!(" {}", answer.flag) };
    format!("{outcome}{status}{flag}")
}

/// What stands beside the steps: who gets it, what arrives, and Envoy's names.
fn facts(answer: &Answer) -> Vec<(&'static str, String)> {
    let mut out = vec![];
    let mut list = |name, backends: &[Backend]| {
        let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        out.extend(backends.iter().map(|backend| (name, backend_text(backend, total))));
    };
    list("To", &answer.backends);
    list("Copy to", &answer.mirrors);
    if !answer.location.is_empty() {
        out.push(("Location", answer.location.clone()));
    }
    if let Some(host) = &answer.sent.host {
        out.push(("Sent host", host.clone()));
    }
    if let Some(path) = &answer.sent.path {
        out.push(("Sent path", path.clone()));
    }
    for (name, value) in answer.sent.headers.iter().flatten() {
        out.push(("Sent", format!("{name}: {value}")));
    }
    for (name, value) in &answer.response_headers {
        out.push(("Received", format!("{name}: {value}")));
    }
    let names = [
        ("listener", &answer.listener),
        ("chain", &answer.filter_chain),
        ("route table", &answer.route_config),
        ("host", &answer.virtual_host),
        ("route", &answer.route),
        ("cluster", &answer.cluster),
    ];
    let names: Vec<String> = names
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    if !names.is_empty() {
        out.push(("Envoy", names.join(" · ")));
    }
    out
}

fn backend_text(backend: &Backend, total: u64) -> String {
    let mut text = if backend.namespace.is_empty() {
        backend.service.clone()
    } else {
        format!("{}/{}", backend.namespace, backend.service)
    };
    if backend.port != 0 {
        let _ = write!(text, ":{}", backend.port);
    }
    if !backend.subset.is_empty() {
        let _ = write!(text, " subset {}", backend.subset);
    }
    if u64::from(backend.weight) != total {
        let _ = write!(text, ", {} of {total}", backend.weight);
    }
    match backend.pods.len() {
        0 => {}
        1..=3 => {
            let _ = write!(text, "   ({})", backend.pods.join(", "));
        }
        many => {
            let _ = write!(
                text,
                "   ({many} pods: {}, …)",
                backend.pods.iter().take(2).cloned().collect::<Vec<_>>().join(", ")
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::answer::Step;
    use crate::model::object::ObjectRef;

    #[test]
    fn a_walk_reads_from_the_outcome_to_the_steps() {
        let mut answer = Answer { name: "a".into(), cluster: "outbound|80||b.n".into(), ..Answer::default() };
        answer.respond(503, "UH", "no pod backs it");
        answer.steps.push(Step::by(
            &ObjectRef::new("VirtualService", "n", "v").field("spec.http[0]"),
            "route 0 takes it",
        ));
        let text = render("GET http://b/   from n/a", &answer, false);
        assert_eq!(
            text,
            "GET http://b/   from n/a   Responded 503 UH\n\n  no pod backs it.\n\n   1  route 0 takes it\n      VirtualService n/v: spec.http[0]\n\n  Envoy      cluster outbound|80||b.n\n"
        );
        assert!(render("a", &answer, true).contains('\u{1b}'));
    }
}
