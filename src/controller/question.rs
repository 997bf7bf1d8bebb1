//! What a session asks, in the words of collecting: pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::time::Duration;

use crate::api::v1alpha1::DebugSession;
use crate::api::v1alpha1::common::Moment;
use crate::api::v1alpha1::session::{DEFAULT_SINCE, SourceKind, Target as Wanted, Window as Asked};
use crate::collect::budget::Budget;
use crate::collect::plan::{Asker, LogOptions, Question, Source, Target};
use crate::model::selector::Selector;
use crate::model::time::Window;

/// The part of a run's time that gathering may take; the rest is for analysis and for writing it down.
const COLLECT_SHARE: f64 = 0.7;

/// The question of a session, about its own namespace. A window longer than `max_window` keeps its newest part.
pub fn question(session: &DebugSession, max_window: Duration, now: Timestamp) -> Question {
    let spec = &session.spec;
    let mut question = Question::about(session.namespace().unwrap_or_default(), Asker::Operator);
    question.target = target(&spec.target);
    question.dependency_depth = u8::try_from(spec.target.dependency_depth).unwrap_or(0);
    question.sources = spec.collect.sources.iter().copied().map(source).collect();
    let logs = &spec.collect.logs;
    question.logs = LogOptions {
        tail_lines: u32::try_from(logs.tail_lines).unwrap_or(u32::MAX),
        limit_bytes: usize::try_from(logs.limit_bytes_per_container).unwrap_or(usize::MAX),
        include_previous: logs.include_previous,
        containers: logs.containers.clone(),
    };
    question.onset = spec.symptom.onset.map(Moment::timestamp);
    question.window = Some(window(&spec.window, question.onset, max_window, now));
    question
}

fn target(wanted: &Wanted) -> Target {
    if !wanted.services.is_empty() {
        Target::Services(wanted.services.clone())
    } else if !wanted.workloads.is_empty() {
        let named = wanted.workloads.iter();
        Target::Workloads(named.map(|w| (w.kind.as_str().to_owned(), w.name.clone())).collect())
    } else if let Some(selector) = &wanted.selector {
        Target::Pods(Selector::labels((&selector.match_labels).into()))
    } else {
        Target::Namespace
    }
}

fn source(kind: SourceKind) -> Source {
    match kind {
        SourceKind::Logs => Source::Logs,
        SourceKind::Events => Source::Events,
        SourceKind::Mesh => Source::Mesh,
        SourceKind::Proxies => Source::Proxies,
        SourceKind::Metrics => Source::Metrics,
    }
}

/// The span that is asked about. Where only an onset is given, as much time before it as is looked at otherwise.
fn window(asked: &Asked, onset: Option<Timestamp>, longest: Duration, now: Timestamp) -> Window {
    let before = |end: Timestamp, seconds: u64| {
        let span = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        end.checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH)
    };
    let (start, end) = match (asked.start, asked.end) {
        (Some(start), Some(end)) => (start.timestamp(), end.timestamp()),
        _ => {
            let from = onset.filter(|onset| asked.since.is_none() && *onset < now).unwrap_or(now);
            (before(from, asked.since.unwrap_or(DEFAULT_SINCE).as_secs().into()), now)
        }
    };
    // The end of a window in the future is now, so that the cap keeps time that has been.
    Window { start: start.max(before(end.min(now), longest.as_secs())), end }
}

/// The bounds of a run: what the session asks of logs, and time that fits into its timeout.
pub fn budget(session: &DebugSession, timeout: Duration) -> Budget {
    let base = Budget::default();
    let logs = &session.spec.collect.logs;
    let collect_deadline = timeout.mul_f64(COLLECT_SHARE);
    Budget {
        log_lines_per_container: u32::try_from(logs.tail_lines).unwrap_or(base.log_lines_per_container),
        log_bytes_per_container: usize::try_from(logs.limit_bytes_per_container)
            .unwrap_or(base.log_bytes_per_container),
        request_deadline: base.request_deadline.min(collect_deadline),
        collect_deadline,
        ..base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn session(spec: Value) -> DebugSession {
        serde_json::from_value(json!({
            "apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession",
            "metadata": {"name": "a", "namespace": "shop"}, "spec": spec,
        }))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn asked(spec: Value) -> Question {
        question(&session(spec), Duration::from_secs(3 * 3600), at("2026-11-21T10:00:00Z"))
    }

    #[test]
    fn targets_are_carried_over() {
        for (target, expected) in [
            (json!({}), Target::Namespace),
            (json!({"services": ["a"]}), Target::Services(vec!["a".to_owned()])),
            (
                json!({"workloads": [{"kind": "StatefulSet", "name": "db"}]}),
                Target::Workloads(vec![("StatefulSet".to_owned(), "db".to_owned())]),
            ),
            (
                json!({"selector": {"matchLabels": {"app": "a"}}}),
                Target::Pods(Selector::labels([("app".to_owned(), "a".to_owned())].into())),
            ),
        ] {
            let question = asked(json!({"target": target}));
            assert_eq!(question.target, expected);
            assert_eq!((question.namespace.as_str(), question.asker), ("shop", Asker::Operator));
        }
    }

    #[test]
    fn windows_are_capped_to_their_newest_part() {
        for (window, start, end) in [
            (json!({}), "2026-11-21T09:00:00Z", "2026-11-21T10:00:00Z"),
            (json!({"since": "30m"}), "2026-11-21T09:30:00Z", "2026-11-21T10:00:00Z"),
            (json!({"since": "24h"}), "2026-11-21T07:00:00Z", "2026-11-21T10:00:00Z"),
            (
                json!({"start": "2026-11-20T00:00:00Z", "end": "2026-11-21T08:00:00Z"}),
                "2026-11-21T05:00:00Z",
                "2026-11-21T08:00:00Z",
            ),
            (
                json!({"start": "2026-11-20T00:00:00Z", "end": "2027-01-01T00:00:00Z"}),
                "2026-11-21T07:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
        ] {
            let found = asked(json!({"target": {}, "window": window})).window.unwrap();
            assert_eq!(found, Window { start: at(start), end: at(end) }, "{window}");
        }
    }

    #[test]
    fn an_onset_brings_time_before_it_unless_a_window_is_given() {
        for (window, start) in
            [(json!({}), "2026-11-21T07:30:00Z"), (json!({"since": "2h"}), "2026-11-21T08:00:00Z")]
        {
            let found =
                asked(json!({"target": {}, "symptom": {"onset": "2026-11-21T08:30:00Z"}, "window": window}));
            assert_eq!(found.onset, Some(at("2026-11-21T08:30:00Z")));
            assert_eq!(found.window.unwrap().start, at(start));
        }
    }

    #[test]
    fn gathering_leaves_time_for_the_answer() {
        let session = session(json!({"target": {}, "collect": {"logs": {"tailLines": 50}}}));
        let budget = budget(&session, Duration::from_secs(10));
        assert_eq!(budget.collect_deadline, Duration::from_secs(7));
        assert!(budget.request_deadline <= budget.collect_deadline);
        assert_eq!(budget.log_lines_per_container, 50);
    }
}
