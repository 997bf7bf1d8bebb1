//! Fills a snapshot from sources: the Kubernetes API, metrics backends, bundles. Redacts on the way in.
//!
//! Every source gives the same thing, [`material::Material`]: what a bundle holds, in memory. So what works on a
//! recorded incident works on a live cluster, and the other way round.

pub mod assemble;
pub mod budget;
pub mod bundle;
pub mod kubernetes;
pub mod live;
pub mod logs;
pub mod material;
pub mod outcome;
pub mod permissions;
pub mod plan;
pub mod prometheus;
pub mod proxy;
pub mod redact;
#[cfg(test)]
pub(crate) mod testing;
