//! The Gateway API: whether routes, their parents and their backends find each other.

pub mod attach;
pub mod backend_not_found;
pub mod gateway_not_served;
pub mod listener_invalid;
pub mod negative_condition;
pub mod no_matching_hostname;
pub mod parent_not_accepted;
mod prelude;
pub mod reference_not_granted;
