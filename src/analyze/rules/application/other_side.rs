//! The other side of a failing call: what somebody would look at next, looked at.
//!
//! Each way of failing says on which layer it arose, and so what can decide it: a refused connection is looked up as
//! Service, endpoints and listening port; one that was never answered as policies and nodes; one that was cut as restarts of
//! the callee; a slow one as what the callee itself waits for.

use jiff::Timestamp;
use std::collections::BTreeSet;

use super::calls::{Calls, clock};
use crate::analyze::finding::Evidence;
use crate::analyze::logs::digest::Digest;
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::rules::network::network_policy_blocks;
use crate::analyze::rules::service::served;
use crate::model::fields::Fields;
use crate::model::network::{Service, TargetPort};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;
use crate::model::workload::{Pod, conditions};

/// A restart of the callee this many seconds before the first failure, or after the last one, belongs to it.
const NEAR: f64 = 30.0;
/// Pieces of what was looked at that are told.
const MAX_LOOKS: usize = 4;

/// What was looked at on the other side, each as a sentence with the object that says it.
#[derive(Debug, Default)]
pub struct Look {
    /// The sentences, as evidence.
    pub seen: Vec<Evidence>,
}

impl Look {
    fn add(&mut self, object: &ObjectRef, text: impl Into<String>) {
        if self.seen.len() < MAX_LOOKS {
            self.seen.push(Evidence::object(object, text));
        }
    }
}

/// Looks at the other side of failing calls.
pub fn look(snapshot: &Snapshot, calls: &Calls) -> Look {
    let mut look = Look::default();
    let Some(kind) = calls.kind() else { return look };
    let service = calls.service().and_then(|name| snapshot.service(name));
    match kind {
        Kind::Refused | Kind::NoAddresses | Kind::Scheme | Kind::Unimplemented => {
            if let Some(service) = service {
                endpoints(snapshot, service, &mut look);
                listening(snapshot, service, calls, &mut look);
            }
            gone(snapshot, calls, &mut look);
        }
        Kind::ConnectTimeout | Kind::Unreachable => {
            if let Some(service) = service {
                policies(snapshot, calls, service, &mut look);
                nodes(snapshot, service, &mut look);
                endpoints(snapshot, service, &mut look);
            }
            gone(snapshot, calls, &mut look);
        }
        Kind::Reset | Kind::Pings => {
            if let Some(service) = service {
                restarts(snapshot, service, calls, &mut look);
                endpoints(snapshot, service, &mut look);
            }
        }
        Kind::Timeout | Kind::Status(504) => {
            if let Some(service) = service {
                waits(snapshot, service, calls, &mut look);
                endpoints(snapshot, service, &mut look);
                restarts(snapshot, service, calls, &mut look);
            }
        }
        Kind::Status(502 | 503) => {
            if let Some(service) = service {
                endpoints(snapshot, service, &mut look);
                restarts(snapshot, service, calls, &mut look);
            }
        }
        Kind::NoSuchHost
        | Kind::Resolver
        | Kind::Tls
        | Kind::Pool
        | Kind::TooMany
        | Kind::TooLarge
        | Kind::Status(_) => {}
    }
    look
}

/// How many endpoints are ready.
fn endpoints(snapshot: &Snapshot, service: &Service, look: &mut Look) {
    if let Some((ready, all)) = snapshot.endpoints(service) {
        look.add(service.reference(), format!("{ready} of {all} endpoints are ready"));
    }
}

/// Where the port of the Service leads, and what the containers declare.
fn listening(snapshot: &Snapshot, service: &Service, calls: &Calls, look: &mut Look) {
    let called = calls.main().and_then(|group| group.target.as_ref()?.port).map(i64::from);
    let ports: Vec<i64> = service.ports.iter().map(|port| port.number).collect();
    if let Some(called) = called.filter(|port| !ports.is_empty() && !ports.contains(port))
        && calls.main().is_some_and(|group| !group.host().starts_with(|c: char| c.is_ascii_digit()))
    {
        let has: Vec<String> = ports.iter().map(i64::to_string).collect();
        look.add(
            service.reference(),
            format!("port {called} was called and the Service has {}", has.join(", ")),
        );
        return;
    }
    let templates = served::templates(snapshot, service);
    let declared = served::declared(&templates);
    let port = service.ports.iter().find(|port| called.is_none_or(|called| port.number == called));
    if let Some(TargetPort::Number(target)) = port.map(|port| &port.target)
        && !declared.is_empty()
    {
        let has: Vec<String> = declared.iter().map(i64::to_string).collect();
        let verb = if declared.contains(target) {
            "and the containers declare it"
        } else {
            "and the containers declare"
        };
        let list = if declared.contains(target) { String::new() } else { format!(" {}", has.join(", ")) };
        look.add(service.reference(), format!("its target port is {target} {verb}{list}"));
    }
}

/// Addresses that were called and that nobody has now. Only where pods were seen at all.
fn gone(snapshot: &Snapshot, calls: &Calls, look: &mut Look) {
    if !snapshot.runs() {
        return;
    }
    for host in addresses(calls) {
        match snapshot.pod_by_ip(&host) {
            Some(pod) if !pod.ready() => {
                look.add(&pod.object.reference, format!("{host} is its address, and it is not ready"))
            }
            Some(pod) => look.add(&pod.object.reference, format!("{host} is its address, and it is ready")),
            None if calls.service().is_none() => {
                look.add(&calls.caller, format!("no pod and no Service that was seen has the address {host}"))
            }
            None => {}
        }
    }
}

/// The addresses that were called instead of names.
pub fn addresses(calls: &Calls) -> BTreeSet<String> {
    let hosts = calls.groups.iter().map(|group| group.host());
    hosts.filter(|host| host.parse::<core::net::IpAddr>().is_ok()).map(str::to_owned).collect()
}

/// Policies that let the call through nowhere.
fn policies(snapshot: &Snapshot, calls: &Calls, service: &Service, look: &mut Look) {
    if let Some(caller) = snapshot.workload(&calls.caller)
        && let Some((policy, port, _)) = network_policy_blocks::blocked(snapshot, caller, service)
    {
        look.add(
            &policy.object.reference,
            match policy.denies() {
                true => format!("{} denies {} port {port}", policy.reference.field_path, calls.caller),
                false => {
                    format!(
                        "no {} rule of it leads from {} to port {port}",
                        policy.direction.field(),
                        calls.caller
                    )
                }
            },
        );
    }
}

/// Nodes that are not ready and carry pods of the Service.
fn nodes(snapshot: &Snapshot, service: &Service, look: &mut Look) {
    let places: BTreeSet<&str> = snapshot.pods_behind(service).map(|pod| pod.node.as_str()).collect();
    for node in snapshot.objects_of("Node").filter(|node| places.contains(node.name())) {
        if conditions(node.body.list("status.conditions"))
            .iter()
            .any(|c| c.kind == "Ready" && c.status != "True")
        {
            look.add(&node.reference, "it is not ready and carries pods of the callee");
        }
    }
}

/// Containers of the callee that ended in the same time.
fn restarts(snapshot: &Snapshot, service: &Service, calls: &Calls, look: &mut Look) {
    for pod in snapshot.pods_behind(service) {
        for (name, at, code) in ends(pod) {
            if near(at, calls) {
                look.add(
                    &pod.object.reference,
                    format!(
                        "container {name} ended at {} with exit code {code}, in the time of the failures",
                        clock(at)
                    ),
                );
            }
        }
    }
}

/// When containers of a pod ended, with their exit codes.
fn ends(pod: &Pod) -> impl Iterator<Item = (&str, Timestamp, i64)> {
    pod.statuses.iter().filter_map(|status| {
        let end = status.latest_end()?;
        Some((status.name.as_str(), end.finished?, end.exit_code))
    })
}

/// Whether an instant lies in the span of the failures, give or take.
fn near(at: Timestamp, calls: &Calls) -> bool {
    let (Some(first), Some(last)) = (calls.first, calls.last) else { return false };
    let at = to_unix(at);
    to_unix(first) - NEAR <= at && at <= to_unix(last) + NEAR
}

/// What the callee itself waits for or fails at: its own failing calls, its own pool.
fn waits(snapshot: &Snapshot, service: &Service, calls: &Calls, look: &mut Look) {
    let digest = snapshot.derived::<Digest>();
    for workload in snapshot.graph.backing.get(&service.service_name()).into_iter().flatten() {
        if workload.same_object(&calls.caller) {
            continue;
        }
        let Some(log) = digest.workloads.get(workload) else { continue };
        let own = log
            .calls
            .iter()
            .filter(|group| group.count >= super::calls::MIN_FAILURES && group.last >= calls.first);
        for group in own.take(2) {
            look.add(
                workload,
                format!(
                    "its own calls to {} fail as well: {}, {} times",
                    group.callee(),
                    group.kind.words(),
                    group.count
                ),
            );
        }
    }
}
