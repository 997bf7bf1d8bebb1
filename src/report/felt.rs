//! What users feel, as reports tell it: whose requests fail and how many, and what load alone would explain.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::{Line, Section, clock};
use super::json::{ServiceView, SubjectView};
use crate::analyze::diagnosis::Diagnosis;
use crate::analyze::impact::Impact;
use crate::analyze::series::load::{Class, Growth};

/// Services, and curves, that a reader is told of; the rest is in the JSON.
const MAX_TOLD: usize = 3;
/// Callers told of one Service.
const MAX_CALLERS: usize = 3;
/// A curve that explains less of the variance than this is not told.
const GOOD: f64 = 0.5;
/// A figure this many times what its load explains is told whatever its curve.
const OFF: f64 = 1.5;

/// What callers of one Service suffer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImpactView {
    /// The Service that is called.
    pub service: ServiceView,
    /// When it began, RFC 3339.
    #[schemars(with = "String")]
    pub since: Timestamp,
    /// Requests since then.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// `Better`, `Worse`, `Steady` or `Over`; absent where too few requests tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trend: Option<String>,
    /// The callers, the most failures first.
    pub callers: Vec<CallerView>,
}

/// One caller's part.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallerView {
    /// The workload; absent where nobody has the address that called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<SubjectView>,
    /// Its requests.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
}

/// How a figure of a Service grows with its load.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadView {
    /// The Service.
    pub service: ServiceView,
    /// The metric.
    pub measure: String,
    /// The metric of the load.
    pub load: String,
    /// `Constant`, `Logarithmic`, `Linear`, `Linearithmic`, `Quadratic` or `Queueing`.
    pub class: String,
    /// The share of the variance that the curve explains, 0 to 1.
    pub fit: f64,
    /// Points that it was fitted to, all before the onset.
    pub points: usize,
    /// The 90th percentile of the load, divided by its 10th.
    pub spread: f64,
    /// Where a queue would grow without end, in the load's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// What was measured since the onset, divided by what the curve says for the load: the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_onset: Option<f64>,
}

/// The impact as JSON.
pub fn impacts(diagnosis: &Diagnosis) -> Vec<ImpactView> {
    let view = |impact: &Impact| ImpactView {
        service: (&impact.service).into(),
        since: impact.since,
        requests: impact.requests,
        failed: impact.failed,
        trend: impact.trend.map(|trend| format!("{trend:?}")),
        callers: impact
            .callers
            .iter()
            .map(|caller| CallerView {
                workload: Some(&caller.workload).filter(|w| !w.name.is_empty()).map(Into::into),
                requests: caller.requests,
                failed: caller.failed,
            })
            .collect(),
    };
    diagnosis.impacts.iter().map(view).collect()
}

/// The curves as JSON.
pub fn loads(diagnosis: &Diagnosis) -> Vec<LoadView> {
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let view = |growth: &Growth| LoadView {
        service: (&growth.service).into(),
        measure: growth.measure.clone(),
        load: growth.load.clone(),
        class: format!("{:?}", growth.class),
        fit: round(growth.fit),
        points: growth.points,
        spread: round(growth.spread),
        capacity: growth.capacity.map(round),
        since_onset: growth.since.map(round),
    };
    diagnosis.growths.iter().map(view).collect()
}

/// The same for a reader, the little that helps at first sight.
pub fn sections(diagnosis: &Diagnosis) -> Vec<Section> {
    let told = diagnosis.impacts.iter().take(MAX_TOLD).map(|impact| Line::Text(tell_impact(impact)));
    let suspected = |growth: &&Growth| {
        let accused =
            diagnosis.root_causes.iter().take(MAX_TOLD).any(|c| c.service.as_ref() == Some(&growth.service));
        let asked = diagnosis.target.as_ref().is_some_and(|target| {
            target.namespace == growth.service.namespace && target.services.contains(&growth.service.name)
        });
        let off = growth.since.is_some_and(|since| since >= OFF);
        (accused || asked) && (off || (growth.class != Class::Constant && growth.fit >= GOOD))
    };
    let grown = diagnosis.growths.iter().filter(suspected);
    let grown = grown.take(MAX_TOLD).map(|growth| Line::Text(tell_growth(growth)));
    [("Impact", told.collect::<Vec<_>>()), ("Load", grown.collect())]
        .into_iter()
        .filter(|(_, lines)| !lines.is_empty())
        .map(|(heading, lines)| Section { heading, lines })
        .collect()
}

fn share(failed: u64, requests: u64) -> String {
    format!("{failed} of {requests} ({:.1} %)", 100.0 * failed as f64 / requests.max(1) as f64)
}

fn tell_impact(impact: &Impact) -> String {
    let trend = impact.trend.map(|trend| format!(", {}", trend.words())).unwrap_or_default();
    let of = impact.callers.iter().filter(|caller| caller.failed > 0);
    let callers: Vec<String> = of
        .take(MAX_CALLERS)
        .map(|caller| {
            let name =
                if caller.workload.name.is_empty() { "an unknown caller" } else { &caller.workload.name };
            format!("{name} {}", share(caller.failed, caller.requests))
        })
        .collect();
    format!(
        "{} requests to {} failed since {}{trend}: {}",
        share(impact.failed, impact.requests),
        impact.service,
        clock(impact.since),
        callers.join(", ")
    )
}

fn tell_growth(growth: &Growth) -> String {
    let Growth { service, measure, load, class, .. } = growth;
    let capacity = growth.capacity.map(|capacity| format!(", full at {capacity:.3}")).unwrap_or_default();
    let since = match growth.since {
        Some(since) if since >= OFF => {
            format!("; since the onset it is {since:.1} times what its load explains")
        }
        Some(_) => "; so it does since the onset".to_owned(),
        None => String::new(),
    };
    let fit = if *class == Class::Constant { String::new() } else { format!("R² {:.2} over ", growth.fit) };
    format!(
        "{service}: {measure} {} {load}{capacity} ({fit}{} points, load ×{:.1}){since}",
        class.words(),
        growth.points,
        growth.spread
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::impact::{Caller, Trend};
    use crate::model::network::ServiceName;
    use crate::model::object::ObjectRef;

    #[test]
    fn it_reads_as_a_person_says_it() {
        let caller = |name: &str, failed, requests| Caller {
            workload: ObjectRef::new("Deployment", "n", name),
            requests,
            failed,
        };
        let impact = Impact {
            service: ServiceName::new("n", "payment"),
            requests: 2310,
            failed: 457,
            since: "2026-11-21T14:02:11Z".parse().unwrap(),
            trend: Some(Trend::Worse),
            callers: vec![caller("front", 400, 2000), caller("batch", 57, 310), caller("cron", 0, 4)],
        };
        assert_eq!(
            tell_impact(&impact),
            "457 of 2310 (19.8 %) requests to n/payment failed since 14:02:11Z, getting worse: front 400 of 2000 (20.0 %), batch 57 of 310 (18.4 %)"
        );
        let growth = Growth {
            service: ServiceName::new("n", "payment"),
            measure: "latency_seconds".to_owned(),
            load: "requests_per_second".to_owned(),
            class: Class::Linear,
            fit: 0.934,
            points: 42,
            spread: 3.1,
            capacity: None,
            since: Some(6.21),
        };
        assert_eq!(
            tell_growth(&growth),
            "n/payment: latency_seconds grows in proportion to requests_per_second (R² 0.93 over 42 points, load ×3.1); since the onset it is 6.2 times what its load explains"
        );
    }
}
