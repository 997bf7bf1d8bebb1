//! ISTIO235.

use crate::model::json::{Value, json};

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, host_matches};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A DestinationRule for one host takes the TLS settings away that a wider one makes.
    ///
    /// ## What it detects
    /// A DestinationRule with a wildcard host and `trafficPolicy.tls` (any mode but the `ISTIO_MUTUAL` that proxies
    /// choose by themselves), and one for a host within it that counts instead, in the same namespace or before the
    /// root namespace's, and sets no `tls`.
    /// ## Why it matters
    /// Of several DestinationRules that match a host the most specific counts, whole: nothing of the wider one is
    /// inherited. Calls to that host go out with the TLS that the proxy chooses, not with the one that was set.
    /// ## Evidence
    /// Both rules' hosts, and the wider one's mode.
    /// ## How to confirm
    /// `istioctl proxy-config cluster POD --fqdn HOST -o json` shows the transport socket and whose settings it has.
    /// ## How to fix
    /// Repeat `trafficPolicy.tls` in the narrower rule.
    /// ## False positives
    /// A host that is excepted on purpose, which says so better with a `tls.mode` of its own.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/>
    TlsSettingsHidden {
        code: "ISTIO235", name: "tls-settings-hidden", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA0204"],
    }
}

/// A rule that hides another's settings.
#[derive(Debug)]
pub struct Fact<'a> {
    narrow: &'a DestinationRule,
    wide: &'a DestinationRule,
    mode: &'a str,
}

impl Check for TlsSettingsHidden {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let istio = &snapshot.istio;
        let chosen = istio.mesh_config.at("enableAutoMtls").and_then(Value::as_bool) != Some(false);
        let unselective = |rule: &&DestinationRule| rule.object.body.at("spec.workloadSelector").is_none();
        let mut wide: Vec<(String, &str, &DestinationRule)> = istio
            .destination_rules
            .iter()
            .filter(unselective)
            .filter_map(|rule| {
                let mode = rule.object.body.text("spec.trafficPolicy.tls.mode")?;
                let host = rule.full_host();
                (host.starts_with('*') && !(chosen && mode == "ISTIO_MUTUAL")).then_some((host, mode, rule))
            })
            .collect();
        wide.sort_by_key(|(host, _, rule)| (std::cmp::Reverse(host.len()), rule.reference()));
        let narrow = istio.destination_rules.iter().filter(unselective);
        narrow
            .filter(|rule| snapshot.in_scope(rule.object.namespace()) && !sets_tls(rule))
            .filter_map(|narrow| {
                let (own, host) = (narrow.object.namespace(), narrow.full_host());
                let hides = |namespace: &str| {
                    wide.iter().find(|(pattern, _, rule)| {
                        rule.object.namespace() == namespace
                            && *pattern != host
                            && host_matches(pattern, &host)
                    })
                };
                let (_, mode, wide) = hides(own).or_else(|| hides(&istio.root_namespace))?;
                Some(Fact { narrow, wide, mode })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (own, wide) = (fact.narrow.reference(), fact.wide.reference());
        let subject = own.field("spec.trafficPolicy");
        let (host, pattern) = (text::plain(&fact.narrow.host, 80), text::plain(&fact.wide.host, 80));
        let mode = text::plain(fact.mode, 20);
        let settings = wide.field("spec.trafficPolicy.tls.mode");
        Finding::new(Self::META, subject.clone(), &[&wide.namespace, &wide.name])
            .title(format!("{own} sets no TLS for {host} and hides the tls {mode} of {wide}"))
            .message(format!(
                "{wide} says tls {mode} for {pattern}. For {host} the more specific {own} counts, whole: it sets no tls, and nothing is inherited, so that calls to {host} go out with the TLS that the proxy chooses."
            ))
            .mechanism("DestinationRule for a host overrides the TLS settings of a wider one")
            .role(Role::Cause, Confidence::Possible)
            .evidence(Evidence::object(&subject, "no tls"))
            .evidence(Evidence::object(&settings, format!("{mode} for {pattern}")))
            .related(settings)
            .maybe_remedy(repeat(fact))
            .remedy(Remedy::manual(format!("Set trafficPolicy.tls for {host}: the mode that its pods take")))
            .prevention(Prevention::of("Policy", "Each DestinationRule below a wildcard one has a tls.mode of its own"))
    }
}

/// Whether a rule says anything of TLS for all of its host, or for a port.
fn sets_tls(rule: &DestinationRule) -> bool {
    let body = &rule.object.body;
    body.at("spec.trafficPolicy.tls").is_some()
        || body.list("spec.trafficPolicy.portLevelSettings").iter().any(|port| port.at("tls").is_some())
}

/// The wider rule's settings, in the narrower one.
fn repeat(fact: &Fact<'_>) -> Option<Remedy> {
    let tls = fact.wide.object.body.at("spec.trafficPolicy.tls")?;
    let operations = if fact.narrow.object.body.at("spec.trafficPolicy").is_some() {
        json!([{"op": "add", "path": "/spec/trafficPolicy/tls", "value": tls}])
    } else {
        json!([{"op": "add", "path": "/spec/trafficPolicy", "value": {"tls": tls}}])
    };
    let summary = format!("Repeat trafficPolicy.tls of {}", fact.wide.reference());
    Remedy::patch(&fact.narrow.object, &operations, summary)
}
