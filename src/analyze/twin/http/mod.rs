//! HTTP routing as Envoy does it, whatever wrote the routes: a table of virtual hosts, and what decides in it.

pub mod domains;
pub mod engine;
pub mod headers;
pub mod operators;
pub mod rewrite;
pub mod table;
pub mod text;
