//! Istio's ambient mode: ztunnel, waypoints, and what each of them carries out.

pub mod configuration_elsewhere;
pub mod enrolment;
pub mod not_redirected;
pub mod policy_without_waypoint;
pub mod selector_not_for_waypoint;
pub mod sidecar_and_ambient;
pub mod waypoint_without_ambient;
