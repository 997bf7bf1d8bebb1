//! The documented meaning of each field of a rule, row by row.

use super::*;
use crate::model::json::json;

fn facts() -> Facts {
    let mut facts = Facts {
        http: true,
        source_ip: Fact::Is("10.1.2.3".parse().unwrap()),
        remote_ip: Fact::Is("192.0.2.7".parse().unwrap()),
        destination_ip: Fact::Is("10.1.9.9".parse().unwrap()),
        port: Fact::Is(8080),
        sni: Fact::Is("payment.shop".into()),
        method: Fact::Is("GET".into()),
        path: Fact::Is("/pay/7".into()),
        host: Fact::Is("Payment".into()),
        headers: Fact::Is(
            [("x-tier".to_owned(), "gold".to_owned()), ("x-empty".to_owned(), String::new())].into(),
        ),
        token: Fact::Absent,
        trust_domains: vec!["prod.example".into(), "old.example".into()],
        ..Facts::default()
    };
    facts.identity("prod.example", "shop", "cart");
    facts
}

fn says(rule: Value, facts: &Facts) -> Verdict {
    judge(&rule, 0, "shop", Purpose::Allow, facts)
}

fn matches(rule: Value) -> bool {
    says(rule, &facts()) == Verdict::Matches
}

/// Each row is a field, a value that fits the request and one that does not; negated it is the other way round.
fn fit_both_ways(rows: &[(&str, &str, &str)], rule: impl Fn(&str, bool, &str) -> Value) {
    for (field, fitting, other) in rows {
        for (not, value, expected) in
            [(false, fitting, true), (false, other, false), (true, fitting, false), (true, other, true)]
        {
            assert_eq!(matches(rule(field, not, value)), expected, "{field} {value}, negated: {not}");
        }
    }
}

/// `notPaths` of `paths`.
fn negated(field: &str) -> String {
    let (first, rest) = field.split_at_checked(1).unwrap();
    format!("not{}{rest}", first.to_uppercase())
}

#[test]
fn every_field_of_a_source_and_its_negation() {
    let rows = &[
        ("principals", "prod.example/ns/shop/sa/cart", "prod.example/ns/shop/sa/web"),
        ("principals", "*", "*/sa/web"),
        ("principals", "prod.example/ns/shop/*", "prod.example/ns/bank/*"),
        ("principals", "*/sa/cart", "cart"),
        // The mesh's own trust domain under its other names.
        ("principals", "cluster.local/ns/shop/sa/cart", "other.example/ns/shop/sa/cart"),
        ("principals", "old.example/ns/shop/sa/cart", "old.example/ns/shop/sa/web"),
        ("namespaces", "shop", "sho"),
        ("namespaces", "sh*", "ba*"),
        ("namespaces", "*op", "*o"),
        ("namespaces", "s*p", "s*x"),
        // A name alone is one in the policy's namespace.
        ("serviceAccounts", "cart", "web"),
        ("serviceAccounts", "shop/cart", "bank/cart"),
        ("ipBlocks", "10.1.0.0/16", "10.2.0.0/16"),
        ("ipBlocks", "10.1.2.3", "10.1.2.4"),
        ("remoteIpBlocks", "192.0.2.0/24", "10.1.0.0/16"),
    ];
    fit_both_ways(rows, |field, not, value| {
        let field = if not { negated(field) } else { field.to_owned() };
        json!({"from": [{"source": {field: [value]}}]})
    });
}

#[test]
fn every_field_of_an_operation_and_its_negation() {
    let rows = &[
        ("hosts", "payment", "cart"),
        ("hosts", "PAY*", "car*"),
        ("hosts", "*ment", "*art"),
        ("hosts", "*", "payment:80"),
        ("ports", "8080", "80"),
        ("methods", "GET", "POST"),
        ("methods", "*", "get"),
        ("paths", "/pay/7", "/pay"),
        ("paths", "/pay/*", "/v2/*"),
        ("paths", "*/7", "*/8"),
        ("paths", "/pay/{*}", "/{*}"),
        ("paths", "/{**}", "/pay/{*}/x"),
    ];
    fit_both_ways(rows, |field, not, value| {
        let field = if not { negated(field) } else { field.to_owned() };
        json!({"to": [{"operation": {field: [value]}}]})
    });
}

#[test]
fn every_key_of_a_condition_and_its_negation() {
    let rows = &[
        ("source.ip", "10.1.0.0/16", "10.2.0.0/16"),
        ("remote.ip", "192.0.2.7", "10.1.2.3"),
        ("source.namespace", "shop", "bank"),
        ("source.principal", "*/sa/cart", "*/sa/web"),
        ("source.serviceAccount", "shop/cart", "shop/web"),
        ("destination.ip", "10.1.9.0/24", "10.1.2.0/24"),
        ("destination.port", "8080", "80"),
        ("connection.sni", "*.shop", "*.bank"),
        ("request.headers[X-Tier]", "go*", "silver"),
        ("request.headers[x-tier]", "*", "g"),
        ("request.headers[x-empty]", "*", "a*"),
        ("request.headers[:method]", "GET", "POST"),
    ];
    fit_both_ways(rows, |key, not, value| {
        let list = if not { "notValues" } else { "values" };
        json!({"when": [{"key": key, list: [value]}]})
    });
    assert!(!matches(json!({"when": [{"key": "request.headers[x-none]", "values": ["*"]}]})));
    assert!(matches(json!({"when": [{"key": "request.headers[x-none]", "notValues": ["*"]}]})));
}

#[test]
fn parts_are_joined_by_and_their_entries_by_or() {
    assert!(matches(json!({})));
    assert!(matches(json!({"from": [{"source": {}}]})));
    let shop = json!({"source": {"namespaces": ["shop"]}});
    let bank = json!({"source": {"namespaces": ["bank"]}});
    let get = json!({"operation": {"methods": ["GET"]}});
    let post = json!({"operation": {"methods": ["POST"]}});
    assert!(matches(json!({"from": [bank, shop], "to": [post, get]})));
    assert!(!matches(json!({"from": [bank], "to": [get]})));
    assert!(!matches(json!({"from": [shop], "to": [post]})));
    assert!(!matches(json!({"from": [{"source": {"namespaces": ["shop"], "ipBlocks": ["10.2.0.0/16"]}}]})));
    let header = json!([{"key": "request.headers[x-tier]", "values": ["gold"]}, {"key": "destination.port", "values": ["80"]}]);
    assert!(!matches(json!({"from": [shop], "when": header})));
}

#[test]
fn the_clause_that_is_not_met_is_named() {
    let rule = json!({"from": [{"source": {"namespaces": ["shop"]}}], "to": [{"operation": {"methods": ["GET"], "paths": ["/v2/*"]}}]});
    let Verdict::Unmet(found, None) = judge(&rule, 3, "shop", Purpose::Allow, &facts()) else { panic!() };
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, "spec.rules[3].to[0].operation.paths");
    assert_eq!(found[0].presented, "path /pay/7");
}

#[test]
fn without_a_certificate_nobody_is_somebody() {
    let mut facts = facts();
    facts.anonymous();
    let source = |field: &str, value: &str| json!({"from": [{"source": {field: [value]}}]});
    for field in ["principals", "namespaces", "serviceAccounts"] {
        assert!(matches!(says(source(field, "*"), &facts), Verdict::Unmet(..)), "{field}");
    }
    for field in ["notPrincipals", "notNamespaces", "notServiceAccounts"] {
        assert_eq!(says(source(field, "shop"), &facts), Verdict::Matches, "{field}");
    }
}

#[test]
fn tokens_that_are_not_there_claim_nothing_and_others_claim_the_unknown() {
    let claims = [
        json!({"from": [{"source": {"requestPrincipals": ["*"]}}]}),
        json!({"when": [{"key": "request.auth.claims[groups]", "values": ["a"]}]}),
        json!({"when": [{"key": "request.auth.audiences", "values": ["a"]}]}),
    ];
    for rule in claims {
        assert!(matches!(says(rule.clone(), &facts()), Verdict::Unmet(..)));
        let with = Facts { token: Fact::Is(()), ..facts() };
        assert!(matches!(says(rule, &with), Verdict::Unknown(_)));
    }
    assert!(matches(json!({"from": [{"source": {"notRequestPrincipals": ["*"]}}]})));
}

#[test]
fn what_cannot_be_checked_narrows_allow_and_widens_deny() {
    let tcp = Facts { http: false, ..facts() };
    let rule =
        json!({"from": [{"source": {"namespaces": ["shop"]}}], "to": [{"operation": {"methods": ["POST"]}}]});
    let Verdict::Unmet(unmet, left_out) = says(rule.clone(), &tcp) else { panic!() };
    assert!(unmet.is_empty());
    assert_eq!(left_out.as_deref(), Some("spec.rules[0].to[0].operation.methods"));
    assert_eq!(judge(&rule, 0, "shop", Purpose::Other, &tcp), Verdict::Matches);
    let broken = json!({"from": [{"source": {"ipBlocks": ["10.1.0.0/16", "nonsense"]}}]});
    assert!(matches!(says(broken.clone(), &facts()), Verdict::Unmet(_, Some(_))));
    assert_eq!(judge(&broken, 0, "shop", Purpose::Other, &facts()), Verdict::Matches);
    let layer_four = json!({"to": [{"operation": {"ports": ["8080"]}}]});
    assert_eq!(says(layer_four, &tcp), Verdict::Matches);
}
