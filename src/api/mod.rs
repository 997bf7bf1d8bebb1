//! The custom resources: their types, their schema with its CEL rules, and their printer columns.
//!
//! Everything that a user writes or reads through `kubectl` is declared here and nowhere else. The manifests in
//! `crds/` are generated from these types by [`manifest::crd_yaml`].

pub mod manifest;
pub mod reference;
pub mod v1alpha1;

/// The API group of every kind.
pub const GROUP: &str = "meshscope.dev";

/// The field manager of every write that the controller makes: one writer, one name.
pub const FIELD_MANAGER: &str = "meshscope";

/// Annotation on a session: an opaque token; a new value asks for another run of an unchanged spec.
pub const REQUESTED_AT: &str = "meshscope.dev/requestedAt";
