//! Which of several replicas works: the holder of a Lease.
//!
//! As in client-go, a lease is judged by this process' own monotonic clock: it is free when the same record has been
//! seen unchanged for its whole duration. Clocks of different nodes are never compared. Writes carry the
//! resourceVersion that was read, so of two replicas that try at once one is refused.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// The lease could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server refused, or did not answer.
    #[error("failed to read or write the lease {name}")]
    Api {
        /// The lease.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("failed to reach the API server in time for the lease {0}")]
    TimedOut(String),
}

/// What to do about the lease now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// There is none: make it.
    Create,
    /// It is ours, or free: write our name and the time.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// The record of a holder, and since when it has been seen unchanged.
#[derive(Debug, Clone)]
struct Seen {
    record: (Option<String>, Option<Timestamp>),
    since: Instant,
}

/// A candidate for a lease.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    seen: Option<Seen>,
}

impl Candidate {
    /// A candidate that calls itself `identity`, which no other process may use.
    pub fn new(api: Api<Lease>, name: &str, identity: &str, duration: Duration) -> Self {
        Candidate { api, name: name.to_owned(), identity: identity.to_owned(), duration, seen: None }
    }

    /// How often the lease is looked at: three chances for a renewal within its duration.
    fn interval(&self) -> Duration {
        self.duration / 3
    }

    /// Waits until this process holds the lease. `false`: `stop` came first.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        loop {
            match self.try_hold().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = %crate::controller::chain(&error), "cannot take part in the election")
                }
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(self.interval()) => {}
            }
        }
    }

    /// Renews the lease until it is lost or `stop` comes. It is lost when somebody else holds it, or when no renewal
    /// went through for two thirds of its duration: the last third is the time to stop before another may begin.
    pub async fn hold(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.interval() / 2) => {}
            }
            match self.try_hold().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => {
                    tracing::warn!("another replica holds the lease");
                    return;
                }
                Err(error) if renewed.elapsed() >= self.interval() * 2 => {
                    tracing::warn!(error = %crate::controller::chain(&error), "the lease could not be renewed in time");
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = %crate::controller::chain(&error), "the lease was not renewed")
                }
            }
        }
    }

    /// Gives the lease back, so that another replica need not wait for it to run out.
    pub async fn release(&mut self) {
        let released = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = None;
                spec.lease_duration_seconds = Some(1);
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        // Whoever comes next takes it when it has run out.
        let _ = tokio::time::timeout(self.interval(), released).await;
    }

    /// One attempt to take or keep the lease.
    async fn try_hold(&mut self) -> Result<bool, LeaseError> {
        let name = self.name.clone();
        let wait = self.interval();
        match tokio::time::timeout(wait, self.attempt()).await {
            Ok(Ok(held)) => Ok(held),
            // Somebody else wrote it meanwhile: they hold it, or the next attempt will tell.
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                Ok(false)
            }
            Ok(Err(source)) => Err(LeaseError::Api { name, source: Box::new(source) }),
            Err(_) => Err(LeaseError::TimedOut(name)),
        }
    }

    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(&self.name).await?;
        let now = telemetry::now();
        match self.judge(
            found.as_ref().and_then(|lease| lease.spec.as_ref()),
            found.is_some(),
            Instant::now(),
        ) {
            Move::Wait => return Ok(false),
            Move::Create => {
                let lease = Lease {
                    metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                    spec: Some(self.record(None, now)),
                };
                self.api.create(&PostParams::default(), &lease).await?;
            }
            Move::Take => {
                let mut lease = found.unwrap_or_default();
                lease.spec = Some(self.record(lease.spec.as_ref(), now));
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
        }
        Ok(true)
    }

    fn judge(&mut self, spec: Option<&LeaseSpec>, exists: bool, now: Instant) -> Move {
        if !exists {
            return Move::Create;
        }
        let holder = spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty());
        if holder.is_none() || holder.as_deref() == Some(self.identity.as_str()) {
            self.seen = None;
            return Move::Take;
        }
        let record = (holder, spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0));
        let duration = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.duration, Duration::from_secs);
        match &self.seen {
            Some(seen) if seen.record == record => {
                if now.duration_since(seen.since) >= duration {
                    Move::Take
                } else {
                    Move::Wait
                }
            }
            _ => {
                self.seen = Some(Seen { record, since: now });
                Move::Wait
            }
        }
    }

    fn record(&self, before: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let mine = before.and_then(|spec| spec.holder_identity.as_deref()) == Some(self.identity.as_str());
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: if mine {
                before.and_then(|spec| spec.acquire_time.clone())
            } else {
                Some(MicroTime(now))
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}
