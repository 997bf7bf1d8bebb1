//! DNS106.

use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::service_of;
use crate::analyze::rules::seen;
use crate::model::event::Event;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The kubelet left out name servers or search domains of a pod, because there are too many.
    ///
    /// ## What it detects
    /// Events `DNSConfigForming`: more than three name servers, or more search domains than a resolver takes.
    /// ## Why it matters
    /// What was left out is not asked: names that only a left-out search domain completes do not resolve in this pod, everything else does.
    /// ## Evidence
    /// The kubelet's event, which names what it applied.
    /// ## How to confirm
    /// `kubectl exec POD -- cat /etc/resolv.conf`.
    /// ## How to fix
    /// Three name servers at most in the node's `resolv.conf` and `dnsConfig` together, and full names instead of search domains.
    /// ## False positives
    /// Most pods never need what was left out: this is context, not a cause.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#dns-search-domain-list-limits>
    ConfigurationCut {
        code: "DNS106", name: "resolver-configuration-cut", family: Network, severity: Info,
        needs: [Events], aliases: [],
    }
}

/// What the kubelet left out for a workload's pods.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: ObjectRef,
    event: &'a Event,
    pods: usize,
}

impl Check for ConfigurationCut {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<ObjectRef, (Vec<&str>, &Event)> = BTreeMap::new();
        for event in
            snapshot.events.iter().filter(|e| e.reason == "DNSConfigForming" && e.about.kind == "Pod")
        {
            if seen::wanted(snapshot, &event.about.namespace) {
                let workload = snapshot.owner_by_name(&event.about.namespace, &event.about.name);
                let (pods, _) = found.entry(workload).or_insert((vec![], event));
                if !pods.contains(&event.about.name.as_str()) {
                    pods.push(&event.about.name);
                }
            }
        }
        found
            .into_iter()
            .map(|(workload, (pods, event))| Fact { workload, event, pods: pods.len() })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let what =
            if fact.event.message.contains("Nameserver limits") { "name servers" } else { "search domains" };
        Finding::new(Self::META, fact.workload.clone(), &[what])
            .title(format!("{}: the kubelet left out {what} of {} pods", fact.workload, fact.pods))
            .message(format!(
                "There are more {what} for the pods of {} than a resolver takes, and the kubelet left out the last ones. Names that need them do not resolve in these pods.",
                fact.workload
            ))
            .mechanism(format!("DNS: limits of resolv.conf exceeded, {what} omitted"))
            .severity(Severity::Info)
            .role(Role::Context, Confidence::Observed)
            .service(service_of(snapshot, &fact.workload))
            .evidence(Evidence::new("Event", fact.event.about.to_string(), "DNSConfigForming").at(fact.event.last).excerpt(&fact.event.message))
            .onset(fact.event.first)
            .remedy(Remedy::manual(format!("Name fewer {what} in the nodes' resolv.conf or in spec.dnsConfig of {}", fact.workload)))
            .prevention(Prevention::of("Setting", "Nodes name at most three servers; the kubelet's --resolv-conf leads to the real ones"))
    }
}
