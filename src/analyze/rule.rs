//! What a rule is.

use std::fmt::Debug;

use super::finding::{Finding, Findings, Severity};
use crate::model::snapshot::Snapshot;

/// What a rule reads. A rule that needs a signal that was not seen is *not evaluated*, which is not the same as silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Configuration: any object's spec.
    Objects,
    /// Status of pods and workloads: something runs.
    Status,
    /// Events.
    Events,
    /// Logs of applications.
    Logs,
    /// Access logs of proxies.
    AccessLogs,
    /// Requests as proxies saw them: in access logs, or counted.
    Requests,
    /// Series.
    Metrics,
    /// Admin ports of proxies.
    Proxies,
    /// Istio's objects or proxies.
    Istio,
    /// Objects of the Gateway API.
    GatewayApi,
}

impl Signal {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Objects => "objects",
            Signal::Status => "status of pods",
            Signal::Events => "events",
            Signal::Logs => "logs",
            Signal::AccessLogs => "access logs",
            Signal::Requests => "access logs or counters of requests",
            Signal::Metrics => "metrics",
            Signal::Proxies => "proxies' admin data",
            Signal::Istio => "Istio",
            Signal::GatewayApi => "Gateway API",
        }
    }

    /// Whether this snapshot holds any of it.
    pub fn is_in(self, snapshot: &Snapshot) -> bool {
        match self {
            Signal::Objects => !snapshot.objects.is_empty(),
            Signal::Status => snapshot.runs(),
            Signal::Events => !snapshot.events.is_empty(),
            Signal::Logs => snapshot.logs.iter().any(|log| !log.lines.is_empty()),
            Signal::AccessLogs => !snapshot.traffic.is_empty(),
            Signal::Requests => {
                !snapshot.traffic.is_empty()
                    || snapshot.series.iter().any(|series| {
                        series.name == "istio_requests_total"
                            || series.name.starts_with("envoy_cluster_upstream_")
                    })
            }
            Signal::Metrics => !snapshot.series.is_empty(),
            Signal::Proxies => !snapshot.proxies.is_empty() || !snapshot.proxy_syncs.is_empty(),
            Signal::Istio => snapshot.istio.present,
            Signal::GatewayApi => {
                !snapshot.gateway_api.gateways.is_empty() || !snapshot.gateway_api.routes.is_empty()
            }
        }
    }
}

/// Where a rule belongs; the `category` of a root cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Pods and what makes them.
    Workload,
    /// Services, endpoints, network policies, DNS.
    Network,
    /// Configuration that pods take in.
    Config,
    /// Quotas, budgets, autoscalers, nodes.
    Platform,
    /// Istio.
    Mesh,
    /// The Gateway API.
    Gateway,
    /// What proxies report of requests.
    Traffic,
    /// What applications say themselves.
    Application,
    /// What deviates in series, logs and spans.
    Signals,
}

impl Family {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Workload => "Workload",
            Family::Network => "Network",
            Family::Config => "Config",
            Family::Platform => "Platform",
            Family::Mesh => "Mesh",
            Family::Gateway => "Gateway",
            Family::Traffic => "Traffic",
            Family::Application => "Application",
            Family::Signals => "Signals",
        }
    }
}

/// What a rule says of itself.
#[derive(Debug)]
pub struct Meta {
    /// `ISTIO104`: stable for ever.
    pub code: &'static str,
    /// `subset-without-pods`: names the problem.
    pub name: &'static str,
    /// Where it belongs.
    pub family: Family,
    /// How bad it is, as a rule.
    pub severity: Severity,
    /// What it cannot do without.
    pub needs: &'static [Signal],
    /// The same diagnosis in other tools: `IST0101`, `KIA1101`.
    pub aliases: &'static [&'static str],
    /// The type's own doc comment, with fixed headings.
    pub docs: &'static str,
}

impl Meta {
    /// The headings that `docs` has, in this order, each as `## Heading`.
    pub const HEADINGS: &'static [&'static str] = &[
        "What it detects",
        "Why it matters",
        "Evidence",
        "How to confirm",
        "How to fix",
        "False positives",
        "References",
    ];
}

/// A pure check that reads a snapshot and emits findings.
pub trait Rule: Debug + Send + Sync + 'static {
    /// What it says of itself.
    fn meta(&self) -> &'static Meta;

    /// Looks, and says what it found.
    fn check(&self, snapshot: &Snapshot, out: &mut Findings);
}

/// Gives a type its [`Meta`]; written by the [`rule!`](crate::rule) macro.
pub trait Declared {
    /// What it says of itself.
    const META: &'static Meta;
}

/// How every rule is written: detection apart from wording. Whatever implements this is a [`Rule`].
pub trait Check: Declared + Debug + Send + Sync + 'static {
    /// What was detected: typed facts, not words. It may borrow from the snapshot.
    type Fact<'a>;

    /// Looks. Facts come in an order that depends on the snapshot alone.
    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Self::Fact<'a>>;

    /// Says it: title, message, evidence, remedy, rollback, prevention.
    fn describe(&self, fact: &Self::Fact<'_>, snapshot: &Snapshot) -> Finding;
}

impl<T: Check> Rule for T {
    fn meta(&self) -> &'static Meta {
        T::META
    }

    fn check(&self, snapshot: &Snapshot, out: &mut Findings) {
        for fact in self.detect(snapshot) {
            out.push(self.describe(&fact, snapshot));
        }
    }
}

/// Declares a rule: a unit struct whose doc comment is also its [`Meta::docs`].
#[macro_export]
macro_rules! rule {
    ($(#[doc = $doc:literal])* $name:ident { code: $code:literal, name: $kebab:literal, family: $family:ident, severity: $severity:ident,
        needs: [$($signal:ident),* $(,)?], aliases: [$($alias:literal),* $(,)?] $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub struct $name;

        impl $crate::analyze::rule::Declared for $name {
            const META: &'static $crate::analyze::rule::Meta = &$crate::analyze::rule::Meta {
                code: $code,
                name: $kebab,
                family: $crate::analyze::rule::Family::$family,
                severity: $crate::analyze::finding::Severity::$severity,
                needs: &[$($crate::analyze::rule::Signal::$signal),*],
                aliases: &[$($alias),*],
                docs: concat!($($doc, "\n"),*),
            };
        }
    };
}
