//! `meshscope rules`: the list of all rules.

use std::fmt::Write;
use std::process::ExitCode;

use crate::analyze::registry::RULES;

/// List the rules: code, name, severity, and the same diagnosis in other tools
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Prints the list.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.json {
            let rules = RULES.iter().map(|rule| {
                let meta = rule.meta();
                serde_json::json!({
                    "code": meta.code, "name": meta.name, "family": meta.family.as_str(), "severity": meta.severity.as_str(),
                    "aliases": meta.aliases, "needs": meta.needs.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
                })
            });
            return super::print(&format!("{}\n", serde_json::to_string_pretty(&rules.collect::<Vec<_>>())?));
        }
        let width = RULES.iter().map(|rule| rule.meta().name.len()).max().unwrap_or(0);
        let mut out = String::new();
        for rule in RULES {
            let meta = rule.meta();
            let line = format!(
                "{:<10} {:<width$}  {:<8}  {}",
                meta.code,
                meta.name,
                meta.severity.as_str(),
                meta.aliases.join(" ")
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        writeln!(
            out,
            "\n{} rules; `meshscope explain CODE` says what one detects and how to fix it.",
            RULES.len()
        )?;
        super::print(&out)
    }
}
