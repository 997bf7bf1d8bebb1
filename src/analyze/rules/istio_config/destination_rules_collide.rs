//! ISTIO227.

use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::DestinationRule;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Two DestinationRules for one host say the same thing differently.
    ///
    /// ## What it detects
    /// DestinationRules of one namespace for one host, without a workload selector, that both have a traffic policy
    /// of their own, or a subset of the same name with other labels.
    /// ## Why it matters
    /// Istio merges the rules of a host: of two policies, and of two subsets with one name, the older object's
    /// counts. What the other says is left out, without a status.
    /// ## Evidence
    /// Both objects and the part in which they collide.
    /// ## How to confirm
    /// `istioctl proxy-config cluster POD --fqdn HOST -o json` shows whose settings are in force
    /// (`metadata.istio.config`).
    /// ## How to fix
    /// Write one DestinationRule for the host.
    /// ## False positives
    /// Rules with the same content.
    /// ## References
    /// <https://istio.io/latest/docs/ops/best-practices/traffic-management/#split-virtual-services>
    DestinationRulesCollide {
        code: "ISTIO227", name: "destination-rules-collide", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA0201"],
    }
}

/// Two rules that collide.
#[derive(Debug)]
pub struct Fact<'a> {
    rule: &'a DestinationRule,
    counts: &'a DestinationRule,
    /// Where, in the one that does not count.
    path: String,
    what: String,
}

impl Check for DestinationRulesCollide {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut of_host: BTreeMap<(String, &str), Vec<&'a DestinationRule>> = BTreeMap::new();
        for rule in
            snapshot.istio.destination_rules.iter().filter(|rule| snapshot.in_scope(rule.object.namespace()))
        {
            if rule.object.body.at("spec.workloadSelector").is_none() {
                of_host.entry((rule.full_host(), rule.object.namespace())).or_default().push(rule);
            }
        }
        let mut out = vec![];
        for mut rules in of_host.into_values().filter(|rules| rules.len() > 1) {
            rules.sort_by_key(|rule| (rule.object.created.is_none(), rule.object.created, rule.reference()));
            for (at, rule) in rules.iter().enumerate() {
                for counts in rules.iter().take(at).filter(|earlier| earlier.export_to == rule.export_to) {
                    out.extend(collision(rule, counts).map(|(path, what)| Fact { rule, counts, path, what }));
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (own, counts) = (fact.rule.reference(), fact.counts.reference());
        let subject = own.field(&fact.path);
        let host = text::plain(&fact.rule.host, 60);
        let order =
            if fact.counts.object.created.is_some() { "the older one counts" } else { "one of them counts" };
        Finding::new(Self::META, subject.clone(), &[&counts.name])
            .title(format!("{own} and {counts} both have {} for {host}", fact.what))
            .message(format!(
                "Istio merges all rules for {host} of a namespace. Both have {}: {order}, and what the other says is left out.",
                fact.what
            ))
            .mechanism("DestinationRules for one host collide")
            .role(Role::Context, Confidence::Configured)
            .related(counts.clone())
            .evidence(Evidence::object(&subject, fact.what.clone()))
            .evidence(Evidence::object(counts, fact.what.clone()))
            .remedy(Remedy::delete(&fact.rule.object, format!("Merge it into {counts}, then delete it")))
            .prevention(Prevention::of("Policy", "One DestinationRule a host: an admission policy, or one owner of the file"))
    }
}

/// Where two rules differ in what only one of them can say.
fn collision(rule: &DestinationRule, other: &DestinationRule) -> Option<(String, String)> {
    let policy = |rule: &DestinationRule| rule.object.body.at("spec.trafficPolicy").cloned();
    if let (Some(own), Some(theirs)) = (policy(rule), policy(other))
        && own != theirs
    {
        return Some(("spec.trafficPolicy".to_owned(), "a traffic policy".to_owned()));
    }
    rule.subsets.iter().find_map(|subset| {
        let same = other
            .subsets
            .iter()
            .find(|theirs| theirs.name == subset.name && theirs.labels != subset.labels)?;
        Some((subset.path.clone(), format!("a subset {}", text::plain(&same.name, 40))))
    })
}
