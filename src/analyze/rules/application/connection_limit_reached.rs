//! APP125.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::calls::{self, Calls, MIN_FAILURES, service_of, since};
use super::settings::{Setting, settings};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A server, mostly a database or a cache, takes no more connections.
    ///
    /// ## What it detects
    /// Errors in a server's own words that all of its connections are taken (`too many clients already`, `Too many connections`,
    /// `max number of clients reached`, `remaining connection slots are reserved`), in its log or in those of its clients.
    /// ## Why it matters
    /// The server is up and answers those that are connected; whoever comes next is turned away at once. Its probes often keep a
    /// connection of their own and pass.
    /// ## Evidence
    /// The lines with their count, by whom, the server's setting that names the limit, and what was rolled out just before.
    /// ## How to confirm
    /// `SELECT count(*) FROM pg_stat_activity` against `SHOW max_connections`; `INFO clients` against `CONFIG GET maxclients`.
    /// ## How to fix
    /// Take back what lowered the limit. Else raise it, or let the clients hold fewer: the sum of all their pools, times their
    /// replicas, stays below it.
    /// ## False positives
    /// A pool of the caller that is empty is another thing: the server does not know of it.
    /// ## References
    /// <https://www.postgresql.org/docs/current/runtime-config-connection.html>
    ConnectionLimitReached {
        code: "APP125", name: "connection-limit-reached", family: Application, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// A server that turns clients away.
#[derive(Debug)]
pub struct Fact {
    server: ObjectRef,
    service: Option<ServiceName>,
    /// What its own log and its clients' logs say.
    said: Vec<Calls>,
    clients: BTreeSet<ObjectRef>,
    setting: Option<Setting>,
}

impl Fact {
    fn first(&self) -> Option<Timestamp> {
        self.said.iter().filter_map(|calls| calls.first).min()
    }

    /// How often it was said: by the server itself, or else by its clients together.
    fn count(&self) -> u64 {
        let own = self.said.iter().find(|calls| calls.caller.same_object(&self.server));
        own.map_or_else(|| self.said.iter().map(|calls| calls.count).sum(), |calls| calls.count)
    }
}

impl Check for ConnectionLimitReached {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut servers: BTreeMap<ObjectRef, Vec<Calls>> = BTreeMap::new();
        for calls in &calls::failing(snapshot).all {
            if calls.kind() != Some(Kind::TooMany) || calls.ended {
                continue;
            }
            for server in servers_of(snapshot, calls) {
                servers.entry(server).or_default().push(calls.clone());
            }
        }
        servers
            .into_iter()
            .map(|(server, said)| {
                let clients = said.iter().map(|calls| calls.caller.clone());
                let clients = clients.filter(|caller| !caller.same_object(&server)).collect();
                let all = snapshot.workload(&server).map(|w| settings(snapshot, w)).unwrap_or_default();
                let setting = all.into_iter().find(limits_connections);
                Fact { service: service_of(snapshot, &server), clients, setting, said, server }
            })
            .filter(|fact| fact.count() >= MIN_FAILURES)
            .collect()
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let server = &fact.server;
        let count = fact.count();
        let clients = fact.clients.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let by = if clients.is_empty() { String::new() } else { format!(" of {clients}") };
        let limit = fact.setting.as_ref().map(|s| format!(" Setting {} names the limit.", s.name));
        let subject = snapshot
            .workload(server)
            .map_or_else(|| server.clone(), |w| server.field(w.template_path("spec.containers")));
        let mut finding = Finding::new(Self::META, subject, &[])
            .title(format!("{server} takes no more connections: {count} turned away{}", since(fact.first())))
            .message(format!(
                "{server} is up and turned away {count} connections{by}{}: all that it takes are in use.{}",
                since(fact.first()),
                limit.unwrap_or_default()
            ))
            .mechanism("connection limit of the server reached: too many clients, too many connections")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(fact.service.clone())
            .evidences(fact.said.iter().flat_map(Calls::evidence).take(4))
            .onset(fact.first())
            .effects(fact.clients.iter().map(Effect::calls))
            .effects(fact.service.iter().map(|service| {
                Effect::requests(service, &["too_many_connections", "reset", "timeout", "5xx", "slow"])
            }));
        for client in &fact.clients {
            finding = finding.related(client.clone());
        }
        if let Some(setting) = &fact.setting {
            finding = finding
                .related(setting.subject.clone())
                .evidence(Evidence::object(&setting.subject, format!("{} names the limit", setting.name)));
            if let Some(before) = &setting.previous {
                let words = format!("Give {} its previous value", setting.name);
                finding = finding.maybe_remedy(setting.set(snapshot, before, words));
            }
        }
        finding
            .maybe_remedy(common::undo_last_rollout(snapshot, server, ""))
            .remedy(Remedy::manual(format!(
                "Raise the number of connections that {server} takes (max_connections, maxclients), or let its clients hold fewer: the sum of their pools, times their replicas, stays below it"
            )))
            .prevention(Prevention::alert(
                "Alert before the last connection is taken",
                "sum by (namespace, pod) (pg_stat_activity_count) / on (namespace, pod) pg_settings_max_connections > 0.8",
            ))
            .prevention(Prevention::of("Test", "Load test with the production limits: pools of all replicas together stay below what the server takes"))
    }
}

/// The workloads that turned away what a log tells of: those behind the Service that the text names; where it names none, the
/// one that logs it, if others call it.
fn servers_of(snapshot: &Snapshot, calls: &Calls) -> Vec<ObjectRef> {
    if let Some(service) = calls.service() {
        return snapshot.graph.backing.get(service).into_iter().flatten().cloned().collect();
    }
    let named = calls.groups.iter().any(|group| group.target.is_some());
    let mut services = snapshot.graph.services_of(&calls.caller);
    let called = services.any(|service| snapshot.graph.callers(service).next().is_some());
    let calls_itself = snapshot.graph.callees(&calls.caller).next().is_some();
    // A client that names nobody may mean any of its dependencies.
    if named || !called || calls_itself { vec![] } else { vec![calls.caller.clone()] }
}

/// Whether a setting names how many connections a server takes.
fn limits_connections(setting: &Setting) -> bool {
    let words = setting.words();
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    has(&["connections", "clients", "maxclients", "maxconnections", "conns"])
        && has(&["max", "maximum", "limit", "maxclients", "maxconnections"])
}
