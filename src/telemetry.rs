//! The clock, the log, and the TLS provider: what a process sets up once.

use jiff::Timestamp;
use serde::Deserialize;
use std::sync::Once;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The time of day. The one place that reads the clock; everything else is told the time.
#[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is told by")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Chooses the TLS provider for this process. Must have run before the first client is built; may run again.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that another part of the process was faster, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object for each line: for log pipelines.
    #[default]
    Json,
    /// For people at a terminal.
    Console,
}

/// Logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is none.
    #[error(
        "failed to read the log level {level:?}: write error, warn, info, debug or trace, or directives such as info,meshscope=debug"
    )]
    Level {
        /// What was written.
        level: String,
        /// What the parser says.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The subscriber is gone.
    #[error("failed to change the log level")]
    Reload(#[source] reload::Error),
}

/// Changes the level of a log that is set up.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Logs at `level` from now on.
    ///
    /// # Errors
    /// Where `level` is none; the level then stays as it was.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        self.filter.reload(parse(level)?).map_err(LogError::Reload)
    }
}

/// Sets up logging to standard error: standard output belongs to what a command prints. Where a subscriber is
/// already set (in tests), that one stays.
///
/// # Errors
/// Where `level` is none.
pub fn init_logging(format: LogFormat, level: &str) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match format {
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Console => registry.with(fmt::layer().with_writer(std::io::stderr)).try_init(),
    };
    Ok(LogHandle { filter: handle })
}

fn parse(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(level).map_err(|source| LogError::Level { level: level.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_and_nonsense_is_refused() {
        for level in ["info", "warn", "info,meshscope=debug,kube=error"] {
            assert!(parse(level).is_ok(), "{level}");
        }
        let error = parse("meshscope=loud").unwrap_err();
        assert!(error.to_string().contains("write error, warn, info"), "{error}");
    }
}
