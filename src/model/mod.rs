//! What one run has seen, normalised and in memory: the only thing that analysis reads.
//!
//! Nothing here does I/O, reads a clock or draws a random number; time comes in with the snapshot.

pub mod fields;
pub mod gap;
pub mod object;
pub mod selector;
pub mod time;
