//! The runs that this process is working on, each a task of its own.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::decide::RunKey;
use crate::api::v1alpha1::DebugSession;

/// How long a job may take to end once it was told to: it only has to let go of what it waits for.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What a job is told while it works.
#[derive(Debug, Clone)]
pub struct Signals {
    /// Somebody else writes the status from now on: end, and write nothing more.
    pub stop: CancellationToken,
    /// The process ends: say so in the status, and end.
    pub shutdown: CancellationToken,
    /// The session as it was last seen.
    pub session: watch::Receiver<Arc<DebugSession>>,
}

#[derive(Debug)]
struct Job {
    key: RunKey,
    stop: CancellationToken,
    session: watch::Sender<Arc<DebugSession>>,
    ended: CancellationToken,
}

/// A place among the runs; free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    _namespace: OwnedSemaphorePermit,
    _global: OwnedSemaphorePermit,
}

/// The jobs of this process by the UID of their session.
#[derive(Debug)]
pub struct Jobs {
    jobs: Mutex<HashMap<String, Job>>,
    places: Arc<Semaphore>,
    namespaces: Mutex<HashMap<String, Arc<Semaphore>>>,
    per_namespace: usize,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Jobs {
    /// No jobs, and places for `places` at once, of which one namespace may take `per_namespace`.
    pub fn new(places: usize, per_namespace: usize, shutdown: CancellationToken) -> Self {
        Jobs {
            jobs: Mutex::default(),
            places: Arc::new(Semaphore::new(places)),
            namespaces: Mutex::default(),
            per_namespace,
            tracker: TaskTracker::new(),
            shutdown,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Job>> {
        // Every change is one call of the map: a panic elsewhere cannot leave it half changed.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the job of a session works on.
    pub fn running(&self, uid: &str) -> Option<RunKey> {
        self.lock().get(uid).map(|job| job.key.clone())
    }

    /// Tells the job of a session how the session looks now.
    pub fn observe(&self, uid: &str, session: &Arc<DebugSession>) {
        if let Some(job) = self.lock().get(uid) {
            job.session.send_replace(session.clone());
        }
    }

    /// Starts a job. `after` runs when it has ended, whatever happened to it. Does nothing where the session has a job,
    /// or the process is ending.
    pub fn spawn<F>(
        self: &Arc<Self>,
        session: Arc<DebugSession>,
        key: RunKey,
        work: impl FnOnce(Signals) -> F,
        after: impl FnOnce() + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let uid = session.metadata.uid.clone().unwrap_or_default();
        let mut jobs = self.lock();
        if jobs.contains_key(&uid) || self.shutdown.is_cancelled() {
            return;
        }
        let (sender, receiver) = watch::channel(session);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        jobs.insert(uid.clone(), Job { key, stop: stop.clone(), session: sender, ended: ended.clone() });
        drop(jobs);
        let signals = Signals { stop, shutdown: self.shutdown.clone(), session: receiver };
        let ending = Ending { jobs: self.clone(), uid, ended, after: Some(Box::new(after)) };
        let work = work(signals);
        self.tracker.spawn(async move {
            let _ending = ending;
            work.await;
        });
    }

    /// Stops the job of a session and waits until it has ended. `false`: it has not in good time, and may still write.
    pub async fn stop(&self, uid: &str) -> bool {
        let Some(ended) = self.lock().get(uid).map(|job| {
            job.stop.cancel();
            job.ended.clone()
        }) else {
            return true;
        };
        tokio::time::timeout(STOP_DEADLINE, ended.cancelled()).await.is_ok()
    }

    /// Tells every job to end and to write nothing more: somebody else is at work.
    pub fn stop_all(&self) {
        self.lock().values().for_each(|job| job.stop.cancel());
    }

    /// Waits for a free place for a run of `namespace`.
    pub async fn place(&self, namespace: &str) -> Place {
        let semaphore = {
            let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            // A semaphore that nobody else holds is at rest: it can be made again when it is needed.
            namespaces.retain(|name, semaphore| name == namespace || Arc::strong_count(semaphore) > 1);
            let fresh = || Arc::new(Semaphore::new(self.per_namespace));
            namespaces.entry(namespace.to_owned()).or_insert_with(fresh).clone()
        };
        // Neither semaphore is ever closed, so neither wait can fail; were one, the run would wait for ever and not run
        // without a place.
        let own = acquire(semaphore).await;
        let global = acquire(self.places.clone()).await;
        Place { _namespace: own, _global: global }
    }

    /// Waits until every job has ended, for `deadline` at most. Call after the shutdown token was cancelled.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

async fn acquire(semaphore: Arc<Semaphore>) -> OwnedSemaphorePermit {
    match semaphore.acquire_owned().await {
        Ok(permit) => permit,
        Err(_) => std::future::pending().await,
    }
}

/// Takes a job off the list when its task ends, by a panic too.
struct Ending {
    jobs: Arc<Jobs>,
    uid: String,
    ended: CancellationToken,
    after: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.jobs.lock().remove(&self.uid);
        self.ended.cancel();
        if let Some(after) = self.after.take() {
            after();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::sync::oneshot;

    fn session(uid: &str) -> Arc<DebugSession> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession",
                "metadata": {"name": uid, "namespace": "shop", "uid": uid}, "spec": {"target": {}},
            }))
            .unwrap(),
        )
    }

    fn key() -> RunKey {
        RunKey { hash: "h".to_owned(), token: None }
    }

    #[tokio::test]
    async fn a_session_has_one_job_and_none_after_it_ended() {
        let jobs = Arc::new(Jobs::new(4, 2, CancellationToken::new()));
        let (tell, told) = oneshot::channel();
        jobs.spawn(
            session("a"),
            key(),
            |signals| async move { signals.stop.cancelled().await },
            || {
                let _ = tell.send(());
            },
        );
        assert_eq!(jobs.running("a"), Some(key()));
        jobs.spawn(session("a"), key(), |_| async { panic!("a second job") }, || {});
        assert!(jobs.stop("a").await);
        told.await.unwrap();
        assert_eq!(jobs.running("a"), None);
        assert!(jobs.stop("a").await, "there is nothing to stop");
    }

    #[tokio::test]
    async fn a_job_that_panics_is_over() {
        let jobs = Arc::new(Jobs::new(1, 1, CancellationToken::new()));
        let (tell, told) = oneshot::channel();
        jobs.spawn(
            session("a"),
            key(),
            |_| async { panic!("on purpose") },
            || {
                let _ = tell.send(());
            },
        );
        told.await.unwrap();
        assert_eq!(jobs.running("a"), None);
    }

    #[tokio::test]
    async fn one_namespace_cannot_take_every_place() {
        let jobs = Jobs::new(3, 2, CancellationToken::new());
        let (one, _two) = (jobs.place("shop").await, jobs.place("shop").await);
        let mut third = Box::pin(jobs.place("shop"));
        assert!(futures::poll!(&mut third).is_pending());
        let _other = jobs.place("pay").await;
        drop(one);
        let _third = third.await;
        let mut more = Box::pin(jobs.place("pay"));
        assert!(futures::poll!(&mut more).is_pending(), "three places are three places");
    }

    #[tokio::test]
    async fn shutdown_reaches_every_job_and_lets_no_new_one_begin() {
        let shutdown = CancellationToken::new();
        let jobs = Arc::new(Jobs::new(4, 2, shutdown.clone()));
        for uid in ["a", "b"] {
            let work = |signals: Signals| async move { signals.shutdown.cancelled().await };
            jobs.spawn(session(uid), key(), work, || {});
        }
        shutdown.cancel();
        assert!(jobs.drain(Duration::from_secs(5)).await);
        jobs.spawn(session("c"), key(), |_| async { panic!("too late") }, || {});
        assert_eq!(jobs.running("c"), None);
    }
}
