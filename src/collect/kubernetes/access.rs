//! What may be read in a namespace, asked once: a denial is then one gap and not a hundred refused requests.

use crate::model::json::{Value, json};

use crate::model::fields::Fields;

/// The rules that hold for us in one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether the rules are all that there are. Where an authorizer cannot list its rules (a webhook), nothing is known
    /// and everything is simply tried.
    complete: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    named: bool,
}

/// The path that answers what we may do.
pub const REVIEW_PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

/// The question for one namespace.
pub fn review(namespace: &str) -> Value {
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    })
}

impl Access {
    /// Nothing is known: everything is tried.
    pub fn unknown() -> Self {
        Access::default()
    }

    /// Reads the answer to [`review`].
    pub fn read(answer: &Value) -> Self {
        let Some(rules) = answer.at("status.resourceRules").and_then(Value::as_array) else {
            return Access::unknown();
        };
        let rules = rules.iter().map(|rule| Rule {
            verbs: rule.texts("verbs"),
            groups: rule.texts("apiGroups"),
            resources: rule.texts("resources"),
            named: !rule.list("resourceNames").is_empty(),
        });
        Access { complete: !answer.flag("status.incomplete"), rules: rules.collect() }
    }

    /// Whether it is certain that a verb on a resource (`pods`, `pods/log`) is denied. Rules for single objects by name
    /// count as a permission: the request itself will show.
    pub fn denies(&self, verb: &str, group: &str, resource: &str) -> bool {
        self.complete && !self.rules.iter().any(|rule| rule.covers(verb, group, resource))
    }
}

impl Rule {
    fn covers(&self, verb: &str, group: &str, resource: &str) -> bool {
        let has = |list: &[String], item: &str| list.iter().any(|entry| entry == "*" || entry == item);
        // `*/log` covers the subresource of every resource.
        let of_any = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        let resource =
            has(&self.resources, resource) || of_any.is_some_and(|of| self.resources.contains(&of));
        has(&self.verbs, verb) && has(&self.groups, group) && resource && !(self.named && verb == "list")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(incomplete: bool) -> Access {
        Access::read(&json!({"status": {"incomplete": incomplete, "nonResourceRules": [], "resourceRules": [
            {"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods", "deployments"]},
            {"verbs": ["*"], "apiGroups": ["networking.istio.io"], "resources": ["*"]},
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["istio"]}]}}))
    }

    #[test]
    fn a_denial_is_certain_only_where_the_rules_are_complete() {
        assert!(access(false).denies("get", "", "pods/log"));
        assert!(!access(false).denies("list", "apps", "deployments"));
        assert!(!access(false).denies("list", "networking.istio.io", "sidecars"));
        assert!(access(false).denies("list", "batch", "jobs"));
        assert!(!access(true).denies("list", "batch", "jobs"));
        assert!(!Access::unknown().denies("list", "batch", "jobs"));
        assert!(!Access::read(&json!({"status": "no"})).denies("list", "batch", "jobs"));
    }

    #[test]
    fn a_rule_by_name_allows_getting_but_not_listing() {
        assert!(!access(false).denies("get", "", "configmaps"));
        assert!(access(false).denies("list", "", "configmaps"));
    }
}
