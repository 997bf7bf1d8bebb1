//! `meshscope follow`: one request, by its id, through everything that a bundle holds.

use anyhow::{Context, ensure};
use clap::ValueEnum;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::analyze::follow;
use crate::collect::assemble::assemble;
use crate::collect::bundle;
use crate::report;

/// Follow one request through spans, access logs and logs, by its trace, request or correlation id
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The id: a trace id, a traceparent header, an x-request-id, or whatever the services log
    #[arg(value_name = "ID")]
    id: String,
    /// Bundles, folders or archives; `-` is standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How to print a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Its way to read, step by step
    Text,
    /// The stable, versioned document
    Json,
}

/// Ids shorter than this are parts of too much else.
const MIN_ID: usize = 4;

impl Args {
    /// Reads, follows, prints. Exit status 1: nothing carries the id.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let id = self.id.trim();
        ensure!(
            id.len() >= MIN_ID,
            "the id {id:?} is too short to be told from other text: give {MIN_ID} characters or more"
        );
        let snapshot = assemble(bundle::read(&self.paths)?);
        let followed = follow::follow(&snapshot, id);
        match self.output {
            Output::Json => {
                let document = serde_json::json!({"version": 1, "request": followed});
                super::print(&format!(
                    "{}\n",
                    serde_json::to_string_pretty(&document).context("failed to write JSON")?
                ))?;
            }
            Output::Text => {
                super::print(&report::follow::render(&followed, super::colour()))?;
            }
        }
        if followed.steps.is_empty() {
            let lines: usize = snapshot.logs.iter().map(|log| log.lines.len() + log.access.len()).sum();
            let _ = writeln!(
                std::io::stderr(),
                "meshscope: nothing carries {id:?}: looked at {} spans of {} traces and {lines} lines of {} logs",
                snapshot.spans.all().len(),
                snapshot.spans.traces().count(),
                snapshot.logs.len()
            );
            return Ok(ExitCode::from(super::FOUND));
        }
        Ok(ExitCode::SUCCESS)
    }
}
