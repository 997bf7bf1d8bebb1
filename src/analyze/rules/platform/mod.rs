//! The platform under the pods: quotas, limit ranges, disruption budgets, autoscalers, nodes.

pub mod autoscaler_at_max;
pub mod autoscaler_cannot_scale;
pub mod disruption_budget;
pub mod limit_range;
pub mod node_not_ready;
pub mod quota_exceeded;
pub(crate) mod refused;
pub(crate) mod scaling;
