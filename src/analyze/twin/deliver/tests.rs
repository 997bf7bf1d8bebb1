//! Who gets requests behind hosts outside, past endpoints, and under policies for ports and places.

use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::Answer;
use crate::analyze::twin::ask::{Ask, Named, Origin, Request};
use crate::model::json::{Value, json};
use crate::model::snapshot::Builder;

const HOST: &str = "ext.example.com";

fn istio(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn made(mut object: Value, time: &str) -> Value {
    object["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:{time}Z"));
    object
}

fn pod(name: &str, ip: &str, proxy: bool) -> Value {
    let mut containers = json!([{"name": "c"}]);
    if proxy {
        containers.as_array_mut().unwrap().push(json!({"name": "istio-proxy"}));
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "labels": {"app": name}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": containers},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "n"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}, {"name": "http-81", "port": 81, "targetPort": 80}]}})
}

fn entry(namespace: &str, resolution: &str, more: Value) -> Value {
    let mut spec = json!({"hosts": [HOST], "resolution": resolution, "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    istio("ServiceEntry", namespace, &format!("{namespace}-{}", resolution.to_lowercase()), spec)
}

fn rule(host: &str, spec: Value) -> Value {
    let mut all = json!({"host": host});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    istio("DestinationRule", "n", "rule", all)
}

/// The world: `web` with a proxy, `meshed` with one, `bare` without, Services of these.
fn answer(objects: Vec<Value>, from: Origin, request: Request) -> Answer {
    let mut builder = Builder::new();
    for (name, ip, proxy) in
        [("web", "10.0.0.1", true), ("meshed", "10.0.0.2", true), ("bare", "10.0.0.3", false)]
    {
        builder.object(pod(name, ip, proxy));
        builder.object(service(name));
    }
    objects.into_iter().for_each(|object| builder.object(object));
    let snapshot = builder.finish();
    Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request })
}

fn call(host: &str, objects: Vec<Value>) -> Answer {
    let web = Origin::Workload(Named { namespace: "n".into(), kind: "Pod".into(), name: "web".into() });
    answer(objects, web, Request { host: host.into(), ..Request::default() })
}

/// What the caller sees, and the pods that are reached.
fn said(answer: &Answer) -> String {
    let pods: Vec<&str> = answer.backends.iter().flat_map(|to| &to.pods).map(String::as_str).collect();
    format!("{} {}", answer.label(), pods.join(",")).trim_end().to_owned()
}

fn strict() -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"mtls": {"mode": "STRICT"}}})
}

#[test]
fn mutual_tls_is_not_spoken_to_what_is_outside_nor_to_addresses_without_a_word_of_it() {
    let to = |location: &str, more: Value| {
        let mut endpoint = json!({"address": "10.0.0.2"});
        endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let entry = entry("n", "STATIC", json!({"location": location, "endpoints": [endpoint]}));
        said(&call(HOST, vec![entry, strict()]))
    };
    assert_eq!(to("MESH_INTERNAL", json!({})), "503 UC");
    assert_eq!(to("MESH_INTERNAL", json!({"serviceAccount": "default"})), "200 meshed");
    assert_eq!(to("MESH_INTERNAL", json!({"serviceAccount": "x"})), "503 UF", "the pod is somebody else");
    let word = json!({"labels": {"security.istio.io/tlsMode": "istio"}});
    assert_eq!(to("MESH_INTERNAL", word.clone()), "200 meshed");
    assert_eq!(to("MESH_EXTERNAL", word), "503 UC");
    let selecting = json!({"location": "MESH_INTERNAL", "workloadSelector": {"labels": {"app": "meshed"}}});
    assert_eq!(said(&call(HOST, vec![entry("n", "STATIC", selecting), strict()])), "200 meshed");
}

#[test]
fn a_request_that_passes_the_first_proxy_as_bytes_is_answered_by_the_second() {
    // The caller's Sidecar leaves the Service out.
    let narrow = istio(
        "Sidecar",
        "n",
        "narrow",
        json!({"workloadSelector": {"labels": {"app": "web"}}, "egress": [{"hosts": ["./bare.n.svc.cluster.local"]}]}),
    );
    let deny = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"action": "DENY", "selector": {"matchLabels": {"app": "meshed"}}, "rules": [{"to": [{"operation": {"paths": ["/closed"]}}]}]}});
    let to = |path: &str| {
        let web = Origin::Workload(Named { namespace: "n".into(), kind: "Pod".into(), name: "web".into() });
        let request = Request { host: "meshed".into(), path: path.into(), ..Request::default() };
        said(&answer(vec![narrow.clone(), deny.clone()], web, request))
    };
    assert_eq!(to("/open"), "200 meshed");
    assert_eq!(to("/closed"), "403");
}

#[test]
fn an_endpoint_that_is_written_as_one_of_the_mesh_is_spoken_to_so_whoever_is_there() {
    let to = |more: Value, others: Vec<Value>| {
        let mut endpoint = json!({"address": "10.0.0.3", "labels": {"app": "machine"}});
        endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let entry = entry("n", "STATIC", json!({"location": "MESH_INTERNAL", "endpoints": [endpoint]}));
        said(&call(HOST, [vec![entry], others].concat()))
    };
    assert_eq!(to(json!({}), vec![]), "200 bare");
    assert_eq!(to(json!({"serviceAccount": "default"}), vec![]), "503 UF");
    let word = json!({"serviceAccount": "default", "labels": {"security.istio.io/tlsMode": "disabled"}});
    assert_eq!(to(word, vec![]), "200 bare", "its own word comes first");
    // What counts for the pod's labels counts for nobody that is written down, and the other way about.
    let disable = |app: &str| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "off", "namespace": "n"},
            "spec": {"selector": {"matchLabels": {"app": app}}, "mtls": {"mode": "DISABLE"}}})
    };
    assert_eq!(to(json!({"serviceAccount": "default"}), vec![disable("bare")]), "503 UF");
    assert_eq!(to(json!({"serviceAccount": "default"}), vec![disable("machine")]), "200 bare");
}

#[test]
fn an_endpoint_by_the_name_of_a_service_leads_to_its_pods() {
    let to = |address: &str, port: u16, others: Vec<Value>| {
        let endpoint = json!({"address": address, "ports": {"http": port}});
        let entry = entry("n", "DNS", json!({"location": "MESH_EXTERNAL", "endpoints": [endpoint]}));
        said(&call(HOST, [vec![entry], others].concat()))
    };
    let mutual = || rule(HOST, json!({"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}));
    for name in ["bare", "bare.n", "bare.n.svc.cluster.local"] {
        assert_eq!(to(name, 81, vec![]), "200 bare");
        assert_eq!(to(name, 81, vec![mutual()]), "503 UF");
    }
    assert_eq!(to("bare.n", 82, vec![]), "503 UF", "the Service has no such port");
    assert_eq!(to("meshed.n", 80, vec![]), "200 meshed");
    assert_eq!(to("meshed.n", 80, vec![strict()]), "503 UC", "nobody expects mutual TLS of what is outside");
    assert_eq!(to("else.example.com", 80, vec![mutual()]), "200", "nobody knows what is there");
}

#[test]
fn mutual_tls_accepts_whom_the_destination_rule_names_else_the_pods_of_its_service() {
    let to = |names: Value, more: Value| {
        let mut policy = json!({"tls": {"mode": "ISTIO_MUTUAL", "subjectAltNames": names}});
        policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        said(&call("meshed", vec![rule("meshed", json!({"trafficPolicy": policy}))]))
    };
    let past = || json!({"loadBalancer": {"simple": "PASSTHROUGH"}});
    for more in [json!({}), past()] {
        assert_eq!(to(json!([]), more.clone()), "200 meshed");
        assert_eq!(to(json!(["spiffe://cluster.local/ns/n/sa/default"]), more.clone()), "200 meshed");
        assert_eq!(to(json!(["meshed.n.svc.cluster.local"]), more.clone()), "503 UF");
        assert_eq!(to(json!(["spiffe://cluster.local/ns/n/sa/other"]), more.clone()), "503 UF");
        // Nothing says what the mesh's trust domain is.
        assert_eq!(to(json!(["spiffe://prod.example/ns/n/sa/default"]), more), "200 meshed");
    }
}

#[test]
fn a_machine_whose_health_is_looked_at_counts_once_it_is_well() {
    let with = |annotation: Option<&str>, status: Value| {
        let mut machine =
            istio("WorkloadEntry", "n", "vm", json!({"address": "192.0.2.7", "labels": {"app": "vm"}}));
        if let Some(word) = annotation {
            machine["metadata"]["annotations"] = json!({"proxy.istio.io/health-checks-enabled": word});
        }
        machine["status"] = status;
        let selecting = json!({"location": "MESH_INTERNAL", "workloadSelector": {"labels": {"app": "vm"}}});
        said(&call(HOST, vec![entry("n", "STATIC", selecting), machine]))
    };
    let healthy = |word: &str| json!({"conditions": [{"type": "Healthy", "status": word}]});
    assert_eq!(with(None, healthy("False")), "200");
    assert_eq!(with(Some("true"), healthy("True")), "200");
    assert_eq!(with(Some("true"), healthy("False")), "503 UH");
    assert_eq!(with(Some("true"), json!({})), "503 UH");
}

#[test]
fn a_host_to_be_looked_up_has_no_cluster_for_labels_that_no_endpoint_carries() {
    let subsets = rule(HOST, json!({"subsets": [{"name": "v1", "labels": {"version": "v1"}}]}));
    let route = istio(
        "VirtualService",
        "n",
        "r",
        json!({"hosts": [HOST],
        "http": [{"route": [{"destination": {"host": HOST, "subset": "v1"}}]}]}),
    );
    let to = |more: Value| said(&call(HOST, vec![entry("n", "DNS", more), subsets.clone(), route.clone()]));
    assert_eq!(to(json!({})), "503 NC");
    assert_eq!(
        to(json!({"endpoints": [{"address": "a.example.com", "labels": {"version": "v2"}}]})),
        "503 NC"
    );
    assert_eq!(to(json!({"endpoints": [{"address": "a.example.com", "labels": {"version": "v1"}}]})), "200");
}

#[test]
fn to_where_it_was_going_goes_to_the_port_that_the_entry_maps() {
    let ports = json!({"ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}], "addresses": ["10.0.0.3"]});
    let answer = call(HOST, vec![entry("n", "NONE", ports)]);
    assert_eq!((said(&answer).as_str(), answer.backends[0].port), ("200", 8080));
}

#[test]
fn passthrough_keeps_where_the_connection_was_going_and_wraps_it_as_the_destination_wants() {
    let pass = || json!({"trafficPolicy": {"loadBalancer": {"simple": "PASSTHROUGH"}}});
    assert_eq!(said(&call("meshed", vec![rule("meshed", pass()), strict()])), "200 meshed");
    // A route leads to another host: its policy counts, and its pods do not.
    let route = |host: &str| {
        istio(
            "VirtualService",
            "n",
            "r",
            json!({"hosts": ["meshed"], "http": [{"route": [{"destination": {"host": host}}]}]}),
        )
    };
    let led = call("meshed", vec![rule("bare", pass()), route("bare")]);
    assert_eq!(
        (said(&led).as_str(), led.cluster.as_str()),
        ("200 meshed", "outbound|80||bare.n.svc.cluster.local")
    );
    let plain = call("meshed", vec![rule("bare", pass()), route("bare"), strict()]);
    assert_eq!(said(&plain), "503 UC", "the pods of the other host have no proxy");
}

#[test]
fn what_stands_for_a_port_takes_the_place_of_the_whole_policy() {
    let policy = json!({"trafficPolicy": {"tls": {"mode": "DISABLE"}, "portLevelSettings": [{"port": {"number": 81}, "loadBalancer": {"simple": "RANDOM"}}]}});
    let to = |host: &str| said(&call(host, vec![rule("meshed", policy.clone()), strict()]));
    assert_eq!([to("meshed:80"), to("meshed:81")], ["503 UC", "200 meshed"]);
}

#[test]
fn certificates_by_name_are_for_gateways_and_picked_clients() {
    let with = |more: Value| {
        let mut spec = json!({"trafficPolicy": {"tls": {"mode": "SIMPLE", "credentialName": "cert"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = call("bare", vec![rule("bare", spec)]);
        answer.steps.iter().any(|step| step.decision.contains("becomes plaintext"))
    };
    assert!(with(json!({})));
    assert!(!with(json!({"workloadSelector": {"matchLabels": {"app": "web"}}})));
}

#[test]
fn a_hash_names_what_keeps_requests_together_and_the_pods_that_it_chooses_from() {
    let hash = |hash: Value| {
        let policy = json!({"trafficPolicy": {"loadBalancer": {"consistentHash": hash}}});
        let mut second = pod("meshed", "10.0.0.4", true);
        second["metadata"]["name"] = json!("meshed-2");
        let answer = call("meshed", vec![rule("meshed", policy), second]);
        let step = answer
            .steps
            .iter()
            .find(|step| step.decision.contains("decides a hash"))
            .map(|s| s.decision.clone());
        (said(&answer), step.unwrap_or_default())
    };
    let (said, why) = hash(json!({"httpHeaderName": "x-user"}));
    assert_eq!(said, "200 meshed,meshed-2");
    assert!(why.contains("the same header x-user") && why.contains("2 pods"), "{why}");
    assert!(hash(json!({"useSourceIp": true})).1.contains("the same address"));
}

#[test]
fn endpoints_that_a_sidecar_changes_may_be_those_of_before() {
    let of = |namespace: &str, address: &str| {
        entry(namespace, "STATIC", json!({"location": "MESH_EXTERNAL", "endpoints": [{"address": address}]}))
    };
    let scope = |host: &str| istio("Sidecar", "n", "s", json!({"egress": [{"hosts": [host, "./*"]}]}));
    let to = |times: [&str; 3], import: &str| {
        let own = made(of("a", "10.0.0.3"), times[0]);
        let other = made(of("b", "10.0.0.2"), times[1]);
        call(HOST, vec![own, other, made(scope(import), times[2])])
    };
    let known = |answer: &Answer| said(answer).starts_with("200");
    // Without the Sidecar it is that of namespace a, the older one.
    assert!(known(&to(["01:00", "02:00", "03:00"], "a/*")), "the same with and without it");
    let late = to(["01:00", "02:00", "03:00"], "b/*");
    assert!(late.detail.contains("whose the proxy has is not known"), "{}", said(&late));
    assert_eq!(
        said(&to(["01:00", "03:00", "02:00"], "b/*")),
        "200 meshed",
        "sent again with the younger entry"
    );
    // Manifests that nothing runs from yet.
    let plain = call(HOST, vec![of("a", "10.0.0.3"), of("b", "10.0.0.2"), scope("b/*")]);
    assert_eq!(said(&plain), "200 meshed");
}

#[test]
fn a_service_selects_workload_entries_beside_pods_for_proxies() {
    let at = |address: &str, more: Value| {
        let mut spec = json!({"address": address, "labels": {"app": "bare"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        said(&call("bare", vec![istio("WorkloadEntry", "n", "vm", spec)]))
    };
    assert_eq!(at("10.0.0.2", json!({"serviceAccount": "x"})), "200 bare,meshed");
    assert_eq!(at("192.0.2.7", json!({})), "200", "nobody knows what answers there");
    assert_eq!(at("192.0.2.7", json!({"labels": {"app": "other"}})), "200 bare");
}
