//! A diagnosis shown to somebody: JSON, terminal, Markdown, status.
//!
//! [`answer`] puts the facts into their order once; every renderer follows it.

pub mod answer;
pub mod budget;
pub mod felt;
pub mod flow;
pub mod follow;
pub mod json;
pub mod markdown;
pub mod reach;
pub mod rule_docs;
pub mod status;
pub mod terminal;
pub mod walk;
