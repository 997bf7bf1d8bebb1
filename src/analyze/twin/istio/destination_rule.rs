//! Which DestinationRule counts for a host, and what it says.

use crate::model::json::Value;
use std::collections::HashMap;

use super::{full_host, host_matches};
use crate::analyze::twin::registry::visible;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, Subset, service_of_host};
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// All DestinationRules by host.
#[derive(Debug, Default)]
pub struct DestinationRules<'a> {
    exact: HashMap<String, Vec<Rule<'a>>>,
    patterns: Vec<(String, Rule<'a>)>,
    root: String,
}

/// One rule, and who sees it.
#[derive(Debug, Clone)]
struct Rule<'a> {
    rule: &'a DestinationRule,
    export_to: Vec<String>,
}

/// What the rules say of a host: of several of one place the oldest decides on the policy, and their subsets add up.
#[derive(Debug, Clone)]
pub struct Applying<'a> {
    rules: Vec<&'a DestinationRule>,
}

impl<'a> DestinationRules<'a> {
    /// Reads all.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let default = snapshot.istio.mesh_config.texts("defaultDestinationRuleExportTo");
        let mut all: Vec<&DestinationRule> = snapshot.istio.destination_rules.iter().collect();
        all.sort_by_cached_key(|r| {
            (r.object.created, format!("{}.{}", r.object.name(), r.object.namespace()))
        });
        let mut out =
            DestinationRules { root: snapshot.istio.root_namespace.clone(), ..DestinationRules::default() };
        for rule in all {
            let export_to = if rule.export_to.is_empty() { default.clone() } else { rule.export_to.clone() };
            let host = full_host(&rule.host, rule.object.namespace()).to_ascii_lowercase();
            let entry = Rule { rule, export_to };
            if host.starts_with('*') {
                out.patterns.push((host, entry));
            } else {
                out.exact.entry(host).or_default().push(entry);
            }
        }
        out
    }

    /// The rule for a host when a pod calls it: of the client's namespace, else of the host's, else of the root namespace.
    /// In each place an exact host comes before a pattern and a longer pattern before a shorter one.
    pub fn find(&self, host: &str, owner: &str, client: &str, labels: &Labels) -> Option<Applying<'a>> {
        let host = host.to_ascii_lowercase();
        let service = service_of_host(&host).map(|(namespace, _)| namespace).unwrap_or_default();
        let owner = if owner.is_empty() { service.as_str() } else { owner };
        for namespace in [client, owner, self.root.as_str()] {
            let picks = |rule: &Rule<'a>| {
                let body = &rule.rule.object.body;
                let selector = body.text_map("spec.workloadSelector.matchLabels");
                rule.rule.object.namespace() == namespace
                    && visible(&rule.export_to, namespace, client)
                    // A selector picks clients, in its own namespace alone.
                    && (selector.is_empty()
                        || (namespace == client && selector.iter().all(|(k, v)| labels.get(k) == Some(v))))
            };
            let exact: Vec<&'a DestinationRule> = self
                .exact
                .get(&host)
                .into_iter()
                .flatten()
                .filter(|rule| picks(rule))
                .map(|rule| rule.rule)
                .collect();
            let found = if exact.is_empty() {
                let fits = |entry: &&(String, Rule<'a>)| host_matches(&entry.0, &host) && picks(&entry.1);
                let longest = self.patterns.iter().filter(fits).map(|(pattern, _)| pattern.len()).max();
                let own =
                    self.patterns.iter().filter(fits).filter(|(pattern, _)| Some(pattern.len()) == longest);
                own.map(|(_, rule)| rule.rule).collect()
            } else {
                exact
            };
            if !found.is_empty() {
                return Some(Applying { rules: selected_first(found) });
            }
        }
        None
    }
}

/// Rules that pick the client by its labels replace those for everybody.
fn selected_first(rules: Vec<&DestinationRule>) -> Vec<&DestinationRule> {
    let picks = |rule: &&DestinationRule| rule.object.body.at("spec.workloadSelector").is_some();
    let own: Vec<&DestinationRule> = rules.iter().copied().filter(|rule| picks(rule)).collect();
    if own.is_empty() { rules } else { own }
}

impl<'a> Applying<'a> {
    /// What names the deciding rule.
    pub fn reference(&self) -> Option<&'a ObjectRef> {
        self.rules.first().map(|rule| rule.reference())
    }

    /// A subset by its name, and the rule that has it.
    pub fn subset(&self, name: &str) -> Option<(&'a DestinationRule, &'a Subset)> {
        let with = |rule: &&'a DestinationRule| {
            rule.subsets.iter().find(|subset| subset.name == name).map(|s| (*rule, s))
        };
        self.rules.iter().find_map(with)
    }

    /// A part of the traffic policy (`tls`) for a subset and a port. Of several rules the first one that has a policy decides. What
    /// stands for a port takes the place of its level as a whole: what it leaves out is as if nothing were said, and not what the
    /// level says. What a subset leaves out is the rule's.
    pub fn policy(&self, subset: &str, port: u16, block: &str) -> Option<(ObjectRef, &'a Value)> {
        if let Some((rule, subset)) = self.subset(subset)
            && let Some(policy) = subset.body.at("trafficPolicy")
        {
            let level = Level::of(policy, port, format!("{}.trafficPolicy", subset.path));
            if let Some(found) = level.block(rule, block) {
                return Some(found);
            }
            if level.of_port && OF_PORTS.contains(&block) {
                return None;
            }
        }
        let (rule, policy) =
            self.rules.iter().find_map(|rule| Some((*rule, rule.object.body.at("spec.trafficPolicy")?)))?;
        Level::of(policy, port, "spec.trafficPolicy".to_owned()).block(rule, block)
    }

    /// Whether connections to a subset and port go where they were going, past the endpoints (`simple: PASSTHROUGH`), and whether
    /// that is said for all ports.
    pub fn passes_through(&self, subset: &str, port: u16) -> Option<(ObjectRef, bool)> {
        let (at, balancer) = self.policy(subset, port, "loadBalancer")?;
        let of_port = at.field_path.contains("portLevelSettings");
        (balancer.text("simple") == Some("PASSTHROUGH")).then_some((at, !of_port))
    }

    /// Whether the deciding rule picks clients by their labels.
    pub fn picks_clients(&self) -> bool {
        self.rules.first().is_some_and(|rule| rule.object.body.at("spec.workloadSelector").is_some())
    }
}

/// What `portLevelSettings` can say.
const OF_PORTS: [&str; 4] = ["connectionPool", "loadBalancer", "outlierDetection", "tls"];

/// A traffic policy as it is for one port.
struct Level<'a> {
    policy: &'a Value,
    path: String,
    /// Whether it stands for this port alone.
    of_port: bool,
}

impl<'a> Level<'a> {
    fn of(policy: &'a Value, port: u16, path: String) -> Self {
        let mut ports = policy.list("portLevelSettings").iter().enumerate();
        match ports.find(|(_, entry)| entry.int("port.number") == Some(i64::from(port))) {
            Some((at, entry)) => {
                Level { policy: entry, path: format!("{path}.portLevelSettings[{at}]"), of_port: true }
            }
            None => Level { policy, path, of_port: false },
        }
    }

    fn block(&self, rule: &'a DestinationRule, block: &str) -> Option<(ObjectRef, &'a Value)> {
        let value = self.policy.at(block)?;
        Some((rule.reference().field(format!("{}.{block}", self.path)), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    fn snapshot(rules: &[(&str, &str, crate::model::json::Value)]) -> Snapshot {
        let mut builder = Builder::new();
        for (namespace, name, spec) in rules {
            builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name, "namespace": namespace}, "spec": spec}));
        }
        builder.finish()
    }

    #[test]
    fn the_clients_namespace_comes_first_then_the_services_then_the_root() {
        let host = "a.server.svc.cluster.local";
        let own = snapshot(&[
            ("istio-system", "root", json!({"host": "*.local"})),
            ("server", "service", json!({"host": "a"})),
            ("client", "client", json!({"host": host, "exportTo": ["."]})),
            ("other", "other", json!({"host": host})),
        ]);
        let rules = DestinationRules::new(&own);
        let find = |client: &str| {
            rules.find(host, "server", client, &Labels::new()).unwrap().reference().unwrap().name.clone()
        };
        assert_eq!((find("client").as_str(), find("third").as_str()), ("client", "service"));
        assert_eq!(
            rules.find("b.x.svc.cluster.local", "x", "y", &Labels::new()).unwrap().reference().unwrap().name,
            "root"
        );
    }

    #[test]
    fn a_subset_comes_before_a_port_and_a_port_before_the_rest() {
        let own = snapshot(&[(
            "n",
            "d",
            json!({"host": "a", "trafficPolicy": {"tls": {"mode": "DISABLE"},
            "portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "SIMPLE"}}]},
            "subsets": [{"name": "v1", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}, {"name": "v2"}]}),
        )]);
        let rules = DestinationRules::new(&own);
        let found = rules.find("a.n.svc.cluster.local", "n", "n", &Labels::new()).unwrap();
        let mode = |subset: &str, port: u16| found.policy(subset, port, "tls").unwrap().1.string("mode");
        assert_eq!([mode("v1", 80), mode("v2", 80), mode("", 81)], ["ISTIO_MUTUAL", "SIMPLE", "DISABLE"]);
    }
}
