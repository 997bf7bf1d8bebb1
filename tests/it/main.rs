//! The one integration binary: each module is one subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "what goes wrong here is to stop here"
)]

mod answers;
mod chart;
mod collect;
mod conformance;
mod conformance_gateway;
mod controller;
mod crd;
mod generated;
mod locked;
mod made_up;
mod observed;
mod pairs;
mod random;
mod remedies;
mod replay;
mod rules;
mod scenarios;
mod templates;
mod traffic;
mod traps;
mod trials;
mod twin;
mod twin_gateway;
