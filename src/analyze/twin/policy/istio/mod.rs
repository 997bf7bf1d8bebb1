//! What Istio's proxies do at the destination: the TLS handshake, tokens, authorization.

pub mod authorization;
pub mod facts;
pub mod handshake;
pub mod path;
pub mod rule;
pub mod token;
