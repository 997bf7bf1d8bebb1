//! Which of several endpoints a client's place leaves: those of its node, and those of its region and zone.

use std::collections::BTreeSet;

use crate::model::json::Value;

use super::Leg;
use crate::analyze::twin::answer::{Answer, Step};
use crate::analyze::twin::endpoints::Endpoint;
use crate::analyze::twin::istio::destination_rule::Applying;
use crate::analyze::twin::party::Party;
use crate::model::fields::Fields;
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// The labels that say where a node is, from the widest to the narrowest.
const PLACE: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// What names a node in lists of what is to be alike.
const NODE: &str = "kubernetes.io/hostname";

impl Leg<'_, '_, '_> {
    /// The endpoints on the caller's node, where the Service wants no others (`internalTrafficPolicy: Local`). `Err`: there is
    /// none, and why. Where the caller's node is not known all are left.
    pub(super) fn on_node<'e>(
        &self,
        service: &Service,
        pods: &[Endpoint<'e>],
        answer: &mut Answer,
    ) -> Result<Vec<Endpoint<'e>>, String> {
        let local = service.object.body.text("spec.internalTrafficPolicy") == Some("Local");
        let Some(node) = self.from.party().and_then(node).filter(|_| local) else { return Ok(pods.to_vec()) };
        let beside = |endpoint: &&Endpoint<'_>| endpoint.party.pod.is_none_or(|pod| pod.node == node);
        let left: Vec<Endpoint<'e>> = pods.iter().filter(beside).cloned().collect();
        let field = service.reference().field("spec.internalTrafficPolicy");
        let said = format!(
            "{} of {} pods are on node {node}, where the caller runs; Local leaves no others",
            left.len(),
            pods.len()
        );
        answer.steps.push(Step::by(&field, said.clone()));
        if left.is_empty() { Err(said) } else { Ok(left) }
    }

    /// The endpoints that a proxy prefers for where it runs: by the weights of `distribute`, or the nearest where outlier
    /// detection lets it turn to others (`failover`, `failoverPriority`), or where the Service asks for near ones
    /// (`trafficDistribution`) and no DestinationRule speaks of places. All are left where places are not known.
    pub(super) fn nearest<'e>(
        &self,
        service: &Service,
        (rules, subset, port): (Option<&Applying<'_>>, &str, u16),
        pods: Vec<Endpoint<'e>>,
        answer: &mut Answer,
    ) -> Vec<Endpoint<'e>> {
        let snapshot = self.twin.snapshot;
        let own = rules.and_then(|rules| rules.policy(subset, port, "loadBalancer"));
        let own = own.and_then(|(at, lb)| {
            let (key, setting) = ["zoneAwareLbSetting", "localityLbSetting"]
                .iter()
                .find_map(|key| Some((*key, lb.at(key)?)))?;
            Some((at.field(format!("{}.{key}", at.field_path)), setting))
        });
        // Weights by zone are worked out by the proxy, and leave everybody some.
        if own.as_ref().is_some_and(|(at, _)| at.field_path.ends_with("zoneAwareLbSetting")) {
            return pods;
        }
        let asked = distribution(snapshot, service).filter(|_| own.is_none());
        let mesh = || {
            let at = ObjectRef::new("MeshConfig", snapshot.istio.root_namespace.clone(), "istio");
            (
                at.field("localityLbSetting"),
                snapshot.istio.mesh_config.at("localityLbSetting").unwrap_or(&Value::Null),
            )
        };
        let (at, setting) = match &asked {
            Some((at, _)) => (at.clone(), &Value::Null),
            None => own.unwrap_or_else(mesh),
        };
        let Some(here) = self.from.party().and_then(|party| place(snapshot, party)) else { return pods };
        if setting.at("enabled").and_then(Value::as_bool) == Some(false) {
            return pods;
        }
        let places: Option<Vec<[String; 3]>> =
            pods.iter().map(|endpoint| place(snapshot, &endpoint.party)).collect();
        let Some(places) = places else { return pods };
        let watched = rules.and_then(|rules| rules.policy(subset, port, "outlierDetection")).is_some();
        let distribute = setting.list("distribute");
        let mine = distribute.iter().find(|entry| covers(&entry.string("from"), &here));
        let ranks: Vec<Option<usize>> = if let Some(entry) = mine {
            let to = entry.map("to");
            let gets = |place: &[String; 3]| {
                let mut all = to.into_iter().flatten();
                all.any(|(pattern, weight)| covers(pattern, place) && weight.as_u64().unwrap_or(0) > 0)
            };
            places.iter().map(|place| gets(place).then_some(0)).collect()
        } else if asked.is_none() && (!distribute.is_empty() || !watched) {
            return pods;
        } else {
            let listed = match &asked {
                Some((_, listed)) => listed.iter().map(|key| (*key).to_owned()).collect(),
                None => setting.texts("failoverPriority"),
            };
            let turns = setting.list("failover").iter().find(|entry| entry.text("from") == Some(&here[0]));
            let rank = |(endpoint, place): (&Endpoint<'_>, &[String; 3])| {
                if listed.is_empty() {
                    far(&here, place, turns.and_then(|entry| entry.text("to")))
                } else {
                    let same = |key: &&String| match key.as_str() {
                        NODE => self.from.party().and_then(node) == node(&endpoint.party),
                        key => has(self.labels, &here, key) == has(endpoint.party.labels(), place, key),
                    };
                    listed.len() - listed.iter().take_while(same).count()
                }
            };
            let ranks: Vec<usize> = pods.iter().zip(&places).map(rank).collect();
            let nearest = ranks.iter().min().copied();
            ranks.into_iter().map(|rank| (Some(rank) == nearest).then_some(rank)).collect()
        };
        let all = pods.len();
        let left: Vec<Endpoint<'e>> =
            pods.iter().zip(&ranks).filter(|(_, rank)| rank.is_some()).map(|(pod, _)| pod.clone()).collect();
        if left.is_empty() || left.len() == all {
            return pods;
        }
        let kept = places.iter().zip(&ranks).filter(|(_, rank)| rank.is_some());
        let named: BTreeSet<String> = kept.map(|(place, _)| text(place)).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let said = format!(
            "{} of {all} pods get the requests of a caller in {}: those in {}",
            left.len(),
            text(&here),
            named.join(" and ")
        );
        answer.steps.push(Step::by(&at, said));
        left
    }
}

/// Where a Service, or its namespace, asks for near endpoints, and what has to be alike, the most important first: the field of
/// Kubernetes, else Istio's annotation.
fn distribution(snapshot: &Snapshot, service: &Service) -> Option<(ObjectRef, &'static [&'static str])> {
    const FIELD: &str = "spec.trafficDistribution";
    const ANNOTATION: &str = "networking.istio.io/traffic-distribution";
    const NEAR: [&str; 5] = ["topology.istio.io/network", PLACE[0], PLACE[1], PLACE[2], NODE];
    let (zone, all) = (NEAR.get(..3)?, NEAR.get(..)?);
    let keys = |word: &str| match word.to_ascii_lowercase().as_str() {
        "prefersamezone" | "preferclose" => Some(zone),
        "prefersamenode" => Some(all),
        _ => None,
    };
    let object = &service.object;
    if let Some(word) = object.body.text(FIELD) {
        return Some((service.reference().field(FIELD), keys(word)?));
    }
    let place = |key: &str| format!("metadata.annotations[{key}]");
    if let Some(word) = object.annotations.get(ANNOTATION) {
        return Some((service.reference().field(place(ANNOTATION)), keys(word)?));
    }
    let space = snapshot.object("Namespace", "", object.namespace())?;
    let keys = keys(space.annotations.get(ANNOTATION)?)?;
    Some((space.reference.field(place(ANNOTATION)), keys))
}

/// The node of a party's pod, where it is known.
fn node<'p>(party: &'p Party<'_>) -> Option<&'p str> {
    party.pod.map(|pod| pod.node.as_str()).filter(|node| !node.is_empty())
}

/// Region, zone and part of it of a party's node; none where the node, or its region, is not known.
fn place(snapshot: &Snapshot, party: &Party<'_>) -> Option<[String; 3]> {
    let node = snapshot.object("Node", "", node(party)?)?;
    let place = PLACE.map(|key| node.labels.get(key).map(str::to_owned).unwrap_or_default());
    (!place[0].is_empty()).then_some(place)
}

/// How far a place is: the same in all parts, in zone, in region; the region to which failures are turned, any other.
fn far(here: &[String; 3], there: &[String; 3], turned_to: Option<&str>) -> usize {
    let alike = here.iter().zip(there).take_while(|(a, b)| a == b).count();
    match (alike, turned_to) {
        (0, Some(region)) if there[0] == region => 3,
        (0, Some(_)) => 4,
        (0, None) => 3,
        (alike, _) => 3 - alike,
    }
}

/// What `failoverPriority` compares: a label of the pod, or where its node is; `key=value` stands for its own value.
fn has<'l>(labels: &'l Labels, place: &'l [String; 3], key: &'l str) -> Option<&'l str> {
    if let Some((name, value)) = key.split_once('=') {
        return labels.get(name).filter(|own| *own == value);
    }
    let own = PLACE.iter().zip(place).find(|(name, _)| **name == key);
    own.map(|(_, value)| value.as_str()).or_else(|| labels.get(key))
}

/// Whether `region/zone/*` covers a place.
fn covers(pattern: &str, place: &[String; 3]) -> bool {
    pattern.split('/').zip(place).all(|(part, own)| part == "*" || part == own)
}

fn text(place: &[String; 3]) -> String {
    let parts: Vec<&str> = place.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use crate::analyze::twin::Twin;
    use crate::analyze::twin::answer::Answer;
    use crate::analyze::twin::ask::{Ask, Named, Origin, Request};
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    /// A call from pod `a` in region `r1`, zone `z1`, to Service `b` with a pod in each of `r1/z1`, `r1/z2`, `r2/z3`.
    fn asked(service: Value, policy: Value) -> Answer {
        let mut builder = Builder::new();
        for (node, region, zone) in [("n1", "r1", "z1"), ("n2", "r1", "z2"), ("n3", "r2", "z3")] {
            builder.object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node,
                "labels": {"topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": zone}}}));
        }
        let pods = [
            ("a", "a", "n1", "10.0.0.1"),
            ("b1", "b", "n1", "10.0.0.2"),
            ("b2", "b", "n2", "10.0.0.3"),
            ("b3", "b", "n3", "10.0.0.4"),
        ];
        for (name, app, node, ip) in pods {
            builder.object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "labels": {"app": app}},
                "spec": {"nodeName": node, "containers": [{"name": "c"}, {"name": "istio-proxy"}]},
                "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}}));
        }
        let mut spec = json!({"selector": {"app": "b"}, "ports": [{"name": "http", "port": 80}]});
        spec.as_object_mut().unwrap().extend(service.as_object().unwrap().clone());
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b", "namespace": "n"}, "spec": spec}));
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "b", "namespace": "n"},
            "spec": {"host": "b", "trafficPolicy": policy}}));
        let snapshot = builder.finish();
        let from = Origin::Workload(Named { namespace: "n".into(), kind: "Pod".into(), name: "a".into() });
        let request = Request { host: "b".into(), ..Request::default() };
        Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request })
    }

    fn pods(policy: Value) -> Vec<String> {
        asked(json!({}), policy).backends[0].pods.clone()
    }

    #[test]
    fn the_nearest_get_requests_where_failures_are_noticed() {
        assert_eq!(pods(json!({})), ["b1", "b2", "b3"]);
        assert_eq!(pods(json!({"outlierDetection": {}})), ["b1"]);
        let setting =
            |setting: Value| json!({"outlierDetection": {}, "loadBalancer": {"localityLbSetting": setting}});
        assert_eq!(pods(setting(json!({"enabled": false}))), ["b1", "b2", "b3"]);
        assert_eq!(
            pods(setting(json!({"failoverPriority": ["topology.kubernetes.io/region"]}))),
            ["b1", "b2"]
        );
        assert_eq!(pods(setting(json!({"failoverPriority": ["version"]}))), ["b1", "b2", "b3"]);
    }

    #[test]
    fn weights_by_place_name_who_gets_any() {
        let to = |to: Value| json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "r1/*", "to": to}]}}});
        assert_eq!(pods(to(json!({"r1/z2/*": 80, "r2/*": 20}))), ["b2", "b3"]);
        assert_eq!(pods(to(json!({"r1/z1/*": 100, "r2/*": 0}))), ["b1"]);
        // Weights for callers elsewhere.
        let elsewhere = json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "r2/*", "to": {"r2/*": 100}}]}}});
        assert_eq!(pods(elsewhere), ["b1", "b2", "b3"]);
    }

    #[test]
    fn a_service_for_its_own_node_alone_leaves_no_others() {
        let local = asked(json!({"internalTrafficPolicy": "Local"}), json!({}));
        assert_eq!(local.backends[0].pods, ["b1"]);
        let none = asked(
            json!({"internalTrafficPolicy": "Local", "selector": {"app": "b", "no": "such"}}),
            json!({}),
        );
        assert_eq!(none.label(), "503 UH");
    }
}
