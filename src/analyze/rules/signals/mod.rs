//! Services at which signals deviate that nothing below them accounts for: the answer where no object says what is wrong.

pub mod fails_by_itself;
pub mod gone_silent;
pub mod load_surge;
pub mod resource_strained;
pub mod slow_by_itself;
mod suspect;
