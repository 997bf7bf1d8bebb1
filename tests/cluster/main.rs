//! Tests on a real API server: `./test` starts one and says where it is in `MESHSCOPE_TEST_KUBECONFIG`, and where
//! kubectl and helm are in `MESHSCOPE_TEST_TOOLS`. Without them every test here passes without having looked at
//! anything, and one line says so; with `CI=true` that is a failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "what goes wrong here is to stop here"
)]

mod backend;
mod operator;
mod support;
mod world;

mod capture;
mod chart;
mod kstatus;
mod lifecycle;
mod nodes;
mod permissions;
mod policies;
mod recovery;
mod scale;
mod schema;
mod server;
