//! Istio: what its configuration does to requests.

pub mod subset_without_pods;
