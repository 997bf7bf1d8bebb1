//! What the controller asks of an investigation: the one seam between scheduling runs and doing them.

use futures::future::BoxFuture;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::analyze::diagnosis::Diagnosis;
use crate::api::v1alpha1::DebugSession;
use crate::api::v1alpha1::status::{Phase, Progress};
use crate::collect::budget::Cost;
use crate::collect::material::LogFile;
use crate::collect::outcome::CollectorOutcome;

/// Is told how far a run is. It never blocks: what it is told is kept, and written when it is time.
pub type ProgressSink = Arc<dyn Fn(Phase, Progress) + Send + Sync>;

/// What an investigation is given besides its session.
#[derive(Clone)]
pub struct RunContext {
    /// The clock of the run: when it began.
    pub now: Timestamp,
    /// How long it may take in all. It should gather evidence for no more than a part of it, since what is cut off by
    /// this deadline gives no answer at all.
    pub timeout: Duration,
    /// Where to tell how far it is.
    pub progress: ProgressSink,
    /// Once cancelled, the result is of no use to anybody: stop soon.
    pub cancel: CancellationToken,
}

/// What an investigation gives.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub diagnosis: Diagnosis,
    /// What each source gave.
    pub collectors: Vec<CollectorOutcome>,
    /// What gathering cost.
    pub cost: Cost,
    /// Milliseconds of processor time that analysis took.
    pub cpu_millis: u64,
    /// Bytes of evidence held at once.
    pub held_bytes: u64,
    /// How often each rule of redaction masked something.
    pub redactions: BTreeMap<String, u64>,
    /// The logs that were read, redacted; empty unless the session asks for all of them.
    pub logs: Vec<LogFile>,
}

/// An investigation gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum InvestigateError {
    /// The session asks for something that cannot be: asking again gives the same.
    #[error("{0}")]
    Invalid(String),
    /// It broke off by itself, in a way that may pass.
    #[error("{0}")]
    Unavailable(String),
}

impl InvestigateError {
    /// A bounded word for conditions and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            InvestigateError::Invalid(_) => "InvalidSession",
            InvestigateError::Unavailable(_) => "Unavailable",
        }
    }
}

/// Whoever can say why a service fails.
pub trait Investigate: Send + Sync + 'static {
    /// Investigates what a session asks about. It may look into the session's own namespace only.
    fn investigate(
        &self,
        session: Arc<DebugSession>,
        context: RunContext,
    ) -> BoxFuture<'static, Result<Outcome, InvestigateError>>;

    /// Identifies the set of rules that it goes by.
    fn rules_version(&self) -> String;
}
