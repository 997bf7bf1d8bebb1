//! The cluster's name server: its Service, its pods, its words and its counters.

use jiff::Timestamp;
use std::collections::BTreeSet;

use crate::analyze::finding::{Effect, Evidence, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::rules::application::calls::{self, Calls, service_of};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::log::{LogLine, LogStream};
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, Workload};

/// Where every distribution runs it.
pub const NAMESPACE: &str = "kube-system";

/// The name server, as far as it was seen.
#[derive(Debug)]
pub struct NameServer<'a> {
    /// The Service with the address that every pod asks.
    pub service: Option<&'a Service>,
    /// What makes its pods.
    pub workload: Option<&'a Workload>,
    /// Its pods that have not ended.
    pub pods: Vec<&'a Pod>,
}

/// Whether labels are those of a name server: every distribution keeps the first pair, for the Service selects by it.
fn is_server(label: impl Fn(&str) -> Option<String>) -> bool {
    label("k8s-app").is_some_and(|value| value == "kube-dns" || value == "coredns")
        || label("app.kubernetes.io/name").is_some_and(|value| value == "coredns")
}

/// Finds it; `None` where nothing of it was seen.
pub fn name_server(snapshot: &Snapshot) -> Option<NameServer<'_>> {
    let workload = snapshot.workloads.iter().find(|w| {
        w.object.namespace() == NAMESPACE
            && w.object.owners.is_empty()
            && is_server(|key| w.template.labels.get(key).map(str::to_owned))
    });
    let service = snapshot.services.iter().find(|s| {
        s.object.namespace() == NAMESPACE
            && (is_server(|key| s.object.labels.get(key).map(str::to_owned))
                || is_server(|key| s.selector.get(key).map(str::to_owned)))
            && s.ports.iter().any(|port| port.number == 53)
    });
    let pods: Vec<&Pod> = snapshot
        .pods
        .iter()
        .filter(|pod| {
            pod.object.namespace() == NAMESPACE
                && !pod.ended()
                && is_server(|key| pod.object.labels.get(key).map(str::to_owned))
        })
        .collect();
    (workload.is_some() || service.is_some() || !pods.is_empty()).then_some(NameServer {
        service,
        workload,
        pods,
    })
}

impl NameServer<'_> {
    /// What names it, the workload before the Service before a pod.
    pub fn reference(&self) -> ObjectRef {
        let service = self.service.map(|s| s.reference().clone());
        let pod = || self.pods.first().map(|pod| pod.object.reference.clone());
        self.workload
            .map(|w| w.reference().clone())
            .or(service)
            .or_else(pod)
            .unwrap_or_else(|| ObjectRef::new("Deployment", NAMESPACE, "coredns"))
    }

    /// Its ready pods, and all.
    pub fn ready(&self) -> (usize, usize) {
        (self.pods.iter().filter(|pod| pod.ready()).count(), self.pods.len())
    }
}

/// The ConfigMap's key that holds its configuration: the one that its pods mount, else the one that distributions use.
pub fn configuration(snapshot: &Snapshot, server: Option<&NameServer<'_>>) -> ObjectRef {
    let template = server
        .and_then(|s| s.workload.map(|w| &w.template).or_else(|| s.pods.first().map(|pod| &pod.template)));
    let volumes = template.map(|t| t.spec.list("volumes")).unwrap_or_default();
    let name = volumes.iter().find_map(|v| v.text("configMap.name")).unwrap_or("coredns");
    let known = snapshot.object("ConfigMap", NAMESPACE, name).map(|object| object.reference.clone());
    known
        .unwrap_or_else(|| ObjectRef {
            api_version: "v1".to_owned(),
            ..ObjectRef::new("ConfigMap", NAMESPACE, name)
        })
        .field("data.Corefile")
}

/// Its logs.
pub fn logs(snapshot: &Snapshot) -> impl Iterator<Item = &LogStream> {
    snapshot.logs.iter().filter(|log| {
        log.namespace == NAMESPACE
            && (log.container == "coredns"
                || log.pod.starts_with("coredns-")
                || log.pod.contains("-coredns-"))
    })
}

/// Lines of its logs that a test picks: the first, the last and their number.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    /// The log in which the first one stands.
    pub stream: &'a LogStream,
    /// The first one.
    pub first: &'a LogLine,
    /// When the last one was written.
    pub last: Option<Timestamp>,
    /// How many.
    pub count: u64,
    /// Whether its log goes on for a minute without any more.
    pub ended: bool,
}

impl Lines<'_> {
    /// As evidence.
    pub fn evidence(&self, what: &str) -> Evidence {
        let place =
            format!("Pod {}/{}, container {}", self.stream.namespace, self.stream.pod, self.stream.container);
        Evidence::new("Log", place, format!("{what}, {}", text::times(self.count)))
            .at(self.first.time)
            .excerpt(&self.first.text)
    }
}

/// Silence of so many seconds ends it.
const QUIET: i64 = 60;

/// The lines of the name server's logs that a test picks.
pub fn lines<'a>(snapshot: &'a Snapshot, picks: impl Fn(&str) -> bool) -> Option<Lines<'a>> {
    let mut found: Option<Lines<'a>> = None;
    let mut end = None;
    for stream in logs(snapshot) {
        for line in &stream.lines {
            end = end.max(line.time);
            if !picks(&line.text) {
                continue;
            }
            let lines =
                found.get_or_insert(Lines { stream, first: line, last: line.time, count: 0, ended: false });
            lines.count += 1;
            lines.last = lines.last.max(line.time);
            if line.time.is_some() && line.time < lines.first.time {
                (lines.stream, lines.first) = (stream, line);
            }
        }
    }
    if let Some(lines) = &mut found {
        lines.ended = match (lines.last, end) {
            (Some(last), Some(end)) => end.as_second() - last.as_second() > QUIET,
            _ => false,
        };
    }
    found
}

/// Callers whose look-ups fail because the resolver fails, not because the name does not exist.
pub fn unresolved(snapshot: &Snapshot) -> Vec<Calls> {
    let failing = calls::failing(snapshot);
    failing
        .all
        .iter()
        .filter(|c| c.kind() == Some(Kind::Resolver) && c.severity() >= Severity::Warning)
        .cloned()
        .collect()
}

/// What fails for callers that cannot look names up.
pub fn effects(snapshot: &Snapshot, callers: &[Calls]) -> Vec<Effect> {
    let distinct: BTreeSet<&ObjectRef> = callers.iter().map(|calls| &calls.caller).collect();
    let mut out = vec![];
    for caller in distinct {
        out.push(Effect::calls(caller));
        out.extend(
            service_of(snapshot, caller)
                .map(|service| Effect::requests(&service, &["dns", "timeout", "5xx"])),
        );
    }
    for calls in callers {
        out.extend(calls.service().map(|service| Effect::requests(service, &["dns"])));
    }
    out
}

/// When the first look-up failed.
pub fn onset(callers: &[Calls]) -> Option<Timestamp> {
    callers.iter().filter_map(|calls| calls.first).min()
}

/// The growth of counters of one name whose labels a test picks.
fn growth<'a>(snapshot: &'a Snapshot, name: &'a str, picks: &dyn Fn(&Series) -> bool) -> Option<f64> {
    let mut series = snapshot.series_named(name).filter(|series| picks(series)).peekable();
    series.peek()?;
    Some(series.filter_map(Series::total_increase).sum())
}

/// The growth of a counter that was renamed: the new name counts where it has any series, the old one only where not, for some
/// versions expose both and their sum would be twice the truth.
pub fn growth_of(snapshot: &Snapshot, new: &str, old: &str, picks: impl Fn(&Series) -> bool) -> Option<f64> {
    growth(snapshot, new, &picks).or_else(|| growth(snapshot, old, &picks))
}

/// The share of answers with a code, and their number, over all of the name server's pods.
pub fn answered(snapshot: &Snapshot, rcode: &str) -> Option<(f64, f64)> {
    let all = growth(snapshot, "coredns_dns_responses_total", &|_| true)?;
    let with = growth(snapshot, "coredns_dns_responses_total", &|s| s.label("rcode") == rcode).unwrap_or(0.0);
    (all > 0.0).then_some((with / all, with))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    fn series(name: &str, labels: Value, last: u32) -> Vec<Series> {
        let mut metric = labels;
        metric["__name__"] = json!(name);
        crate::model::series::read(
            &json!({"data": {"result": [{"metric": metric, "values": [[1, "0"], [60, last.to_string()]]}]}}),
            name,
        )
    }

    #[test]
    fn the_new_name_of_a_counter_hides_the_old_one() {
        let forward = |to: &str| json!({"proxy_name": "forward", "to": to, "rcode": "SERVFAIL"});
        let (new, old) = ("coredns_proxy_request_duration_seconds_count", "coredns_forward_responses_total");
        let mut builder = Builder::new();
        builder.series(series(old, forward("a"), 7));
        let servfail = |s: &Series| s.label("rcode") == "SERVFAIL";
        assert_eq!(growth_of(&builder.finish(), new, old, servfail), Some(7.0));
        let mut builder = Builder::new();
        builder.series(series(old, forward("a"), 7));
        builder.series(series(new, forward("a"), 9));
        assert_eq!(growth_of(&builder.finish(), new, old, servfail), Some(9.0));
        assert_eq!(growth_of(&Builder::new().finish(), new, old, servfail), None);
    }

    #[test]
    fn shares_are_over_all_zones_and_plugins() {
        let mut builder = Builder::new();
        builder.series(series(
            "coredns_dns_responses_total",
            json!({"rcode": "SERVFAIL", "plugin": "forward", "zone": "."}),
            10,
        ));
        builder.series(series(
            "coredns_dns_responses_total",
            json!({"rcode": "NOERROR", "plugin": "kubernetes", "zone": "cluster.local."}),
            30,
        ));
        assert_eq!(answered(&builder.finish(), "SERVFAIL"), Some((0.25, 10.0)));
    }
}
