//! Ports that callers ask a Service for and that it does not have.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::Evidence;
use crate::analyze::rules::application::addresses::{addresses, named_service};
use crate::analyze::rules::application::calls::{self, Calls};
use crate::analyze::rules::application::settings::settings;
use crate::analyze::rules::seen::{self, Seen};
use crate::model::change::{ChangeKind, applied};
use crate::model::fields::Fields;
use crate::model::memo::Derived;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};

/// An edit of the Service's ports longer than this before the failures does not explain them, in seconds.
const RECENT: i64 = 900;
/// An edit and the first failure are told by different clocks.
const CLOCK_ERROR: i64 = 5;

/// What is known of one port that a Service does not have.
#[derive(Debug, Clone, Default)]
pub struct MissingPort {
    /// The workloads that ask for it.
    pub callers: BTreeSet<ObjectRef>,
    /// The objects that name it: settings, routes.
    pub names: BTreeSet<ObjectRef>,
    /// Failing calls to it.
    pub seen: Seen,
    /// `kubectl apply` last wrote the Service with it.
    pub applied: bool,
    /// The Service's ports were edited shortly before the first failing call.
    pub edited: Option<Timestamp>,
    /// Requests that this port of the Service answered before, and the pods' port that did.
    pub answered: Option<(u64, i64)>,
}

impl MissingPort {
    /// Whether the Service had the port, or is meant to have it: more than one who asks for it agree.
    fn lost(&self) -> bool {
        self.applied || self.edited.is_some() || self.answered.is_some() || self.voices() > 1
    }

    /// Objects that ask for it independently: callers whose settings say it are heard once, by the object that holds them.
    fn voices(&self) -> usize {
        let objects: BTreeSet<ObjectRef> =
            self.names.iter().map(|name| ObjectRef { field_path: String::new(), ..name.clone() }).collect();
        if objects.is_empty() { self.callers.len() } else { objects.len() }
    }

    /// Whether this says more than that one setting is wrong.
    fn holds(&self) -> bool {
        let asked = !self.callers.is_empty() || !self.names.is_empty();
        asked && if self.seen.any() { self.lost() } else { self.applied }
    }
}

/// All ports that Services lack and that are theirs to have, by Service and port.
#[derive(Debug, Default)]
pub struct MissingPorts(pub BTreeMap<(ServiceName, i64), MissingPort>);

impl MissingPorts {
    /// Whether a Service lost this port, so that whoever asks for it is right.
    pub fn contains(&self, service: &ServiceName, port: i64) -> bool {
        self.0.contains_key(&(service.clone(), port))
    }
}

impl Derived for MissingPorts {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut all: BTreeMap<(ServiceName, i64), MissingPort> = BTreeMap::new();
        from_traffic(snapshot, &mut all);
        from_settings(snapshot, &mut all);
        from_routes(snapshot, &mut all);
        let failing = calls::failing(snapshot);
        let mut failing_of: BTreeMap<&ServiceName, Vec<&Calls>> = BTreeMap::new();
        for calls in &failing.all {
            if let Some(service) = calls.service().filter(|_| !calls.ended) {
                failing_of.entry(service).or_default().push(calls);
            }
        }
        let answered = answered(snapshot);
        for ((name, port), found) in &mut all {
            let Some(service) = snapshot.service(name) else { continue };
            // A caller that has no proxy tells in its own log.
            let own = failing_of.get(name).into_iter().flatten();
            for calls in own.filter(|calls| found.callers.contains(&calls.caller)) {
                let evidence: Vec<Evidence> = calls.evidence().collect();
                let told = Seen { count: calls.count, onset: calls.first, evidence };
                found.seen = std::mem::take(&mut found.seen).and(told);
            }
            found.applied = had_applied(service, *port);
            found.answered = answered.get(&(name.clone(), *port)).copied();
            found.edited = edited(snapshot, service, found.seen.onset);
        }
        all.retain(|(name, _), found| found.holds() && seen::wanted(snapshot, &name.namespace));
        MissingPorts(all)
    }
}

/// A Service with an address and ports of its own that lacks this one.
fn lacks(service: &Service, port: i64) -> bool {
    service.kind != "ExternalName"
        && !service.headless()
        && !service.ports.is_empty()
        && service.port(port).is_none()
        && !service.object.name().is_empty()
}

/// Calls to a Service's address that its callers' proxies could not match with a port of it: they pass through, or go nowhere.
fn from_traffic(snapshot: &Snapshot, all: &mut BTreeMap<(ServiceName, i64), MissingPort>) {
    for edge in snapshot.traffic.iter().filter(|e| e.reporter == Reporter::Source) {
        let Some(service) = edge.service.as_ref().and_then(|name| snapshot.service(name)) else { continue };
        if !edge.cluster.direction.is_empty() {
            continue;
        }
        let mut ports: BTreeSet<i64> = BTreeSet::new();
        for outcome in edge.outcomes.iter().filter(|outcome| outcome.failed) {
            ports.extend(outcome.called.keys().filter_map(|called| port_of(service, called)));
        }
        for port in ports.into_iter().filter(|port| lacks(service, *port)) {
            let here = |_: &EdgeTraffic, outcome: &Outcome| {
                outcome.failed && outcome.called.keys().any(|called| port_of(service, called) == Some(port))
            };
            let found = all.entry((service.service_name(), port)).or_default();
            found.callers.insert(edge.workload.clone());
            found.seen = std::mem::take(&mut found.seen).and(seen::outcomes(std::iter::once(edge), here));
        }
    }
}

/// The port of an address, where it is one of the Service's own.
fn port_of(service: &Service, called: &str) -> Option<i64> {
    let (ip, port) = called.rsplit_once(':')?;
    let ip = ip.trim_matches(['[', ']']);
    (service.cluster_ips.is_empty() || service.cluster_ips.iter().any(|own| own == ip))
        .then(|| port.parse().ok())?
}

/// Settings that name a Service with a port that it lacks.
fn from_settings(snapshot: &Snapshot, all: &mut BTreeMap<(ServiceName, i64), MissingPort>) {
    for workload in snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()) {
        let namespace = workload.object.namespace();
        for setting in settings(snapshot, workload) {
            for address in setting.value.as_deref().map(addresses).unwrap_or_default() {
                let service = named_service(snapshot, &address.host, namespace);
                let Some((service, port)) = service.zip(address.port) else { continue };
                if lacks(service, port) {
                    let found = all.entry((service.service_name(), port)).or_default();
                    found.callers.insert(workload.reference().clone());
                    found.names.insert(setting.subject.clone());
                }
            }
        }
    }
}

/// Routes that send requests to a port that a Service lacks, and settings of it.
fn from_routes(snapshot: &Snapshot, all: &mut BTreeMap<(ServiceName, i64), MissingPort>) {
    let mut add = |host: &str, namespace: &str, port: i64, place: ObjectRef| {
        let Some((ns, name)) = service_of_host(&full_host(host, namespace)) else { return };
        let name = ServiceName::new(ns, name);
        if snapshot.service(&name).is_some_and(|service| lacks(service, port)) {
            all.entry((name, port)).or_default().names.insert(place);
        }
    };
    for route in &snapshot.istio.virtual_services {
        for (_, to) in route.destinations() {
            if let Some(port) = to.port {
                let place = route.reference().field(format!("{}.port.number", to.path));
                add(&to.host, route.object.namespace(), port, place);
            }
        }
    }
    for rule in &snapshot.istio.destination_rules {
        let settings = rule.object.body.list("spec.trafficPolicy.portLevelSettings");
        for (index, entry) in settings.iter().enumerate() {
            if let Some(port) = entry.int("port.number") {
                let field = format!("spec.trafficPolicy.portLevelSettings[{index}].port.number");
                add(&rule.host, rule.object.namespace(), port, rule.reference().field(field));
            }
        }
    }
}

/// Requests that were answered by port of a Service, with the pods' port that answered most of them.
fn answered(snapshot: &Snapshot) -> BTreeMap<(ServiceName, i64), (u64, i64)> {
    let mut out: BTreeMap<(ServiceName, i64), (u64, i64)> = BTreeMap::new();
    for edge in snapshot.traffic.iter().filter(|e| e.reporter == Reporter::Source) {
        let Some((service, port)) = edge.service.clone().zip(edge.cluster.port) else { continue };
        for outcome in edge.outcomes.iter().filter(|o| !o.failed) {
            let upstream = outcome.upstreams.iter().max_by_key(|(_, count)| **count);
            let Some(target) = upstream.and_then(|(host, _)| host.rsplit_once(':')?.1.parse().ok()) else {
                continue;
            };
            let slot = out.entry((service.clone(), port)).or_insert((0, target));
            slot.0 += outcome.count;
        }
    }
    out
}

/// Whether `kubectl apply` last wrote the Service with this port.
fn had_applied(service: &Service, port: i64) -> bool {
    applied(&service.object)
        .is_some_and(|body| body.list("spec.ports").iter().any(|entry| entry.int("port") == Some(port)))
}

/// The edit of the Service's ports that came just before the failures.
fn edited(snapshot: &Snapshot, service: &Service, onset: Option<Timestamp>) -> Option<Timestamp> {
    let onset = onset?.as_second();
    let of = snapshot.changes.iter().filter(|change| {
        change.kind == ChangeKind::Edited
            && change.subject.same_object(service.reference())
            && change.fields.iter().any(|field| field.starts_with("spec.ports"))
    });
    of.map(|change| change.time)
        .filter(|at| (-CLOCK_ERROR..=RECENT).contains(&(onset - at.as_second())))
        .max()
}
