//! The platform under the pods: quotas, limit ranges, admission, disruption budgets, autoscalers, nodes.

pub mod admission_denied;
pub mod admission_reference;
pub mod autoscaler_at_max;
pub mod autoscaler_cannot_scale;
pub mod disruption_budget;
pub mod limit_range;
pub mod namespace_terminating;
pub mod node_not_ready;
pub mod pod_security;
pub mod quota_exceeded;
pub(crate) mod refused;
pub(crate) mod scaling;
pub mod webhook_fails;
