//! What explains what: effects of causes against effects that were seen, over the service graph and in time; and which service is
//! at fault by what deviates at it.

pub mod asked;
pub mod aspect;
pub mod explain;
pub mod odds;
mod recovery;
mod scan;
pub mod suspects;
pub mod timing;
pub mod topology;
mod unseen;
