//! What explains what: effects of causes against effects that were seen, over the service graph and in time.

pub mod asked;
pub mod explain;
pub mod odds;
pub mod timing;
