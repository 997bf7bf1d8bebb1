//! The platform under the pods: quotas, admission, budgets, autoscalers, certificates, jobs, leases, nodes.

pub mod admission_denied;
pub mod admission_reference;
pub mod api_removed;
pub mod api_service;
pub mod api_throttled;
pub mod autoscaler_at_max;
pub mod autoscaler_cannot_scale;
pub mod certificate;
pub mod cron_job_skips;
pub mod daemon_missing;
pub mod disruption_budget;
pub mod forbidden;
pub mod held_by_finalizers;
pub mod job_failed;
pub mod leader_lost;
pub mod limit_range;
pub mod namespace_terminating;
pub mod node_flapping;
pub mod node_not_ready;
pub mod node_out_of_memory;
pub mod node_starved;
pub mod pod_security;
pub mod quota_exceeded;
pub(crate) mod refused;
pub(crate) mod scaling;
pub mod webhook_fails;
