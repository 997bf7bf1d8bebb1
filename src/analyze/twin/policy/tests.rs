//! Passages through all that looks at them, on small snapshots.

use crate::model::json::{Value, json};
use std::collections::BTreeMap;

use super::*;
use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::{Named, Tls};
use crate::analyze::twin::party::Party;
use crate::model::snapshot::{Builder, Snapshot};

/// Namespace `shop` is in the mesh, `out` is not; each has a Deployment `web` and `api`, whose port 8080 is HTTP and whose
/// port 9000 is TCP.
fn snapshot(objects: Vec<Value>, mesh_config: Value) -> Snapshot {
    let mut builder = Builder::new();
    for (namespace, injection) in [("shop", "enabled"), ("out", "disabled")] {
        builder.object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"istio-injection": injection}}}));
        for name in ["web", "api"] {
            builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
                "spec": {"template": {"metadata": {"labels": {"app": name}}, "spec": {"serviceAccountName": name, "containers": [{"name": "c"}]}}}}));
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {"selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "tcp", "port": 9000}]}}));
        }
    }
    objects.into_iter().for_each(|object| builder.object(object));
    builder.istio("istio-system", mesh_config);
    builder.finish()
}

fn istio(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn authorization(name: &str, spec: Value) -> Value {
    istio("AuthorizationPolicy", "shop", name, spec)
}

struct Call<'a> {
    from: (&'a str, &'a str),
    port: u16,
    tls: ClientTls,
    path: &'a str,
    headers: BTreeMap<String, String>,
}

impl Default for Call<'_> {
    fn default() -> Self {
        Call {
            from: ("shop", "web"),
            port: 8080,
            tls: ClientTls::Auto,
            path: "/pay",
            headers: BTreeMap::new(),
        }
    }
}

/// A call of `shop/api`: HTTP on port 8080, bytes elsewhere.
fn call(snapshot: &Snapshot, call: &Call<'_>) -> Verdict {
    let find = |namespace: &str, name: &str| {
        let named = Named { namespace: namespace.into(), kind: "Deployment".into(), name: name.into() };
        Peer::Pod(Party::find(snapshot, &named).unwrap())
    };
    let (from, to) = (find(call.from.0, call.from.1), find("shop", "api"));
    let http = call.port == 8080;
    let request = Arriving {
        method: "GET",
        host: "api",
        path: call.path,
        headers: Some(&call.headers),
        undecided: None,
    };
    admit(
        &Twin::new(snapshot),
        &Passage {
            accepts: &[],
            from: &from,
            to: &to,
            protocol: if http { ask::Protocol::Http } else { ask::Protocol::Tcp },
            port: call.port,
            tls: call.tls.clone(),
            sni: None,
            request: http.then_some(request),
            remote_ip: None,
        },
    )
}

/// `200`, the status, `reset` or `?`.
fn word(verdict: &Verdict) -> String {
    match &verdict.ruling {
        Ruling::Allowed => "200".to_owned(),
        Ruling::Refused { status: Some(status), .. } => status.to_string(),
        Ruling::Refused { status: None, .. } => "reset".to_owned(),
        Ruling::NotModelled(_) => "?".to_owned(),
    }
}

fn detail(verdict: &Verdict) -> &str {
    match &verdict.ruling {
        Ruling::Refused { detail, .. } | Ruling::NotModelled(detail) => detail,
        Ruling::Allowed => "",
    }
}

fn said(objects: Vec<Value>, ask: &Call<'_>) -> String {
    word(&call(&snapshot(objects, Value::Null), ask))
}

#[test]
fn plaintext_to_strict_mutual_tls_is_closed() {
    let strict =
        || vec![istio("PeerAuthentication", "istio-system", "default", json!({"mtls": {"mode": "STRICT"}}))];
    let bare = Call { from: ("out", "web"), tls: ClientTls::AsSent(Tls::Plaintext), ..Call::default() };
    assert_eq!(said(strict(), &Call::default()), "200");
    assert_eq!(said(strict(), &bare), "reset");
    let told = call(&snapshot(strict(), Value::Null), &Call { tls: ClientTls::Disable, ..Call::default() });
    assert_eq!(word(&told), "503");
    assert!(matches!(told.ruling, Ruling::Refused { flag: "UC", .. }));
    assert!(detail(&told).contains("STRICT"), "{told:?}");
    let step =
        told.steps.iter().find_map(|step| step.object.as_ref().map(|o| (o.to_string(), &step.field_path)));
    assert_eq!(
        step.unwrap(),
        ("PeerAuthentication istio-system/default".to_owned(), &"spec.mtls.mode".to_owned())
    );
    // A port that the sidecar leaves alone, and one that the workload's own policy opens.
    let mut opened = strict();
    opened.push(istio("PeerAuthentication", "shop", "api", json!({"selector": {"matchLabels": {"app": "api"}}, "portLevelMtls": {"8080": {"mode": "PERMISSIVE"}}})));
    assert_eq!(said(opened, &bare), "200");
    assert_eq!(said(strict(), &Call { port: 15021, ..bare }), "200");
}

#[test]
fn where_a_namespace_disables_mutual_tls_pods_that_demand_it_get_none() {
    let mode = |name: &str, mode: &str, selector: Value| {
        istio("PeerAuthentication", "shop", name, json!({"selector": selector, "mtls": {"mode": mode}}))
    };
    let (all, own) = (json!(null), json!({"matchLabels": {"app": "api"}}));
    let with = |space: &str, pods: &str| {
        call(
            &snapshot(vec![mode("default", space, all.clone()), mode("own", pods, own.clone())], Value::Null),
            &Call::default(),
        )
    };
    let closed = with("DISABLE", "STRICT");
    assert_eq!(word(&closed), "503");
    assert!(matches!(closed.ruling, Ruling::Refused { flag: "UC", .. }), "{closed:?}");
    assert_eq!(word(&with("DISABLE", "PERMISSIVE")), "200");
    assert_eq!(word(&with("PERMISSIVE", "STRICT")), "200");
    assert_eq!(word(&with("STRICT", "DISABLE")), "200");
}

#[test]
fn mutual_tls_without_auto_is_not_spoken() {
    let strict = istio("PeerAuthentication", "shop", "default", json!({"mtls": {"mode": "STRICT"}}));
    let snapshot = snapshot(vec![strict], json!({"enableAutoMtls": false}));
    assert_eq!(word(&call(&snapshot, &Call::default())), "503");
    assert_eq!(word(&call(&snapshot, &Call { tls: ClientTls::IstioMutual, ..Call::default() })), "200");
}

#[test]
fn deny_comes_before_allow_and_custom_before_both() {
    let all = json!([{}]);
    let policy = |name: &str, action: &str, rules: &Value| {
        authorization(name, json!({"action": action, "rules": rules}))
    };
    let web = json!([{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}]}]);
    let other = json!([{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/job"]}}]}]);
    let ask = Call::default();
    for (policies, outcome) in [
        (vec![], "200"),
        (vec![policy("a", "ALLOW", &all)], "200"),
        (vec![policy("a", "ALLOW", &web)], "200"),
        (vec![policy("a", "ALLOW", &other)], "403"),
        (vec![policy("a", "ALLOW", &other), policy("b", "ALLOW", &web)], "200"),
        // No rules: an ALLOW that allows nothing, a DENY that denies nothing.
        (vec![authorization("a", json!({}))], "403"),
        (vec![policy("a", "DENY", &json!([]))], "200"),
        (vec![policy("a", "DENY", &all)], "403"),
        (vec![policy("a", "DENY", &other)], "200"),
        (vec![policy("a", "DENY", &web), policy("b", "ALLOW", &all)], "403"),
        (vec![policy("a", "AUDIT", &all)], "200"),
        (vec![policy("a", "AUDIT", &all), policy("b", "ALLOW", &other)], "403"),
        (vec![policy("a", "CUSTOM", &all), policy("b", "ALLOW", &all)], "?"),
        (vec![policy("a", "CUSTOM", &other), policy("b", "ALLOW", &all)], "200"),
        (vec![policy("a", "PONDER", &all)], "?"),
    ] {
        assert_eq!(said(policies.clone(), &ask), outcome, "{policies:?}");
    }
    let denied = call(&snapshot(vec![policy("no", "DENY", &web)], Value::Null), &ask);
    assert!(detail(&denied).contains("RBAC: access denied"));
    assert!(detail(&denied).ends_with("rbac_access_denied_matched_policy[ns[shop]-policy[no]-rule[0]]"));
    let last = denied.steps.last().unwrap();
    assert_eq!(last.field_path, "spec.rules[0]");
    let none = call(&snapshot(vec![policy("a", "ALLOW", &other)], Value::Null), &ask);
    assert!(detail(&none).ends_with("rbac_access_denied_matched_policy[none]"));
    let last = none.steps.last().unwrap();
    assert_eq!(last.field_path, "spec.rules[0].from[0].source.principals");
    assert!(last.decision.contains("principal cluster.local/ns/shop/sa/web does not fit"), "{last:?}");
}

#[test]
fn policies_reach_by_namespace_root_and_selector() {
    let spec = |labels: Value| json!({"selector": {"matchLabels": labels}, "action": "DENY", "rules": [{}]});
    let ask = Call::default();
    for (namespace, labels, outcome) in [
        ("shop", json!({}), "403"),
        ("shop", json!({"app": "api"}), "403"),
        ("shop", json!({"app": "web"}), "200"),
        ("out", json!({}), "200"),
        ("istio-system", json!({}), "403"),
        ("istio-system", json!({"app": "api"}), "403"),
    ] {
        let policy = istio("AuthorizationPolicy", namespace, "p", spec(labels.clone()));
        assert_eq!(said(vec![policy], &ask), outcome, "{namespace} {labels}");
    }
    let mut dry = authorization("p", spec(json!({})));
    dry["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    assert_eq!(said(vec![dry], &ask), "200");
    let attached = json!({"targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "g"}], "action": "DENY", "rules": [{}]});
    assert_eq!(said(vec![authorization("p", attached)], &ask), "200");
}

#[test]
fn identity_needs_mutual_tls() {
    let from = |field: &str| authorization("p", json!({"rules": [{"from": [{"source": {field: ["*"]}}]}]}));
    let plain = Call { tls: ClientTls::Disable, ..Call::default() };
    for field in ["principals", "namespaces"] {
        assert_eq!(said(vec![from(field)], &Call::default()), "200", "{field}");
        assert_eq!(said(vec![from(field)], &plain), "403", "{field}");
    }
    // What is unknown is not guessed: no pod was seen, and so no address.
    let block = authorization("p", json!({"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}]}));
    assert_eq!(said(vec![block], &Call::default()), "?");
}

#[test]
fn on_a_bare_connection_fields_of_http_allow_nothing_and_restrict_no_denial() {
    let tcp = Call { port: 9000, ..Call::default() };
    let rules = json!([{"to": [{"operation": {"methods": ["POST"]}}]}]);
    let allow = authorization("p", json!({"rules": rules}));
    let deny = authorization("p", json!({"action": "DENY", "rules": rules}));
    assert_eq!(said(vec![allow], &tcp), "reset");
    assert_eq!(said(vec![deny.clone()], &tcp), "reset");
    // With HTTP it is a GET that comes.
    assert_eq!(said(vec![deny], &Call::default()), "200");
    let port = authorization("p", json!({"rules": [{"to": [{"operation": {"ports": ["9000"]}}]}]}));
    assert_eq!(said(vec![port], &tcp), "200");
}

#[test]
fn a_port_that_a_sidecar_leaves_out_is_read_as_bytes_where_mutual_tls_comes_in() {
    let rules = json!([{"to": [{"operation": {"paths": ["/*"]}}]}]);
    let of = |port: u16, protocol: &str| {
        let ingress = json!([{"port": {"number": port, "name": "p", "protocol": protocol}, "defaultEndpoint": "127.0.0.1:8080"}]);
        let sidecar = json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "s", "namespace": "shop"},
            "spec": {"workloadSelector": {"labels": {"app": "api"}}, "ingress": ingress}});
        vec![authorization("p", json!({"rules": rules})), sidecar]
    };
    let plain = Call { tls: ClientTls::Disable, ..Call::default() };
    assert_eq!(
        (said(of(8080, "HTTP"), &Call::default()), said(of(8080, "HTTP"), &plain)),
        ("200".into(), "200".into())
    );
    // Rules about paths allow nothing on a bare connection; the caller's proxy sees it closed.
    assert_eq!(
        (said(of(8081, "HTTP"), &Call::default()), said(of(8081, "HTTP"), &plain)),
        ("503".into(), "200".into())
    );
    assert_eq!(said(of(8080, "TCP"), &plain), "503");
}

#[test]
fn paths_are_compared_normalised() {
    let deny = || {
        vec![authorization(
            "p",
            json!({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin*"]}}]}]}),
        )]
    };
    let at = |path| Call { path, ..Call::default() };
    assert_eq!(said(deny(), &at("/pay/../admin?x")), "403");
    assert_eq!(said(deny(), &at("//admin")), "200");
    let merging = snapshot(deny(), json!({"pathNormalization": {"normalization": "MERGE_SLASHES"}}));
    assert_eq!(word(&call(&merging, &at("//admin"))), "403");
}

#[test]
fn an_authorizer_that_the_mesh_does_not_have_denies() {
    let policy = || {
        authorization(
            "p",
            json!({"action": "CUSTOM", "provider": {"name": "own"}, "rules": [{"to": [{"operation": {"paths": ["/pay"]}}]}]}),
        )
    };
    let with = |providers: Value| snapshot(vec![policy()], json!({"extensionProviders": providers}));
    let at = |service: &str, more: Value| {
        let mut config = json!({"service": service, "port": 80});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(json!([{"name": "own", "envoyExtAuthzHttp": config}]))
    };
    let (none, http) = (with(json!([])), at("web.shop.svc.cluster.local", json!({})));
    let denied = call(&none, &Call::default());
    assert_eq!(word(&denied), "403");
    assert!(detail(&denied).contains("-rule[0]-deny-due-to-bad-CUSTOM-action"), "{denied:?}");
    assert_eq!(word(&call(&none, &Call { path: "/", ..Call::default() })), "200");
    assert_eq!(word(&call(&http, &Call::default())), "?");
    // A host that the mesh does not know is as good as none: short names are not completed.
    let short = call(&at("web", json!({})), &Call::default());
    assert!(detail(&short).contains("-deny-due-to-bad-CUSTOM-action"), "{short:?}");
    assert_eq!(word(&call(&at("auth.elsewhere.svc.cluster.local", json!({})), &Call::default())), "?");
    // An authorizer for HTTP is not asked about bytes.
    assert_eq!(word(&call(&http, &Call { port: 9000, ..Call::default() })), "200");
}

#[test]
fn an_authorizer_without_pods_denies_unless_it_is_told_to_let_pass() {
    let with = |more: Value| {
        let selector =
            json!({"selector": {"app": "api", "no": "such"}, "ports": [{"name": "grpc", "port": 80}]});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "auth", "namespace": "shop"}, "spec": selector});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "some", "namespace": "shop", "labels": {"some": "pod"}},
            "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}});
        let policy =
            authorization("p", json!({"action": "CUSTOM", "provider": {"name": "own"}, "rules": [{}]}));
        let mut config = json!({"service": "auth.shop.svc.cluster.local", "port": 80});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let providers = json!({"extensionProviders": [{"name": "own", "envoyExtAuthzGrpc": config}]});
        call(&snapshot(vec![service, pod, policy], providers), &Call::default())
    };
    let denied = with(json!({}));
    assert_eq!(word(&denied), "403");
    assert!(matches!(denied.ruling, Ruling::Refused { flag: "UAEX", .. }), "{denied:?}");
    assert_eq!(word(&with(json!({"statusOnError": "503"}))), "503");
    assert_eq!(word(&with(json!({"failOpen": true}))), "200");
}

#[test]
fn requests_without_a_token_pass_and_broken_tokens_do_not() {
    let rules = json!({"jwtRules": [{"issuer": "a"}]});
    let objects = || vec![istio("RequestAuthentication", "shop", "p", rules.clone())];
    let bearer = |token: &str| Call {
        headers: [("Authorization".to_owned(), format!("Bearer {token}"))].into(),
        ..Call::default()
    };
    assert_eq!(said(objects(), &Call::default()), "200");
    let refused = call(&snapshot(objects(), Value::Null), &bearer("x"));
    assert_eq!(word(&refused), "401");
    assert!(detail(&refused).contains("jwt_authn_access_denied"));
    assert_eq!(said(vec![], &bearer("x")), "200");
    // Without a token a policy that asks for one denies.
    let mut both = objects();
    both.push(authorization("p", json!({"rules": [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]})));
    assert_eq!(said(both, &Call::default()), "403");
}

#[test]
fn network_policies_drop_before_anything_else_looks() {
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "closed", "namespace": "shop"}, "spec": {"podSelector": {}}});
    let dropped = call(
        &snapshot(vec![policy], Value::Null),
        &Call { tls: ClientTls::AsSent(Tls::Plaintext), ..Call::default() },
    );
    assert_eq!(word(&dropped), "reset");
    assert!(detail(&dropped).starts_with("NetworkPolicy shop/closed drops"), "{dropped:?}");
    assert_eq!(dropped.steps.len(), 1);
}

#[test]
fn ztunnel_carries_calls_on_its_own_port_and_reads_no_http() {
    let ambient = |namespace: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"istio.io/dataplane-mode": "ambient"}}});
    let only = |port: i64| json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]}});
    let ask = Call { from: ("out", "web"), tls: ClientTls::AsSent(Tls::Plaintext), ..Call::default() };
    let mesh = |more: Vec<Value>| [vec![ambient("shop"), ambient("out")], more].concat();
    assert_eq!(said(mesh(vec![only(8080)]), &ask), "reset");
    assert_eq!(said(mesh(vec![only(15008)]), &ask), "200");
    // From outside the mesh it comes as it is.
    assert_eq!(said(vec![ambient("shop"), only(8080)], &ask), "200");
    let identity = authorization("p", json!({"rules": [{"from": [{"source": {"namespaces": ["out"]}}]}]}));
    assert_eq!(said(mesh(vec![identity.clone()]), &ask), "200");
    assert_eq!(said(vec![ambient("shop"), identity], &ask), "reset");
    let methods = authorization("p", json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}));
    assert_eq!(said(mesh(vec![methods]), &ask), "reset");
    let mut waypoint = ambient("shop");
    waypoint["metadata"]["labels"]["istio.io/use-waypoint"] = json!("waypoint");
    // It is the client's ztunnel that goes by a waypoint: who comes to a pod has passed it by.
    assert_eq!(said(vec![waypoint, ambient("out")], &ask), "200");
    let custom = authorization("p", json!({"action": "CUSTOM", "provider": {"name": "own"}, "rules": [{}]}));
    assert_eq!(said(mesh(vec![custom]), &ask), "200");
}
