//! Rollouts and scaling: new revisions that do not come up or fail, and workloads without any replica.

pub mod failures_since_rollout;
pub mod not_observed;
pub mod ordered_update_blocked;
pub mod paused;
pub mod refused_since_rollout;
pub mod rollout_stuck;
pub mod scaled_to_zero;
mod slow_since;
