//! ISTIO158.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time::from_unix;

crate::rule! {
    /// The mesh's configuration takes long to arrive at the proxies.
    ///
    /// ## What it detects
    /// `pilot_proxy_convergence_time` of ten seconds and more on average over at least a minute: from a change until the proxies
    /// have it.
    /// ## Why it matters
    /// Until then callers send requests to pods that are gone and none to new ones, and routes lag behind. Every rollout fails a
    /// little.
    /// ## Evidence
    /// The metric's sum and count; how many proxies are connected.
    /// ## How to confirm
    /// `histogram_quantile(0.99, sum by (le) (rate(pilot_proxy_convergence_time_bucket[5m])))`, and the control plane's CPU.
    /// ## How to fix
    /// More CPU and replicas for the control plane; Sidecars and discoverySelectors, so that each proxy is told less.
    /// ## False positives
    /// The minute after the control plane was restarted, when all proxies connect at once, is too short to be reported.
    /// ## References
    /// <https://istio.io/latest/docs/ops/deployment/performance-and-scalability/>
    ConfigurationArrivesLate {
        code: "ISTIO158", name: "configuration-arrives-late", family: Mesh, severity: Warning,
        needs: [Metrics], aliases: [],
    }
}

/// From so many seconds on a rollout is felt.
const LATE_S: f64 = 10.0;
/// For at least so long, in seconds.
const LASTING_S: f64 = 60.0;

/// A control plane that is late.
#[derive(Debug)]
pub struct Fact {
    /// Its pod; empty where the series carry none.
    pod: (String, String),
    /// Pushes, and how long they took in the middle, in seconds.
    pushes: f64,
    average: f64,
    since: Option<Timestamp>,
    proxies: Option<f64>,
}

impl Check for ConfigurationArrivesLate {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let key = |s: &Series| (s.label("namespace").to_owned(), s.label("pod").to_owned());
        let counts: BTreeMap<_, &Series> =
            snapshot.series_named("pilot_proxy_convergence_time_count").map(|s| (key(s), s)).collect();
        let mut out: Vec<Fact> = vec![];
        for sum in snapshot.series_named("pilot_proxy_convergence_time_sum") {
            let Some(count) = counts.get(&key(sum)) else { continue };
            let Some((since, pushes, average)) = late(sum, count) else { continue };
            let proxies: Vec<f64> = snapshot
                .series_named("pilot_xds")
                .filter(|s| key(s) == key(sum))
                .filter_map(Series::last)
                .collect();
            let proxies = (!proxies.is_empty()).then(|| proxies.iter().sum());
            out.push(Fact { pod: key(sum), pushes, average, since: from_unix(since), proxies });
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let (namespace, pod) = &fact.pod;
        let plane = match snapshot.pod(namespace, pod) {
            Some(pod) => snapshot.owner(pod),
            None => ObjectRef {
                api_version: "apps/v1".into(),
                ..ObjectRef::new("Deployment", &snapshot.istio.root_namespace, "istiod")
            },
        };
        let average = text::milliseconds((fact.average * 1000.0).round() as u64);
        let connected =
            fact.proxies.map(|n| format!(" {n:.0} proxies are connected to it.")).unwrap_or_default();
        let subject = plane.field("spec.template.spec.containers[0].resources");
        Finding::new(Self::META, subject.clone(), &[pod])
            .title(format!("Configuration takes {average} to arrive at the proxies"))
            .message(format!(
                "From a change until a proxy has it {average} pass on average over {:.0} pushes.{connected} Meanwhile callers go on with what they knew: pods that are gone, and none that are new.",
                fact.pushes
            ))
            .mechanism("slow push: configuration arrives late, stale endpoints")
            .severity(Severity::Warning)
            .role(Role::Context, Confidence::Observed)
            .onset(fact.since)
            .evidence(
                Evidence::new("Metric", "pilot_proxy_convergence_time", format!("{average} on average, {:.0} pushes", fact.pushes)).at(fact.since),
            )
            .remedy(Remedy::commands(
                "See whether the control plane lacks processor time, and give it more or another replica",
                vec![
                    format!("kubectl -n {} top pods --containers -l app=istiod", quote(&plane.namespace)),
                    format!("kubectl -n {} scale deployment/{} --replicas=2", quote(&plane.namespace), quote(&plane.name)),
                ],
                vec![format!("kubectl -n {} scale deployment/{} --replicas=1", quote(&plane.namespace), quote(&plane.name))],
            ))
            .prevention(Prevention::alert(
                "Alert when configuration arrives late",
                "histogram_quantile(0.99, sum by (le) (rate(pilot_proxy_convergence_time_bucket[5m]))) > 10",
            ))
            .prevention(Prevention::of("Setting", "A Sidecar in each namespace with the hosts that its workloads call"))
    }
}

/// The phase in which pushes are late, where it lasts until the end: its beginning, pushes and their average.
fn late(sum: &Series, count: &Series) -> Option<(f64, f64, f64)> {
    let counts: BTreeMap<i64, f64> = count.points.iter().map(|(t, v)| (t.round() as i64, *v)).collect();
    let steps = sum.points.iter().zip(sum.points.iter().skip(1)).filter_map(|(a, b)| {
        let pushes = counts.get(&(b.0.round() as i64))? - counts.get(&(a.0.round() as i64))?;
        let took = b.1 - a.1;
        (pushes > 0.0 && took >= 0.0).then_some((a.0, b.0, pushes, took))
    });
    let mut phase: Option<(f64, f64, f64, f64)> = None;
    for (start, end, pushes, took) in steps {
        phase = match phase {
            _ if took / pushes < LATE_S => None,
            Some((from, _, p, t)) => Some((from, end, p + pushes, t + took)),
            None => Some((start, end, pushes, took)),
        };
    }
    let (from, to, pushes, took) = phase?;
    (to - from >= LASTING_S).then_some((from, pushes, took / pushes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        let points = values.iter().enumerate().map(|(i, v)| (i as f64 * 30.0, *v)).collect();
        Series { name: "s".into(), labels: BTreeMap::new(), points }
    }

    #[test]
    fn only_a_phase_that_lasts_and_is_not_over_is_late() {
        let count = series(&[0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(late(&series(&[0.0, 1.0, 151.0, 301.0, 451.0]), &count), Some((30.0, 30.0, 15.0)));
        assert_eq!(late(&series(&[0.0, 150.0, 300.0, 450.0, 451.0]), &count), None);
        assert_eq!(late(&series(&[0.0, 1.0, 2.0, 3.0, 153.0]), &count), None);
    }
}
