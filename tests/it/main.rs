//! The one integration binary: each module is one subject.

mod crd;
mod generated;
mod locked;
mod rules;
