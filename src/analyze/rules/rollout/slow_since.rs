//! Whether requests to a workload became slow with its rollout.

use jiff::Timestamp;

use super::failures_since_rollout::tells;
use crate::analyze::logs::digest::{Digest, percentile};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::rules::application::latency_shift::Counters;
use crate::model::change::{Change, ChangeKind};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::{from_unix, to_unix};

/// What is slow since a rollout.
#[derive(Debug)]
pub(super) struct Slow {
    /// How long requests take, where somebody measured it.
    pub level: Option<Level>,
    /// Calls of others that timed out.
    pub timeouts: u64,
    /// When it began.
    pub first: Option<Timestamp>,
}

/// Durations before and since the rollout, in milliseconds.
#[derive(Debug)]
pub(super) struct Level {
    /// Before.
    pub before: f64,
    /// Since.
    pub after: f64,
    /// How many requests or measurements since.
    pub samples: usize,
    /// What was measured: `the median of requests through Deployment n/a`.
    pub what: String,
}

/// The later level is at least this many times the earlier one, and this much above it in milliseconds: as APP104 has it.
const RATIO: f64 = 2.0;
const RISE_MS: f64 = 50.0;
/// Requests on either side of a rollout; counters sum up many of them in one measurement.
const MIN_REQUESTS: usize = 8;
const MIN_MEASUREMENTS: usize = 3;
/// So many seconds before a rollout are what was usual.
const BEFORE: f64 = 600.0;
/// It begins at most this many seconds after the first pod of the new revision serves; counters say so one interval later.
const SOON: f64 = 30.0;
/// Rollouts that are nearer to each other than this cannot be told apart by what somebody above both of them measures.
const BESIDE: i64 = 90;
/// Calls that were begun while pods were exchanged end within this many seconds.
const EXCHANGE: i64 = 5;

/// What became slow with a rollout, where something did.
pub(super) fn slow(snapshot: &Snapshot, rollout: &Change, services: &[ServiceName]) -> Option<Slow> {
    let serving = serving(snapshot, rollout);
    let found = level(snapshot, rollout, services, serving);
    let (timeouts, since) = timeouts(snapshot, rollout, services, serving);
    if found.is_none() && timeouts == 0 {
        return None;
    }
    let (level, first) = found.unzip();
    Some(Slow { level, timeouts, first: first.into_iter().chain(since).min() })
}

/// When the first pod of the new revision became ready; the rollout itself where none is known to be.
fn serving(snapshot: &Snapshot, rollout: &Change) -> Timestamp {
    snapshot
        .pods_of(&rollout.subject)
        .filter(|pod| pod.object.created.is_some_and(|at| at.as_second() + 2 >= rollout.time.as_second()))
        .filter_map(|pod| pod.condition("Ready").filter(|c| c.status == "True")?.since)
        .min()
        .map_or(rollout.time, |at| at.max(rollout.time))
}

/// How long requests take: by its own log, by counters of proxies, or by the log of somebody above.
fn level(
    snapshot: &Snapshot,
    rollout: &Change,
    services: &[ServiceName],
    serving: Timestamp,
) -> Option<(Level, Timestamp)> {
    let digest = snapshot.derived::<Digest>();
    let (at, serving) = (to_unix(rollout.time), to_unix(serving));
    let below: Vec<ServiceName> =
        services.iter().flat_map(|service| snapshot.graph.downstream(service)).collect();
    let own = logged(&digest, &rollout.subject);
    let counters = snapshot.derived::<Counters>();
    let counted = |service: &ServiceName| counters.means.get(service).map(Vec::as_slice).unwrap_or_default();
    let found = step(&own, at, serving, MIN_REQUESTS)
        .map(|step| (step, "its own requests".to_owned()))
        .or_else(|| {
            services.iter().find_map(|service| {
                let step = step(counted(service), at, serving, MIN_MEASUREMENTS)?;
                Some((step, format!("requests to Service {service} as proxies count them")))
            })
        });
    let found = match found {
        Some(found) => {
            // What it calls became slow at the same time: it only waits.
            let deeper = below.iter().any(|service| {
                let logs = snapshot.graph.backing.get(service).into_iter().flatten();
                step(counted(service), at, serving, MIN_MEASUREMENTS).is_some()
                    || logs
                        .filter(|w| !w.same_object(&rollout.subject))
                        .any(|workload| step(&logged(&digest, workload), at, serving, MIN_REQUESTS).is_some())
            });
            if deeper || beside(snapshot, rollout, &below) {
                return None;
            }
            found
        }
        None => {
            let above = digest.workloads.keys().find_map(|observer| {
                let reached: Vec<ServiceName> = snapshot
                    .graph
                    .services_of(observer)
                    .flat_map(|service| snapshot.graph.downstream(service))
                    .chain(snapshot.graph.callees(observer).cloned())
                    .chain(
                        snapshot
                            .graph
                            .callees(observer)
                            .flat_map(|service| snapshot.graph.downstream(service)),
                    )
                    .collect();
                if observer.same_object(&rollout.subject)
                    || !services.iter().any(|service| reached.contains(service))
                    || beside(snapshot, rollout, &reached)
                {
                    return None;
                }
                let step = step(&logged(&digest, observer), at, serving, MIN_REQUESTS)?;
                Some((step, format!("requests through {observer}")))
            });
            above?
        }
    };
    let (step, whose) = found;
    let what = format!("the {} of {whose}", if step.high { "95th percentile" } else { "median" });
    let level = Level { before: step.before, after: step.after, samples: step.samples, what };
    Some((level, from_unix(step.first)?))
}

/// Requests that a workload logged as answered well: Unix seconds and milliseconds.
fn logged(digest: &Digest, workload: &ObjectRef) -> Vec<(f64, f64)> {
    let served = digest.workloads.get(workload).into_iter().flat_map(|log| &log.served);
    served.filter(|r| r.status < 500).filter_map(|r| Some((to_unix(r.at?), r.millis?))).collect()
}

/// Whether another workload among these Services was rolled out at about the same time.
fn beside(snapshot: &Snapshot, rollout: &Change, services: &[ServiceName]) -> bool {
    let near = |other: &&Change| {
        other.kind == ChangeKind::Rollout
            && !other.subject.same_object(&rollout.subject)
            && (other.time.as_second() - rollout.time.as_second()).abs() <= BESIDE
            && other.differences.iter().any(tells)
    };
    snapshot
        .changes
        .iter()
        .filter(near)
        .any(|other| snapshot.graph.services_of(&other.subject).any(|service| services.contains(service)))
}

/// A step up that a rollout made.
struct Step {
    before: f64,
    after: f64,
    samples: usize,
    first: f64,
    /// Whether it shows in the 95th percentile alone.
    high: bool,
}

/// The step up in durations (Unix seconds and milliseconds, in order of time) that begins when a new revision begins to serve
/// and lasts to the end of what was seen. `None` where it was there just before already, or came later.
fn step(samples: &[(f64, f64)], rollout: f64, serving: f64, least: usize) -> Option<Step> {
    let before: Vec<&(f64, f64)> =
        samples.iter().filter(|(at, _)| (rollout - BEFORE..rollout).contains(at)).collect();
    let after: Vec<&(f64, f64)> = samples.iter().filter(|(at, _)| *at >= serving).collect();
    if before.len() < least || after.len() < least {
        return None;
    }
    let sorted = |part: &[&(f64, f64)]| {
        let mut values: Vec<f64> = part.iter().map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (usual, now) = (sorted(&before), sorted(&after));
    [(0.5, false), (0.95, true)].into_iter().find_map(|(share, high)| {
        let (low, level) = (percentile(&usual, share)?, percentile(&now, share)?);
        if level < RATIO * low || level < low + RISE_MS {
            return None;
        }
        let middle = (low.max(1.0) * level).sqrt();
        let slow = |part: &[&(f64, f64)]| {
            part.iter().filter(|(_, value)| *value > middle).count() as f64 / part.len().max(1) as f64
        };
        let since = slow(&after);
        let window = 2 * least;
        let last = before.get(before.len().saturating_sub(window)..)?;
        let latest = after.get(after.len().saturating_sub(window)..)?;
        if slow(last) > since / 4.0 || slow(latest) < since / 2.0 {
            return None;
        }
        let onset: Vec<&(f64, f64)> = samples.iter().filter(|(at, _)| *at >= rollout).collect();
        let first = onset
            .windows(least.min(onset.len()).max(1))
            .find(|part| part.first().is_some_and(|(_, v)| *v > middle) && slow(part) >= since / 2.0)?;
        let first = first.first()?.0;
        (first <= serving + SOON).then_some(Step {
            before: low,
            after: level,
            samples: after.len(),
            first,
            high,
        })
    })
}

/// Calls to it that time out since its new revision serves, with the first of them. Those that belong to the exchange of pods, to a
/// proxy in between, or to a caller that was itself rolled out meanwhile do not count.
fn timeouts(
    snapshot: &Snapshot,
    rollout: &Change,
    services: &[ServiceName],
    serving: Timestamp,
) -> (u64, Option<Timestamp>) {
    let digest = snapshot.derived::<Digest>();
    let (mut count, mut first) = (0, None::<Timestamp>);
    for (caller, log) in &digest.workloads {
        let rolled = |after: Timestamp, until: Timestamp| {
            snapshot.changes.iter().any(|c| {
                c.kind == ChangeKind::Rollout
                    && c.subject.same_object(caller)
                    && c.time >= after
                    && c.time <= until
                    && c.differences.iter().any(tells)
            })
        };
        for calls in &log.calls {
            let (Some(from), Some(to)) = (calls.first, calls.last) else { continue };
            if calls.kind == Kind::Timeout
                && calls.service.as_ref().is_some_and(|service| services.contains(service))
                && calls.proxy.is_empty()
                && calls.passed_on * 2 <= calls.count
                && !calls.ended(log)
                && from >= rollout.time
                && to.as_second() > serving.as_second() + EXCHANGE
                && !rolled(rollout.time, from)
            {
                count += calls.count;
                first = first.into_iter().chain([from]).min();
            }
        }
    }
    (count, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..120).map(|at| (at as f64, value(at as f64))).collect()
    }

    #[test]
    fn a_step_with_the_rollout_is_its_own() {
        let found = step(&samples(|at| if at < 60.0 { 20.0 } else { 1500.0 }), 50.0, 58.0, 8).unwrap();
        assert_eq!((found.before, found.after, found.first, found.high), (20.0, 1500.0, 60.0, false));
        // A third of the requests does not come by the workload.
        let some = samples(|at| if at < 60.0 || at as i64 % 8 != 0 { 20.0 } else { 1500.0 });
        assert!(step(&some, 50.0, 58.0, 8).unwrap().high);
    }

    #[test]
    fn what_was_slow_before_or_much_later_or_is_over_is_not() {
        assert!(step(&samples(|at| if at < 30.0 { 20.0 } else { 1500.0 }), 50.0, 58.0, 8).is_none());
        assert!(step(&samples(|at| if at < 100.0 { 20.0 } else { 1500.0 }), 30.0, 35.0, 8).is_none());
        assert!(
            step(&samples(|at| if (60.0..80.0).contains(&at) { 1500.0 } else { 20.0 }), 50.0, 58.0, 8)
                .is_none()
        );
        assert!(step(&samples(|at| if at < 60.0 { 20.0 } else { 45.0 }), 50.0, 58.0, 8).is_none());
    }
}
