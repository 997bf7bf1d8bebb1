//! APP124.

use super::calls::{MIN_FAILURES, service_of, since};
use super::settings::{Setting, settings};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, ErrorGroup, WorkloadLog};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// nginx says which of its own limits or settings fails requests.
    ///
    /// ## What it detects
    /// Lines of nginx's error log whose words decide: too few connections for each worker, a host in an upstream that does not exist, a
    /// name that its resolver did not resolve, headers larger than its buffers, bodies larger than it takes, a rewrite to nothing, a
    /// handshake with an upstream that fails, no live upstream.
    /// ## Why it matters
    /// nginx answers with 502, 504, 413 or 500 itself, and the application behind it never sees these requests.
    /// ## Evidence
    /// The line, its count, first and last time, and the ConfigMap that holds the directive where one is mounted.
    /// ## How to confirm
    /// `kubectl exec deployment/NAME -- nginx -T` prints the whole configuration as nginx reads it.
    /// ## How to fix
    /// The directive that each line names: `worker_connections`, the host of `proxy_pass` or `upstream`, `resolver`,
    /// `proxy_buffer_size`, `client_max_body_size`, `rewrite`, `proxy_ssl_*`.
    /// ## False positives
    /// Single lines are not reported, but for hosts that keep nginx from starting. No live upstream and timed-out upstreams follow from
    /// what lies behind: they are symptoms.
    /// ## References
    /// <https://nginx.org/en/docs/http/ngx_http_proxy_module.html>
    NginxLimit {
        code: "APP124", name: "nginx-says-why", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// What nginx says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Connections,
    NoSuchUpstream,
    NotResolved,
    ResolverFailed,
    HeaderTooBig,
    BodyTooLarge,
    EmptyRewrite,
    Handshake,
    NoLiveUpstream,
    UpstreamSlow,
}

impl Said {
    const ALL: &'static [(&'static str, Said)] = &[
        ("worker_connections are not enough", Said::Connections),
        ("host not found in upstream", Said::NoSuchUpstream),
        ("could not be resolved (3:", Said::NotResolved),
        ("could not be resolved (", Said::ResolverFailed),
        ("upstream sent too big header", Said::HeaderTooBig),
        ("client intended to send too large", Said::BodyTooLarge),
        ("rewritten URI has a zero length", Said::EmptyRewrite),
        ("SSL_do_handshake() failed", Said::Handshake),
        ("no live upstreams", Said::NoLiveUpstream),
        ("upstream timed out", Said::UpstreamSlow),
    ];

    fn read(text: &str) -> Option<Said> {
        Said::ALL.iter().find(|(words, _)| text.contains(words)).map(|(_, said)| *said)
    }

    fn directive(self) -> &'static str {
        match self {
            Said::Connections => "worker_connections",
            Said::NoSuchUpstream | Said::NotResolved => "proxy_pass",
            Said::ResolverFailed => "resolver",
            Said::HeaderTooBig => "proxy_buffer_size",
            Said::BodyTooLarge => "client_max_body_size",
            Said::EmptyRewrite => "rewrite",
            Said::Handshake => "proxy_ssl_server_name",
            Said::NoLiveUpstream => "upstream",
            Said::UpstreamSlow => "proxy_read_timeout",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Said::Connections => "its workers have no free connections",
            Said::NoSuchUpstream => "a host of its upstreams does not exist",
            Said::NotResolved => "a host that it proxies to does not exist",
            Said::ResolverFailed => "its resolver does not answer",
            Said::HeaderTooBig => "an answer's header exceeds its buffer",
            Said::BodyTooLarge => "a request's body exceeds what it takes",
            Said::EmptyRewrite => "a rewrite leaves no path",
            Said::Handshake => "the TLS handshake with an upstream fails",
            Said::NoLiveUpstream => "all its upstreams failed",
            Said::UpstreamSlow => "an upstream does not answer in time",
        }
    }

    fn todo(self) -> &'static str {
        match self {
            Said::Connections => {
                "Raise worker_connections (and worker_rlimit_nofile with it), or run more replicas"
            }
            Said::NoSuchUpstream => {
                "Correct the host in the upstream or proxy_pass; a Service must exist when nginx starts"
            }
            Said::NotResolved => {
                "Correct the host in proxy_pass, with its namespace: NAME.NAMESPACE.svc.cluster.local"
            }
            Said::ResolverFailed => {
                "Point resolver at the cluster's name server and let egress policies lead to it on UDP and TCP 53"
            }
            Said::HeaderTooBig => {
                "Raise proxy_buffer_size and proxy_buffers, or let the application send smaller headers"
            }
            Said::BodyTooLarge => "Raise client_max_body_size to what the application takes",
            Said::EmptyRewrite => "Correct the rewrite: its replacement must leave at least /",
            Said::Handshake => {
                "Set proxy_ssl_server_name on and proxy_ssl_name to the upstream's name, and match scheme and port"
            }
            Said::NoLiveUpstream => "Heal the upstreams: their own log and readiness say why they fail",
            Said::UpstreamSlow => {
                "Find what the upstream waits for; proxy_read_timeout bounds how long nginx waits"
            }
        }
    }

    /// Whether it follows from somebody else.
    fn is_symptom(self) -> bool {
        matches!(self, Said::NoLiveUpstream | Said::UpstreamSlow | Said::ResolverFailed | Said::Handshake)
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Said::BodyTooLarge => &["413", "4xx"],
            Said::UpstreamSlow => &["timeout", "5xx"],
            Said::Connections => &["5xx", "reset"],
            _ => &["5xx"],
        }
    }
}

/// What an nginx says, how often.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    service: Option<ServiceName>,
    said: Said,
    error: ErrorGroup,
    count: u64,
    /// The setting that holds the directive.
    setting: Option<Setting>,
    /// The ConfigMap's key that holds nginx' configuration.
    place: Option<ObjectRef>,
    /// A Service with nearly the name that does not exist.
    near: Option<String>,
}

impl Check for NginxLimit {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let digest = snapshot.derived::<Digest>();
        let mut out: Vec<Fact> = vec![];
        for (workload, log) in &digest.workloads {
            for (said, sample, count) in said(log) {
                let enough = count >= MIN_FAILURES || said == Said::NoSuchUpstream;
                if !enough || sample.ended(log) {
                    continue;
                }
                let all = snapshot.workload(workload).map(|w| settings(snapshot, w)).unwrap_or_default();
                out.push(Fact {
                    service: service_of(snapshot, workload),
                    setting: all
                        .into_iter()
                        .find(|s| s.name.ends_with(said.directive()) && s.value.is_some()),
                    place: configuration(snapshot, workload),
                    near: near(snapshot, workload, said, &sample.sample),
                    workload: workload.clone(),
                    error: sample.clone(),
                    count,
                    said,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let (said, error) = (fact.said, &fact.error);
        let subject = fact
            .setting
            .as_ref()
            .map(|s| s.subject.clone())
            .or_else(|| fact.place.clone())
            .unwrap_or_else(|| fact.workload.clone());
        let role = if said.is_symptom() { Role::Symptom } else { Role::Cause };
        let place = format!(
            "Pod {}/{}, container {}",
            fact.workload.namespace, error.place.pod, error.place.container
        );
        let near =
            fact.near.as_ref().map(|near| format!(" Service {near} has a similar name.")).unwrap_or_default();
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.workload.name, said.directive()])
            .title(format!("{}: nginx says that {}, {} times{}", fact.workload, said.words(), fact.count, since(error.first)))
            .message(format!(
                "The error log of nginx in {} says that {}, {} times{}. The directive is {}.{near}",
                fact.workload,
                said.words(),
                fact.count,
                since(error.first),
                said.directive()
            ))
            .mechanism(format!("nginx: {} ({})", said.words(), said.directive()))
            .severity(if fact.count >= MIN_FAILURES || said == Said::NoSuchUpstream { Severity::Error } else { Severity::Warning })
            .role(role, Confidence::Observed)
            .service(fact.service.clone())
            .evidence(Evidence::new("Log", place, format!("{} times", fact.count)).at(error.first).excerpt(&error.sample))
            .onset(error.first)
            .remedy(Remedy::manual(match &fact.near {
                Some(near) => format!("{}; Service {near} has a similar name: {subject}", said.todo()),
                None => format!("{}: {subject}", said.todo()),
            }))
            .prevention(Prevention::alert("Alert before nginx runs out of connections", "nginx_connections_active / 1024 > 0.9"))
            .prevention(Prevention::of("Test", "Run nginx -t with the configuration as it is mounted, in the cluster where its hosts resolve"));
        if !subject.same_object(&fact.workload) {
            finding = finding.related(fact.workload.clone());
        }
        if said == Said::NoSuchUpstream {
            finding = finding.effect(Effect::pods(&fact.workload));
        }
        if let Some(service) = &fact.service {
            finding = finding.effect(Effect::requests(service, said.flags()));
        }
        finding.effect(Effect::calls(&fact.workload))
    }
}

/// What nginx says in a log, each with its first group and how often. Calls that failed are grouped elsewhere by their callee.
fn said(log: &WorkloadLog) -> Vec<(Said, &ErrorGroup, u64)> {
    let mut found: Vec<(Said, &ErrorGroup, u64)> = vec![];
    for error in &log.errors {
        let Some(said) = Said::read(&error.sample).filter(|_| is_nginx(&error.sample)) else { continue };
        match found.iter_mut().find(|(known, _, _)| *known == said) {
            Some((_, _, count)) => *count += error.count,
            None => found.push((said, error, error.count)),
        }
    }
    found
}

/// Whether a line has the form of nginx' error log: `[error] 31#31: *1 …`, or a start that failed.
fn is_nginx(text: &str) -> bool {
    let level = ["[alert] ", "[emerg] ", "[crit] ", "[error] ", "[warn] "]
        .iter()
        .find_map(|level| text.split_once(level));
    level.is_some_and(|(_, rest)| {
        let head = rest.split(' ').next().unwrap_or_default();
        head.strip_suffix(':')
            .is_some_and(|ids| ids.contains('#') && ids.bytes().all(|b| b.is_ascii_digit() || b == b'#'))
    }) || text.contains("nginx: [emerg]")
}

/// The mounted ConfigMap's key that holds nginx' configuration.
fn configuration(snapshot: &Snapshot, workload: &ObjectRef) -> Option<ObjectRef> {
    let template = &snapshot.workload(workload)?.template;
    for reference in template.config_references().into_iter().filter(|r| r.kind == "ConfigMap") {
        let Some(object) = snapshot.object("ConfigMap", &workload.namespace, &reference.name) else {
            continue;
        };
        let keys = object.body.pointer("/data").and_then(|data| data.as_object()).into_iter().flatten();
        if let Some((key, _)) =
            keys.into_iter().find(|(key, _)| key.ends_with(".conf") || key.ends_with(".conf.template"))
        {
            return Some(object.reference.field(format!("data.{key}")));
        }
    }
    None
}

/// A Service whose name is near the one that does not exist.
fn near(snapshot: &Snapshot, workload: &ObjectRef, said: Said, text: &str) -> Option<String> {
    if !matches!(said, Said::NoSuchUpstream | Said::NotResolved) {
        return None;
    }
    let host = match said {
        Said::NoSuchUpstream => text.split_once("host not found in upstream \"")?.1,
        _ => text.split_once(" could not be resolved")?.0.rsplit(' ').next()?,
    };
    let host = host.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))).next()?;
    let name = host.split('.').next()?;
    let services = || snapshot.services.iter().filter(|s| s.object.namespace() == workload.namespace);
    let elsewhere = snapshot
        .services
        .iter()
        .find(|s| s.object.name() == name && s.object.namespace() != workload.namespace);
    nearest(name, services().map(|s| s.object.name()))
        .map(|near| format!("{}/{near}", workload.namespace))
        .or_else(|| Some(elsewhere?.service_name().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_nginx_are_told_from_others() {
        for (line, said) in [
            (
                "2023/07/15 23:01:10 [alert] 12345#0: *76 1024 worker_connections are not enough",
                Said::Connections,
            ),
            (
                "2026/11/21 10:00:00 [emerg] 1#1: host not found in upstream \"pay\" in /etc/nginx/nginx.conf:3",
                Said::NoSuchUpstream,
            ),
            (
                "2026/11/21 10:00:00 [error] 7#7: *1 pay.shop could not be resolved (3: Host not found)",
                Said::NotResolved,
            ),
            (
                "2026/11/21 10:00:00 [error] 7#7: *1 pay.shop could not be resolved (110: Operation timed out)",
                Said::ResolverFailed,
            ),
        ] {
            assert!(is_nginx(line) && Said::read(line) == Some(said), "{line}");
        }
        assert!(!is_nginx("[error] upstream timed out") && !is_nginx("no live upstreams"));
    }
}
