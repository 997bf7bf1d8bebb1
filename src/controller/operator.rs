//! The operator: takes its turn as leader, watches, reconciles, and ends in good order.

use futures::channel::mpsc;
use futures::{StreamExt, future};
use kube::api::Api;
use kube::runtime::controller::{self, Controller};
use kube::{Client, runtime};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::config::Config;
use super::context::Context;
use super::events::Events;
use super::health::Health;
use super::investigate::Investigate;
use super::jobs::Jobs;
use super::lease::Candidate;
use super::metrics::Metrics;
use super::reconcile::{on_error, reconcile};
use super::state::Versions;
use super::watch::{self, Guarded};
use super::write::StatusWriter;

/// Sessions of one watch that are reconciled at the same time. Each takes a few small requests.
const CONCURRENCY: u16 = 8;

/// What the operator is made of.
pub struct Operator {
    /// The API server, for sessions, statuses, events, reports and the lease.
    pub client: Client,
    /// The configuration.
    pub config: Config,
    /// Says why services fail.
    pub investigator: Arc<dyn Investigate>,
    /// A name that no other replica has: the pod's.
    pub identity: String,
    /// The namespace that the operator runs in: the lease is there.
    pub namespace: String,
    /// What it measures of itself.
    pub metrics: Arc<Metrics>,
    /// What probes ask.
    pub health: Arc<Health>,
}

impl Operator {
    /// Works until `stop`, or stands by while another replica does. When it returns, its runs have said where they
    /// stopped, and the lease is free.
    pub async fn run(self, stop: CancellationToken) {
        self.health.started();
        if self.config.leader_election.enabled {
            self.take_turns(&stop).await;
        } else {
            self.lead(&stop, &CancellationToken::new()).await;
        }
        self.health.stopping();
    }

    async fn take_turns(&self, stop: &CancellationToken) {
        let election = &self.config.leader_election;
        let namespace = if election.namespace.is_empty() { &self.namespace } else { &election.namespace };
        let api = Api::namespaced(self.client.clone(), namespace);
        let mut candidate =
            Candidate::new(api, &election.lease_name, &self.identity, election.lease_duration);
        while candidate.acquire(stop).await {
            tracing::info!(identity = %self.identity, "this replica leads");
            let (lost, ended) = (CancellationToken::new(), CancellationToken::new());
            let leading = async {
                self.lead(stop, &lost).await;
                ended.cancel();
            };
            let holding = async {
                // Until the runs have said where they stopped, the lease stays ours.
                candidate.hold(&ended).await;
                lost.cancel();
            };
            future::join(leading, holding).await;
            if stop.is_cancelled() {
                candidate.release().await;
                return;
            }
            tracing::warn!(identity = %self.identity, "this replica leads no more and stands by");
        }
    }

    /// Watches and reconciles until `stop`, or until the lease is `lost`: then another replica may be at work, and
    /// nothing more is written.
    async fn lead(&self, stop: &CancellationToken, lost: &CancellationToken) {
        self.leading(true);
        let ending = stop.child_token();
        let shutdown = CancellationToken::new();
        let limits = self.config.limits.clone();
        let jobs = Arc::new(Jobs::new(
            limits.concurrent_runs,
            limits.concurrent_runs_per_namespace,
            shutdown.clone(),
        ));
        let mut namespaces = self.config.watch_namespaces.clone();
        if namespaces.is_empty() {
            namespaces.push(String::new());
        }
        let (senders, receivers): (HashMap<_, _>, Vec<_>) = namespaces
            .into_iter()
            .map(|namespace| {
                let (sender, receiver) = mpsc::unbounded();
                ((namespace.clone(), sender), (namespace, receiver))
            })
            .unzip();
        let context = Arc::new(Context {
            client: self.client.clone(),
            writer: StatusWriter::new(self.client.clone()),
            events: Events::new(self.client.clone(), &self.identity),
            jobs: jobs.clone(),
            investigator: self.investigator.clone(),
            limits: limits.clone(),
            versions: Versions {
                operator: env!("CARGO_PKG_VERSION").to_owned(),
                rules: self.investigator.rules_version(),
            },
            metrics: self.metrics.clone(),
            backoff: Backoff::default(),
            wake: senders,
        });
        let watches = receivers
            .into_iter()
            .map(|(namespace, wakes)| self.watch(namespace, wakes, context.clone(), ending.clone()));
        let watching = async {
            future::join_all(watches).await;
            // Without a watch there is nothing to lead.
            ending.cancel();
        };
        let ending_in_order = async {
            tokio::select! {
                () = ending.cancelled() => {}
                () = lost.cancelled() => ending.cancel(),
            }
            if lost.is_cancelled() {
                jobs.stop_all();
            } else {
                shutdown.cancel();
            }
            jobs.drain(limits.shutdown_grace).await
        };
        let work = future::join(watching, ending_in_order);
        // A reconciliation that hangs keeps nobody waiting for longer than the runs.
        let drained = tokio::select! {
            (_, drained) = work => drained,
            () = async { ending.cancelled().await; tokio::time::sleep(limits.shutdown_grace).await } => false,
        };
        if !drained {
            tracing::warn!("some runs did not end in time; they start again as a further attempt");
        }
        self.leading(false);
    }

    fn leading(&self, leading: bool) {
        self.metrics.leader.set(i64::from(leading));
        self.health.set_leading(leading);
    }

    /// Watches the sessions of a namespace, or of all where it is empty, until `ending`.
    async fn watch(
        &self,
        namespace: String,
        wakes: mpsc::UnboundedReceiver<runtime::reflector::ObjectRef<Guarded>>,
        context: Arc<Context>,
        ending: CancellationToken,
    ) {
        let api: Api<Guarded> = if namespace.is_empty() {
            Api::all(self.client.clone())
        } else {
            Api::namespaced(self.client.clone(), &namespace)
        };
        let (reader, stream) = watch::sessions(api, self.health.clone(), self.metrics.clone());
        Controller::for_stream(stream, reader)
            .with_config(runtime::Config::default().concurrency(CONCURRENCY))
            .reconcile_on(wakes)
            .graceful_shutdown_on(ending.cancelled_owned())
            .run(reconcile, |session, error, context| on_error(&session, error, &context), context)
            .for_each(|result| {
                // Failures of reconciling are told where they happen, and those of the watch too. What is left is a
                // session that was deleted while it was woken.
                if let Err(controller::Error::RunnerError(error)) = &result {
                    tracing::error!(error = %super::chain(error), "the scheduler of sessions failed");
                }
                future::ready(())
            })
            .await;
    }
}
