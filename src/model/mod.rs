//! What one run has seen, normalised and in memory: the only thing that analysis reads.
//!
//! Nothing here does I/O, reads a clock or draws a random number; time comes in with the snapshot.

pub mod access_format;
pub mod access_log;
pub mod change;
pub mod cidr;
pub mod container;
pub mod event;
pub mod fields;
pub mod gap;
pub mod graph;
pub mod index;
pub mod json;
pub mod labels;
pub mod log;
pub mod memo;
pub mod mesh;
pub mod network;
pub mod object;
pub mod objects;
pub mod path;
pub mod proxy;
pub mod selector;
pub mod series;
pub mod snapshot;
pub mod source;
pub mod span;
pub mod time;
pub mod traffic;
pub mod workload;
