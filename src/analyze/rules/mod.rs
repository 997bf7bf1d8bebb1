//! The rules: one folder for each family, one file for each rule.

pub mod ambient;
pub mod application;
pub mod config;
pub mod consul;
pub mod dns;
pub mod envoy;
pub mod gateway_api;
pub mod istio;
pub mod istio_config;
pub mod linkerd;
pub mod near;
pub mod network;
pub mod platform;
pub mod pods;
pub mod proxy;
pub mod rollout;
pub mod runtime;
pub mod seen;
pub mod service;
pub mod signals;
