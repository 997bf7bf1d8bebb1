//! What the cluster itself says in events and statuses: containers that start again, and warnings that were not there before.
//!
//! Rules explain most of these one by one. What stands here puts them on the timeline with their onset, and covers the reasons
//! of controllers that no rule knows. So each says little for itself: a finding about the same is not to be counted twice.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::super::mask::mask;
use super::EARLY;
use crate::analyze::anomaly::{Anomaly, Direction, Kind, Place, Signal, service_of_pod};
use crate::analyze::finding::Evidence;
use crate::model::event::Event;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

/// A container that starts again around the onset (natural logarithm of the likelihood ratio).
const RESTART: f64 = 0.8;
/// A warning that came up around the onset.
const WARNING: f64 = 0.4;
/// The same where nobody knows the onset: most clusters have some warnings.
const SOME_WARNING: f64 = 0.1;
/// What starts up to so many seconds before a named onset may belong to it.
const SLACK: f64 = 120.0;
/// Words of a message that tell two warnings of one reason apart.
const MAX_WORDS: usize = 160;

/// The anomalies of events and statuses.
pub(super) fn anomalies(snapshot: &Snapshot, onset: Option<Timestamp>) -> Vec<Anomaly> {
    let around = Around::new(snapshot, onset);
    let mut out: Vec<Anomaly> = restarts(snapshot, &around).collect();
    out.extend(warnings(snapshot, &around));
    out
}

/// What belongs to the onset.
struct Around {
    from: Option<Timestamp>,
}

impl Around {
    fn new(snapshot: &Snapshot, onset: Option<Timestamp>) -> Self {
        let from = onset.map(|onset| {
            let start = snapshot.window.map_or(onset, |window| window.start);
            let before = (onset.as_millisecond() - start.as_millisecond()).max(0) as f64 / 1e3;
            let slack = SLACK.max(before * EARLY).min(before.max(SLACK));
            onset - jiff::SignedDuration::from_millis((slack * 1e3) as i64)
        });
        Around { from }
    }

    /// How much something that began at an instant weighs; `None` where it has nothing to do with the onset.
    fn weight(&self, at: Timestamp, near: f64, unknown: f64) -> Option<f64> {
        match self.from {
            Some(from) => (at >= from).then_some(near),
            None => Some(unknown),
        }
    }
}

fn restarts<'a>(snapshot: &'a Snapshot, around: &'a Around) -> impl Iterator<Item = Anomaly> + 'a {
    let pods = snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace()) && !pod.ended());
    pods.filter_map(move |pod| {
        let ended =
            pod.statuses.iter().filter(|s| s.restarts > 0).filter_map(|s| Some((s, s.last.as_ref()?)));
        let (status, last) = ended.max_by_key(|(_, last)| last.finished)?;
        let at = last.finished?;
        let weight = around.weight(at, RESTART, RESTART / 4.0)?;
        let (namespace, name) = (pod.object.namespace(), pod.object.name());
        let place = Place::Pod { name: name.to_owned(), service: service_of_pod(snapshot, namespace, name) };
        let value = format!(
            "container {} started again, {} times by now; it ended with exit code {} {}",
            status.name, status.restarts, last.exit_code, last.reason
        );
        let restarts = status.restarts as f64;
        Some(
            Anomaly::new(
                place,
                Signal::Event,
                Kind::Restarts,
                &format!("container {}", status.name),
                Direction::Up,
            )
            .weighing(weight, restarts)
            .values(0.0, restarts, "restarts")
            .since(Some(at), 1.0)
            .evidence(
                Evidence::new("Object", format!("Pod {namespace}/{name}"), value.trim_end()).at(Some(at)),
            ),
        )
    })
}

/// Warnings by place, reason and words.
fn warnings(snapshot: &Snapshot, around: &Around) -> Vec<Anomaly> {
    struct Group<'a> {
        first: Timestamp,
        count: i64,
        event: &'a Event,
    }
    let mut groups: BTreeMap<(Place, &str, String), Group<'_>> = BTreeMap::new();
    for event in snapshot.events.iter().filter(|event| event.kind == "Warning") {
        let Some(place) = place_of(snapshot, event) else { continue };
        let Some(first) = event.first.or(event.last) else { continue };
        let text = mask(crate::analyze::finding::cut(&event.message, MAX_WORDS));
        let group = groups.entry((place, &event.reason, text)).or_insert(Group { first, count: 0, event });
        group.count = group.count.saturating_add(event.count);
        if (first, &event.reference) < (group.first, &group.event.reference) {
            (group.first, group.event) = (first, event);
        }
    }
    let anomaly = |((place, reason, text), group): ((Place, &str, String), Group<'_>)| {
        let weight = around.weight(group.first, WARNING, SOME_WARNING)?;
        let kind = match reason {
            "Unhealthy" | "ProbeError" => Kind::Availability,
            "BackOff" | "Evicted" | "Preempted" | "OOMKilling" | "SystemOOM" | "Killing" => Kind::Restarts,
            _ => Kind::NewTemplate,
        };
        let direction = if kind == Kind::Availability { Direction::Down } else { Direction::New };
        let value = format!("{reason} {} times, first at {}", group.count, group.first);
        let evidence = Evidence::new("Event", group.event.about.to_string(), value);
        Some(
            Anomaly::new(place, Signal::Event, kind, &format!("{reason}: {text}"), direction)
                .weighing(weight, group.count as f64)
                .values(0.0, group.count as f64, "events")
                .since(Some(group.first), 1.0)
                .evidence(evidence.at(Some(group.first)).excerpt(&group.event.message)),
        )
    };
    groups.into_iter().filter_map(anomaly).collect()
}

/// Whose business an event is.
fn place_of(snapshot: &Snapshot, event: &Event) -> Option<Place> {
    let about = &event.about;
    if about.kind == "Node" {
        return Some(Place::Node(about.name.clone()));
    }
    if !snapshot.in_scope(&about.namespace) || about.name.is_empty() {
        return None;
    }
    match about.kind.as_str() {
        "Pod" => {
            let service = service_of_pod(snapshot, &about.namespace, &about.name);
            Some(Place::Pod { name: about.name.clone(), service })
        }
        "Service" | "Deployment" | "StatefulSet" | "DaemonSet" => {
            let before = snapshot.workload(about).and_then(|w| snapshot.services_before(w).next());
            let name = before.map_or_else(
                || ServiceName::new(about.namespace.clone(), about.name.clone()),
                |service| service.service_name(),
            );
            Some(Place::Service(name))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    fn snapshot() -> Snapshot {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pay-0", "namespace": "shop"},
            "spec": {"containers": [{"name": "app"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "app", "ready": true, "restartCount": 3, "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-11-22T10:10:00Z"}}}]}}));
        for (name, minute, kind) in
            [("old", "01", "Warning"), ("new", "11", "Warning"), ("calm", "12", "Normal")]
        {
            builder.object(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "shop"}, "type": kind,
                "reason": format!("SyncFailed{name}"), "message": format!("could not sync 12 of {name}"), "count": 4,
                "firstTimestamp": format!("2026-11-22T10:{minute}:00Z"), "lastTimestamp": format!("2026-11-22T10:{minute}:30Z"),
                "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "pay-0"}}));
        }
        builder.finish()
    }

    #[test]
    fn what_began_around_the_onset_counts() {
        let found = anomalies(&snapshot(), "2026-11-22T10:10:30Z".parse().ok());
        let kinds: Vec<_> = found.iter().map(|a| (a.kind, a.what.as_str())).collect();
        assert_eq!(
            kinds,
            [
                (Kind::Restarts, "container app"),
                (Kind::NewTemplate, "SyncFailednew: could not sync * of new")
            ]
        );
        assert!(found.iter().all(|a| a.log_lr > 0.0 && a.onset.is_some()));
        let unknown = anomalies(&snapshot(), None);
        assert_eq!(unknown.len(), 3);
        assert!(unknown.iter().all(|a| a.log_lr <= RESTART / 4.0));
    }
}
