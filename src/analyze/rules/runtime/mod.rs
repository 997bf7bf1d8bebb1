//! What runtimes do to the applications in them: collect, block, panic, leak.

pub mod collections;
pub mod deadlock;
pub mod event_loop_blocked;
pub mod goroutines_leak;
pub mod limits_counted;
pub mod pool_counted;
pub mod requests_panic;
pub mod shared_map;
pub mod told;
pub mod worker_threads;
pub mod workers_killed;
