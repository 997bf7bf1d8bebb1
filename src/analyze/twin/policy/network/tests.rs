//! The documented meaning of each field, row by row, and properties that hold for every set of policies.

use crate::model::json::{Value, json};
use proptest::prelude::*;

use super::*;
use crate::model::snapshot::{Builder, Snapshot};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn template(host_network: bool) -> PodTemplate {
    PodTemplate::read(&std::sync::Arc::new(
        json!({"spec": {"hostNetwork": host_network, "containers": [{"name": "c", "ports": [
        {"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 5353, "protocol": "UDP"}]}],
        "initContainers": [{"name": "i", "ports": [{"name": "setup", "containerPort": 7000}]}]}}),
    ))
}

fn snapshot(objects: Vec<Value>) -> Snapshot {
    let mut builder = Builder::new();
    objects.into_iter().for_each(|object| builder.object(object));
    builder.finish()
}

fn policies(objects: Vec<Value>) -> std::sync::Arc<NetworkPolicies> {
    snapshot(objects).derived()
}

fn np(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn anp(name: &str, priority: i64, ingress: Value, egress: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy", "metadata": {"name": name},
        "spec": {"priority": priority, "subject": {"namespaces": {}}, "ingress": ingress, "egress": egress}})
}

fn banp(ingress: Value, egress: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "BaselineAdminNetworkPolicy", "metadata": {"name": "default"},
        "spec": {"subject": {"namespaces": {}}, "ingress": ingress, "egress": egress}})
}

/// What happens on port `number` of `shop/app=api`, called from `namespace` with label `app=<app>`.
fn call(objects: Vec<Value>, namespace: &str, app: &str, number: i64, transport: &str) -> Decision {
    let template = template(false);
    let (own, other) = (labels(&[("app", "api")]), labels(&[("app", app)]));
    let pod = |namespace, labels, ips| {
        End::Pod(PodEnd { namespace, labels, template: Some(&template), ips, node_ips: &[] })
    };
    let ips = ["10.1.0.7".to_owned()];
    let (from, to) = (pod(namespace, &other, Some(&ips[..])), pod("shop", &own, Some(&[])));
    policies(objects).connection(&from, &to, Port { number, transport })
}

fn ingress(rules: Value) -> Value {
    np("p", json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules}))
}

fn passes(rules: Value, namespace: &str, app: &str, number: i64, transport: &str) -> bool {
    call(vec![ingress(rules)], namespace, app, number, transport).verdict == Verdict::Allowed
}

#[test]
fn a_pod_that_nothing_selects_takes_everything_and_one_that_is_isolated_nothing() {
    assert_eq!(call(vec![], "other", "web", 80, "TCP").verdict, Verdict::Allowed);
    let elsewhere = np("p", json!({"podSelector": {"matchLabels": {"app": "db"}}}));
    assert_eq!(call(vec![elsewhere], "other", "web", 80, "TCP").verdict, Verdict::Allowed);
    let denied = call(vec![np("p", json!({"podSelector": {}}))], "other", "web", 80, "TCP");
    assert!(denied.denied());
    assert_eq!(denied.causes[0].object.to_string(), "NetworkPolicy shop/p");
    assert_eq!(denied.causes[0].object.field_path, "spec.ingress");
}

#[test]
fn peers_of_a_network_policy() {
    let from = |peer: Value| json!([{"from": [peer]}]);
    // An empty rule, and one without peers, are for everybody.
    assert!(passes(json!([{}]), "other", "web", 80, "TCP"));
    assert!(passes(json!([{"from": []}]), "other", "web", 80, "TCP"));
    // Without a namespaceSelector the policy's own namespace is meant.
    assert!(passes(from(json!({"podSelector": {}})), "shop", "web", 80, "TCP"));
    assert!(!passes(from(json!({"podSelector": {}})), "other", "web", 80, "TCP"));
    assert!(passes(from(json!({"namespaceSelector": {}})), "other", "web", 80, "TCP"));
    let named = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}, "podSelector": {"matchLabels": {"app": "web"}}});
    assert!(passes(from(named.clone()), "other", "web", 80, "TCP"));
    assert!(!passes(from(named.clone()), "other", "job", 80, "TCP"));
    assert!(!passes(from(named), "shop", "web", 80, "TCP"));
    // The caller has 10.1.0.7.
    assert!(passes(from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}})), "other", "web", 80, "TCP"));
    let holed = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}});
    assert!(!passes(from(holed), "other", "web", 80, "TCP"));
    assert!(!passes(from(json!({"ipBlock": {"cidr": "nonsense"}})), "other", "web", 80, "TCP"));
    assert!(!passes(from(json!({})), "other", "web", 80, "TCP"));
}

#[test]
fn ports_of_a_network_policy() {
    let ports = |port: Value| json!([{"ports": [port]}]);
    assert!(passes(ports(json!({"port": 80})), "other", "web", 80, "TCP"));
    assert!(!passes(ports(json!({"port": 80})), "other", "web", 80, "UDP"));
    assert!(passes(ports(json!({"protocol": "SCTP"})), "other", "web", 9, "SCTP"));
    assert!(!passes(ports(json!({"protocol": "SCTP"})), "other", "web", 9, "TCP"));
    for (number, inside) in [(79, false), (80, true), (90, true), (91, false)] {
        assert_eq!(passes(ports(json!({"port": 80, "endPort": 90})), "other", "web", number, "TCP"), inside);
    }
    // Names are those of the called pod's running containers, with their protocol.
    assert!(passes(ports(json!({"port": "web"})), "other", "web", 8080, "TCP"));
    assert!(!passes(ports(json!({"port": "web"})), "other", "web", 80, "TCP"));
    assert!(passes(ports(json!({"port": "dns", "protocol": "UDP"})), "other", "web", 5353, "UDP"));
    assert!(!passes(ports(json!({"port": "dns"})), "other", "web", 5353, "UDP"));
    assert!(!passes(ports(json!({"port": "setup"})), "other", "web", 7000, "TCP"));
}

#[test]
fn policy_types_where_none_are_written_follow_from_the_rules() {
    let only_ingress = np("p", json!({"podSelector": {}}));
    let with_egress = np("p", json!({"podSelector": {}, "egress": [{}]}));
    let spelled = np("p", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    let template = template(false);
    let own = labels(&[]);
    let pod = PodEnd { namespace: "shop", labels: &own, template: Some(&template), ips: None, node_ips: &[] };
    let outside = End::Address("192.0.2.1".parse().unwrap());
    let port = Port { number: 443, transport: "TCP" };
    let verdicts = |object: Value| {
        let policies = policies(vec![object]);
        [Direction::Ingress, Direction::Egress].map(|d| policies.decide(d, &pod, &outside, port).denied())
    };
    assert_eq!(verdicts(only_ingress), [true, false]);
    assert_eq!(verdicts(with_egress), [true, false]);
    assert_eq!(verdicts(spelled), [false, true]);
}

#[test]
fn both_ends_must_allow() {
    let in_other = |spec: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "out", "namespace": "other"}, "spec": spec});
    let closed = in_other(json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    let open = ingress(json!([{}]));
    let denied = call(vec![open.clone(), closed], "other", "web", 80, "TCP");
    assert!(denied.denied());
    assert_eq!(denied.causes[0].direction, Direction::Egress);
    // A name in an egress rule is a port of the pod that is called.
    let named = in_other(
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "web"}]}]}),
    );
    let allowed = call(vec![open, named], "other", "web", 8080, "TCP");
    assert_eq!(allowed.verdict, Verdict::Allowed);
    let fields: Vec<_> = allowed.causes.iter().map(|cause| cause.object.field_path.as_str()).collect();
    assert_eq!(fields, ["spec.egress[0]", "spec.ingress[0]"]);
}

#[test]
fn nodes_reach_their_own_pods() {
    let template = template(false);
    let own = labels(&[]);
    let node = ["192.0.2.9".to_owned()];
    let pod =
        PodEnd { namespace: "shop", labels: &own, template: Some(&template), ips: None, node_ips: &node };
    let policies = policies(vec![np("p", json!({"podSelector": {}}))]);
    let port = Port { number: 80, transport: "TCP" };
    let from = |ip: &str| policies.decide(Direction::Ingress, &pod, &End::Address(ip.parse().unwrap()), port);
    assert_eq!(from("192.0.2.9").verdict, Verdict::Allowed);
    assert!(from("192.0.2.8").denied());
}

#[test]
fn an_unseen_address_decides_nothing_but_where_the_range_holds_all() {
    let template = template(false);
    let (own, other) = (labels(&[("app", "api")]), labels(&[]));
    let called =
        PodEnd { namespace: "shop", labels: &own, template: Some(&template), ips: None, node_ips: &[] };
    let port = Port { number: 80, transport: "TCP" };
    let verdict = |cidr: &str, ips| {
        let caller = PodEnd { namespace: "shop", labels: &other, template: None, ips, node_ips: &[] };
        let policies = policies(vec![ingress(json!([{"from": [{"ipBlock": {"cidr": cidr}}]}]))]);
        policies.decide(Direction::Ingress, &called, &End::Pod(caller), port).verdict
    };
    assert!(matches!(verdict("10.0.0.0/8", None), Verdict::Unknown(_)));
    assert_eq!(verdict("10.0.0.0/8", Some(&[])), Verdict::Denied);
    assert_eq!(verdict("0.0.0.0/0", None), Verdict::Allowed);
    assert_eq!(verdict("0.0.0.0/0", Some(&[])), Verdict::Allowed);
}

#[test]
fn tiers_are_asked_in_order() {
    let all = json!([{"namespaces": {}}]);
    let rule = |action: &str| json!([{"action": action, "from": all}]);
    let none = json!([]);
    let verdict = |objects: Vec<Value>| call(objects, "other", "web", 80, "TCP").verdict;
    let closed = np("closed", json!({"podSelector": {}}));
    let open = ingress(json!([{}]));
    // Above NetworkPolicies.
    assert_eq!(verdict(vec![anp("a", 5, rule("Allow"), none.clone()), closed.clone()]), Verdict::Allowed);
    assert_eq!(verdict(vec![anp("a", 5, rule("Deny"), none.clone()), open.clone()]), Verdict::Denied);
    assert_eq!(verdict(vec![anp("a", 5, rule("Pass"), none.clone()), closed.clone()]), Verdict::Denied);
    // The lower number counts.
    assert_eq!(
        verdict(vec![anp("a", 5, rule("Deny"), none.clone()), anp("b", 4, rule("Allow"), none.clone())]),
        Verdict::Allowed
    );
    assert_eq!(
        verdict(vec![anp("a", 5, rule("Deny"), none.clone()), anp("b", 4, rule("Pass"), none.clone())]),
        Verdict::Allowed
    );
    // Below them.
    assert_eq!(verdict(vec![banp(rule("Deny"), none.clone())]), Verdict::Denied);
    assert_eq!(verdict(vec![banp(rule("Deny"), none.clone()), open]), Verdict::Allowed);
    assert_eq!(verdict(vec![banp(rule("Allow"), none.clone()), closed]), Verdict::Denied);
    assert_eq!(
        verdict(vec![banp(rule("Deny"), none.clone()), anp("a", 5, rule("Pass"), none.clone())]),
        Verdict::Denied
    );
    // Two of one priority that contradict each other.
    let tie = verdict(vec![anp("a", 5, rule("Deny"), none.clone()), anp("b", 5, rule("Allow"), none)]);
    assert!(matches!(tie, Verdict::Unknown(why) if why.contains("priority 5")));
}

#[test]
fn the_first_rule_that_fits_decides_and_both_sides_have_their_own() {
    let to = |ports: Value, action: &str| json!({"action": action, "to": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "api"}}}}], "ports": ports});
    let rules = json!([
        to(json!([{"portNumber": {"protocol": "TCP", "port": 80}}, {"portRange": {"start": 90, "end": 92}}]), "Allow"),
        to(json!([{"namedPort": "web"}]), "Allow"),
        {"action": "Deny", "to": [{"namespaces": {}}]},
    ]);
    let objects = vec![anp("a", 1, json!([]), rules)];
    for (number, transport, passes) in [
        (80, "TCP", true),
        (80, "UDP", false),
        (92, "TCP", true),
        (93, "TCP", false),
        (8080, "TCP", true),
        (8080, "UDP", false),
    ] {
        let decision = call(objects.clone(), "other", "web", number, transport);
        assert_eq!(decision.verdict == Verdict::Allowed, passes, "{transport} {number}: {decision:?}");
    }
    let decision = call(objects, "other", "web", 93, "TCP");
    assert_eq!(decision.causes[0].object.field_path, "spec.egress[2]");
}

#[test]
fn networks_and_nodes_are_addresses_and_host_network_pods_are_nobodys_pods() {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"role": "infra"}}, "status": {"addresses": [{"type": "InternalIP", "address": "10.9.0.1"}]}});
    let egress = json!([
        {"action": "Allow", "to": [{"nodes": {"matchLabels": {"role": "infra"}}}]},
        {"action": "Allow", "to": [{"networks": ["192.0.2.0/24"]}]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
    ]);
    let policies = policies(vec![node, anp("a", 1, json!([]), egress)]);
    let own = labels(&[]);
    let port = Port { number: 443, transport: "TCP" };
    let leaves = |host_network: bool, other: &End<'_>| {
        let template = template(host_network);
        let pod =
            PodEnd { namespace: "shop", labels: &own, template: Some(&template), ips: None, node_ips: &[] };
        policies.decide(Direction::Egress, &pod, other, port).verdict
    };
    let at = |ip: &str| End::Address(ip.parse().unwrap());
    assert_eq!(leaves(false, &at("10.9.0.1")), Verdict::Allowed);
    assert_eq!(leaves(false, &at("192.0.2.7")), Verdict::Allowed);
    assert_eq!(leaves(false, &at("198.51.100.1")), Verdict::Denied);
    // Subjects are never pods in their node's network.
    assert_eq!(leaves(true, &at("198.51.100.1")), Verdict::Allowed);
    // Ranges count for pods too: this one holds any address.
    let ips = ["10.1.0.7".to_owned()];
    let pod = PodEnd { namespace: "shop", labels: &own, template: None, ips: Some(&ips), node_ips: &[] };
    assert_eq!(leaves(false, &End::Pod(pod)), Verdict::Denied);
}

#[test]
fn what_is_not_read_is_unknown_and_only_where_it_decides() {
    let rules = |last: Value| json!([{"action": "Allow", "to": [{"domainNames": ["a.example.com"]}]}, last]);
    let verdict = |last: Value| {
        let own = labels(&[]);
        let pod = PodEnd { namespace: "shop", labels: &own, template: None, ips: None, node_ips: &[] };
        let outside = End::Address("192.0.2.1".parse().unwrap());
        let policies = policies(vec![anp("a", 1, json!([]), rules(last))]);
        policies.decide(Direction::Egress, &pod, &outside, Port { number: 443, transport: "TCP" }).verdict
    };
    let networks = json!([{"networks": ["0.0.0.0/0"]}]);
    assert!(matches!(verdict(json!({"action": "Deny", "to": networks})), Verdict::Unknown(_)));
    assert_eq!(verdict(json!({"action": "Allow", "to": networks})), Verdict::Allowed);
    assert!(matches!(verdict(json!({"action": "Ponder", "to": networks})), Verdict::Unknown(_)));
    assert!(matches!(verdict(json!({"action": "Deny", "to": [{"planets": {}}]})), Verdict::Unknown(_)));
}

#[test]
fn a_controller_is_let_in_by_who_lets_in_everybody() {
    let own = labels(&[("app", "api")]);
    let pod = PodEnd { namespace: "shop", labels: &own, template: None, ips: None, node_ips: &[] };
    let verdict = |peer: Value| {
        let policies = policies(vec![ingress(json!([{"from": [peer]}]))]);
        policies
            .decide(Direction::Ingress, &pod, &End::Controller, Port { number: 80, transport: "TCP" })
            .verdict
    };
    assert_eq!(verdict(json!({"namespaceSelector": {}})), Verdict::Allowed);
    assert_eq!(verdict(json!({"namespaceSelector": {}, "podSelector": {}})), Verdict::Allowed);
    assert!(matches!(verdict(json!({"podSelector": {}})), Verdict::Unknown(_)));
    assert!(matches!(
        verdict(json!({"namespaceSelector": {"matchLabels": {"a": "b"}}})),
        Verdict::Unknown(_)
    ));
}

#[test]
fn ingresses_and_routes_lead_to_the_ports_that_they_name() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api", "namespace": "shop"}, "spec": {"selector": {"app": "api"},
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "admin", "port": 81, "targetPort": 9000}]}});
    let ingress = |port: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i", "namespace": "shop"}, "spec": {"rules": [{"http": {"paths": [{"backend": {"service": {"name": "api", "port": port}}}]}}]}});
    let route = |spec: Value| json!({"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": {"name": "r", "namespace": "shop"}, "spec": spec});
    let (own, template) = (labels(&[("app", "api")]), template(false));
    let pod = PodEnd { namespace: "shop", labels: &own, template: Some(&template), ips: None, node_ips: &[] };
    let reached = |object: Value| {
        let snapshot = snapshot(vec![service.clone(), object]);
        let leads = |number: i64, transport| exposed::leads_to(&snapshot, &pod, Port { number, transport });
        assert_eq!(leads(8080, "UDP"), None);
        [80, 8080, 9000].map(|number| leads(number, "TCP").is_some())
    };
    assert_eq!(reached(ingress(json!({"number": 80}))), [false, true, false]);
    assert_eq!(reached(ingress(json!({"name": "admin"}))), [false, false, true]);
    let to = json!({"kind": "Service", "name": "api"});
    assert_eq!(reached(route(json!({"to": to}))), [false, true, true]);
    assert_eq!(reached(route(json!({"to": to, "port": {"targetPort": "http"}}))), [false, true, false]);
    assert_eq!(reached(route(json!({"to": to, "port": {"targetPort": 9000}}))), [false, false, true]);
    assert_eq!(reached(route(json!({"to": {"kind": "Service", "name": "other"}}))), [false; 3]);
}

/// Rules over few labels and ports, so that they often fit.
fn any_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        "[ab]".prop_map(|value| json!({"matchLabels": {"app": value}})),
        "[ab]".prop_map(
            |value| json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [value]}]})
        ),
    ]
}

fn any_policy() -> impl Strategy<Value = Value> {
    let peer = prop_oneof![
        any_selector().prop_map(|pods| json!({"podSelector": pods})),
        any_selector().prop_map(|pods| json!({"namespaceSelector": {}, "podSelector": pods})),
        (0u8..=32).prop_map(|bits| json!({"ipBlock": {"cidr": format!("10.1.0.6/{bits}")}})),
    ];
    let port = prop_oneof![
        (1i64..4, 0i64..3).prop_map(|(from, more)| json!({"port": from, "endPort": from + more})),
        Just(json!({"protocol": "UDP"})),
        Just(json!({"port": "web"})),
    ];
    let rule = (proptest::collection::vec(peer, 0..3), proptest::collection::vec(port, 0..3))
        .prop_map(|(from, ports)| json!({"from": from, "ports": ports}));
    (any_selector(), proptest::collection::vec(rule, 0..3), "[a-z]{6}").prop_map(|(pods, rules, name)| {
        np(&name, json!({"podSelector": pods, "policyTypes": ["Ingress"], "ingress": rules}))
    })
}

fn any_admin(actions: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let rule =
        (proptest::sample::select(actions), any_selector(), 1i64..4).prop_map(|(action, pods, port)| {
            json!({"action": action, "from": [{"pods": {"namespaceSelector": {}, "podSelector": pods}}],
            "ports": [{"portNumber": {"protocol": "TCP", "port": port}}]})
        });
    proptest::collection::vec(rule, 0..4).prop_map(Value::from)
}

/// The documentation's sentences, word by word and without any of the code above: whether `shop` pods with `own` labels take
/// a TCP connection to `port` from a pod of `namespace` with `other` labels and address 10.1.0.7.
fn written_down(policies: &[Value], own: &str, namespace: &str, other: &str, port: i64) -> bool {
    let fits = |selector: &Value, app: &str| {
        let label = selector.pointer("/matchLabels/app").is_none_or(|value| value == app);
        let not = selector.pointer("/matchExpressions/0/values/0").is_none_or(|value| value != app);
        label && not
    };
    let mut isolated = false;
    for policy in policies {
        if !fits(&policy["spec"]["podSelector"], own) {
            continue;
        }
        isolated = true;
        for rule in policy["spec"]["ingress"].as_array().unwrap() {
            let from = rule["from"].as_array().unwrap();
            let source = from.is_empty()
                || from.iter().any(|peer| match peer.pointer("/ipBlock/cidr") {
                    Some(cidr) => {
                        let bits: u32 = cidr.as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
                        // .6 and .7 differ in their last bit alone.
                        bits < 32
                    }
                    None => {
                        (peer.get("namespaceSelector").is_some() || namespace == "shop")
                            && fits(&peer["podSelector"], other)
                    }
                });
            let ports = rule["ports"].as_array().unwrap();
            let target = ports.is_empty()
                || ports.iter().any(|p| match (&p["port"], p["endPort"].as_i64()) {
                    (Value::Number(from), Some(to)) => from.as_i64().unwrap() <= port && port <= to,
                    (Value::String(_), _) => port == 8080,
                    _ => false,
                });
            if source && target {
                return true;
            }
        }
    }
    !isolated
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn network_policies_decide_as_written_down(
        policies in proptest::collection::vec(any_policy(), 0..4), inside: bool, app in "[abc]",
        port in prop_oneof![1i64..6, Just(8080)],
    ) {
        let mut seen = std::collections::BTreeSet::new();
        let policies: Vec<Value> = policies.into_iter().filter(|p| seen.insert(p["metadata"]["name"].to_string())).collect();
        let namespace = if inside { "shop" } else { "other" };
        let got = call(policies.clone(), namespace, &app, port, "TCP").verdict;
        prop_assert_eq!(got == Verdict::Allowed, written_down(&policies, "api", namespace, &app, port));
        // Their order says nothing.
        let reversed = policies.into_iter().rev().collect();
        prop_assert_eq!(got, call(reversed, namespace, &app, port, "TCP").verdict);
    }

    #[test]
    fn one_more_rule_never_closes_what_was_open(policy in any_policy(), other in any_policy(), app in "[abc]", port in 1i64..6) {
        let before = call(vec![policy.clone()], "shop", &app, port, "TCP").verdict;
        let mut more = policy;
        let rules = other["spec"]["ingress"].as_array().unwrap().clone();
        more["spec"]["ingress"].as_array_mut().unwrap().extend(rules);
        let after = call(vec![more], "shop", &app, port, "TCP").verdict;
        prop_assert!(before != Verdict::Allowed || after == Verdict::Allowed);
    }

    #[test]
    fn tiers_compose(
        policy in any_policy(), first in any_admin(&["Allow", "Deny", "Pass"]), second in any_admin(&["Allow", "Deny", "Pass"]),
        last in any_admin(&["Allow", "Deny"]), app in "[abc]", port in 1i64..4,
    ) {
        let none = || json!([]);
        let verdict = |objects| call(objects, "shop", &app, port, "TCP").verdict;
        let stack = vec![policy.clone(), anp("a", 1, first.clone(), none()), anp("b", 2, second.clone(), none()), banp(last.clone(), none())];
        let got = verdict(stack);
        prop_assert!(!matches!(got, Verdict::Unknown(_)));
        // Two policies in a row are one with the rules of both.
        let joined = Value::Array(first.as_array().unwrap().iter().chain(second.as_array().unwrap()).cloned().collect());
        prop_assert_eq!(&got, &verdict(vec![policy.clone(), anp("a", 1, joined, none()), banp(last.clone(), none())]));
        // One that passes everything on leaves what is below it.
        let pass = json!([{"action": "Pass", "from": [{"namespaces": {}}]}]);
        prop_assert_eq!(verdict(vec![anp("z", 0, pass, none()), anp("a", 1, first, none()), policy.clone(), banp(last.clone(), none())]),
            verdict(vec![policy.clone(), banp(last, none())]));
        // Where a NetworkPolicy selects the pod, the baseline is not asked.
        let isolating = ingress(json!([]));
        let deny = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
        prop_assert_eq!(verdict(vec![isolating.clone(), policy.clone(), banp(deny, none())]), verdict(vec![isolating, policy]));
    }

    /// What is said of a pod whose address was not seen is true whatever its address.
    #[test]
    fn what_is_certain_does_not_hang_on_an_address(
        policy in any_policy(), rules in any_admin(&["Allow", "Deny", "Pass"]), app in "[abc]", port in 1i64..6, ip: u32,
    ) {
        let policies = policies(vec![policy, anp("a", 1, rules, json!([]))]);
        let (own, other) = (labels(&[("app", "api")]), labels(&[("app", &app)]));
        let called = PodEnd { namespace: "shop", labels: &own, template: None, ips: None, node_ips: &[] };
        let ips = [core::net::Ipv4Addr::from(ip).to_string()];
        let verdict = |ips| {
            let caller = End::Pod(PodEnd { namespace: "shop", labels: &other, template: None, ips, node_ips: &[] });
            policies.decide(Direction::Ingress, &called, &caller, Port { number: port, transport: "TCP" }).verdict
        };
        let unseen = verdict(None);
        prop_assert!(matches!(unseen, Verdict::Unknown(_)) || unseen == verdict(Some(&ips)));
    }
}
