//! Reads objects out of the Kubernetes API: lists by namespace, in pages, each bounded and each allowed to fail alone.
//!
//! Nothing is ever watched or changed, and Secrets are never asked for. The kinds stand in one table,
//! [`kinds::KINDS`].

pub mod access;
pub mod client;
pub mod gather;
pub mod kinds;
pub mod mesh;
pub mod neighbours;
pub mod path;
pub mod reader;
pub mod served;
pub mod strip;
