//! The Gateway API's configuration, translated into listeners and route tables.
//!
//! What the specification decides is decided here for whatever implements it; where it leaves a choice, Istio's holds.

pub mod attached;
pub mod backends;
pub mod carry;
pub mod filters;
pub mod gateway;
pub mod hostnames;
pub mod listeners;
pub mod matches;
pub mod mesh;
pub mod rules;
pub mod streams;
pub mod tables;
pub mod unmatched;
