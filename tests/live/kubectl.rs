//! kubectl, as a person has it, and the shell that a person pastes commands into.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How often something is looked at that is waited for. Each look starts a program on a busy machine.
const PACE: Duration = Duration::from_secs(2);

/// How often a command is tried that did not reach the API server: on a busy machine it has no time for a handshake.
const TRIES: usize = 5;

/// How kubectl says that.
const LOST: &[&str] = &["Unable to connect to the server", "TLS handshake timeout", "client connection lost"];

/// Seconds that one command may take.
const PATIENCE: &str = "300";

#[derive(Debug)]
pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
    path: OsString,
}

impl Kubectl {
    /// For the cluster that the environment names.
    pub(crate) fn from_environment() -> Option<Self> {
        let kubeconfig = PathBuf::from(std::env::var_os("MESHSCOPE_LIVE_KUBECONFIG")?);
        let mut path = std::env::var_os("MESHSCOPE_TEST_TOOLS").unwrap_or_default();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        Some(Self { kubeconfig, path })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args([PATIENCE, program]).env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.path);
        command
    }

    /// What kubectl prints, or its message when it fails.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String, String> {
        self.with_input(args, "")
    }

    /// The same, given something to read.
    pub(crate) fn with_input(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut tries = 0;
        loop {
            let mut command = self.command("kubectl");
            command.args(args);
            tries += 1;
            match outcome(command, input) {
                // All that is done here may be done twice.
                Err(message) if tries < TRIES && LOST.iter().any(|lost| message.contains(lost)) => {}
                done => return done.map_err(|message| format!("kubectl {}: {message}", args.join(" "))),
            }
        }
    }

    /// An object, or a list of them.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Value, String> {
        let text = self.run(&[args, &["--output=json"]].concat())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// A command as somebody pastes it.
    pub(crate) fn shell(&self, line: &str) -> Result<String, String> {
        let mut command = self.command("bash");
        command.args(["-euo", "pipefail", "-c", line]);
        outcome(command, "").map_err(|message| format!("{line}: {message}"))
    }

    /// Meshscope's own command line.
    pub(crate) fn meshscope(&self, args: &[&str]) -> Result<String, String> {
        let mut command = self.command(env!("CARGO_BIN_EXE_meshscope"));
        command.args(args);
        outcome(command, "")
    }
}

fn outcome(mut command: Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    // What is written fits into a pipe's buffer or is read as it comes; a program that reads nothing closes it.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Asks until there is an answer; what was seen last stands in the error.
pub(crate) fn wait<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + patience;
    loop {
        let seen = match ask() {
            Ok(answer) => return Ok(answer),
            Err(seen) => seen,
        };
        if Instant::now() > deadline {
            return Err(format!("{what} did not come within {patience:?}: {seen}"));
        }
        std::thread::sleep(PACE);
    }
}
