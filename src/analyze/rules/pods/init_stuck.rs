//! POD109.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use super::common::{self, Group, seconds};
use super::last_words::{LastWords, in_stream, last_words};
use super::probe::Probe;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::model::fields::Fields;
use crate::model::log::LogLine;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{
    Container, ContainerRole, ContainerState, ContainerStatus, Pod, Termination, is_proxy_container,
};

crate::rule! {
    /// An init container does not end, so the pod's own containers never start.
    ///
    /// ## What it detects
    /// An init container that has run for longer than a minute and whose log says again and again what it waits for, that has run for
    /// ten minutes and says nothing, or that fails again and again; and the host that it waits for, with whether that host exists.
    /// ## Why it matters
    /// The application does not start until the init container has ended with success.
    /// ## Evidence
    /// The init container's status, the line of its log that it repeats, its arguments, and the Services of the namespace.
    /// ## How to confirm
    /// `kubectl logs POD -c INIT-CONTAINER` repeats what it waits for; `kubectl get service NAME` says whether that is there.
    /// ## How to fix
    /// Correct the host's name or bring the host back; or take the init container out and let the application retry by itself.
    /// ## False positives
    /// A migration that takes its time: it logs progress, and does not say that it waits for something. Native sidecars (init
    /// containers with `restartPolicy: Always`) run for ever on purpose: they are looked at only where their startup probe fails.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/pods/init-containers/>
    InitStuck {
        code: "POD109", name: "init-container-stuck", family: Workload, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// An init container that does not end, or ends with an error again and again.
#[derive(Debug)]
pub struct Case<'a> {
    status: &'a ContainerStatus,
    words: Option<LastWords<'a>>,
    /// The host that it waits for, and how many lines say so.
    host: Option<(String, usize)>,
    /// Whether it fails, rather than waits.
    fails: bool,
    /// The startup probe that a native sidecar does not pass.
    probe: Option<Probe>,
    since: Option<jiff::Timestamp>,
}

/// An init container of a workload that holds its pods up.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

/// What is known of the host that is waited for.
enum Host<'a> {
    /// No such Service, and perhaps one of nearly that name.
    Absent(Option<&'a str>),
    /// It is there, without a ready endpoint.
    Down(ServiceName),
    /// It is there and has endpoints.
    Up(ServiceName),
    /// Outside the cluster, or not to be told.
    Unknown,
}

impl Check for InitStuck {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| stuck(snapshot, pod).into_iter().collect())
            .into_iter()
            .map(Fact)
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let container = &group.container;
        let told = group.cases.iter().find(|(_, case)| case.host.is_some()).or_else(|| group.first());
        let Some((pod, case)) = told else {
            return Finding::new(Self::META, group.owner.clone(), &[container]);
        };
        let name = case.host.as_ref().map(|(host, _)| host.as_str());
        let host = name.map_or(Host::Unknown, |name| look_up(snapshot, &group.owner.namespace, name));
        let waits = match (case.fails, name) {
            _ if case.probe.is_some() => "runs and does not pass its startup probe".to_owned(),
            (true, Some(name)) => format!("fails again and again at {name}"),
            (true, None) => format!("fails again and again ({} restarts)", case.status.restarts),
            (false, Some(name)) => format!("waits for {name}"),
            (false, None) => "does not end".to_owned(),
        };
        let known = match &host {
            Host::Absent(Some(near)) => format!(", which no Service is called (there is {near})"),
            Host::Absent(None) => ", which no Service is called".to_owned(),
            Host::Down(service) => format!(", and Service {service} has no ready endpoint"),
            Host::Up(service) => format!(", though Service {service} has ready endpoints"),
            Host::Unknown => String::new(),
        };
        let since = group.cases.iter().filter_map(|(_, case)| case.since).min();
        let for_time = since
            .map(|at| format!(" for {}", seconds(common::seconds_between(at, snapshot.now))))
            .unwrap_or_default();
        let mut message = format!(
            "Init container {container} of {} holds up {}{for_time}: it {waits}{known}. The pod's own containers start only after {}",
            group.owner,
            group.share(),
            if case.probe.is_some() { "that has" } else { "it has ended" }
        );
        if let Some(rollout) = group.rollout(snapshot) {
            message += &format!(
                ". These pods came with the rollout of {}, which changed {}",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message +=
            if group.all_down() { ". No pod of the workload serves." } else { ". Older pods still serve." };
        // A host that is there and down is the deeper cause.
        let role = if matches!(host, Host::Down(_)) { Role::Symptom } else { Role::Cause };
        let field = group.container().map_or_else(|| "initContainers".to_owned(), |c| c.path());
        let subject = group.owner.field(group.pod_field(&field));
        let lines = case.host.as_ref().map_or(0, |(_, lines)| *lines);
        let finding = Finding::new(Self::META, subject.clone(), &[container])
            .title(format!("{}: init container {container} {waits}{known}", group.owner))
            .message(message)
            .mechanism(if case.probe.is_some() { "init container stuck: a native sidecar does not pass its startup probe" } else if case.fails { "init container stuck: it fails again and again" } else { "init container stuck: it keeps waiting" })
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(role, Confidence::Observed)
            .evidences(group.cases.iter().take(2).map(|(pod, case)| common::container_evidence(pod, case.status)))
            .evidences(case.words.as_ref().map(LastWords::evidence))
            .evidences(name.filter(|_| lines > 1).map(|name| {
                Evidence::new("Log", format!("{}, container {container}", pod.object.reference), format!("{lines} lines speak of {name}"))
            }))
            .evidences(case.probe.as_ref().map(|probe| {
                Evidence::object(&group.owner.field(group.container_field("startupProbe")), probe.to_string())
            }))
            .evidence(Evidence::object(&subject, arguments(group)))
            .onset(since.or_else(|| group.cases.iter().filter_map(|(pod, _)| pod.object.created).min()))
            .maybe_remedy(match (&host, name) {
                (Host::Absent(Some(near)), Some(name)) => rename(group, name, near),
                _ => None,
            })
            .maybe_remedy(group.undo_rollout(snapshot, "initContainers"))
            .maybe_remedy(remove(group))
            .remedy(Remedy::commands(
                match &host {
                    Host::Down(service) => format!("Bring Service {service} back: the init container ends by itself as soon as it answers"),
                    _ => "Read what it waits for, and bring that back or correct its name in the args, command or env of the init container".to_owned(),
                },
                vec![common::logs_command(pod, container, case.fails)],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when a pod does not get past its init containers",
                format!("kube_pod_init_container_status_running{{{},container=\"{container}\"}} == 1", common::pod_matcher(&group.owner)),
            ))
            .prevention(Prevention::of("Setting", "Let the application retry its dependencies itself instead of an init container that waits for ever, or give that one a deadline"));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// An init container that asks again and again for a host which no Service has is stuck after this long, one that says what it
/// waits for after that, a silent one last of all.
const NAMES_SECONDS: f64 = 15.0;
const WAITS_SECONDS: f64 = 60.0;
const SILENT_SECONDS: f64 = 600.0;

/// The init container that holds a pod up.
fn stuck<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<(String, Case<'a>)> {
    if pod.ended() || pod.phase != "Pending" {
        return None;
    }
    for (container, status) in pod.containers() {
        if container.role == ContainerRole::NativeSidecar && !is_proxy_container(&container.name) {
            match unstarted(snapshot, pod, container, status) {
                Some(case) => return Some((container.name.clone(), case)),
                None => continue,
            }
        }
        if container.role != ContainerRole::Init || is_proxy_container(&container.name) {
            continue;
        }
        let created = pod.object.created;
        let (fails, since) = match &status.state {
            ContainerState::Running { since } => (false, *since),
            ContainerState::Waiting { reason, .. } if reason == "CrashLoopBackOff" => (true, created),
            ContainerState::Terminated(end) if end.exit_code != 0 => (true, created),
            ContainerState::Terminated(_) => continue,
            _ => return None,
        };
        if fails && status.restarts == 0 {
            return None;
        }
        let stream = snapshot
            .log(pod.object.namespace(), pod.object.name(), &container.name, false)
            .filter(|s| !s.lines.is_empty());
        let words = match stream {
            Some(stream) if !fails => in_stream(stream),
            _ => last_words(snapshot, pod, status),
        };
        let lines = words.as_ref().map_or(&[][..], |w| w.stream.lines.as_slice());
        let host = waited_for(lines);
        // Out of memory and the like have rules of their own; an end for them is no wait.
        if fails && status.latest_end().is_some_and(Termination::out_of_memory) {
            return None;
        }
        let waited = since.map(|at| common::seconds_between(at, snapshot.now));
        let says = host.is_some() || words.as_ref().is_some_and(|w| is_waiting(w.text));
        let nobody = host.as_ref().is_some_and(|(name, lines)| {
            *lines >= 2 && matches!(look_up(snapshot, pod.object.namespace(), name), Host::Absent(_))
        });
        let patience = match (nobody, says) {
            (true, _) => NAMES_SECONDS,
            (false, true) => WAITS_SECONDS,
            (false, false) => SILENT_SECONDS,
        };
        if !fails && waited.is_none_or(|s| s < patience) {
            return None;
        }
        return Some((container.name.clone(), Case { status, words, host, fails, probe: None, since }));
    }
    None
}

/// A native sidecar that runs and does not pass its startup probe: what comes after it waits as for any init container.
fn unstarted<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    container: &Container,
    status: &'a ContainerStatus,
) -> Option<Case<'a>> {
    let ContainerState::Running { since } = &status.state else { return None };
    let probe = Probe::read(container, "startupProbe").filter(|_| !status.started)?;
    let waited = since.map(|at| common::seconds_between(at, snapshot.now))?;
    let failed = common::container_events(snapshot, pod, &container.name, "Unhealthy")
        .filter(|e| e.message.starts_with("Startup probe"));
    let failed: i64 = failed.map(|e| e.count).sum();
    let patience = (probe.initial_delay + 3.0 * probe.period).max(NAMES_SECONDS);
    if failed < 3 || waited < patience {
        return None;
    }
    let words = snapshot
        .log(pod.object.namespace(), pod.object.name(), &container.name, false)
        .filter(|s| !s.lines.is_empty())
        .and_then(in_stream);
    Some(Case { status, words, host: None, fails: false, probe: Some(probe), since: *since })
}

/// Whether a line says that something is waited for.
fn is_waiting(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    ["waiting for", "wait for", "not ready", "not available", "retry", "sleeping", "trying again"]
        .iter()
        .any(|w| lower.contains(w))
}

/// This many lines at the end are looked at.
const LOOK_BACK: usize = 200;

/// The host that the last lines speak of as something that does not answer, with how many lines do.
fn waited_for(lines: &[LogLine]) -> Option<(String, usize)> {
    let lines = lines.get(lines.len().saturating_sub(LOOK_BACK)..)?;
    let hosts: Vec<String> = lines.iter().filter_map(|line| host_in(&line.text)).collect();
    let last = hosts.last()?;
    Some((last.clone(), hosts.iter().filter(|host| *host == last).count()))
}

/// The host in one line.
fn host_in(line: &str) -> Option<String> {
    static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
        const HOST: &str = r#"["'`]?(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.\-]*[A-Za-z0-9])?(?::\d+)?)["'`]?"#;
        [
            format!(r"(?i)lookup {HOST}(?: on \S+)?: (?:no such host|server misbehaving|i/o timeout)"),
            format!(r"(?i)(?:could not|couldn't|can't|cannot|unable to) (?:resolve|translate)(?: host(?:name)?)?(?: name)?:? {HOST}"),
            format!(r"(?i)server can't find {HOST}: "),
            format!(r"(?i)bad address:? {HOST}"),
            format!(r"(?i)getaddrinfo (?:ENOTFOUND|EAI_AGAIN) {HOST}"),
            format!(r"(?i)(?:unknown host|UnknownHostException):? {HOST}"),
            format!(r"(?i){HOST}: (?:name or service not known|name does not resolve|nodename nor servname)"),
            format!(r"(?i)wait(?:ing)? (?:for|on|until) (?:the )?(?:service |host |database |tcp://|http://|https://)?{HOST}"),
            format!(r"(?i)(?:connect(?:ion)?(?:ing)? to|dial tcp|reach) (?:server )?(?:at )?(?:tcp://|http://|https://)?{HOST}.*(?:refused|timed? ?out|timeout|failed|unreachable|no route)"),
            format!(r"(?i)(?:curl|nc|wget|psql|mysql|redis)[^:]*: .*?(?:connect to|resolve host:?) {HOST}"),
        ]
        .iter()
        .filter_map(|pattern| Regex::new(pattern).ok())
        .collect()
    });
    const NO_HOSTS: &[&str] = &[
        "to",
        "the",
        "a",
        "it",
        "be",
        "database",
        "service",
        "host",
        "server",
        "dependencies",
        "dependency",
        "db",
        "all",
        "connection",
        "pod",
        "ready",
    ];
    PATTERNS.iter().find_map(|pattern| {
        let host = pattern.captures(line)?.name("host")?.as_str();
        (!NO_HOSTS.contains(&host.to_ascii_lowercase().as_str()) || host.contains(':'))
            .then(|| host.to_owned())
    })
}

/// What is known of a host.
fn look_up<'a>(snapshot: &'a Snapshot, namespace: &str, host: &str) -> Host<'a> {
    use crate::model::mesh::istio::{full_host, service_of_host};
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if name.chars().all(|c| c.is_ascii_digit() || c == '.') || name.contains(':') {
        return Host::Unknown;
    }
    let full = full_host(name, namespace);
    let Some((ns, service)) = service_of_host(&full) else { return Host::Unknown };
    let wanted = ServiceName::new(&ns, &service);
    match snapshot.service(&wanted) {
        Some(found) => match snapshot.endpoints(found) {
            Some((0, _)) => Host::Down(wanted),
            Some(_) => Host::Up(wanted),
            None => Host::Unknown,
        },
        // A name of several parts that is no Service's is a host outside, unless it says that it is one of the cluster's.
        None if name.contains('.')
            && !name.contains(".svc")
            && !snapshot.services.iter().any(|s| s.object.namespace() == ns) =>
        {
            Host::Unknown
        }
        None => {
            let there =
                snapshot.services.iter().filter(|s| s.object.namespace() == ns).map(|s| s.object.name());
            Host::Absent(nearest(&service, there))
        }
    }
}

/// What the init container is told, as evidence.
fn arguments(group: &Group<'_, Case<'_>>) -> String {
    let Some(container) = group.container() else { return "its template was not seen".to_owned() };
    let mut words = container.body.texts("command");
    words.extend(container.body.texts("args"));
    const SHOWN: usize = 160;
    let text = words.join(" ");
    let text: String = text.chars().take(SHOWN).collect();
    if text.is_empty() {
        format!("runs image {} with its own command", container.image)
    } else {
        format!("runs {text}")
    }
}

/// Correct the host's name in the argument that holds it.
fn rename(group: &Group<'_, Case<'_>>, host: &str, near: &str) -> Option<Remedy> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let container = group.container()?;
    for list in ["args", "command"] {
        for (index, word) in container.body.list(list).iter().enumerate() {
            let Some(word) = word.as_str().filter(|word| word.contains(name)) else { continue };
            return group.patch_container(
                &[("replace", &format!("{list}[{index}]"), json!(word.replace(name, near)))],
                format!(
                    "Correct the host in the {list} of init container {} from {name} to {near}",
                    group.container
                ),
            );
        }
    }
    None
}

/// Take the init container out.
fn remove(group: &Group<'_, Case<'_>>) -> Option<Remedy> {
    let workload = group.workload?;
    let container = workload.template.container(&group.container)?;
    let all = workload.template.spec.list("initContainers").len();
    let path = if all == 1 { group.pod_field("initContainers") } else { group.pod_field(&container.path()) };
    let remedy = Remedy::patch(
        &workload.object,
        &json!([{"op": "remove", "path": pointer(&path)}]),
        format!(
            "Remove init container {} from initContainers: the application then starts without what it waits for",
            group.container
        ),
    )?;
    Some(remedy.risk(Risk::Medium))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_the_host() {
        for (line, host) in [
            ("waiting for cache:6379: dial tcp: lookup cache on 10.96.0.10:53: no such host", "cache"),
            ("2026-11-21T10:00:00Z waiting for orders-db:5432", "orders-db:5432"),
            ("nslookup: can't resolve 'orders-db'", "orders-db"),
            ("nc: bad address 'redis'", "redis"),
            (
                "psql: error: could not translate host name \"db.shop\" to address: Name or service not known",
                "db.shop",
            ),
            ("** server can't find queue.shop.svc.cluster.local: NXDOMAIN", "queue.shop.svc.cluster.local"),
            ("Error: getaddrinfo ENOTFOUND mongo", "mongo"),
            ("dial tcp 10.0.0.1:80: connect: connection refused", "10.0.0.1:80"),
        ] {
            assert_eq!(host_in(line).as_deref(), Some(host), "{line}");
        }
        assert_eq!(host_in("migrated 300 of 900 rows"), None);
    }
}
