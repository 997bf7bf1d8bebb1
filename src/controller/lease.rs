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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// An API server with one lease, which says no to whoever has not read the newest.
    #[derive(Clone, Default)]
    struct Store {
        lease: Arc<Mutex<Option<serde_json::Value>>>,
        down: Arc<std::sync::atomic::AtomicBool>,
    }

    impl Store {
        fn api(&self) -> Api<Lease> {
            let store = self.clone();
            let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
                let store = store.clone();
                async move { Ok::<_, std::convert::Infallible>(store.answer(request).await) }
            });
            Api::namespaced(kube::Client::new(service, "ops"), "ops")
        }

        async fn answer(
            &self,
            request: http::Request<kube::client::Body>,
        ) -> http::Response<kube::client::Body> {
            let method = request.method().clone();
            let body = request.into_body().collect_bytes().await.unwrap();
            if self.down.load(std::sync::atomic::Ordering::Relaxed) {
                return refuse(500, "InternalError");
            }
            let mut lease = self.lease.lock().unwrap();
            let sent: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            match (method.as_str(), lease.as_ref()) {
                ("GET", Some(found)) => respond(200, found),
                ("GET" | "PUT", None) => refuse(404, "NotFound"),
                ("POST", Some(_)) => refuse(409, "AlreadyExists"),
                ("PUT", Some(found))
                    if sent.pointer("/metadata/resourceVersion")
                        != found.pointer("/metadata/resourceVersion") =>
                {
                    refuse(409, "Conflict")
                }
                _ => {
                    let version = lease.as_ref().and_then(|old| {
                        old.pointer("/metadata/resourceVersion")?.as_str()?.parse::<u64>().ok()
                    });
                    let mut next = sent;
                    next["metadata"]["resourceVersion"] = (version.unwrap_or(0) + 1).to_string().into();
                    *lease = Some(next.clone());
                    respond(200, &next)
                }
            }
        }

        fn holder(&self) -> String {
            let lease = self.lease.lock().unwrap();
            let holder = lease.as_ref().and_then(|lease| lease.pointer("/spec/holderIdentity")?.as_str());
            holder.unwrap_or_default().to_owned()
        }

        fn candidate(&self, identity: &str) -> Candidate {
            Candidate::new(self.api(), "meshscope", identity, Duration::from_secs(15))
        }
    }

    fn respond(code: u16, body: &serde_json::Value) -> http::Response<kube::client::Body> {
        let body = kube::client::Body::from(serde_json::to_vec(body).unwrap());
        http::Response::builder().status(code).body(body).unwrap()
    }

    fn refuse(code: u16, reason: &str) -> http::Response<kube::client::Body> {
        respond(
            code,
            &serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": reason}),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn one_holds_and_the_other_waits_until_it_is_given_back() {
        let store = Store::default();
        let stop = CancellationToken::new();
        let (mut a, mut b) = (store.candidate("a"), store.candidate("b"));
        assert!(a.acquire(&stop).await);
        assert!(!b.try_hold().await.unwrap());
        assert!(a.try_hold().await.unwrap(), "renewing is taking again");
        assert_eq!(store.holder(), "a");
        a.release().await;
        assert!(b.acquire(&stop).await);
        assert_eq!(store.holder(), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_is_silent_for_the_whole_duration_is_succeeded() {
        let store = Store::default();
        let (mut a, mut b) = (store.candidate("a"), store.candidate("b"));
        assert!(a.try_hold().await.unwrap());
        assert!(!b.try_hold().await.unwrap());
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!b.try_hold().await.unwrap());
        assert!(a.try_hold().await.unwrap());
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!b.try_hold().await.unwrap(), "it was renewed: the count begins anew");
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(b.try_hold().await.unwrap());
        assert!(!a.try_hold().await.unwrap());
        let transitions = store.lease.lock().unwrap().clone().unwrap()["spec"]["leaseTransitions"].clone();
        assert_eq!(transitions, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_renew_gives_up_before_another_may_begin() {
        let store = Store::default();
        let stop = CancellationToken::new();
        let mut a = store.candidate("a");
        assert!(a.acquire(&stop).await);
        store.down.store(true, std::sync::atomic::Ordering::Relaxed);
        let began = Instant::now();
        a.hold(&stop).await;
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        assert!(!stop.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_write_at_once_one_is_refused() {
        let store = Store::default();
        let (mut a, mut b) = (store.candidate("a"), store.candidate("b"));
        let (a, b) = tokio::join!(a.try_hold(), b.try_hold());
        assert!(a.unwrap() != b.unwrap());
    }
}
