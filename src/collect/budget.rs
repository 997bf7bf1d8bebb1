//! Every bound of collecting, in one place, and the count of what a run cost.
//!
//! A source is never trusted to be small: each read carries one of these figures, and what did not fit becomes a gap
//! with the reason `Truncated` instead of memory.

use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::time::Duration;

/// The bounds of one run. The defaults suit a namespace of some hundred pods on a shared API server; the operator's
/// configuration may lower or raise each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Requests to the API server and to metrics sources together. 2,000 is about 20 per workload for 100 workloads.
    pub api_requests: u64,
    /// Requests of one run in flight at once. 8 is a small share of API Priority and Fairness' `global-default` level.
    pub concurrency: usize,
    /// How long one request may take, from the first byte sent to the last byte read.
    pub request_deadline: Duration,
    /// How long all collecting may take; what has not been asked by then is a gap.
    pub collect_deadline: Duration,
    /// The longest span that is looked at; of a longer one the newest part: events are kept for an hour as a rule, logs
    /// for about a day.
    pub window: Duration,
    /// Bytes read from all sources together.
    pub bytes_total: u64,
    /// Bytes of one JSON answer: a page of 500 pods with managed fields is about 10 MiB.
    pub bytes_per_answer: usize,
    /// Items asked for per page of a list.
    pub page_size: u32,
    /// Objects kept of one kind in one namespace.
    pub objects_per_kind: usize,
    /// Nodes that are read: those of the pods in question, or all while a pod cannot be scheduled.
    pub nodes: usize,
    /// Namespaces that are read besides the target's own, the mesh's root and `kube-system`.
    pub neighbour_namespaces: usize,
    /// Events kept in one namespace, the newest first.
    pub events_per_namespace: usize,
    /// Pods whose logs are read in one pass; the troubled ones first.
    pub log_pods: usize,
    /// Bytes kept of one container's log, the newest.
    pub log_bytes_per_container: usize,
    /// Bytes read of one container's log in order to keep its newest `log_bytes_per_container`: the kubelet's own
    /// `limitBytes` keeps the oldest of a tail.
    pub log_bytes_read_per_container: u64,
    /// Lines asked for of one container's log.
    pub log_lines_per_container: u32,
    /// Lines asked for of a proxy's access log in the first, cheap pass.
    pub access_log_lines: u32,
    /// Bytes kept of one line: a Java stack trace of one event is about 8 KiB, an Envoy access log line about 1 KiB.
    pub log_bytes_per_line: usize,
    /// Bytes of all logs together.
    pub log_bytes_total: usize,
    /// Series of one query.
    pub series_per_query: usize,
    /// Samples of all queries together.
    pub samples_total: usize,
    /// Samples of one series: the step widens until the window fits.
    pub samples_per_series: u32,
    /// Bytes of one answer of a metrics source.
    pub bytes_per_query: usize,
    /// Names of metrics that a source is let to list; a longer list says nothing of what is missing in it. Large
    /// installations have some 20,000.
    pub metric_names: usize,
    /// Queries in flight at once.
    pub query_concurrency: usize,
    /// Proxies whose admin port is asked in one pass: each is a connection through the API server to a node.
    pub proxies: usize,
    /// Of these, proxies of one workload: they have the same configuration, but each its own connections.
    pub proxies_per_workload: usize,
    /// Admin ports that are open at once.
    pub proxy_concurrency: usize,
    /// How long all questions to one admin port may take.
    pub proxy_deadline: Duration,
    /// Bytes of one answer: a configuration of 1,000 Services is about 10 MiB.
    pub proxy_bytes_per_answer: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            api_requests: 2_000,
            concurrency: 8,
            request_deadline: Duration::from_secs(20),
            collect_deadline: Duration::from_secs(150),
            window: Duration::from_secs(24 * 3600),
            bytes_total: 256 << 20,
            bytes_per_answer: 24 << 20,
            page_size: 200,
            objects_per_kind: 2_000,
            nodes: 100,
            neighbour_namespaces: 12,
            events_per_namespace: 2_000,
            log_pods: 40,
            log_bytes_per_container: 1 << 20,
            log_bytes_read_per_container: 8 << 20,
            log_lines_per_container: 2_000,
            access_log_lines: 1_000,
            log_bytes_per_line: 16 << 10,
            log_bytes_total: 64 << 20,
            series_per_query: 2_000,
            samples_total: 2_000_000,
            samples_per_series: 240,
            bytes_per_query: 16 << 20,
            metric_names: 50_000,
            query_concurrency: 4,
            proxies: 12,
            proxies_per_workload: 2,
            proxy_concurrency: 4,
            proxy_deadline: Duration::from_secs(10),
            proxy_bytes_per_answer: 16 << 20,
        }
    }
}

/// What a run has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Requests to the Kubernetes API, and through it to admin ports.
    pub api_requests: u64,
    /// Queries to metrics sources.
    pub metric_queries: u64,
    /// Bytes read from all sources, after decompression.
    pub bytes_read: u64,
    /// Of these, bytes of logs.
    pub log_bytes: u64,
    /// Objects kept.
    pub objects: u64,
    /// Samples kept.
    pub samples: u64,
}

/// Which bound of a [`Budget`] is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// `api_requests`.
    Requests,
    /// `bytes_total`.
    Bytes,
    /// `log_bytes_total`.
    LogBytes,
    /// `samples_total`.
    Samples,
}

impl Exhausted {
    /// The bound in words, for a gap.
    pub fn as_str(self) -> &'static str {
        match self {
            Exhausted::Requests => "the run's budget of API requests is used up",
            Exhausted::Bytes => "the run's budget of bytes is used up",
            Exhausted::LogBytes => "the run's budget of log bytes is used up",
            Exhausted::Samples => "the run's budget of samples is used up",
        }
    }
}

/// Counts what a run costs, and says when a bound is reached. Shared by all collectors of the run.
#[derive(Debug)]
pub struct Meter {
    budget: Budget,
    cost: Mutex<Cost>,
}

impl Meter {
    /// A meter at zero.
    pub fn new(budget: Budget) -> Self {
        Meter { budget, cost: Mutex::default() }
    }

    /// The bounds that it watches.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What was spent so far.
    pub fn cost(&self) -> Cost {
        *self.lock()
    }

    /// Counts a request before it is sent. Errors: no request or no byte is left, and it must not be sent.
    pub fn request(&self) -> Result<(), Exhausted> {
        self.take_request(|cost| &mut cost.api_requests)
    }

    /// Counts a query before it is sent. Errors: as [`Meter::request`].
    pub fn query(&self) -> Result<(), Exhausted> {
        self.take_request(|cost| &mut cost.metric_queries)
    }

    fn take_request(&self, counter: fn(&mut Cost) -> &mut u64) -> Result<(), Exhausted> {
        let mut cost = self.lock();
        if cost.api_requests + cost.metric_queries >= self.budget.api_requests {
            return Err(Exhausted::Requests);
        }
        if cost.bytes_read >= self.budget.bytes_total {
            return Err(Exhausted::Bytes);
        }
        *counter(&mut cost) += 1;
        Ok(())
    }

    /// Counts bytes that were read; they are spent even where they are thrown away.
    pub fn bytes(&self, bytes: u64) {
        let mut cost = self.lock();
        cost.bytes_read = cost.bytes_read.saturating_add(bytes);
    }

    /// Counts bytes of a log that are about to be kept. Errors: they do not fit and must not be kept.
    pub fn log_bytes(&self, bytes: usize) -> Result<(), Exhausted> {
        let mut cost = self.lock();
        let after = cost.log_bytes.saturating_add(bytes as u64);
        if after > self.budget.log_bytes_total as u64 {
            return Err(Exhausted::LogBytes);
        }
        cost.log_bytes = after;
        Ok(())
    }

    /// Counts objects that are kept.
    pub fn objects(&self, objects: usize) {
        let mut cost = self.lock();
        cost.objects = cost.objects.saturating_add(objects as u64);
    }

    /// Counts samples that are about to be kept. Errors: they do not fit and must not be kept.
    pub fn samples(&self, samples: usize) -> Result<(), Exhausted> {
        let mut cost = self.lock();
        let after = cost.samples.saturating_add(samples as u64);
        if after > self.budget.samples_total as u64 {
            return Err(Exhausted::Samples);
        }
        cost.samples = after;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cost> {
        // The counters are whole numbers: a panic elsewhere cannot leave them half written.
        self.cost.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_too_many_is_refused_and_not_counted() {
        let meter = Meter::new(Budget { api_requests: 2, ..Budget::default() });
        assert_eq!(meter.request(), Ok(()));
        assert_eq!(meter.query(), Ok(()));
        assert_eq!(meter.request(), Err(Exhausted::Requests));
        assert_eq!((meter.cost().api_requests, meter.cost().metric_queries), (1, 1));
    }

    #[test]
    fn nothing_is_asked_once_the_bytes_are_spent() {
        let meter = Meter::new(Budget { bytes_total: 10, ..Budget::default() });
        meter.bytes(10);
        assert_eq!(meter.request(), Err(Exhausted::Bytes));
    }

    #[test]
    fn what_does_not_fit_is_not_counted() {
        let meter = Meter::new(Budget { log_bytes_total: 10, samples_total: 5, ..Budget::default() });
        assert_eq!(meter.log_bytes(8), Ok(()));
        assert_eq!(meter.log_bytes(3), Err(Exhausted::LogBytes));
        assert_eq!(meter.log_bytes(2), Ok(()));
        assert_eq!(meter.samples(6), Err(Exhausted::Samples));
        assert_eq!(meter.cost().samples, 0);
    }
}
