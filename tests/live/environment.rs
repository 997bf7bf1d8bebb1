//! What tests on a whole cluster share: settings from the environment, and words to who watches.

use std::io::Write as _;

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Says something to who watches the run of a suite. Not `eprintln!`: what a passing test prints that way is not shown.
pub(crate) fn say(suite: &str, text: &str) {
    let _ = writeln!(std::io::stderr(), "{suite}: {text}");
}
