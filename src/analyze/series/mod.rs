//! What series say: any series of numbers, whether its metric is known or not.

pub mod split;
pub mod stats;
