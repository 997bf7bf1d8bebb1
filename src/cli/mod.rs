//! The command line: one file for each subcommand.
//!
//! Exit status: 0 is fine, 1 means that something at or above `--fail-on` was found, 2 that the input could not be read or
//! the arguments are wrong, 3 is an internal error.

use clap::{CommandFactory, Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

pub mod analyze;
pub mod capture;
pub mod crd;
pub mod explain;
pub mod follow;
pub mod rbac;
pub mod reach;
pub mod replay;
pub mod report;
pub mod request;
pub mod rules;
pub mod run;

/// Exit status: something at or above `--fail-on` was found.
pub const FOUND: u8 = 1;
/// Exit status: the input could not be read, or the arguments are wrong.
pub const BAD_INPUT: u8 = 2;
/// Exit status: an internal error.
pub const INTERNAL: u8 = 3;

/// Says why a Kubernetes service fails: from a cluster, from a recorded incident, or as an operator.
#[derive(Debug, Parser)]
#[command(name = "meshscope", version, about, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Analyze(analyze::Args),
    Capture(capture::Args),
    Replay(replay::Args),
    Rules(rules::Args),
    Explain(explain::Args),
    Follow(follow::Args),
    Crd(crd::Args),
    Rbac(rbac::Args),
    Reach(reach::Args),
    Report(report::Args),
    Request(request::Args),
    Run(run::Args),
    /// Print the completion script of a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// Reads the arguments and runs the subcommand.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Analyze(args) => args.run(),
        Command::Capture(args) => args.run(),
        Command::Replay(args) => args.run(),
        Command::Rules(args) => args.run(),
        Command::Explain(args) => args.run(),
        Command::Follow(args) => args.run(),
        Command::Crd(args) => args.run(),
        Command::Rbac(args) => args.run(),
        Command::Reach(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::Request(args) => args.run(),
        Command::Run(args) => args.run(),
        Command::Completions { shell } => completions(shell),
        Command::Version => print(&format!("meshscope {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "meshscope: {error:#}");
            ExitCode::from(if error.downcast_ref::<Internal>().is_some() { INTERNAL } else { BAD_INPUT })
        }
    }
}

/// An error that is no fault of the input.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Internal(pub String);

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "meshscope", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// A point in time, as an argument or a session writes it.
pub fn time(text: &str) -> anyhow::Result<jiff::Timestamp> {
    text.parse().map_err(|_| {
        anyhow::anyhow!(
            "it is no time with a date and a zone, such as 2026-11-21T09:41:00Z or 2026-11-21T10:41:00+01:00"
        )
    })
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Internal(format!("failed to write the output: {error}")).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Whether standard output is to be coloured: a terminal that does not say otherwise (`NO_COLOR`, `TERM=dumb`), or
/// `CLICOLOR_FORCE`.
pub fn colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    if set("NO_COLOR") {
        return false;
    }
    set("CLICOLOR_FORCE")
        || (std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb"))
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn a_time_has_a_zone_and_another_one_is_answered_with_an_example() {
        assert_eq!(time("2026-11-21T10:41:00+01:00").unwrap(), time("2026-11-21T09:41:00Z").unwrap());
        for wrong in ["yesterday", "2026-11-21", "2026-11-21T09:41:00", "1763718060"] {
            let error = time(wrong).unwrap_err().to_string();
            assert!(error.contains("such as 2026-11-21T09:41:00Z"), "{wrong}: {error}");
        }
    }
}
