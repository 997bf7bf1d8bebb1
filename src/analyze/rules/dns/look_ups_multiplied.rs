//! DNS107.

use std::collections::BTreeSet;

use super::server::{self, configuration, name_server};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::percent;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Most look-ups are tries with the search list: the price of `ndots:5`, and no failure.
    ///
    /// ## What it detects
    /// More than half of the name server's answers are `NXDOMAIN`, or its query log shows the same name with the search domains appended
    /// before it is found as it is.
    /// ## Why it matters
    /// Each look-up of a name outside costs four to eight queries instead of one or two. That is load and latency, and makes every
    /// trouble of the name server worse; by itself it breaks nothing. It is told so that nobody takes these answers for the failure.
    /// ## Evidence
    /// The share of `NXDOMAIN`, and names that were found after it.
    /// ## How to confirm
    /// `kubectl exec POD -- nslookup -debug example.com` shows three answers NXDOMAIN before the one that counts.
    /// ## How to fix
    /// Names with a dot at their end in settings, or `dnsConfig.options: [{name: ndots, value: "2"}]` in pods that call the outside a lot.
    /// ## False positives
    /// None: it is information only.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-dns-config>
    LookUpsMultiplied {
        code: "DNS107", name: "look-ups-multiplied", family: Network, severity: Info,
        needs: [], aliases: [],
    }
}

/// Fewer answers than this say nothing about a share.
const MIN_ANSWERS: f64 = 100.0;
/// Fewer names than this in the query log, too.
const MIN_TRIES: u64 = 12;
/// Names kept of a query log.
const MAX_NAMES: usize = 20_000;

/// What the answers come to.
#[derive(Debug)]
pub struct Fact {
    subject: ObjectRef,
    /// The share of NXDOMAIN, and their number, as counted.
    counted: Option<(f64, f64)>,
    /// Tries with a search domain for names that were found, as logged.
    tries: u64,
}

/// The name and the answer of a line of CoreDNS' query log: `"A IN name. udp 40 false 512" NOERROR …`.
fn query(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once(" IN ")?;
    let (name, rest) = rest.split_once(' ')?;
    let (_, rest) = rest.split_once("\" ")?;
    Some((name.trim_end_matches('.'), rest.split(' ').next().unwrap_or(rest)))
}

/// The name without the search domain that a resolver appended: what stands before `.NAMESPACE.svc.cluster.local` and its shorter forms.
fn bases(name: &str) -> impl Iterator<Item = &str> {
    let cluster = name.strip_suffix(".cluster.local");
    let services = name.strip_suffix(".svc.cluster.local");
    let namespaced = services.and_then(|base| base.rsplit_once('.')).map(|(base, _)| base);
    [cluster, services, namespaced].into_iter().flatten()
}

/// Tries with a search domain that led to nothing, of names that were found as they are or with another one.
fn tries(snapshot: &Snapshot) -> u64 {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut missed: Vec<&str> = vec![];
    for line in server::logs(snapshot).flat_map(|log| &log.lines) {
        match query(&line.text) {
            Some((name, "NOERROR")) if found.len() < MAX_NAMES => {
                found.insert(name);
                found.extend(bases(name));
            }
            Some((name, "NXDOMAIN")) if missed.len() < MAX_NAMES => missed.push(name),
            _ => {}
        }
    }
    missed.into_iter().filter(|name| bases(name).any(|base| found.contains(base))).count() as u64
}

impl Check for LookUpsMultiplied {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let counted = server::answered(snapshot, "NXDOMAIN")
            .filter(|(share, n)| *share > 0.5 && n / share >= MIN_ANSWERS);
        let tries = tries(snapshot);
        if counted.is_none() && tries < MIN_TRIES {
            return vec![];
        }
        let server = name_server(snapshot);
        vec![Fact { subject: configuration(snapshot, server.as_ref()), counted, tries }]
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let told = match fact.counted {
            Some((share, n)) => format!("{n:.0} answers NXDOMAIN ({})", percent(share)),
            None => format!("{} tries with a search domain in its query log", fact.tries),
        };
        let source = if fact.counted.is_some() { "Metric" } else { "Log" };
        Finding::new(Self::META, fact.subject.clone(), &["ndots"])
            .title(format!("Most look-ups are tries with the search list (ndots), which is no failure: {told}"))
            .message(format!(
                "The name server says that most names it is asked for do not exist: {told}. Resolvers append the search domains first (ndots:5) and find the name after that: \
                 this costs queries and breaks nothing."
            ))
            .mechanism("DNS: ndots search list amplification")
            .severity(Severity::Info)
            .role(Role::Context, Confidence::Observed)
            .evidence(Evidence::new(source, "the cluster's name server", told))
            .remedy(Remedy::manual("Names with a dot at their end in settings, or ndots 2 in spec.dnsConfig.options of pods that call the outside a lot"))
            .prevention(Prevention::alert(
                "Watch the share",
                "sum(rate(coredns_dns_responses_total{rcode=\"NXDOMAIN\"}[5m])) / sum(rate(coredns_dns_responses_total[5m])) > 0.5",
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::log::LogStream;
    use crate::model::snapshot::Builder;

    #[test]
    fn three_answers_nxdomain_before_the_one_that_counts_are_no_failure() {
        let mut text = String::new();
        for _ in 0..8 {
            for suffix in [".shop.svc.cluster.local", ".svc.cluster.local", ".cluster.local"] {
                text.push_str(&format!("[INFO] 10.4.0.1:5 - 7 \"A IN api.example.com{suffix}. udp 40 false 512\" NXDOMAIN qr,aa,rd 133 0.0001s\n"));
            }
            text.push_str("[INFO] 10.4.0.1:5 - 7 \"A IN api.example.com. udp 40 false 512\" NOERROR qr,rd,ra 133 0.01s\n");
        }
        let mut builder = Builder::new();
        builder.log(LogStream::read(
            server::NAMESPACE,
            "coredns-5-a",
            "coredns",
            false,
            text.as_bytes(),
            false,
        ));
        let snapshot = builder.finish();
        assert_eq!(tries(&snapshot), 24);
        let findings: Vec<Finding> = LookUpsMultiplied
            .detect(&snapshot)
            .iter()
            .map(|fact| LookUpsMultiplied.describe(fact, &snapshot))
            .collect();
        assert!(
            findings.iter().all(|f| f.role == Role::Context && f.severity == Severity::Info)
                && findings.len() == 1
        );
    }

    #[test]
    fn a_name_that_nobody_finds_is_no_try() {
        let line = "[INFO] 10.4.0.1:5 - 7 \"A IN paymnt.shop.svc.cluster.local. udp 40 false 512\" NXDOMAIN qr 1 0.1s\n";
        let mut builder = Builder::new();
        builder.log(LogStream::read(
            server::NAMESPACE,
            "coredns-5-a",
            "coredns",
            false,
            line.repeat(30).as_bytes(),
            false,
        ));
        assert_eq!(tries(&builder.finish()), 0);
    }
}
