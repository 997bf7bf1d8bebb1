//! DNS109.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{service_of, since};
use crate::model::log::LogStream;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Consul's servers have no leader, change it all the time, or have two.
    ///
    /// ## What it detects
    /// In the logs of Consul's servers: no leader and no quorum, elections that follow each other, or two servers that both took the lead and
    /// did not give it up.
    /// ## Why it matters
    /// Without a leader nothing is registered or removed, locks and sessions fail, and consistent reads and DNS answers with them; agents
    /// go on to answer from what they knew, each with something else. With two leaders the registry has two truths.
    /// ## Evidence
    /// The servers' lines with their times and counts, and who last said that it leads.
    /// ## How to confirm
    /// `consul operator raft list-peers` on each server; `consul members` on each must give the same list.
    /// ## How to fix
    /// Bring a majority of the servers back, each on its own volume. Two leaders: the side with fewer peers was started anew
    /// (`bootstrap_expect`, `retry_join`): stop it, clear its data and let it join.
    /// ## False positives
    /// One election after a restart is normal and ends in seconds.
    /// ## References
    /// <https://developer.hashicorp.com/consul/docs/architecture/consensus>
    ConsulRegistry {
        code: "DNS109", name: "registry-without-one-leader", family: Network, severity: Critical,
        needs: [Logs], aliases: [],
    }
}

/// Elections in one log that are more than a failover.
const STORM: u64 = 3;

/// What is wrong with the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nobody leads.
    Leaderless,
    /// Elections follow each other.
    Storm(u64),
    /// These pods both say that they lead.
    Split(Vec<String>),
}

/// What the servers' logs come to.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    state: State,
    /// The line that tells it: its pod, container, time and text.
    line: (String, String, Option<Timestamp>, String),
}

/// What the log of one server says.
#[derive(Debug, Default)]
struct Server<'a> {
    /// Whether it leads, by the last line that says so.
    leads: bool,
    elections: u64,
    /// The first line that says that nobody leads, unless somebody led after it.
    leaderless: Option<(usize, &'a str)>,
    count: u64,
    at: usize,
}

fn read(stream: &LogStream) -> Server<'_> {
    let mut server = Server::default();
    for (at, line) in stream.lines.iter().enumerate() {
        let text = line.text.as_str();
        // All lines of interest name one of these.
        if !text.contains("leader") && !text.contains("election") && !text.contains("quorum") {
            continue;
        }
        if text.contains("cluster leadership acquired") || text.contains("entering leader state") {
            server.leads = true;
            server.leaderless = None;
            server.at = at;
        } else if text.contains("New leader elected") {
            server.leaderless = None;
        } else if text.contains("cluster leadership lost")
            || text.contains("stepping down")
            || text.contains("entering follower state")
        {
            server.leads = false;
            server.at = at;
        }
        if text.contains("No cluster leader") || text.contains("failed to contact quorum of nodes") {
            server.leaderless.get_or_insert((at, text));
            server.count += 1;
        }
        if text.contains("starting election") {
            server.elections += 1;
            server.at = at;
        }
    }
    server
}

impl Check for ConsulRegistry {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut by_workload: BTreeMap<ObjectRef, Vec<(&LogStream, Server<'_>)>> = BTreeMap::new();
        for stream in snapshot.logs.iter().filter(|log| log.container == "consul" && !log.previous) {
            let server = read(stream);
            by_workload
                .entry(snapshot.owner_by_name(&stream.namespace, &stream.pod))
                .or_default()
                .push((stream, server));
        }
        let mut out = vec![];
        for (workload, servers) in by_workload {
            let leaders: Vec<&(&LogStream, Server<'_>)> = servers.iter().filter(|(_, s)| s.leads).collect();
            let lost = servers
                .iter()
                .filter(|(_, s)| s.count >= STORM && s.leaderless.is_some())
                .max_by_key(|(_, s)| s.count);
            let stormy =
                servers.iter().max_by_key(|(_, s)| s.elections).filter(|(_, s)| s.elections >= STORM);
            let chosen = if leaders.len() > 1 {
                let pods = leaders.iter().map(|(stream, _)| stream.pod.clone()).collect();
                leaders.first().map(|(stream, s)| (State::Split(pods), *stream, s.at))
            } else if let Some((stream, s)) = lost.filter(|_| leaders.is_empty()) {
                s.leaderless.map(|(at, _)| (State::Leaderless, *stream, at))
            } else {
                stormy.map(|(stream, s)| (State::Storm(s.elections), *stream, s.at))
            };
            if let Some((state, stream, at)) = chosen
                && let Some(line) = stream.lines.get(at)
            {
                let line = (stream.pod.clone(), stream.container.clone(), line.time, line.text.clone());
                out.push(Fact { workload, state, line });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let (words, severity, todo) = match &fact.state {
            State::Leaderless => (
                "have no leader".to_owned(),
                Severity::Critical,
                "Bring a majority of the servers back: their pods, volumes and the ports 8300 and 8301 between them",
            ),
            State::Storm(n) => (
                format!("elect a leader again and again ({n} elections in one log)"),
                Severity::Error,
                "Look for slow disks, throttled CPU and lost packets of the servers, in this order: each makes heartbeats late",
            ),
            State::Split(pods) => (
                format!("have {} leaders at once ({})", pods.len(), pods.join(", ")),
                Severity::Critical,
                "Stop the side with fewer peers, clear its data directory and let it join the other: bootstrap_expect and retry_join must be the same on all",
            ),
        };
        let (pod, container, at, text) = &fact.line;
        let service = service_of(snapshot, &fact.workload);
        let mut finding = Finding::new(Self::META, fact.workload.clone(), &[&words])
            .title(format!("{}: Consul's servers {words}", fact.workload))
            .message(format!("The logs of {} say that Consul's servers {words}{}. What asks the registry gets old answers or none.", fact.workload, since(*at)))
            .mechanism(format!("service registry: Consul servers {words}"))
            .severity(severity)
            .role(Role::Cause, Confidence::Observed)
            .service(service.clone())
            .evidence(Evidence::new("Log", format!("Pod {}/{pod}, container {container}", fact.workload.namespace), words.clone()).at(*at).excerpt(text))
            .onset(*at)
            .remedy(Remedy::manual(todo))
            .prevention(Prevention::alert("Alert when the servers are not well", "min(consul_autopilot_healthy) == 0"))
            .prevention(Prevention::alert("Alert on elections", "increase(consul_raft_state_candidate[10m]) > 1"));
        if let Some(service) = &service {
            finding = finding.effect(Effect::requests(service, &["5xx", "500", "dns"]));
        }
        finding
    }
}
