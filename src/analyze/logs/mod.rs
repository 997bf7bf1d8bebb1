//! What applications' logs say: lines become entries, entries records, records outcomes.
//!
//! ```text
//! lines ─join─> entries ─record─> level, message, fields ─┬─http─────────> requests served, load as users felt it
//!                                                         ├─client_error─> calls that failed
//!                                                         ├─template─────> errors by shape
//!                                                         └─shape, ids───> events: which statement, when, of which request
//! ```
//! [`digest`] sums it all up in one pass. Everything here is bounded: a log is hostile until read.

pub mod anomalies;
pub mod client_error;
pub mod digest;
pub mod events;
pub mod failure_text;
mod grpc;
pub mod http;
pub mod ids;
pub mod join;
pub mod kind;
pub mod marks;
pub mod mask;
mod reading;
pub mod record;
pub mod shape;
pub mod stack;
pub mod target;
pub mod template;
pub mod tls;
pub mod vector_clock;
