//! DNS103.

use jiff::Timestamp;
use regex::Regex;
use std::sync::LazyLock;

use super::server::{self, Lines, configuration, name_server};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{Calls, percent, since};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The servers to which CoreDNS forwards do not answer.
    ///
    /// ## What it detects
    /// Errors of CoreDNS about names outside the cluster (`plugin/errors: … i/o timeout`, refused, unreachable), or answers `SERVFAIL` that
    /// its forwarding gives, counted under the names of current and of older versions.
    /// ## Why it matters
    /// Names inside the cluster resolve and names outside do not: every call to the outside fails, and with them look-ups that run
    /// through the search list.
    /// ## Evidence
    /// The lines with the upstream's address, their count, the share of `SERVFAIL`, and the look-ups that fail in applications.
    /// ## How to confirm
    /// From a pod: `nslookup kubernetes.default` works, `nslookup example.com` does not; `dig @UPSTREAM example.com` from a node.
    /// ## How to fix
    /// Name servers in `forward` that answer, more than one; let the nodes' network reach them on UDP and TCP 53.
    /// ## False positives
    /// A few errors among many answers are normal on any network. Names that do not exist (`NXDOMAIN`) are no failure of a server.
    /// ## References
    /// <https://coredns.io/plugins/forward/>
    UpstreamFailing {
        code: "DNS103", name: "name-server-upstream-failing", family: Network, severity: Error,
        needs: [], aliases: [],
    }
}

/// Fewer errors than this happen to everybody.
const MIN_ERRORS: u64 = 5;
/// From this share of failed answers on users feel it.
const SHARE: f64 = 0.01;

/// What CoreDNS says of its upstreams.
#[derive(Debug)]
pub struct Fact<'a> {
    lines: Option<Lines<'a>>,
    /// The address of the upstream, where all lines name one.
    upstream: Option<String>,
    /// The share of SERVFAIL, and their number.
    failed: Option<(f64, f64)>,
    subject: ObjectRef,
    server: ObjectRef,
    callers: Vec<Calls>,
}

static ERROR: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"plugin/errors: \d+ (\S+) \w+: (?:read (?:udp|tcp) \S+->([0-9a-fA-F.:\[\]]+):\d+: |dial (?:udp|tcp) (\S+):\d+: |unreachable backend|.*(?:connection refused|i/o timeout))").ok()
});

/// The upstream of an error about a name outside the cluster.
fn error(text: &str) -> Option<Option<String>> {
    // Most lines are none: the cheap test first.
    if !text.contains("plugin/errors: ") {
        return None;
    }
    let found = ERROR.as_ref()?.captures(text)?;
    let name = found.get(1)?.as_str().trim_end_matches('.');
    if name.ends_with(".cluster.local") || name.ends_with(".in-addr.arpa") && name.starts_with("10.") {
        return None;
    }
    Some(found.get(2).or(found.get(3)).map(|m| m.as_str().to_owned()))
}

impl Check for UpstreamFailing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let lines = server::lines(snapshot, |text| error(text).is_some())
            .filter(|l| l.count >= MIN_ERRORS && !l.ended);
        let forwarded = server::growth_of(
            snapshot,
            "coredns_proxy_request_duration_seconds_count",
            "coredns_forward_responses_total",
            |s| {
                s.label("rcode") == "SERVFAIL"
                    && (s.label("proxy_name").is_empty() || s.label("proxy_name") == "forward")
            },
        );
        let broken = server::growth_of(snapshot, "coredns_forward_healthcheck_broken_total", "", |_| true);
        let unwell = forwarded.into_iter().chain(broken).any(|n| n > 0.0);
        let failed = server::answered(snapshot, "SERVFAIL").filter(|(share, _)| *share > SHARE && unwell);
        if lines.is_none() && failed.is_none() {
            return vec![];
        }
        let server = name_server(snapshot);
        let upstream = lines.as_ref().and_then(|lines| error(&lines.first.text)?);
        // Names inside fail as well: then it is the name server itself, or the way to it.
        let callers = server::unresolved(snapshot);
        let outside: Vec<Calls> = callers.iter().filter(|c| c.service().is_none()).cloned().collect();
        if callers.iter().any(|c| c.service().is_some()) && outside.is_empty() {
            return vec![];
        }
        vec![Fact {
            subject: configuration(snapshot, server.as_ref()),
            server: server.as_ref().map_or_else(
                || ObjectRef::new("Deployment", server::NAMESPACE, "coredns"),
                |s| s.reference(),
            ),
            callers: outside,
            lines,
            upstream,
            failed,
        }]
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let errors = fact.lines.as_ref().map(|l| format!("{} errors in its log", l.count));
        let share = fact.failed.map(|(share, n)| format!("{n:.0} answers SERVFAIL ({})", percent(share)));
        let told: Vec<String> = errors.into_iter().chain(share).collect();
        let told = told.join(", ");
        let at = fact.upstream.as_ref().map(|u| format!(" {u}")).unwrap_or_default();
        let first: Option<Timestamp> = fact.lines.as_ref().and_then(|l| l.first.time);
        let felt = !fact.callers.is_empty();
        let mut finding = Finding::new(Self::META, fact.subject.clone(), &["upstream"])
            .title(format!("The server{at} to which the cluster's name server forwards does not answer: {told}"))
            .message(format!(
                "{} forwards names outside the cluster, and the server{at} behind it does not answer: {told}{}. Names inside the cluster do not need it; {} workloads that were \
                 seen fail to look up a name outside.",
                fact.server,
                since(first),
                fact.callers.len()
            ))
            .mechanism("DNS: upstream of CoreDNS fails, SERVFAIL for external names")
            .severity(if felt { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .related(fact.server.clone())
            .onset(server::onset(&fact.callers).or(first))
            .effects(server::effects(snapshot, &fact.callers))
            .remedy(Remedy::manual(format!(
                "Name servers that answer in the forward line of the Corefile ({}), at least two of them, and let the nodes reach them on UDP and TCP 53",
                fact.subject
            )))
            .prevention(Prevention::alert(
                "Alert on failed answers, under the name of current versions and of older ones",
                "sum by (to) (rate(coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\",rcode=\"SERVFAIL\"}[5m])) > 0 or sum by (to) (rate(coredns_forward_responses_total{rcode=\"SERVFAIL\"}[5m])) > 0",
            ));
        if let Some(lines) = &fact.lines {
            finding = finding.evidence(lines.evidence("errors about names outside the cluster"));
        }
        if let Some((share, n)) = fact.failed {
            finding = finding.evidence(Evidence::new(
                "Metric",
                "coredns_dns_responses_total",
                format!("{n:.0} answers SERVFAIL, {} of all", percent(share)),
            ));
        }
        finding.evidences(
            fact.callers.iter().take(2).flat_map(|calls| calls.evidence().take(1).collect::<Vec<_>>()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_about_names_outside() {
        let line = "[ERROR] plugin/errors: 2 api.example.org. A: read udp 10.244.0.5:37310->10.0.0.2:53: i/o timeout";
        assert_eq!(error(line), Some(Some("10.0.0.2".to_owned())));
        assert_eq!(
            error(
                "[ERROR] plugin/errors: 2 pay.shop.svc.cluster.local. A: read udp 10.244.0.5:37310->10.0.0.2:53: i/o timeout"
            ),
            None
        );
        assert_eq!(
            error(
                "[INFO] 10.4.0.1:5 - 7 \"A IN api.example.org. udp 40 false 512\" NXDOMAIN qr,aa,rd 133 0.0001s"
            ),
            None
        );
    }
}
