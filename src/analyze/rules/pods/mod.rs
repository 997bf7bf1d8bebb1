//! Pods: why their containers do not start, do not stay, or are not ready.

pub(crate) mod common;
pub mod config_error;
pub mod cpu_throttled;
pub mod crash_loop;
pub mod disrupted;
pub mod evicted;
pub mod held_back;
pub mod image_pull;
pub mod init_stuck;
pub mod killed_inside;
pub(crate) mod last_words;
pub mod liveness_probe;
pub(crate) mod missing;
pub mod nobody_schedules;
pub mod one_place;
pub mod out_of_memory;
pub(crate) mod probe;
pub mod readiness_flaps;
pub mod readiness_probe;
pub mod rejected_by_kubelet;
pub mod sandbox;
pub mod stuck_terminating;
pub mod unschedulable;
pub mod volume;
pub mod volume_full;
