//! APP104.

use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::Digest;
use crate::analyze::remedy::Prevention;
use crate::analyze::rule::{Check, Declared};
use crate::model::graph::Provenance;
use crate::model::memo::Derived;
use crate::model::mesh::istio::service_of_host;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::{from_unix, to_unix};

use super::calls::{ERROR_SHARE, service_of, since};
use super::shift::{Shift, shift};

crate::rule! {
    /// Requests take much longer than they did.
    ///
    /// ## What it detects
    /// A lasting step in the durations of requests that were answered well: in an application's own request log, in the sums of a
    /// load generator, or in the duration counters of Istio and Envoy (`istio_request_duration_milliseconds`,
    /// `envoy_cluster_upstream_rq_time`). The later level is at least twice the earlier one and 50 ms above it, and it stays.
    /// ## Why it matters
    /// Users feel it before anything fails, and the next timeout on the way turns it into errors.
    /// ## Evidence
    /// The level before and after, the time of the step, how many samples it rests on, and whether something that is called became
    /// slow as well.
    /// ## How to confirm
    /// `histogram_quantile(0.95, sum by (le, destination_service_name) (rate(istio_request_duration_milliseconds_bucket[1m])))`
    /// ## How to fix
    /// Follow the slowness to the last service that is slow while what it calls is not: CPU limits, a pool, a lock, a fault
    /// injected on the way to it.
    /// ## False positives
    /// Slow requests for less than a fifth of the time looked at, and steps below 50 ms, are not reported.
    /// ## References
    /// <https://sre.google/sre-book/monitoring-distributed-systems/>
    LatencyShift {
        code: "APP104", name: "latency-shift", family: Application, severity: Warning,
        needs: [], aliases: [],
    }
}

/// From this level and this ratio on a step is an error and no warning: a second is felt by everybody.
const ERROR_MS: f64 = 1000.0;
const ERROR_RATIO: f64 = 3.0;

/// A step in durations.
#[derive(Debug)]
pub struct Fact {
    /// The workload whose requests these are, or the Service where only counters say so.
    subject: ObjectRef,
    service: Option<ServiceName>,
    shift: Shift,
    /// What was measured: `median of its own requests`.
    what: &'static str,
    source: &'static str,
    /// Services that it calls and that became slow as well.
    deeper: Vec<ServiceName>,
}

impl Check for LatencyShift {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let onset = snapshot.onset.map(to_unix);
        let mut out = vec![];
        let digest = snapshot.derived::<Digest>();
        for (workload, log) in &digest.workloads {
            let samples: Vec<(f64, f64)> = log
                .served
                .iter()
                .filter(|r| r.status < 500)
                .filter_map(|r| Some((to_unix(r.at?), r.millis?)))
                .collect();
            let found = [(0.5, "median of its own requests"), (0.95, "95th percentile of its own requests")]
                .into_iter()
                .find_map(|(share, what)| Some((shift(&samples, share, onset)?, what)));
            if let Some((shift, what)) = found {
                let service = service_of(snapshot, workload);
                out.push(Fact {
                    subject: workload.clone(),
                    service,
                    shift,
                    what,
                    source: "Log",
                    deeper: vec![],
                });
            }
            // The sums of a load generator hold the time of failed requests too: where many fail, that is the trouble.
            let (sent, failed) = log.load_since(None);
            let fails = failed as f64 >= ERROR_SHARE * sent as f64;
            let sums: Vec<(f64, f64)> =
                log.loads.iter().filter_map(|(at, load)| Some((to_unix((*at)?), load.p95?))).collect();
            let told: Vec<&ServiceName> = snapshot
                .graph
                .edges
                .iter()
                .filter(|((from, _), edge)| {
                    from.same_object(workload) && edge.provenance.iter().any(|p| *p != Provenance::Log)
                })
                .map(|((_, to), _)| to)
                .collect();
            if let ([service], Some(shift), false) = (told.as_slice(), shift(&sums, 0.5, onset), fails) {
                out.push(Fact {
                    subject: service.reference(),
                    service: Some((*service).clone()),
                    shift,
                    what: "95th percentile that its clients see",
                    source: "Log",
                    deeper: vec![],
                });
            }
        }
        for (service, samples) in &snapshot.derived::<Counters>().means {
            let known = out.iter().any(|f| f.service.as_ref() == Some(service));
            if let Some(shift) = shift(samples, 0.5, onset).filter(|_| !known) {
                let (subject, service) = (service.reference(), Some(service.clone()));
                out.push(Fact {
                    subject,
                    service,
                    shift,
                    what: "mean that proxies count",
                    source: "Metric",
                    deeper: vec![],
                });
            }
        }
        let slow: Vec<ServiceName> = out.iter().filter_map(|f| f.service.clone()).collect();
        for fact in &mut out {
            let Some(service) = &fact.service else { continue };
            let below = snapshot.graph.downstream(service);
            fact.deeper = slow.iter().filter(|s| *s != service && below.contains(*s)).cloned().collect();
            fact.deeper.dedup();
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let Shift { before, after, at, samples } = fact.shift;
        let at = from_unix(at);
        let name = fact.service.as_ref().map_or_else(|| fact.subject.name.clone(), |s| s.name.clone());
        let deeper: Vec<String> = fact.deeper.iter().map(ToString::to_string).collect();
        let below = if deeper.is_empty() {
            "nothing that it calls is known to have become slow".to_owned()
        } else {
            format!("what it calls became slow as well: Service {}", deeper.join(", Service "))
        };
        let grave = after >= ERROR_MS && after >= ERROR_RATIO * before;
        let mut finding = Finding::new(Self::META, fact.subject.clone(), &[fact.what])
            .title(format!("{} became slow: {} {before:.0} → {after:.0} ms{}", fact.subject.name, fact.what, since(at)))
            .message(format!("The {} rose from {before:.0} ms to {after:.0} ms and stayed there ({samples} samples); {below}.", fact.what))
            .mechanism("latency increased, slow requests")
            .severity(if grave { Severity::Error } else { Severity::Warning })
            .role(Role::Symptom, Confidence::Observed)
            .service(fact.service.clone())
            .evidence(Evidence::new(fact.source, fact.subject.to_string(), format!("{}: {before:.0} ms before, {after:.0} ms after", fact.what)).at(at))
            .onset(at)
            .prevention(Prevention::alert(
                "Alert on the 95th percentile of the Service's requests",
                format!("histogram_quantile(0.95, sum by (le) (rate(istio_request_duration_milliseconds_bucket{{destination_service_name=\"{name}\"}}[5m]))) > {:.0}", (before * 2.0).max(before + 50.0)),
            ));
        if let Some(service) = &fact.service {
            finding = finding.effect(Effect::requests(service, &["slow"]));
        }
        finding
    }
}

/// Mean durations by Service, from counters of sums and counts, read once.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Unix seconds and milliseconds, in order of time.
    pub(crate) means: BTreeMap<ServiceName, Vec<(f64, f64)>>,
}

impl Derived for Counters {
    fn derive(snapshot: &Snapshot) -> Self {
        Counters { means: counters(snapshot) }
    }
}

fn counters(snapshot: &Snapshot) -> BTreeMap<ServiceName, Vec<(f64, f64)>> {
    // Growth of sums and counts by Service and second.
    let mut growth: BTreeMap<ServiceName, BTreeMap<i64, (f64, f64)>> = BTreeMap::new();
    let names = [
        ("istio_request_duration_milliseconds_sum", "istio_request_duration_milliseconds_count"),
        ("envoy_cluster_upstream_rq_time_sum", "envoy_cluster_upstream_rq_time_count"),
    ];
    for (sum, count) in names {
        for (name, is_sum) in [(sum, true), (count, false)] {
            for series in snapshot.series_named(name) {
                let Some(service) = measured(
                    snapshot,
                    series.label("destination_service_name"),
                    series.label("destination_service_namespace"),
                    series.label("cluster_name"),
                ) else {
                    continue;
                };
                let slots = growth.entry(service).or_default();
                for (a, b) in series.points.iter().zip(series.points.iter().skip(1)) {
                    // A fall is a restart of the proxy.
                    let grown = if b.1 >= a.1 { b.1 - a.1 } else { b.1 };
                    let slot = slots.entry(b.0 as i64).or_default();
                    if is_sum {
                        slot.0 += grown;
                    } else {
                        slot.1 += grown;
                    }
                }
            }
        }
    }
    growth
        .into_iter()
        .map(|(service, slots)| {
            let means = slots
                .into_iter()
                .filter(|(_, (_, count))| *count >= 1.0)
                .map(|(t, (sum, count))| (t as f64, sum / count));
            (service, means.collect())
        })
        .collect()
}

/// The Service whose requests a series measures.
fn measured(snapshot: &Snapshot, name: &str, namespace: &str, cluster: &str) -> Option<ServiceName> {
    let service = if name.is_empty() {
        let host = cluster.strip_prefix("outbound|")?.rsplit('|').next()?.trim_end_matches(';');
        let (namespace, name) = service_of_host(host)?;
        ServiceName::new(namespace, name)
    } else {
        ServiceName::new(namespace, name)
    };
    (snapshot.in_scope(&service.namespace) && snapshot.service(&service).is_some()).then_some(service)
}
