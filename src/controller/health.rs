//! Whether this process is well, and whether it is ready: what probes ask.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A watch that has failed for this long without a break does not come back by itself.
const MAX_FAILING: Duration = Duration::from_secs(600);

/// What the parts of the process say of themselves.
#[derive(Debug)]
pub struct Health {
    began: Instant,
    started: AtomicBool,
    stopping: AtomicBool,
    leading: AtomicBool,
    /// Seconds after `began` since which the watch has failed without a break; -1 while it works.
    failing_since: AtomicI64,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            began: Instant::now(),
            started: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            leading: AtomicBool::new(false),
            failing_since: AtomicI64::new(-1),
        }
    }
}

impl Health {
    fn seconds(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_secs()).unwrap_or(i64::MAX)
    }

    /// The process takes part from now on.
    pub fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// The process ends.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether this replica is the one that works.
    pub fn set_leading(&self, leading: bool) {
        self.leading.store(leading, Ordering::Relaxed);
        if !leading {
            self.watch_works();
        }
    }

    /// The watch gave something.
    pub fn watch_works(&self) {
        self.failing_since.store(-1, Ordering::Relaxed);
    }

    /// The watch failed.
    pub fn watch_failed(&self) {
        let now = self.seconds();
        // Only the first failure in a row is noted.
        let _ = self.failing_since.compare_exchange(-1, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether a restart would not help.
    ///
    /// # Errors
    /// What is wrong.
    pub fn alive(&self) -> Result<String, String> {
        let since = self.failing_since.load(Ordering::Relaxed);
        let failing = u64::try_from(self.seconds() - since).unwrap_or(0);
        if since >= 0 && Duration::from_secs(failing) >= MAX_FAILING {
            return Err(format!("the watch on sessions has failed for {failing} s"));
        }
        Ok("ok".to_owned())
    }

    /// Whether this replica works, or stands by to take over.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<String, String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("stopping".to_owned());
        }
        if !self.started.load(Ordering::Relaxed) {
            return Err("starting".to_owned());
        }
        let leading = self.leading.load(Ordering::Relaxed);
        Ok(if leading { "leading" } else { "standing by" }.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_fails_without_a_break_is_not_alive() {
        let health = Health::default();
        tokio::time::advance(Duration::from_secs(5)).await;
        health.watch_failed();
        tokio::time::advance(Duration::from_secs(599)).await;
        health.watch_failed();
        assert!(health.alive().is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(health.alive().unwrap_err(), "the watch on sessions has failed for 600 s");
        health.watch_works();
        assert!(health.alive().is_ok());
    }

    #[tokio::test]
    async fn ready_from_start_to_stop_whoever_leads() {
        let health = Health::default();
        assert_eq!(health.ready().unwrap_err(), "starting");
        health.started();
        assert_eq!(health.ready().unwrap(), "standing by");
        health.set_leading(true);
        assert_eq!(health.ready().unwrap(), "leading");
        health.stopping();
        assert!(health.ready().is_err());
    }
}
