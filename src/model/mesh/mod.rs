//! The mesh's configuration as typed facts, one file for each vocabulary.

pub mod gateway_api;
pub mod istio;
pub mod part;
