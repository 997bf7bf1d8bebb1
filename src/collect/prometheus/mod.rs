//! Metrics out of Prometheus and whatever speaks its API, behind a trait of our own.
//!
//! Counters are read raw: rates, increases and ratios are worked out in one place, by the analysis, for live runs and for
//! bundles alike. No query can leave its namespace: [`query::Query`] cannot be made without one.
//!
//! A source is first asked what it has ([`variants`]): metrics that are not there are not asked for, and those that go by
//! another name or with other labels are brought back to the usual ones.

pub mod catalogue;
pub mod client;
pub mod escape;
pub mod query;
pub mod read;
pub mod recorded;
pub mod variants;

use crate::model::json::Value;
use futures::future::BoxFuture;
use std::collections::BTreeSet;

use self::query::Query;
use crate::model::gap::GapReason;
use crate::model::time::Window;

/// The span and the resolution of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// From when to when.
    pub window: Window,
    /// Seconds between two samples.
    pub step_seconds: u32,
}

/// What an answer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Series; a server that knows the parameter `limit` sends no more.
    pub series: usize,
    /// Bytes.
    pub bytes: usize,
    /// How long it may take.
    pub deadline: std::time::Duration,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The body, as a bundle's `metrics/*.json` holds it: `{"status": "success", "data": {"resultType": "matrix", …}}`.
    pub body: Value,
    /// What the server warned of, such as a store that did not answer.
    pub warnings: Vec<String>,
    /// Bytes that it took.
    pub bytes: u64,
    /// Whether series were left out.
    pub truncated: bool,
}

/// Why a query gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The source's address or credentials cannot be used.
    #[error("failed to set up the metrics source")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The source did not answer.
    #[error("failed to reach the metrics source")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// 401 or 403.
    #[error("failed to query: the metrics source refused it")]
    Forbidden,
    /// It took too long.
    #[error("failed to query the metrics source within its deadline")]
    TimedOut,
    /// The answer is larger than an answer may be.
    #[error("failed to query: the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer is an error of the query API (`bad_data`, `execution`, …) or another status.
    #[error("failed to query: the metrics source answered with status {code}")]
    Status {
        /// The HTTP status.
        code: u16,
    },
    /// The answer is no answer of the query API.
    #[error("failed to read the answer of the metrics source")]
    Malformed,
}

impl MetricsError {
    /// A bounded word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            MetricsError::Setup(_) => "Setup",
            MetricsError::Unreachable(_) => "Unreachable",
            MetricsError::Forbidden => "Forbidden",
            MetricsError::TimedOut => "TimedOut",
            MetricsError::TooLarge(_) => "TooLarge",
            MetricsError::Status { .. } => "Status",
            MetricsError::Malformed => "Malformed",
        }
    }

    /// The reason of the gap that it leaves.
    pub fn gap_reason(&self) -> GapReason {
        match self {
            MetricsError::Forbidden => GapReason::Forbidden,
            MetricsError::TimedOut => GapReason::TimedOut,
            MetricsError::TooLarge(_) => GapReason::Truncated,
            MetricsError::Setup(_)
            | MetricsError::Unreachable(_)
            | MetricsError::Status { .. }
            | MetricsError::Malformed => GapReason::Failed,
        }
    }

    /// Whether another query would fail in the same way.
    pub fn of_the_source(&self) -> bool {
        matches!(self, MetricsError::Setup(_) | MetricsError::Unreachable(_) | MetricsError::Forbidden)
    }
}

/// A place that answers queries over a span of time.
pub trait MetricsSource: Send + Sync {
    /// The name that the operator's configuration gives it; never its address.
    fn name(&self) -> &str;

    /// Answers one query. Errors: see [`MetricsError`]; a query that matches nothing is an empty answer.
    fn query_range<'a>(
        &'a self,
        query: &'a Query,
        range: Range,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, MetricsError>>;

    /// The names of the metrics that it has within a span, at most `limits.series` of them; `None` where it cannot say.
    /// Errors: as of a query.
    fn names(
        &self,
        range: Range,
        limits: Limits,
    ) -> BoxFuture<'_, Result<Option<BTreeSet<String>>, MetricsError>> {
        let _ = (range, limits);
        Box::pin(async { Ok(None) })
    }

    /// The names of the labels that a metric's series have within a span; none where it cannot say. Errors: as of a query.
    fn labels<'a>(
        &'a self,
        metric: &'a str,
        range: Range,
        limits: Limits,
    ) -> BoxFuture<'a, Result<BTreeSet<String>, MetricsError>> {
        let _ = (metric, range, limits);
        Box::pin(async { Ok(BTreeSet::new()) })
    }
}
