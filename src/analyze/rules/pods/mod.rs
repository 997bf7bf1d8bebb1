//! Pods: why their containers do not start, do not stay, or are not ready.

pub(crate) mod common;
pub mod config_error;
pub mod crash_loop;
pub mod image_pull;
pub(crate) mod last_words;
pub(crate) mod missing;
pub mod out_of_memory;
