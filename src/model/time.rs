//! Points and spans of time, as they stand in Kubernetes objects, logs and manifests.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A closed span of time. Both ends are UTC instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first instant that belongs to it.
    pub start: Timestamp,
    /// The last instant that belongs to it.
    pub end: Timestamp,
}

impl Window {
    /// Its length in seconds; 0 where `end` lies before `start`.
    pub fn seconds(&self) -> i64 {
        (self.end.as_second() - self.start.as_second()).max(0)
    }

    /// Whether `at` lies in it.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at <= self.end
    }
}

/// Reads an RFC 3339 time such as `2026-11-21T10:00:00Z` or `2026-11-21T10:00:00.123456+02:00`.
/// `None` where it is none.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.trim().parse().ok()
}

/// A Unix time in seconds, with a fraction, as Prometheus writes it. `None` where it is out of range.
pub fn from_unix(seconds: f64) -> Option<Timestamp> {
    Timestamp::from_millisecond((seconds * 1000.0).round() as i64).ok()
}

/// Seconds since 1970 with a fraction, the form in which series carry their times.
pub fn to_unix(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

/// Reads a Go or Envoy duration (`1.5s`, `250ms`, `1h30m`, `2m`) as seconds. `None` where it is none.
/// The units are those of Go's `time.ParseDuration`.
pub fn duration_seconds(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at_checked(unit_end)?;
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = next;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration_seconds("1h30m"), Some(5400.0));
        assert_eq!(duration_seconds("1.5s"), Some(1.5));
        assert_eq!(duration_seconds("250ms"), Some(0.25));
        assert_eq!(duration_seconds("0s"), Some(0.0));
        assert_eq!(duration_seconds("10"), None);
        assert_eq!(duration_seconds(""), None);
        assert_eq!(duration_seconds("s"), None);
    }
}
