//! "May I?": everything may be read, and what a replay can write may be written.

use crate::model::json::{Value, json};

use super::discovery::{REVIEWS, reviews};
use super::kinds::Kinds;
use crate::model::fields::Fields;

/// The user that everybody is.
const USER: &str = "meshscope-replay";

/// Answers a review. `None` where the kind is no review.
pub(super) fn answer(kinds: &Kinds, group: &str, plural: &str, body: &Value) -> Option<Value> {
    if group == "authentication.k8s.io" && plural == "selfsubjectreviews" {
        return Some(
            json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
            "status": {"userInfo": {"username": USER, "groups": ["system:authenticated"]}}}),
        );
    }
    let (_, kind, _) = reviews().iter().find(|(name, _, _)| group == REVIEWS && *name == plural)?;
    let status = if *kind == "SelfSubjectRulesReview" { rules(kinds) } else { access(kinds, body) };
    Some(json!({
        "kind": kind, "apiVersion": format!("{REVIEWS}/v1"), "metadata": {},
        "spec": body.at("spec").cloned().unwrap_or_else(|| json!({})), "status": status,
    }))
}

fn access(kinds: &Kinds, body: &Value) -> Value {
    let Some(asked) = body.at("spec.resourceAttributes") else {
        let reads = body.text("spec.nonResourceAttributes.verb").is_none_or(|verb| verb == "get");
        return json!({ "allowed": reads });
    };
    let verb = asked.text("verb").unwrap_or_default();
    let (group, resource) = (asked.string("group"), asked.string("resource"));
    let plural = resource.split('/').next().unwrap_or_default();
    let reads = matches!(verb, "get" | "list" | "watch");
    let writes = kinds.get(&group, plural).is_some_and(|kind| kind.writable && kind.verbs().contains(&verb));
    if reads || writes {
        return json!({"allowed": true});
    }
    json!({"allowed": false, "reason": "this is a recording, and what was recorded cannot be changed"})
}

fn rules(kinds: &Kinds) -> Value {
    let mut resources =
        vec![json!({"verbs": ["get", "list", "watch"], "apiGroups": ["*"], "resources": ["*"]})];
    for kind in kinds.groups().into_values().flatten().filter(|kind| kind.writable) {
        let names = [kind.plural.clone(), format!("{}/status", kind.plural)];
        resources.push(json!({"verbs": kind.verbs(), "apiGroups": [kind.group], "resources": names}));
    }
    json!({"resourceRules": resources, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}], "incomplete": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(verb: &str, group: &str, resource: &str) -> bool {
        let kinds = Kinds::of(&[], &[]);
        let attributes = json!({"verb": verb, "group": group, "resource": resource, "namespace": "n"});
        let body = json!({"spec": {"resourceAttributes": attributes}});
        answer(&kinds, REVIEWS, "selfsubjectaccessreviews", &body).unwrap()["status"]["allowed"] == true
    }

    #[test]
    fn reading_is_allowed_and_changing_the_recording_is_not() {
        assert!(allowed("list", "apps", "deployments"));
        assert!(allowed("get", "", "pods/log"));
        assert!(!allowed("delete", "", "pods"));
        assert!(allowed("create", "", "events"));
        assert!(!allowed("escalate", "", "events"));
        assert!(answer(&Kinds::of(&[], &[]), "apps", "deployments", &json!({})).is_none());
    }
}
