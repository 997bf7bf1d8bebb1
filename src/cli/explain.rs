//! `meshscope explain`: what a rule detects, why it matters, how to confirm and fix it.

use std::process::ExitCode;

use crate::analyze::registry::RULES;
use crate::report::rule_docs;

/// Explain a rule: by its code, its name, or what another tool calls it (IST0101, KIA1101)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `ISTIO104`, `subset-without-pods` or `IST0173`
    code: String,
}

impl Args {
    /// Prints the rule's page.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let wanted = |name: &str| name.eq_ignore_ascii_case(&self.code);
        let found: Vec<_> = RULES
            .iter()
            .map(|rule| rule.meta())
            .filter(|meta| {
                wanted(meta.code) || wanted(meta.name) || meta.aliases.iter().any(|alias| wanted(alias))
            })
            .collect();
        anyhow::ensure!(!found.is_empty(), "there is no rule {:?}: `meshscope rules` lists them", self.code);
        super::print(&found.into_iter().map(rule_docs::page).collect::<Vec<_>>().join("\n"))
    }
}
