//! APP113.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared, Signal};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

use super::addresses::{addresses, named_service};
use super::calls::{self, Calls, service_of};
use super::settings::{Setting, settings};
use crate::analyze::rules::service::missing_ports::MissingPorts;

crate::rule! {
    /// A setting calls a Service at a port that it does not have, or with TLS where it speaks plaintext.
    ///
    /// ## What it detects
    /// A URL or a `host:port` in a setting that names a Service of the cluster and a port that is none of its ports (80 for
    /// `http://` and 443 for `https://` where the URL names none); or a URL with `https://` whose calls fail because plaintext came
    /// back, and the reverse.
    /// ## Why it matters
    /// Nothing answers at a port that a Service does not have: the call is refused or times out, whatever the pods behind it do.
    /// ## Evidence
    /// The setting, the ports of the Service, and the caller's log lines where they tell of failing calls to it.
    /// ## How to confirm
    /// `kubectl get service NAME -o jsonpath='{.spec.ports}'` against the URL in the setting.
    /// ## How to fix
    /// Name one of the Service's ports in the setting, or give the Service the port; correct the scheme.
    /// ## False positives
    /// Headless Services, where callers reach any port of the pods, Services of type ExternalName, and manifests in which the Service
    /// is not there. Where calls to the Service are known to be well, nothing is said.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#multi-port-services>
    WrongPortOrSchemeInSetting {
        code: "APP113", name: "wrong-port-or-scheme-in-setting", family: Application, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// What is wrong with the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// The port.
    Port(i64),
    /// `https` where plaintext is spoken (`true`), or the reverse.
    Scheme(bool),
}

/// A setting with a wrong address.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    caller: Option<ServiceName>,
    setting: Setting,
    service: ServiceName,
    wrong: Wrong,
    /// The Service's ports.
    ports: Vec<i64>,
    /// What the caller says of its calls to it.
    seen: Option<Calls>,
}

impl Check for WrongPortOrSchemeInSetting {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let failing = calls::failing(snapshot);
        let logs = Signal::Logs.is_in(snapshot);
        // Where the Service is what lost the port, its callers are right.
        let lost = snapshot.derived::<MissingPorts>();
        let mut out = vec![];
        for workload in snapshot
            .workloads
            .iter()
            .filter(|w| w.object.owners.is_empty() && snapshot.in_scope(w.object.namespace()))
        {
            let own: Vec<&Calls> = failing
                .all
                .iter()
                .filter(|c| c.caller.same_object(workload.reference()) && c.severity() >= Severity::Warning)
                .collect();
            for setting in settings(snapshot, workload) {
                for address in setting.value.as_deref().map(addresses).unwrap_or_default() {
                    let Some(service) = named_service(snapshot, &address.host, workload.object.namespace())
                    else {
                        continue;
                    };
                    let name = service.service_name();
                    let ports: Vec<i64> = service.ports.iter().map(|p| p.number).collect();
                    let to_it = |kinds: &[Kind]| {
                        own.iter()
                            .find(|c| {
                                c.service() == Some(&name) && c.kind().is_some_and(|k| kinds.contains(&k))
                            })
                            .map(|c| (*c).clone())
                    };
                    let scheme = to_it(&[Kind::Scheme])
                        .filter(|_| matches!(address.scheme.as_str(), "http" | "https"));
                    let seen = to_it(&[
                        Kind::Refused,
                        Kind::ConnectTimeout,
                        Kind::Unreachable,
                        Kind::Reset,
                        Kind::Timeout,
                    ]);
                    let (wrong, seen) = match (address.port, scheme) {
                        (_, Some(seen)) => (Wrong::Scheme(address.scheme == "https"), Some(seen)),
                        (Some(port), None) if !ports.contains(&port) && !lost.contains(&name, port) => {
                            (Wrong::Port(port), seen)
                        }
                        _ => continue,
                    };
                    // Its logs would tell: a setting that nobody uses hurts nobody.
                    if seen.is_none() && logs {
                        continue;
                    }
                    out.push(Fact {
                        workload: workload.reference().clone(),
                        caller: service_of(snapshot, workload.reference()),
                        setting: setting.clone(),
                        service: name,
                        wrong,
                        ports,
                        seen,
                    });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let ports: Vec<String> = fact.ports.iter().map(ToString::to_string).collect();
        let ports = ports.join(", ");
        let (title, why, mechanism) = match fact.wrong {
            Wrong::Port(port) => (
                format!(
                    "{} of {} calls port {port} of Service {}, which has {ports}",
                    fact.setting.name, fact.workload.name, fact.service
                ),
                format!(
                    "{} names port {port} of Service {}; its ports are {ports}",
                    fact.setting.name, fact.service
                ),
                "wrong port in a setting",
            ),
            Wrong::Scheme(tls) => {
                let (says, speaks) = if tls { ("https", "plaintext") } else { ("http", "TLS") };
                (
                    format!(
                        "{} of {} says {says}, and Service {} speaks {speaks}",
                        fact.setting.name, fact.workload.name, fact.service
                    ),
                    format!(
                        "{} names Service {} with {says}, and {speaks} comes back",
                        fact.setting.name, fact.service
                    ),
                    "TLS and plaintext mixed up: wrong scheme in a setting",
                )
            }
        };
        let amount = fact
            .seen
            .as_ref()
            .map(|c| format!(" {} of {} failed.", c.amount(), fact.workload))
            .unwrap_or_default();
        let severity = fact.seen.as_ref().map_or(Severity::Warning, Calls::severity);
        let confidence = if fact.seen.is_some() { Confidence::Observed } else { Confidence::Configured };
        let mut finding =
            Finding::new(Self::META, fact.setting.subject.clone(), &[&fact.service.to_string(), mechanism])
                .title(title)
                .message(format!("{why}.{amount} Nothing answers there, whatever the pods behind it do."))
                .mechanism(mechanism)
                .severity(severity)
                .role(Role::Cause, confidence)
                .service(fact.caller.clone())
                .related(fact.workload.clone())
                .evidence(Evidence::object(&fact.setting.subject, why.clone()))
                .evidence(Evidence::object(
                    &fact.service.reference().field("spec.ports"),
                    format!("ports {ports}"),
                ))
                .onset(fact.seen.as_ref().and_then(|c| c.first))
                .effect(Effect::calls(&fact.workload))
                .effect(Effect::requests(&fact.service, &["refused", "timeout", "tls", "UF"]))
                .prevention(Prevention::of(
                    "Test",
                    "In the pipeline: every URL in a setting names a port that its Service has",
                ));
        if let Some(seen) = &fact.seen {
            finding = finding.evidences(seen.evidence());
        }
        if let Some(service) = &fact.caller {
            finding = finding.effect(Effect::requests(service, &["5xx"]));
        }
        for remedy in remedies(fact, snapshot) {
            finding = finding.remedy(remedy);
        }
        finding
    }
}

fn remedies(fact: &Fact, snapshot: &Snapshot) -> Vec<Remedy> {
    let setting = &fact.setting;
    let Some(value) = setting.value.as_deref() else { return vec![] };
    let mut out = vec![];
    if let Some(before) = &setting.previous {
        out.extend(setting.set(snapshot, before, format!("Give {} its previous value", setting.name)));
    }
    match (fact.wrong, fact.ports.as_slice()) {
        (Wrong::Port(port), [right]) => {
            let written = format!(":{port}");
            let corrected = if value.contains(&written) {
                value.replacen(&written, &format!(":{right}"), 1)
            } else {
                with_port(value, *right)
            };
            out.extend(setting.set(
                snapshot,
                &corrected,
                format!("Call port {right}, the one that Service {} has", fact.service),
            ));
        }
        (Wrong::Scheme(true), _) => out.extend(setting.set(
            snapshot,
            &value.replacen("https://", "http://", 1),
            "Call it in plaintext",
        )),
        (Wrong::Scheme(false), _) => {
            out.extend(setting.set(snapshot, &value.replacen("http://", "https://", 1), "Call it with TLS"))
        }
        _ => {}
    }
    if out.is_empty() {
        out.push(Remedy::manual(format!("Correct the address in {} of {}", setting.name, setting.subject)));
    }
    out
}

/// A URL without port, with one.
fn with_port(url: &str, port: i64) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#', ',', ' ']).unwrap_or(rest.len());
    let (host, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
    format!("{scheme}://{host}:{port}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_written_into_a_url() {
        assert_eq!(with_port("http://pay/x", 8080), "http://pay:8080/x");
    }
}
