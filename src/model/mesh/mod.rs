//! The mesh's configuration as typed facts, one file for each vocabulary.

mod by_host;
pub mod gateway_api;
pub mod istio;
pub mod part;
