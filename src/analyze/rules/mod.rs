//! The rules: one folder for each family, one file for each rule.

pub mod config;
pub mod envoy;
pub mod application;
pub mod istio;
pub mod near;
pub mod pods;
pub mod seen;
pub mod service;
