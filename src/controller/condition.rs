//! Conditions, set so that a transition time changes only where the status does.

use jiff::Timestamp;

use crate::api::v1alpha1::common::Moment;
use crate::api::v1alpha1::status::{Condition, ConditionStatus, DebugSessionStatus};

/// The longest message that the schema takes, in characters.
const MAX_MESSAGE: usize = 1024;

/// Writes the conditions of one status at one time.
#[derive(Debug)]
pub struct Conditions<'a> {
    status: &'a mut DebugSessionStatus,
    generation: Option<i64>,
    now: Timestamp,
}

impl<'a> Conditions<'a> {
    /// Writes conditions that describe `generation`.
    pub fn new(status: &'a mut DebugSessionStatus, generation: Option<i64>, now: Timestamp) -> Self {
        Conditions { status, generation, now }
    }

    /// Sets a condition.
    pub fn set(
        &mut self,
        type_: &str,
        status: impl Into<ConditionStatus>,
        reason: &str,
        message: &str,
    ) -> &mut Self {
        let status = status.into();
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        let found = self.status.conditions.iter_mut().find(|condition| condition.type_ == type_);
        if let Some(condition) = found {
            if condition.status != status {
                condition.last_transition_time = Moment::new(self.now);
            }
            condition.status = status;
            condition.observed_generation = self.generation;
            reason.clone_into(&mut condition.reason);
            condition.message = message;
        } else {
            self.status.conditions.push(Condition {
                type_: type_.to_owned(),
                status,
                observed_generation: self.generation,
                last_transition_time: Moment::new(self.now),
                reason: reason.to_owned(),
                message,
            });
        }
        self
    }

    /// Takes a condition away: for those that stand only while they hold.
    pub fn remove(&mut self, type_: &str) -> &mut Self {
        self.status.conditions.retain(|condition| condition.type_ != type_);
        self
    }

    /// Says of every condition that it describes the generation at hand.
    pub fn observe(&mut self) -> &mut Self {
        for condition in &mut self.status.conditions {
            condition.observed_generation = self.generation;
        }
        self
    }
}

/// The condition of a type.
pub fn get<'a>(status: &'a DebugSessionStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition stands and is true.
pub fn is_true(status: &DebugSessionStatus, type_: &str) -> bool {
    get(status, type_).is_some_and(|condition| condition.status == ConditionStatus::True)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_time_moves_with_the_status_only() {
        let (early, late) =
            ("2026-11-21T10:00:00Z".parse().unwrap(), "2026-11-21T11:00:00Z".parse().unwrap());
        let mut status = DebugSessionStatus::default();
        Conditions::new(&mut status, Some(1), early).set("Ready", false, "A", "a");
        Conditions::new(&mut status, Some(2), late).set("Ready", false, "B", "b");
        let ready = get(&status, "Ready").unwrap();
        assert_eq!(ready.last_transition_time, Moment::new(early));
        assert_eq!((ready.reason.as_str(), ready.observed_generation), ("B", Some(2)));
        Conditions::new(&mut status, Some(2), late).set("Ready", true, "C", "c");
        assert_eq!(get(&status, "Ready").unwrap().last_transition_time, Moment::new(late));
        assert!(is_true(&status, "Ready"));
    }
}
