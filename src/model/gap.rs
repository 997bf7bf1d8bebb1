//! What could not be seen, and why.

use serde::{Deserialize, Serialize};

/// Why something could not be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GapReason {
    /// The API server or a backend said no.
    Forbidden,
    /// It does not exist here: a kind that is not installed, a file that a bundle lacks.
    Absent,
    /// It did not answer in time.
    TimedOut,
    /// There was more of it than the budget allows.
    Truncated,
    /// No source of this sort is configured.
    NotConfigured,
    /// It answered with something that is no answer.
    Failed,
}

impl GapReason {
    /// Its name, as it stands in status, reports and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::Forbidden => "Forbidden",
            GapReason::Absent => "Absent",
            GapReason::TimedOut => "TimedOut",
            GapReason::Truncated => "Truncated",
            GapReason::NotConfigured => "NotConfigured",
            GapReason::Failed => "Failed",
        }
    }
}

/// One thing that this run did not see. A gap costs its own evidence and never ends a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// The source: `Logs`, `Events`, `Metrics`, `Traces`, `Clocks`, `Mesh`, `Proxies`, `Objects` or `Bundle`.
    pub source: String,
    /// What is missing, in our words: `pods/log in namespace shop`.
    pub what: String,
    /// Why.
    pub reason: GapReason,
    /// What to do to see it next time, ready to act on; empty where nothing can be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl Gap {
    /// A gap without a hint.
    pub fn new(source: impl Into<String>, what: impl Into<String>, reason: GapReason) -> Self {
        Gap { source: source.into(), what: what.into(), reason, hint: String::new() }
    }

    /// The same gap with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}
