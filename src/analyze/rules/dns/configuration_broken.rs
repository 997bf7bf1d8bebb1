//! DNS102.

use super::server::{self, Lines, configuration, name_server};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{Calls, since};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// CoreDNS does not accept its configuration.
    ///
    /// ## What it detects
    /// Lines of CoreDNS' log that say so: an error while it parses its Corefile, an unknown directive, a plugin that does not start, a loop
    /// in which it asks itself, a changed Corefile that it could not load.
    /// ## Why it matters
    /// A pod that starts with it ends at once; once no pod is left, no name of the cluster resolves. Pods that run go on with the old
    /// configuration, so it often shows days later, when nodes are replaced.
    /// ## Evidence
    /// The line, which names the place in the Corefile, and how often it was written.
    /// ## How to confirm
    /// `kubectl -n kube-system logs -l k8s-app=kube-dns --previous`.
    /// ## How to fix
    /// Correct the place that the line names, or give the ConfigMap its previous content, and restart CoreDNS. A loop: let it forward to
    /// real servers and not to the node's own stub (`/run/systemd/resolve/resolv.conf` instead of `/etc/resolv.conf`).
    /// ## False positives
    /// A failed reload alone breaks nothing yet and is a warning.
    /// ## References
    /// <https://coredns.io/plugins/loop/#troubleshooting>
    ConfigurationBroken {
        code: "DNS102", name: "name-server-configuration-broken", family: Network, severity: Critical,
        needs: [Logs], aliases: [],
    }
}

/// What CoreDNS has against its Corefile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Parse,
    Loop,
    Reload,
}

impl Fault {
    fn read(text: &str) -> Option<Fault> {
        if text.contains("plugin/loop: Loop (")
            || (text.contains("Loop (") && text.contains("detected for zone"))
        {
            Some(Fault::Loop)
        } else if text.contains("plugin/reload: Corefile changed but reload failed")
            || text.contains("Restart failed: ")
        {
            Some(Fault::Reload)
        } else if text.contains("Error during parsing: ")
            || text.contains("Unknown directive '")
            || (text.contains("Corefile:") && text.contains("- Error"))
        {
            Some(Fault::Parse)
        } else {
            None
        }
    }

    fn words(self) -> &'static str {
        match self {
            Fault::Parse => "it cannot parse its Corefile",
            Fault::Loop => "it forwards to itself in a loop",
            Fault::Reload => "it could not load its changed Corefile and goes on with the old one",
        }
    }
}

/// A Corefile that CoreDNS does not accept.
#[derive(Debug)]
pub struct Fact<'a> {
    fault: Fault,
    lines: Lines<'a>,
    subject: ObjectRef,
    workload: ObjectRef,
    callers: Vec<Calls>,
}

impl Check for ConfigurationBroken {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let faults = [Fault::Loop, Fault::Parse, Fault::Reload];
        let found = faults.into_iter().find_map(|fault| {
            let lines = server::lines(snapshot, |text| Fault::read(text) == Some(fault))?;
            // A pod that ran well for a minute after the line has a sound configuration now.
            (!lines.ended).then_some((fault, lines))
        });
        let Some((fault, lines)) = found else { return vec![] };
        let server = name_server(snapshot);
        let workload = server
            .as_ref()
            .map_or_else(|| ObjectRef::new("Deployment", server::NAMESPACE, "coredns"), |s| s.reference());
        vec![Fact {
            subject: configuration(snapshot, server.as_ref()),
            workload,
            callers: server::unresolved(snapshot),
            fault,
            lines,
        }]
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let words = fact.fault.words();
        let harmless = fact.fault == Fault::Reload;
        let restart = crate::analyze::rules::application::settings::restart(&fact.workload);
        let finding = Finding::new(Self::META, fact.subject.clone(), &[words])
            .title(format!("The cluster's name server says of its configuration that {words}"))
            .message(format!(
                "The log of {} says that {words}, {}{}. {}",
                fact.workload,
                text::times(fact.lines.count),
                since(fact.lines.first.time),
                if harmless { "The next pod that starts ends at once." } else { "A pod with this configuration ends at once and answers no look-up." }
            ))
            .mechanism(format!("DNS: CoreDNS configuration (Corefile): {words}"))
            .severity(if harmless { Severity::Warning } else { Severity::Critical })
            .role(Role::Cause, Confidence::Observed)
            .related(fact.workload.clone())
            .evidence(fact.lines.evidence(words))
            .onset(server::onset(&fact.callers).or(fact.lines.first.time))
            .effects(server::effects(snapshot, &fact.callers))
            .remedy(Remedy {
                commands: vec![format!("kubectl {}edit configmap {}", scope(&fact.subject), fact.subject.name), restart],
                ..Remedy::manual("Correct the place that the line names in data.Corefile, or give it its previous content, and restart the name server")
            })
            .prevention(Prevention::of("Test", "Start CoreDNS with the new Corefile in the pipeline (coredns -conf Corefile) before it is applied"))
            .prevention(Prevention::alert("Alert on reloads that fail", "increase(coredns_reload_failed_total[10m]) > 0"));
        if harmless { finding } else { finding.effect(Effect::pods(&fact.workload)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_apart() {
        for (line, fault) in [
            (
                "/etc/coredns/Corefile:3 - Error during parsing: Unknown directive 'forwrad'",
                Some(Fault::Parse),
            ),
            (
                "[FATAL] plugin/loop: Loop (127.0.0.1:55953 -> :1053) detected for zone \".\", see https://coredns.io/plugins/loop",
                Some(Fault::Loop),
            ),
            (
                "[ERROR] Restart failed: /etc/coredns/Corefile:3 - Error during parsing: x",
                Some(Fault::Reload),
            ),
            ("[INFO] plugin/reload: Running configuration SHA512 = a", None),
        ] {
            assert_eq!(Fault::read(line), fault, "{line}");
        }
    }
}
