//! What was seen of calls: outcomes in access logs, and failed calls that applications log themselves.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::finding::Evidence;
use crate::analyze::logs::digest::Digest;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::{Snapshot, is_system_namespace};
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};
use crate::model::workload::is_proxy_container;

/// A summary of what was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// At most [`MAX_EVIDENCE`] pieces of it.
    pub evidence: Vec<Evidence>,
    /// The first time.
    pub onset: Option<Timestamp>,
    /// How often.
    pub count: u64,
}

/// More pieces of one kind tell nothing more.
pub const MAX_EVIDENCE: usize = 4;

impl Seen {
    /// Whether anything was seen.
    pub fn any(&self) -> bool {
        self.count > 0
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Seen) -> Self {
        self.evidence.extend(other.evidence);
        self.evidence.truncate(2 * MAX_EVIDENCE);
        self.count += other.count;
        self.onset = self.onset.into_iter().chain(other.onset).min();
        self
    }

    fn add(&mut self, count: u64, at: Option<Timestamp>, evidence: impl FnOnce() -> Evidence) {
        self.count += count;
        self.onset = self.onset.into_iter().chain(at).min();
        if self.evidence.len() < MAX_EVIDENCE {
            self.evidence.push(evidence());
        }
    }
}

/// The outcomes of edges that `accept` picks.
pub fn outcomes<'a>(
    edges: impl Iterator<Item = &'a EdgeTraffic>,
    accept: impl Fn(&EdgeTraffic, &Outcome) -> bool,
) -> Seen {
    let mut seen = Seen::default();
    for edge in edges {
        for outcome in edge.outcomes.iter().filter(|outcome| accept(edge, outcome)) {
            seen.add(outcome.count, outcome.first, || {
                let callee = match (&edge.service, edge.reporter) {
                    (Some(service), Reporter::Source) => service.name.clone(),
                    (None, Reporter::Source) => edge.authority.clone(),
                    (_, Reporter::Destination) => edge.workload.name.clone(),
                };
                let caller = match edge.reporter {
                    Reporter::Source => edge.workload.name.as_str(),
                    Reporter::Destination => edge.peer.as_ref().map_or("a caller", |p| p.name.as_str()),
                };
                let what = if outcome.connection { "connections" } else { "requests" };
                let cluster =
                    if edge.cluster.raw.is_empty() { "no cluster" } else { edge.cluster.raw.as_str() };
                let value = format!(
                    "{caller} → {callee}: {}, {} of {} {what}",
                    outcome.label(),
                    outcome.count,
                    edge.requests
                );
                Evidence::new("AccessLog", format!("{} proxy, {cluster}", edge.workload), value)
                    .at(outcome.first)
            });
        }
    }
    seen
}

/// Whether the upstream's host answered and nothing listened on the port.
pub fn refused(outcome: &Outcome) -> bool {
    let words = |text: &str| {
        text.contains("_111") || text.contains("onnection_refused") || text.contains("onnection refused")
    };
    outcome.has_flag("UF") && (words(&outcome.details) || words(&outcome.transport_failure))
}

/// Whether a connection to the upstream was never answered: packets are dropped on the way.
pub fn connect_timed_out(outcome: &Outcome) -> bool {
    let words = |text: &str| {
        text.contains("connection_timeout") || text.contains("connection timeout") || text.contains("_110")
    };
    outcome.has_flag("UF") && (words(&outcome.details) || words(&outcome.transport_failure))
}

/// How a call failed, in the words of the application that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailure {
    /// Nothing listens on the port.
    Refused,
    /// The name is known to nobody.
    Unresolved,
    /// Nobody answered: packets are lost, also those to the name server.
    TimedOut,
    /// The peer cut the connection.
    Reset,
}

impl CallFailure {
    /// The words by which clients of common languages report it.
    fn words(self) -> &'static [&'static str] {
        match self {
            CallFailure::Refused => &["onnection refused", "ECONNREFUSED"],
            CallFailure::Unresolved => &[
                "no such host",
                "ENOTFOUND",
                "Name or service not known",
                "UnknownHostException",
                "Name does not resolve",
                "nodename nor servname provided",
                "failed to lookup address",
            ],
            CallFailure::TimedOut => &[
                "i/o timeout",
                "ETIMEDOUT",
                "onnection timed out",
                "onnect timed out",
                "context deadline exceeded",
                "ConnectTimeout",
                "EAI_AGAIN",
                "emporary failure in name resolution",
            ],
            CallFailure::Reset => &["onnection reset by peer", "ECONNRESET", "onnection reset"],
        }
    }
}

/// Text this far before and after the deciding words is searched for the name of who was called.
const REACH: usize = 400;

/// Failed calls that applications logged and that are not over, by the Service that was called and the workload that logged it.
pub fn call_errors(
    snapshot: &Snapshot,
    failure: CallFailure,
) -> BTreeMap<ServiceName, BTreeMap<ObjectRef, Seen>> {
    let by_ip: BTreeMap<&str, ServiceName> = snapshot
        .services
        .iter()
        .flat_map(|s| s.cluster_ips.iter().map(|ip| (ip.as_str(), s.service_name())))
        .filter(|(ip, _)| *ip != "None")
        .collect();
    let finders: Vec<memchr::memmem::Finder<'_>> =
        failure.words().iter().map(memchr::memmem::Finder::new).collect();
    let mut out: BTreeMap<ServiceName, BTreeMap<ObjectRef, (Seen, Option<Timestamp>)>> = BTreeMap::new();
    for log in snapshot.logs.iter().filter(|log| !is_proxy_container(&log.container)) {
        let writer = snapshot.owner_by_name(&log.namespace, &log.pod);
        for line in &log.lines {
            let Some(at) = finders.iter().filter_map(|f| f.find(line.text.as_bytes())).min() else {
                continue;
            };
            let known = |word: &str| {
                if failure != CallFailure::Unresolved
                    && let Some(service) = by_ip.get(word)
                {
                    return Some(service.clone());
                }
                let (namespace, name) = service_of_host(&full_host(word, &log.namespace))?;
                let name = ServiceName::new(namespace, name);
                snapshot.service(&name).map(|_| name)
            };
            let Some(service) = called(&line.text, at, &known) else { continue };
            let (seen, last) = out.entry(service).or_default().entry(writer.clone()).or_default();
            *last = line.time.or(*last).max(*last);
            seen.count += 1;
            seen.onset = seen.onset.into_iter().chain(line.time).min();
            if seen.evidence.is_empty() {
                let place = format!("Pod {}/{}, container {}", log.namespace, log.pod, log.container);
                seen.evidence.push(
                    Evidence::new("Log", place, "the caller's log names the failed call")
                        .at(line.time)
                        .excerpt(&line.text),
                );
            }
        }
    }
    let digest = snapshot.derived::<Digest>();
    let lasts = |(writer, (seen, last)): (ObjectRef, (Seen, Option<Timestamp>))| {
        let over = digest.workloads.get(&writer).is_some_and(|log| log.is_over(seen.onset, last, seen.count));
        (!over).then_some((writer, seen))
    };
    let still = out.into_iter().map(|(called, by)| (called, by.into_iter().filter_map(lasts).collect()));
    still.filter(|(_, by): &(_, BTreeMap<_, _>)| !by.is_empty()).collect()
}

/// All of one Service's callers together.
pub fn together(by_writer: Option<&BTreeMap<ObjectRef, Seen>>) -> Seen {
    by_writer.into_iter().flat_map(BTreeMap::values).cloned().fold(Seen::default(), Seen::and)
}

/// Who was called, in a line of a log whose deciding words stand at `at`: the last host before them, else the first after
/// them. A bare word counts as a host only where the text around it says so.
fn called(text: &str, at: usize, known: &dyn Fn(&str) -> Option<ServiceName>) -> Option<ServiceName> {
    let mut from = at.saturating_sub(REACH);
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    let mut to = (at + REACH).min(text.len());
    while !text.is_char_boundary(to) {
        to -= 1;
    }
    let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let (mut before, mut after) = (None, None);
    let mut next = from;
    while let Some(start) = text.get(next..to).and_then(|rest| rest.find(host)).map(|i| next + i) {
        let rest = text.get(start..to).unwrap_or_default();
        let end = start + rest.find(|c: char| !host(c)).unwrap_or(rest.len());
        next = end;
        let word = text.get(start..end).unwrap_or_default().trim_end_matches('.');
        if word.len() < 2 {
            continue;
        }
        let lead = text.get(from..start).unwrap_or_default();
        let tail = text.get(end..to).unwrap_or_default();
        let port = tail.strip_prefix(':').is_some_and(|t| t.starts_with(|c: char| c.is_ascii_digit()));
        let told = port
            || word.contains('.')
            || [
                "://",
                "lookup ",
                "getaddrinfo ",
                "ENOTFOUND ",
                "EAI_AGAIN ",
                "Exception: ",
                "host ",
                "host \"",
                "host '",
                "host=",
                "host: ",
                "at \"",
                "resolve ",
            ]
            .iter()
            .any(|word| lead.ends_with(word));
        if !told {
            continue;
        }
        if start < at {
            before = known(word).or(before);
        } else if after.is_none() {
            after = known(word);
        }
    }
    before.or(after)
}

/// Whether findings about a namespace are wanted. What a target depends on counts, wherever it is; the platform's own
/// namespaces only where somebody asks about them.
pub fn wanted(snapshot: &Snapshot, namespace: &str) -> bool {
    !is_system_namespace(namespace) || snapshot.target.as_ref().is_some_and(|t| t.namespace == namespace)
}

/// Whether configuration of a namespace is looked at: the mesh's own namespace often holds gateways and routes of users, only
/// Kubernetes' own namespaces do not.
pub fn configured(namespace: &str) -> bool {
    !namespace.starts_with("kube-") && namespace != "local-path-storage"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(word: &str) -> Option<ServiceName> {
        ["pay", "cart", "10.96.0.1"].contains(&word).then(|| ServiceName::new("n", word))
    }

    #[test]
    fn the_host_next_to_the_words_was_called() {
        let text = r#"502 from http://cart/x: Get "http://pay/x": dial tcp 10.0.0.1:80: connect: connection refused"#;
        let at = text.find("onnection refused").unwrap();
        assert_eq!(called(text, at, &name).unwrap().name, "pay");
        let node = "connect ECONNREFUSED 10.96.0.1:5432";
        assert_eq!(called(node, 8, &name).unwrap().name, "10.96.0.1");
        let dns = "dial tcp: lookup pay on 10.96.0.10:53: no such host";
        assert_eq!(called(dns, dns.find("no such").unwrap(), &name).unwrap().name, "pay");
    }

    #[test]
    fn a_bare_word_is_no_host() {
        assert_eq!(called("pay failed: connection refused", 13, &name), None);
    }
}
