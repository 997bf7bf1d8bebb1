//! The page of a rule and the index of all of them, from what the rules say of themselves.

use std::fmt::Write;

use crate::analyze::registry::RULES;
use crate::analyze::rule::Meta;

/// The page of one rule, in Markdown.
pub fn page(meta: &Meta) -> String {
    let mut out = format!("# {} {}\n\n", meta.code, meta.name);
    let needs: Vec<_> = meta.needs.iter().map(|signal| signal.as_str()).collect();
    let _ = write!(out, "{} · {} · reads {}", meta.severity.as_str(), meta.family.as_str(), needs.join(", "));
    if !meta.aliases.is_empty() {
        let _ = write!(out, " · elsewhere {}", meta.aliases.join(", "));
    }
    out.push_str("\n\n");
    for line in meta.docs.lines() {
        let line = line.strip_prefix(' ').unwrap_or(line).trim_end();
        let line = line.replace("[`", "`").replace("`]", "`");
        if line.starts_with("## ") && !out.ends_with("\n\n") {
            out.push('\n');
        }
        out.push_str(&line);
        out.push_str(if line.starts_with("## ") { "\n\n" } else { "\n" });
    }
    out
}

/// The index of all rules, in Markdown.
pub fn index() -> String {
    let mut out = String::from(
        "# Rules\n\nMade from the rules themselves; `meshscope explain CODE` prints the same pages.\n\n",
    );
    out.push_str("| code | name | severity | elsewhere |\n| --- | --- | --- | --- |\n");
    for rule in RULES {
        let meta = rule.meta();
        let _ = writeln!(
            out,
            "| [{0}]({0}.md) | {1} | {2} | {3} |",
            meta.code,
            meta.name,
            meta.severity.as_str(),
            meta.aliases.join(", ")
        );
    }
    out
}
