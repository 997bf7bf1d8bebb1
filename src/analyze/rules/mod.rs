//! The rules: one folder for each family, one file for each rule.

pub mod istio;
