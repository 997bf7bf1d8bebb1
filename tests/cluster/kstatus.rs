//! What GitOps tools and `kubectl wait` make of a session, at every step of its way.

use serde_json::Value;

use crate::operator::condition;

/// How kstatus, which Flux and many others use, reads an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Not there yet.
    InProgress,
    /// It will not get there by itself.
    Failed,
    /// As asked for.
    Current,
}

/// Reads a session as kstatus does.
pub(crate) fn read(session: &Value) -> Reading {
    let is_true = |type_| condition(session, type_).is_some_and(|(status, _)| status == "True");
    let observed = &session["status"]["observedGeneration"];
    if !observed.is_null() && *observed != session["metadata"]["generation"] {
        Reading::InProgress
    } else if is_true("Stalled") {
        Reading::Failed
    } else if is_true("Reconciling") || (condition(session, "Ready").is_some() && !is_true("Ready")) {
        Reading::InProgress
    } else {
        Reading::Current
    }
}

/// Every state of a session, as a watch saw them, is one that tools can rely on.
pub(crate) fn check(states: &[Value]) {
    for session in states {
        let (reading, status) = (read(session), &session["status"]);
        let finished = condition(session, "Finished").is_some_and(|(status, _)| status == "True");
        let current_generation = status["observedGeneration"] == session["metadata"]["generation"];
        assert!(
            !(current_generation && finished) || reading != Reading::InProgress,
            "over, and yet in progress: {status:#}"
        );
        assert!(finished || reading == Reading::InProgress, "not over, and yet {reading:?}: {status:#}");
        if finished {
            let (complete, failed) =
                (condition(session, "Complete").unwrap().0, condition(session, "Failed").unwrap().0);
            let phase = status["phase"].as_str().unwrap();
            let wanted = match phase {
                "Completed" => ("True", "False"),
                "Failed" => ("False", "True"),
                "Cancelled" => ("False", "False"),
                _ => panic!("finished in phase {phase}"),
            };
            assert_eq!((complete, failed), wanted, "{phase}");
        }
        let types: Vec<&str> = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|condition| condition["type"].as_str())
            .collect();
        let unique: std::collections::BTreeSet<&&str> = types.iter().collect();
        assert_eq!(types.len(), unique.len(), "{types:?}");
        for condition in status["conditions"].as_array().into_iter().flatten() {
            assert_eq!(condition["observedGeneration"], status["observedGeneration"], "{condition}");
        }
    }
}
