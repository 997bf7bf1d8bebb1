//! Properties that hold for every set of AuthorizationPolicies.

use crate::model::json::{Value, json};
use proptest::prelude::*;

use super::*;
use crate::analyze::twin::policy::istio::facts::Fact;
use crate::model::object::Object;

/// Requests over few values, so that rules often match.
fn any_facts() -> impl Strategy<Value = Facts> {
    let ip = || proptest::sample::select(vec!["10.1.0.1", "10.2.0.1", "192.0.2.1"]);
    let word = || proptest::sample::select(vec!["a", "b", "ab"]);
    ((any::<bool>(), any::<bool>(), word(), word()), (ip(), ip(), 1i64..4), (word(), word(), word()))
        .prop_map(|((http, mutual, namespace, account), (source, remote, port), (method, path, host))| {
            let mut facts = Facts {
                http,
                source_ip: Fact::Is(source.parse().unwrap()),
                remote_ip: Fact::Is(remote.parse().unwrap()),
                destination_ip: Fact::Is("10.9.0.1".parse().unwrap()),
                port: Fact::Is(port),
                sni: Fact::Absent,
                method: Fact::Is(method.to_owned()),
                path: Fact::Is(format!("/{path}")),
                host: Fact::Is(host.to_owned()),
                headers: Fact::Is([("x".to_owned(), path.to_owned())].into()),
                token: Fact::Absent,
                ..Facts::default()
            };
            if mutual {
                facts.identity("cluster.local", namespace, account);
            } else {
                facts.anonymous();
            }
            facts
        })
}

fn any_rule() -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(vec!["a", "b", "a*", "*b", "*"]);
    let range = proptest::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1", "nonsense"]);
    let source = prop_oneof![
        (proptest::sample::select(vec!["namespaces", "notNamespaces"]), word.clone())
            .prop_map(|(k, v)| json!({k: [v]})),
        (proptest::sample::select(vec!["serviceAccounts", "notServiceAccounts"]), word.clone())
            .prop_map(|(k, v)| json!({k: [v]})),
        (
            proptest::sample::select(vec!["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"]),
            range
        )
            .prop_map(|(k, v)| json!({k: [v]})),
        Just(json!({"requestPrincipals": ["*"]})),
    ];
    let operation = prop_oneof![
        (proptest::sample::select(vec!["methods", "notMethods", "hosts", "notHosts"]), word.clone())
            .prop_map(|(k, v)| json!({k: [v]})),
        (proptest::sample::select(vec!["ports", "notPorts"]), 1i64..4)
            .prop_map(|(k, v)| json!({k: [v.to_string()]})),
        word.clone().prop_map(|v| json!({"paths": [format!("/{v}")]})),
    ];
    let when = word.prop_map(|v| json!({"key": "request.headers[x]", "values": [v]}));
    let some = |items: BoxedStrategy<Value>| proptest::collection::vec(items, 0..3);
    (
        some(source.prop_map(|s| json!({"source": s})).boxed()),
        some(operation.prop_map(|o| json!({"operation": o})).boxed()),
        proptest::collection::vec(when, 0..2),
    )
        .prop_map(|(from, to, when)| json!({"from": from, "to": to, "when": when}))
}

fn any_policy(actions: &'static [&'static str]) -> impl Strategy<Value = Policy> {
    (proptest::sample::select(actions), proptest::collection::vec(any_rule(), 0..3), "[a-z]{5}")
        .prop_map(|(action, rules, name)| policy(action, &name, rules))
}

fn policy(action: &str, name: &str, rules: Vec<Value>) -> Policy {
    let body = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name, "namespace": "a"},
        "spec": {"action": action, "rules": rules}});
    Policy::read(Object::read(body).unwrap())
}

fn verdict(policies: &[Policy], facts: &Facts) -> Authorized {
    let policies: Vec<&Policy> = policies.iter().collect();
    let asked = consult(&Istio::default(), &policies, facts, &|_, _| Authorizer::There, &mut vec![]);
    if asked == Authorized::Yes { authorize(&policies, facts, &mut vec![]) } else { asked }
}

/// What the caller sees of it.
fn passes(policies: &[Policy], facts: &Facts) -> Option<bool> {
    match verdict(policies, facts) {
        Authorized::Yes => Some(true),
        Authorized::No(_) | Authorized::Unasked(..) => Some(false),
        Authorized::Unknown(_) => None,
    }
}

const ALL: &[&str] = &["ALLOW", "DENY", "AUDIT", "CUSTOM"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is said with less knowledge stays true with more.
    #[test]
    fn what_is_certain_does_not_hang_on_what_is_unknown(
        policies in proptest::collection::vec(any_policy(ALL), 0..4), facts in any_facts(), hidden: [bool; 7],
    ) {
        let mut less = facts.clone();
        let [principal, source, remote, method, path, host, headers] = hidden;
        if principal { (less.namespace, less.service_account, less.principal) = (Fact::Unknown, Fact::Unknown, Fact::Unknown); }
        if source { less.source_ip = Fact::Unknown; }
        if remote { less.remote_ip = Fact::Unknown; }
        if method { less.method = Fact::Unknown; }
        if path { less.path = Fact::Unknown; }
        if host { less.host = Fact::Unknown; }
        if headers { less.headers = Fact::Unknown; }
        if let Some(before) = passes(&policies, &less) {
            prop_assert_eq!(Some(before), passes(&policies, &facts));
        }
    }

    #[test]
    fn one_more_denial_never_lets_anybody_in(
        policies in proptest::collection::vec(any_policy(&["ALLOW", "DENY", "AUDIT"]), 0..3), more in any_policy(&["DENY"]), facts in any_facts(),
    ) {
        let before = passes(&policies, &facts);
        let mut after = policies;
        after.push(more);
        prop_assert!(before == Some(true) || passes(&after, &facts) == Some(false));
    }

    #[test]
    fn one_more_rule_of_an_allow_never_keeps_anybody_out(
        rules in proptest::collection::vec(any_rule(), 0..3), more in any_rule(), facts in any_facts(),
    ) {
        let before = passes(&[policy("ALLOW", "p", rules.clone())], &facts);
        let after = passes(&[policy("ALLOW", "p", [rules, vec![more]].concat())], &facts);
        prop_assert!(before == Some(false) || after == Some(true));
    }

    #[test]
    fn audits_and_the_order_of_policies_change_nothing(
        policies in proptest::collection::vec(any_policy(ALL), 0..4), audit in any_policy(&["AUDIT"]), facts in any_facts(),
    ) {
        let before = passes(&policies, &facts);
        let mut reversed: Vec<Policy> = policies.into_iter().rev().collect();
        prop_assert_eq!(before, passes(&reversed, &facts));
        reversed.push(audit);
        prop_assert_eq!(before, passes(&reversed, &facts));
    }
}
