//! The controller, end to end over a real HTTP API: sessions are created, edited, cancelled and deleted as a user would,
//! and what the controller makes of it is read back. Investigations are stand-ins, so that each test decides when and
//! how one ends.

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use meshscope::analyze::diagnosis::{Options, analyze};
use meshscope::api::REQUESTED_AT;
use meshscope::api::v1alpha1::status::{DebugSessionStatus, FindingState, Phase, Progress, Verdict};
use meshscope::api::v1alpha1::{DebugSession, DebugSessionSpec};
use meshscope::collect::assemble::assemble;
use meshscope::collect::budget::Cost;
use meshscope::collect::material::Material;
use meshscope::controller::condition;
use meshscope::controller::config::Config;
use meshscope::controller::fetch::fetch;
use meshscope::controller::health::Health;
use meshscope::controller::investigate::{Investigate, InvestigateError, Outcome, RunContext};
use meshscope::controller::metrics::Metrics;
use meshscope::controller::operator::Operator;
use meshscope::controller::publish;
use meshscope::model::json::{Value, json};
use meshscope::replay;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take that a test waits for; a test that succeeds never waits for it.
const PATIENCE: Duration = Duration::from_secs(240);

/// A Service whose selector matches nothing, and the pods that it should match.
fn broken() -> Material {
    Material {
        manifest: json!({"version": 1, "capturedAt": "2026-11-21T10:00:00Z"}).read().unwrap(),
        objects: vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "checkout", "namespace": "shop"},
                   "spec": {"selector": {"app": "checkout"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                   "metadata": {"name": "checkout", "namespace": "shop", "uid": "d1"},
                   "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "other"}},
                            "template": {"metadata": {"labels": {"app": "other"}},
                                         "spec": {"containers": [{"name": "app", "image": "x"}]}}}}),
        ],
        ..Material::default()
    }
}

/// How a stand-in investigation ends.
#[derive(Clone, Copy)]
enum Script {
    /// With the diagnosis of [`broken`].
    Answer,
    /// When it is told to, then with an answer.
    Wait,
    /// Never, and it does not listen either.
    Hang,
    /// With a panic.
    Panic,
    /// As something that may pass.
    Unavailable,
}

struct StandIn {
    script: Mutex<Script>,
    go: Notify,
    begun: AtomicUsize,
}

impl StandIn {
    fn new(script: Script) -> Arc<Self> {
        Arc::new(StandIn { script: Mutex::new(script), go: Notify::new(), begun: AtomicUsize::new(0) })
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

struct Shared(Arc<StandIn>);

impl Investigate for Shared {
    fn investigate(
        &self,
        _: Arc<DebugSession>,
        context: RunContext,
    ) -> BoxFuture<'static, Result<Outcome, InvestigateError>> {
        let stand_in = self.0.clone();
        async move {
            stand_in.begun.fetch_add(1, Ordering::SeqCst);
            (context.progress)(Phase::Collecting, Progress { step: "Objects".to_owned(), done: 1, total: 2 });
            let script = *stand_in.script.lock().unwrap();
            match script {
                Script::Answer => {}
                Script::Wait => tokio::select! {
                    () = stand_in.go.notified() => {}
                    () = context.cancel.cancelled() => {}
                },
                Script::Hang => std::future::pending().await,
                Script::Panic => panic!("on purpose"),
                Script::Unavailable => return Err(InvestigateError::Unavailable("no answer".to_owned())),
            }
            Ok(Outcome {
                diagnosis: analyze(&assemble(broken()), &Options::default()),
                collectors: vec![],
                cost: Cost::default(),
                cpu_millis: 1,
                held_bytes: 1,
                redactions: BTreeMap::new(),
                logs: vec![],
            })
        }
        .boxed()
    }

    fn rules_version(&self) -> String {
        "test".to_owned()
    }
}

/// A replayed cluster.
struct World {
    handle: replay::Handle,
    client: Client,
    sessions: Api<DebugSession>,
}

/// An operator at work on it.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
    metrics: Arc<Metrics>,
    stand_in: Arc<StandIn>,
}

impl World {
    async fn new() -> Self {
        meshscope::telemetry::install_crypto();
        let clock = Arc::new(meshscope::telemetry::now);
        let handle = replay::serve(broken(), replay::Options { port: 0, clock }).await.unwrap();
        let client = Client::try_from(kube::Config::new(handle.url().parse().unwrap())).unwrap();
        let sessions = Api::namespaced(client.clone(), "shop");
        World { handle, client, sessions }
    }

    fn operator(&self, stand_in: &Arc<StandIn>, configure: impl FnOnce(&mut Config)) -> Running {
        let mut config = Config::default();
        config.leader_election.enabled = false;
        config.limits.progress_interval = Duration::from_millis(20);
        configure(&mut config);
        let metrics = Arc::new(Metrics::default());
        let operator = Operator {
            client: self.client.clone(),
            config,
            investigator: Arc::new(Shared(stand_in.clone())),
            identity: format!("replica-{:p}", Arc::as_ptr(&metrics)),
            namespace: "default".to_owned(),
            metrics: metrics.clone(),
            health: Arc::new(Health::default()),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(operator.run(stop.clone()));
        Running { stop, task, metrics, stand_in: stand_in.clone() }
    }

    async fn create(&self, name: &str, spec: Value) -> DebugSession {
        let spec: DebugSessionSpec = spec.read().unwrap();
        self.sessions.create(&PostParams::default(), &DebugSession::new(name, spec)).await.unwrap()
    }

    async fn edit(&self, name: &str, patch: Value) {
        self.sessions.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// The session as soon as its status is as `wanted`.
    async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&DebugSessionStatus) -> bool,
    ) -> DebugSession {
        let mut last = None;
        let look = async {
            loop {
                let session = self.sessions.get(name).await.unwrap();
                if session.status.as_ref().is_some_and(&wanted) {
                    return session;
                }
                last = Some(session);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(session) => session,
            Err(_) => panic!("{name}: not {what}: {:#?}", last.and_then(|session| session.status)),
        }
    }

    async fn until_phase(&self, name: &str, phase: Phase) -> DebugSession {
        self.until(name, phase.as_str(), |status| status.phase == Some(phase)).await
    }

    /// The reasons of the events on a session, oldest first.
    async fn events(&self, name: &str) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "shop");
        let mut events = api.list(&ListParams::default()).await.unwrap().items;
        events.retain(|event| {
            event.regarding.as_ref().is_some_and(|regarding| regarding.name.as_deref() == Some(name))
        });
        events.sort_by_key(|event| event.event_time.clone());
        events.into_iter().filter_map(|event| event.reason).collect()
    }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap();
    }

    /// Waits until so many investigations have begun.
    async fn begun(&self, count: usize) {
        let look = async {
            while self.stand_in.begun() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("an investigation begins");
    }
}

fn status(session: &DebugSession) -> &DebugSessionStatus {
    session.status.as_ref().unwrap()
}

fn run_of(session: &DebugSession) -> (String, i32) {
    let run = status(session).run.as_ref().unwrap();
    (run.id.clone(), run.attempt)
}

fn checkout() -> Value {
    json!({"target": {"services": ["checkout"]}})
}

#[tokio::test]
async fn a_session_gets_its_answer_its_report_and_its_events() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Answer), |_| {});
    world.create("a", checkout()).await;
    let session = world.until_phase("a", Phase::Completed).await;
    let status = status(&session);
    assert_eq!(status.observed_generation, session.metadata.generation);
    for condition in ["Ready", "Finished", "Complete", "Authorized", "CollectionComplete", "ReportAvailable"]
    {
        assert!(condition::is_true(status, condition), "{condition}: {status:#?}");
    }
    assert!(condition::get(status, "Reconciling").is_none() && condition::get(status, "Stalled").is_none());
    let finding = status.findings.first().expect("a finding");
    assert_eq!(finding.subject.name, "checkout");
    assert_ne!(status.summary.as_ref().unwrap().verdict, Verdict::Healthy);

    let markdown = fetch(&world.client, &session, publish::MARKDOWN).await.unwrap();
    assert!(String::from_utf8(markdown).unwrap().contains("checkout"));
    let document = fetch(&world.client, &session, publish::JSON).await.unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["version"], 1);
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "shop");
    let map = maps.get(&status.report.as_ref().unwrap().config_maps[0]).await.unwrap();
    assert_eq!(map.owner_references()[0].uid, session.uid().unwrap());
    assert!(
        fetch(&world.client, &session, publish::LOGS).await.unwrap_err().to_string().contains("report.md.gz")
    );

    let events = world.events("a").await;
    assert_eq!(events.first().map(String::as_str), Some("Started"), "{events:?}");
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(running.metrics.render().contains("meshscope_runs_total{result="));
    running.end().await;
}

#[tokio::test]
async fn a_token_asks_again_and_an_edit_that_matters_too_and_no_other() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Answer), |_| {});
    world.create("a", checkout()).await;
    let first = run_of(&world.until_phase("a", Phase::Completed).await);

    world.edit("a", json!({"metadata": {"annotations": {REQUESTED_AT: "1"}}})).await;
    let again = world
        .until("a", "run again", |status| {
            status.phase == Some(Phase::Completed) && status.last_handled_requested_at.as_deref() == Some("1")
        })
        .await;
    assert_ne!(run_of(&again).0, first.0);
    assert_eq!(status(&again).history[0].run_id, first.0);
    assert!(status(&again).findings.iter().all(|finding| finding.state == FindingState::Ongoing));

    world.edit("a", json!({"spec": {"failOn": "Warning"}})).await;
    let gated = world.until("a", "gated", |status| condition::is_true(status, "Stalled")).await;
    assert_eq!(run_of(&gated), run_of(&again), "failOn starts no run");
    assert_eq!(status(&gated).observed_generation, Some(2));

    world.edit("a", json!({"spec": {"target": {"dependencyDepth": 0}}})).await;
    let other = world
        .until("a", "about the new target", |status| {
            status.phase == Some(Phase::Completed) && status.observed_generation == Some(3)
        })
        .await;
    assert_ne!(run_of(&other).0, run_of(&again).0);
    assert!(status(&other).findings.iter().all(|finding| finding.state == FindingState::New));
    assert_eq!(running.stand_in.begun(), 3);
    running.end().await;
}

#[tokio::test]
async fn progress_shows_and_cancel_suspend_and_edits_reach_a_run_under_way() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Wait), |_| {});
    for name in ["cancelled", "suspended"] {
        world.create(name, checkout()).await;
        let session = world.until(name, "under way", |status| status.progress.is_some()).await;
        assert_eq!(status(&session).phase, Some(Phase::Collecting));
        assert!(condition::is_true(status(&session), "Reconciling"));
    }
    world.edit("cancelled", json!({"spec": {"cancel": true}})).await;
    let session = world.until_phase("cancelled", Phase::Cancelled).await;
    assert!(
        condition::is_true(status(&session), "Finished") && condition::is_true(status(&session), "Stalled")
    );

    world.edit("suspended", json!({"spec": {"suspend": true}})).await;
    let held = world.until("suspended", "held back", |status| condition::is_true(status, "Suspended")).await;
    assert!(condition::get(status(&held), "Reconciling").is_none());
    *running.stand_in.script.lock().unwrap() = Script::Answer;
    world.edit("suspended", json!({"spec": {"suspend": false}})).await;
    let session = world.until_phase("suspended", Phase::Completed).await;
    assert_eq!(run_of(&session), run_of(&held), "it is the same attempt that goes on");

    *running.stand_in.script.lock().unwrap() = Script::Wait;
    world.create("edited", checkout()).await;
    let before = world.until("edited", "under way", |status| status.progress.is_some()).await;
    world.edit("edited", json!({"spec": {"ttlSecondsAfterFinished": 3600}})).await;
    let told = world.until("edited", "told", |status| status.observed_generation == Some(2)).await;
    assert_eq!(run_of(&told), run_of(&before), "the run goes on");
    *running.stand_in.script.lock().unwrap() = Script::Answer;
    world.edit("edited", json!({"spec": {"timeout": "4m"}})).await;
    let after = world.until_phase("edited", Phase::Completed).await;
    assert_ne!(run_of(&after).0, run_of(&before).0);
    assert_eq!(status(&after).observed_generation, Some(3));
    running.end().await;
}

#[tokio::test]
async fn who_stops_in_good_order_hands_over_and_who_is_cut_off_has_used_an_attempt() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Wait), |_| {});
    world.create("a", checkout()).await;
    world.until("a", "under way", |status| status.progress.is_some()).await;
    running.end().await;
    let session = world.until_phase("a", Phase::Pending).await;
    assert_eq!(condition::get(status(&session), "Reconciling").unwrap().reason, "Interrupted");
    let (id, _) = run_of(&session);

    let running = world.operator(&StandIn::new(Script::Wait), |_| {});
    let session = world.until("a", "under way again", |status| status.progress.is_some()).await;
    assert_eq!(run_of(&session), (id.clone(), 1));
    // As a crash does it: nothing is written any more.
    running.task.abort();

    // Its run has nothing left to write once its progress shows: here it outlives the task, as in no crash.
    for attempt in [2, 3] {
        let next = world.operator(&StandIn::new(Script::Wait), |_| {});
        next.begun(1).await;
        let session = world
            .until("a", "in its next attempt", |status| {
                status.run.as_ref().is_some_and(|run| run.attempt == attempt) && status.progress.is_some()
            })
            .await;
        assert_eq!(run_of(&session).0, id);
        next.task.abort();
    }
    let last = world.operator(&StandIn::new(Script::Answer), |_| {});
    let session = world.until_phase("a", Phase::Failed).await;
    assert_eq!(condition::get(status(&session), "Stalled").unwrap().reason, "AttemptsExhausted");
    assert_eq!(last.stand_in.begun(), 0);
    last.end().await;
}

#[tokio::test]
async fn another_namespace_is_denied_and_told_so() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Answer), |_| {});
    world.create("a", json!({"target": {"namespace": "other"}})).await;
    let session = world.until_phase("a", Phase::Failed).await;
    let authorized = condition::get(status(&session), "Authorized").unwrap();
    assert_eq!(authorized.reason, "NotGranted");
    assert!(authorized.message.contains("namespace other"), "{}", authorized.message);
    assert_eq!(world.events("a").await, ["Denied"]);
    assert_eq!(running.stand_in.begun(), 0);
    running.end().await;
}

#[tokio::test]
async fn a_fault_or_a_hang_ends_its_own_run_and_nothing_else() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Panic), |config| {
        config.limits.concurrent_runs = 1;
        config.limits.concurrent_runs_per_namespace = 1;
    });
    world.create("a", checkout()).await;
    let session = world.until_phase("a", Phase::Failed).await;
    assert_eq!(condition::get(status(&session), "Failed").unwrap().reason, "InternalError");

    // It hangs in the only place there is, until its timeout.
    *running.stand_in.script.lock().unwrap() = Script::Hang;
    world.create("b", json!({"target": {}, "timeout": "1s"})).await;
    running.begun(2).await;
    *running.stand_in.script.lock().unwrap() = Script::Answer;
    world.create("c", checkout()).await;
    let session = world.until_phase("b", Phase::Failed).await;
    let failed = condition::get(status(&session), "Failed").unwrap();
    assert_eq!(failed.reason, "TimedOut");
    assert!(failed.message.contains("spec.timeout (1s)"), "{}", failed.message);
    world.until_phase("c", Phase::Completed).await;
    assert_eq!(world.events("b").await, ["Started", "Failed"]);
    running.end().await;
}

#[tokio::test]
async fn a_stored_object_that_is_no_session_is_told_so_and_stops_nothing() {
    let world = World::new().await;
    // The server under test looks at types, not at CEL rules: as an older schema would have let it through.
    let resource = kube::api::ApiResource::erase::<DebugSession>(&());
    let any: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), "shop", &resource);
    let bad = DynamicObject::new("bad", &resource)
        .data(serde_json::json!({"spec": {"target": {}, "timeout": "soon"}}));
    any.create(&PostParams::default(), &bad).await.unwrap();
    let running = world.operator(&StandIn::new(Script::Answer), |_| {});
    world.create("good", checkout()).await;
    world.until_phase("good", Phase::Completed).await;
    let told = async {
        loop {
            let found = any.get("bad").await.unwrap();
            if let Some(status) = found.data.get("status").filter(|status| status["phase"] == "Failed") {
                return status.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, told).await.expect("it is told in the status");
    let stalled = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Stalled").unwrap();
    assert!(stalled["message"].as_str().unwrap().contains("such as 90s, 5m or 1h30m"), "{stalled}");
    assert_eq!(world.events("bad").await, ["Malformed"]);
    running.end().await;
}

#[tokio::test]
async fn time_to_live_deletes_a_session_and_of_one_that_is_kept_only_the_report() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Answer), |_| {});
    let spec = json!({"target": {"services": ["checkout"]}, "ttlSecondsAfterFinished": 0});
    let mut kept = DebugSession::new("kept", spec.clone().read().unwrap());
    kept.labels_mut().insert("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned());
    world.sessions.create(&PostParams::default(), &kept).await.unwrap();
    let session = world
        .until("kept", "without its report", |status| {
            condition::get(status, "ReportAvailable").is_some_and(|condition| condition.reason == "Expired")
        })
        .await;
    assert!(status(&session).report.is_none() && status(&session).summary.is_some());
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "shop");
    let of_session = format!("{}={}", publish::SESSION_LABEL, session.uid().unwrap());
    assert!(maps.list(&ListParams::default().labels(&of_session)).await.unwrap().items.is_empty());

    world.create("own", spec).await;
    let gone = async {
        while world.sessions.get_opt("own").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is deleted");
    running.end().await;
}

#[tokio::test]
async fn a_failure_that_may_pass_waits_for_another_attempt() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Unavailable), |_| {});
    world.create("a", checkout()).await;
    let session = world
        .until("a", "waiting", |status| {
            condition::get(status, "Reconciling").is_some_and(|condition| condition.reason == "Retrying")
        })
        .await;
    assert!(condition::get(status(&session), "Reconciling").unwrap().message.contains("no answer"));
    // Somebody who does not want to wait can still change it.
    *running.stand_in.script.lock().unwrap() = Script::Answer;
    world.edit("a", json!({"metadata": {"annotations": {REQUESTED_AT: "now"}}})).await;
    world.until_phase("a", Phase::Completed).await;
    running.end().await;
}

#[tokio::test]
async fn a_session_that_is_deleted_takes_its_run_with_it() {
    let world = World::new().await;
    let running = world.operator(&StandIn::new(Script::Wait), |config| {
        config.limits.concurrent_runs = 1;
        config.limits.concurrent_runs_per_namespace = 1;
    });
    world.create("a", checkout()).await;
    world.until("a", "under way", |status| status.progress.is_some()).await;
    world.sessions.delete("a", &DeleteParams::default()).await.unwrap();
    running.stand_in.go.notify_one();
    *running.stand_in.script.lock().unwrap() = Script::Answer;
    world.create("b", checkout()).await;
    world.until_phase("b", Phase::Completed).await;
    assert!(world.sessions.get_opt("a").await.unwrap().is_none());
    running.end().await;
}

#[tokio::test]
async fn of_two_replicas_one_works_and_the_other_takes_over() {
    let world = World::new().await;
    let elect = |config: &mut Config| {
        config.leader_election.enabled = true;
        config.leader_election.lease_duration = Duration::from_secs(5);
    };
    let (a, b) = (StandIn::new(Script::Answer), StandIn::new(Script::Answer));
    let (first, second) = (world.operator(&a, elect), world.operator(&b, elect));
    world.create("a", checkout()).await;
    world.until_phase("a", Phase::Completed).await;
    assert_eq!(a.begun() + b.begun(), 1, "one of them, and only one");
    let (leader, other) = if a.begun() == 1 { (first, second) } else { (second, first) };
    leader.end().await;
    world.create("b", checkout()).await;
    world.until_phase("b", Phase::Completed).await;
    assert_eq!(other.stand_in.begun(), 1);
    other.end().await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "default");
    let lease = leases.get("meshscope").await.unwrap().spec.unwrap();
    assert!(lease.holder_identity.is_none_or(|holder| holder.is_empty()), "it was given back");
    world.handle.shutdown().await;
}
