//! APP112.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

use super::calls::{self, Calls, service_of, since};
use super::settings::{Setting, names_host, settings};

crate::rule! {
    /// A setting names a host that does not exist.
    ///
    /// ## What it detects
    /// Calls that fail because a name does not resolve (no such host, NXDOMAIN), where no Service has that name and a setting of
    /// the caller, in its environment, its arguments or a ConfigMap, holds it; also calls to a name without a dot that cannot be
    /// made at all, where the caller's namespace has no such Service.
    /// ## Why it matters
    /// Every call fails at once, before anything is sent: no callee, proxy or policy is asked.
    /// ## Evidence
    /// The caller's log lines with the name, the setting that holds it, and Services with similar names.
    /// ## How to confirm
    /// From a pod of the caller: `nslookup NAME`. A Service of another namespace needs it: `NAME.NAMESPACE`.
    /// ## How to fix
    /// Correct the name in the setting, or make the Service that it names; restart the pods where they read the setting when they
    /// start.
    /// ## False positives
    /// A resolver that fails (SERVFAIL, timeouts, `EAI_AGAIN`) is not reported here, nor a name that a Service has (its ExternalName
    /// then leads nowhere), nor names while existing Services do not resolve either.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>
    DependencyNameUnknown {
        code: "APP112", name: "dependency-name-unknown", family: Application, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// A name that nobody has, and the setting that holds it.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    host: String,
    /// The setting that holds it, where one was seen.
    setting: Option<Setting>,
    caller: Option<ServiceName>,
    /// A Service whose name is near.
    near: Option<ServiceName>,
}

impl Check for DependencyNameUnknown {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let failing = calls::failing(snapshot);
        let all = &failing.all;
        let dns = |c: &&Calls| c.kind() == Some(Kind::NoSuchHost) && c.severity() >= Severity::Warning;
        // Some clients say of every host that they cannot reach the same.
        let nobody = |c: &&Calls| {
            matches!(c.kind(), Some(Kind::Unreachable | Kind::ConnectTimeout | Kind::Refused))
                && c.severity() >= Severity::Warning
                && c.main().is_some_and(|group| is_nobody(snapshot, group.host(), &c.caller))
        };
        // Where Services that exist do not resolve either, it is the resolver.
        let plain =
            |service: &ServiceName| snapshot.service(service).is_some_and(|s| s.external_name.is_empty());
        if all.iter().filter(dns).any(|c| c.service().is_some_and(plain)) {
            return vec![];
        }
        let mut out = vec![];
        for calls in all.iter().filter(|c| (dns(c) || nobody(c)) && c.service().is_none()) {
            let Some(host) = calls.main().map(|group| group.host().to_owned()) else { continue };
            let holds = |s: &Setting| s.value.as_ref().is_some_and(|value| names_host(value, &host));
            let all = snapshot
                .workload(&calls.caller)
                .map(|workload| settings(snapshot, workload))
                .unwrap_or_default();
            let setting = all.into_iter().find(holds);
            let near = near(snapshot, &host, &calls.caller.namespace);
            // What an init container waits for is told by its own rule.
            let place = calls.main().map(|group| group.place.container.as_str()).unwrap_or_default();
            let known = snapshot.workload(&calls.caller).map(|w| &w.template);
            if setting.is_none()
                && known.is_some_and(|t| !t.application_containers().any(|c| c.name == place))
            {
                continue;
            }
            // A name with dots that nothing here holds belongs to somebody outside.
            if setting.is_none() && near.is_none() && host.contains('.') {
                continue;
            }
            out.push(Fact {
                near,
                caller: service_of(snapshot, &calls.caller),
                calls: calls.clone(),
                host,
                setting,
            });
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let caller = &fact.calls.caller;
        let subject = fact.setting.as_ref().map_or_else(|| caller.clone(), |setting| setting.subject.clone());
        let says =
            fact.setting.as_ref().map(|s| format!(", as its setting {} says", s.name)).unwrap_or_default();
        let mut message = format!(
            "{caller} calls \"{}\"{says}, and no such host exists: {} failed{}.",
            fact.host,
            fact.calls.amount(),
            since(fact.calls.first)
        );
        if let Some(near) = &fact.near {
            message.push_str(&format!(" Service {near} has a similar name."));
        }
        let title = match &fact.setting {
            Some(setting) => format!("{} of {} names host", setting.name, caller.name),
            None => format!("{} calls host", caller.name),
        };
        let mut finding = Finding::new(Self::META, subject, &[&fact.host])
            .title(format!("{title} \"{}\", which does not exist: {} failed", fact.host, fact.calls.amount()))
            .message(message)
            .mechanism("no such host: DNS name in a setting does not exist")
            .severity(fact.calls.severity())
            .role(Role::Cause, Confidence::Observed)
            .service(fact.caller.clone())
            .related(caller.clone())
            .evidences(fact.calls.evidence())
            .evidences(fact.setting.as_ref().map(|setting| {
                Evidence::object(&setting.subject, format!("{} names host \"{}\"", setting.name, fact.host))
            }))
            .onset(fact.calls.first)
            .effect(Effect::calls(caller))
            .prevention(Prevention::of(
                "Test",
                "In the pipeline: every host in a setting is a Service of the cluster or resolves outside",
            ))
            .prevention(Prevention::alert(
                "Alert on names that do not exist",
                "sum(rate(coredns_dns_responses_total{rcode=\"NXDOMAIN\",zone=\"cluster.local.\"}[5m])) > 10"
                    .to_owned(),
            ));
        if let Some(service) = &fact.caller {
            finding = finding.effect(Effect::requests(service, &["5xx", "dns"]));
        }
        for remedy in remedies(fact, snapshot) {
            finding = finding.remedy(remedy);
        }
        finding
    }
}

fn remedies(fact: &Fact, snapshot: &Snapshot) -> Vec<Remedy> {
    let mut out = vec![];
    let Some(setting) = &fact.setting else {
        let to =
            fact.near.as_ref().map(|near| format!(": Service {near} has a similar name")).unwrap_or_default();
        return vec![Remedy::manual(format!(
            "Correct the host where {} takes it from{to}, or make the Service \"{}\" that it names",
            fact.calls.caller, fact.host
        ))];
    };
    if let Some(before) = setting.previous.as_ref().filter(|before| !names_host(before, &fact.host)) {
        out.extend(setting.set(snapshot, before, format!("Give {} its previous value", setting.name)));
    }
    if let (Some(near), Some(value)) = (&fact.near, &setting.value) {
        let name = if near.namespace == fact.calls.caller.namespace {
            near.name.clone()
        } else {
            format!("{}.{}", near.name, near.namespace)
        };
        out.extend(setting.set(
            snapshot,
            &value.replacen(&fact.host, &name, 1),
            format!("Name Service {near} in {}", setting.name),
        ));
    }
    if out.is_empty() {
        out.push(Remedy::manual(format!(
            "Correct the host in {} of {}, or make the Service \"{}\" that it names",
            setting.name, setting.subject, fact.host
        )));
    }
    out
}

/// Whether a name without a dot is nobody's: neither a Service beside the caller, nor an alias that its pods carry.
fn is_nobody(snapshot: &Snapshot, host: &str, caller: &ObjectRef) -> bool {
    let plain =
        !host.contains(['.', ':']) && host != "localhost" && host.contains(|c: char| c.is_ascii_alphabetic());
    let own = ServiceName::new(&caller.namespace, host);
    let template = snapshot
        .workload(caller)
        .map(|w| &w.template)
        .or_else(|| snapshot.pod(&caller.namespace, &caller.name).map(|pod| &pod.template));
    let aliases = template.map(|t| t.spec.list("hostAliases")).unwrap_or_default();
    plain
        && snapshot.knows_kind("Service")
        && snapshot.service(&own).is_none()
        && !aliases.iter().any(|alias| alias.texts("hostnames").iter().any(|name| name == host))
}

/// A Service with nearly this name: the same name in another namespace, or a name that differs in at most two letters.
fn near(snapshot: &Snapshot, host: &str, namespace: &str) -> Option<ServiceName> {
    let name = host.split('.').next().unwrap_or(host);
    let known = || snapshot.services.iter().map(|s| s.service_name());
    let mut same = known().filter(|s| s.name == name);
    if let (Some(one), None) = (same.next(), same.next()) {
        return Some(one);
    }
    known()
        .filter(|s| s.namespace == namespace)
        .map(|s| (distance(&s.name, name), s))
        .filter(|(d, s)| *d <= 2 && *d * 3 <= s.name.len())
        .min()
        .map(|(_, s)| s)
}

/// How many letters must be changed, added or taken away.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], k: usize| row.get(k).copied().unwrap_or(usize::MAX / 2);
            let best = (at(&row, j) + usize::from(x != *y)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            next.push(best);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("payment", "payments"), 1);
        assert_eq!(distance("payment", "paymetn"), 2);
        assert_eq!(distance("", "ab"), 2);
    }
}
