//! The Gateway API: whether routes, their parents and their backends find each other.

pub mod attach;
pub mod backend_not_found;
pub mod negative_condition;
pub mod no_matching_hostname;
pub mod parent_not_accepted;
pub mod reference_not_granted;
