//! What to do about a session now: a pure function of what is known, so that every case is a row in a table.
//!
//! Level-triggered: nothing here asks what happened, only how things stand. It may be asked at any time and any number
//! of times; after a crash it finds from the status alone what was under way.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::time::Duration;

use super::condition;
use super::owner;
use super::state;
use crate::api::REQUESTED_AT;
use crate::api::v1alpha1::session::{DebugSession, run_hash, short_hash};
use crate::api::v1alpha1::status::{Condition, DebugSessionStatus, Phase, condition as types};

/// A run that was cut off starts again until it has been tried this often.
pub const MAX_ATTEMPTS: i32 = 3;

/// The longest re-run token that is told apart, in characters: what the status has room for.
const MAX_TOKEN: usize = 253;

/// What a run is asked to do: a new value of either part asks for another run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunKey {
    /// The hash over the parts of the spec that matter to a run.
    pub hash: String,
    /// The value of the annotation `meshscope.dev/requestedAt`.
    pub token: Option<String>,
}

impl RunKey {
    /// What the session asks for now.
    pub fn of(session: &DebugSession) -> Self {
        let token = session.annotations().get(REQUESTED_AT).filter(|token| !token.is_empty());
        RunKey {
            hash: run_hash(&session.spec),
            token: token.map(|token| token.chars().take(MAX_TOKEN).collect()),
        }
    }

    /// Whether the status is about this run. A token that was taken away asks for nothing.
    pub fn is_handled_by(&self, status: &DebugSessionStatus) -> bool {
        status.observed_run_hash.as_ref() == Some(&self.hash)
            && (self.token.is_none() || self.token == status.last_handled_requested_at)
    }
}

/// A run to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    /// The same for every attempt.
    pub id: String,
    /// From 1.
    pub attempt: i32,
    /// What it is asked to do.
    pub key: RunKey,
}

/// What to do about a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Nothing, until it changes or this much time has passed.
    Nothing {
        /// When to look again by itself.
        wake: Option<Duration>,
    },
    /// Its run goes on; the job is told of the new generation.
    Observe,
    /// Its run goes on no more, and nothing is written: it is being deleted.
    Stop,
    /// Its run goes on no more, since something else is asked for now; then decide again.
    Supersede,
    /// End it as cancelled.
    Cancel,
    /// Hold it back.
    Suspend,
    /// It may not look at its target.
    Deny {
        /// The namespace that it asks for.
        namespace: String,
    },
    /// Start a run.
    Start(NewRun),
    /// It was cut off too often.
    GiveUp {
        /// How often.
        attempts: i32,
    },
    /// Nothing is to be run; the status is to be brought in line with the spec.
    Refresh(Box<DebugSessionStatus>),
    /// Its time to live is over.
    Expire {
        /// Who keeps the session itself: then only its report goes.
        keeper: Option<String>,
    },
}

/// What is to be done about `session` at `now`, where `running` is what a job of this process is working on for it.
pub fn decide(session: &DebugSession, running: Option<&RunKey>, now: Timestamp) -> Action {
    if session.metadata.deletion_timestamp.is_some() {
        return if running.is_some() { Action::Stop } else { Action::Nothing { wake: None } };
    }
    let empty = DebugSessionStatus::default();
    let status = session.status.as_ref().unwrap_or(&empty);
    let key = RunKey::of(session);
    let handled = key.is_handled_by(status);
    let terminal = handled && status.phase.is_some_and(Phase::is_terminal);

    if let Some(namespace) = foreign_target(session) {
        let told = terminal && condition::get(status, types::AUTHORIZED).is_some_and(is_denied);
        return match running {
            Some(_) => Action::Supersede,
            None if told => settled(session, status, now),
            None => Action::Deny { namespace },
        };
    }
    // A job that works on something else than what is asked for now is in the way, whatever comes next.
    if running.is_some_and(|job| *job != key && !(job.hash == key.hash && key.token.is_none())) {
        return Action::Supersede;
    }
    if terminal && running.is_none() {
        return settled(session, status, now);
    }
    if session.spec.cancel {
        return Action::Cancel;
    }
    if session.spec.suspend {
        let told = condition::is_true(status, types::SUSPENDED)
            && status.observed_generation == session.metadata.generation
            && running.is_none();
        return if told { Action::Nothing { wake: None } } else { Action::Suspend };
    }
    if running.is_some() {
        return Action::Observe;
    }
    start(session, status, key, handled)
}

fn is_denied(condition: &Condition) -> bool {
    condition.reason == state::reason::NOT_GRANTED
}

/// The namespace that the session asks for, where it is not its own.
pub fn foreign_target(session: &DebugSession) -> Option<String> {
    let wanted = session.spec.target.namespace.as_deref()?;
    (Some(wanted) != session.metadata.namespace.as_deref()).then(|| wanted.to_owned())
}

/// A first attempt, or the next one of a run that was cut off.
fn start(session: &DebugSession, status: &DebugSessionStatus, key: RunKey, handled: bool) -> Action {
    let Some(run) = status.run.as_ref().filter(|_| handled) else {
        let id = run_id(session, &key);
        return Action::Start(NewRun { id, attempt: 1, key });
    };
    // A run that had not begun, or that was stopped in good order, has not used up its attempt.
    let unused = run.start_time.is_none() || state::is_interrupted(status);
    let attempt = if unused { run.attempt.max(1) } else { run.attempt.saturating_add(1) };
    if attempt > MAX_ATTEMPTS {
        return Action::GiveUp { attempts: run.attempt };
    }
    Action::Start(NewRun { id: run.id.clone(), attempt, key })
}

fn run_id(session: &DebugSession, key: &RunKey) -> String {
    let hash = short_hash(&[
        session.metadata.uid.as_deref().unwrap_or_default().as_bytes(),
        key.hash.as_bytes(),
        key.token.as_deref().unwrap_or_default().as_bytes(),
        session.metadata.generation.unwrap_or_default().to_string().as_bytes(),
    ]);
    format!("run-{hash}")
}

/// A session whose run is over: keep its status in line with its spec, and mind its time to live.
fn settled(session: &DebugSession, status: &DebugSessionStatus, now: Timestamp) -> Action {
    let refreshed = state::refreshed(session, status, now);
    if refreshed != *status {
        return Action::Refresh(Box::new(refreshed));
    }
    let Some(ttl) = session.spec.ttl_seconds_after_finished else { return Action::Nothing { wake: None } };
    let Some(end) = state::ended_at(status) else { return Action::Nothing { wake: None } };
    let keeper = owner::keeper(&session.metadata);
    if keeper.is_some() && status.report.is_none() {
        return Action::Nothing { wake: None };
    }
    let expiry = end.checked_add(SignedDuration::from_secs(ttl)).unwrap_or(Timestamp::MAX);
    match Duration::try_from(expiry.duration_since(now)) {
        Ok(left) if !left.is_zero() => Action::Nothing { wake: Some(left) },
        _ => Action::Expire { keeper },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::state::{self, Versions};
    use serde_json::json;

    const NOW: &str = "2026-11-21T10:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn session(spec: serde_json::Value) -> DebugSession {
        serde_json::from_value(json!({
            "apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession",
            "metadata": {"name": "a", "namespace": "shop", "uid": "u1", "generation": 1},
            "spec": spec,
        }))
        .unwrap()
    }

    fn plain() -> DebugSession {
        session(json!({"target": {"services": ["checkout"]}}))
    }

    fn new_run(session: &DebugSession) -> NewRun {
        match decide(session, None, at(NOW)) {
            Action::Start(run) => run,
            other => panic!("{other:?}"),
        }
    }

    /// The session with the status that a run leaves once it has begun.
    fn begun(mut session: DebugSession) -> DebugSession {
        let run = new_run(&session);
        let mut status = state::queued(&session, &run, &Versions::default(), at(NOW));
        state::started(&mut status, session.metadata.generation, at(NOW));
        session.status = Some(status);
        session
    }

    /// The session with the status of a completed run.
    fn done(session: DebugSession) -> DebugSession {
        let mut session = begun(session);
        let status = session.status.take().unwrap();
        session.status = Some(state::completed(&session, status, at(NOW)));
        session
    }

    fn annotate(session: &mut DebugSession, token: &str) {
        session.annotations_mut().insert(REQUESTED_AT.to_owned(), token.to_owned());
    }

    #[test]
    fn a_new_session_starts_and_its_run_is_observed() {
        let run = new_run(&plain());
        assert_eq!(run.attempt, 1);
        assert_eq!(decide(&begun(plain()), Some(&run.key), at(NOW)), Action::Observe);
    }

    #[test]
    fn a_finished_session_rests() {
        assert_eq!(decide(&done(plain()), None, at(NOW)), Action::Nothing { wake: None });
    }

    #[test]
    fn what_no_run_depends_on_refreshes_the_status_and_starts_nothing() {
        let mut session = done(plain());
        session.metadata.generation = Some(2);
        session.spec.ttl_seconds_after_finished = Some(3600);
        let Action::Refresh(status) = decide(&session, None, at(NOW)) else { panic!() };
        assert_eq!(status.observed_generation, Some(2));
        assert!(status.conditions.iter().all(|c| c.observed_generation == Some(2)));
        session.status = Some(*status);
        assert_eq!(
            decide(&session, None, at("2026-11-21T10:20:00Z")),
            Action::Nothing { wake: Some(Duration::from_secs(2400)) }
        );
    }

    #[test]
    fn another_question_or_another_token_is_another_run() {
        let mut changed = done(plain());
        changed.spec.target.services = vec!["cart".to_owned()];
        let mut asked = done(plain());
        annotate(&mut asked, "1");
        let ids: Vec<String> = [plain(), changed, asked.clone()].iter().map(|s| new_run(s).id).collect();
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2], "{ids:?}");

        let mut asked = done(asked);
        assert_eq!(decide(&asked, None, at(NOW)), Action::Nothing { wake: None }, "the token was handled");
        asked.annotations_mut().clear();
        assert_eq!(
            decide(&asked, None, at(NOW)),
            Action::Nothing { wake: None },
            "no token asks for nothing"
        );
        annotate(&mut asked, "2");
        assert_eq!(new_run(&asked).attempt, 1);
    }

    #[test]
    fn a_run_of_another_question_is_in_the_way() {
        let mut session = begun(plain());
        let running = new_run(&plain()).key;
        session.spec.target.services = vec!["cart".to_owned()];
        assert_eq!(decide(&session, Some(&running), at(NOW)), Action::Supersede);
        session.spec.target.namespace = Some("other".to_owned());
        assert_eq!(decide(&session, Some(&running), at(NOW)), Action::Supersede);
        session.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW)));
        assert_eq!(decide(&session, Some(&running), at(NOW)), Action::Stop);
        assert_eq!(decide(&session, None, at(NOW)), Action::Nothing { wake: None });
    }

    #[test]
    fn a_run_that_was_cut_off_starts_again_three_times_in_all() {
        let mut session = begun(plain());
        let id = session.status.as_ref().unwrap().run.as_ref().unwrap().id.clone();
        for attempt in 2..=MAX_ATTEMPTS {
            let run = new_run(&session);
            assert_eq!((run.id.as_str(), run.attempt), (id.as_str(), attempt));
            let mut status = state::queued(&session, &run, &Versions::default(), at(NOW));
            session.status = Some(status.clone());
            assert_eq!(new_run(&session).attempt, attempt, "one that had not begun has not used its attempt");
            state::started(&mut status, Some(1), at(NOW));
            session.status = Some(status);
        }
        assert_eq!(decide(&session, None, at(NOW)), Action::GiveUp { attempts: 3 });
    }

    #[test]
    fn a_run_that_was_stopped_in_good_order_has_not_used_its_attempt() {
        let mut session = begun(plain());
        let status = session.status.as_mut().unwrap();
        state::interrupted(status, state::reason::INTERRUPTED, "the operator stops", at(NOW));
        assert_eq!(new_run(&session).attempt, 1);
        state::interrupted(session.status.as_mut().unwrap(), state::reason::RETRYING, "no answer", at(NOW));
        assert_eq!(new_run(&session).attempt, 2);
    }

    #[test]
    fn suspend_holds_back_and_lets_go() {
        let mut session = plain();
        session.spec.suspend = true;
        assert_eq!(decide(&session, None, at(NOW)), Action::Suspend);
        session.status = Some(state::suspended(&session, at(NOW)));
        assert_eq!(decide(&session, None, at(NOW)), Action::Nothing { wake: None });
        session.spec.suspend = false;
        assert_eq!(new_run(&session).attempt, 1);

        let mut running = begun(plain());
        running.spec.suspend = true;
        let key = RunKey::of(&running);
        assert_eq!(decide(&running, Some(&key), at(NOW)), Action::Suspend);
        running.status = Some(state::suspended(&running, at(NOW)));
        running.spec.suspend = false;
        assert_eq!(new_run(&running).attempt, 1, "held back is not cut off");
    }

    #[test]
    fn suspending_a_finished_session_leaves_ready_alone() {
        let mut session = done(plain());
        session.spec.suspend = true;
        let Action::Refresh(status) = decide(&session, None, at(NOW)) else { panic!() };
        assert!(condition::is_true(&status, types::READY) && condition::is_true(&status, types::SUSPENDED));
    }

    #[test]
    fn cancel_ends_what_is_not_over() {
        let mut fresh = plain();
        fresh.spec.cancel = true;
        assert_eq!(decide(&fresh, None, at(NOW)), Action::Cancel);
        fresh.status = Some(state::cancelled(&fresh, at(NOW)));
        assert_eq!(decide(&fresh, None, at(NOW)), Action::Nothing { wake: None });

        let mut over = done(plain());
        over.spec.cancel = true;
        assert_eq!(decide(&over, None, at(NOW)), Action::Nothing { wake: None });

        fresh.spec.cancel = false;
        assert_eq!(
            decide(&fresh, None, at(NOW)),
            Action::Nothing { wake: None },
            "by itself it stays cancelled"
        );
        annotate(&mut fresh, "again");
        assert_eq!(new_run(&fresh).attempt, 1);
    }

    #[test]
    fn another_namespace_is_denied_once() {
        let mut session = session(json!({"target": {"namespace": "other"}}));
        let action = decide(&session, None, at(NOW));
        assert_eq!(action, Action::Deny { namespace: "other".to_owned() });
        session.status = Some(state::denied(&session, "other", at(NOW)));
        assert_eq!(decide(&session, None, at(NOW)), Action::Nothing { wake: None });
        session.spec.target.namespace = Some("shop".to_owned());
        assert_eq!(new_run(&session).attempt, 1, "its own namespace by name is its own namespace");
    }

    #[test]
    fn time_to_live_deletes_the_session_or_only_its_report() {
        let mut session = done(session(json!({"target": {}, "ttlSecondsAfterFinished": 60})));
        let late = at("2026-11-21T10:01:00Z");
        assert_eq!(decide(&session, None, late), Action::Expire { keeper: None });
        assert_eq!(
            decide(&session, None, at("2026-11-21T10:00:59Z")),
            Action::Nothing { wake: Some(Duration::from_secs(1)) }
        );

        session.labels_mut().insert("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned());
        let status = session.status.as_mut().unwrap();
        assert!(status.report.is_none());
        assert_eq!(
            decide(&session, None, late),
            Action::Nothing { wake: None },
            "there is no report to delete"
        );
        session.status.as_mut().unwrap().report = Some(Default::default());
        assert_eq!(decide(&session, None, late), Action::Expire { keeper: Some("Helm".to_owned()) });
    }
}
