use super::*;
use crate::analyze::diagnosis::{RootCause, analyze};
use crate::model::json::json;
use crate::model::snapshot::Builder;

/// frontend calls checkout, whose route sends a share to subset v2.
fn shop(v2: Value, more: Vec<Value>) -> Snapshot {
    let mut builder = Builder::new();
    let meta = |name: &str| json!({"name": name, "namespace": "n", "labels": {"app": name}});
    for name in ["frontend", "checkout"] {
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(name),
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
    }
    let deployment = |name: &str, app: &str, version: &str, replicas: u32| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name), "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"app": app, "version": version}},
            "template": {"metadata": {"labels": {"app": app, "version": version}},
                "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "UP", "value": if app == "frontend" { "http://checkout" } else { "" }}]},
                    {"name": "istio-proxy", "image": "p"}]}}},
            "status": {"replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas, "updatedReplicas": replicas}})
    };
    for (name, app, version, replicas) in [
        ("frontend", "frontend", "v1", 1),
        ("checkout-v1", "checkout", "v1", 1),
        ("checkout-v2", "checkout", "v2", 0),
    ] {
        builder.object(deployment(name, app, version, replicas));
        if replicas > 0 {
            builder.object(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("{name}-x"), "namespace": "n", "labels": {"app": app, "version": version},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "controller": true}]},
                "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "istio-proxy", "image": "p"}]},
                "status": {"phase": "Running", "podIP": format!("10.0.0.{}", name.len()), "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [{"name": "c", "ready": true, "started": true, "restartCount": 0, "state": {"running": {}}},
                        {"name": "istio-proxy", "ready": true, "started": true, "restartCount": 0, "state": {"running": {}}}]}}));
        }
    }
    builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta("checkout"),
        "spec": {"host": "checkout", "subsets": [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]}}));
    builder.object(
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta("checkout"),
        "spec": {"hosts": ["checkout"], "http": [{"route": [
            {"destination": {"host": "checkout", "subset": "v1"}, "weight": 80},
            {"destination": {"host": "checkout", "subset": v2}, "weight": 20}]}]}}),
    );
    more.into_iter().for_each(|object| builder.object(object));
    builder.finish()
}

fn verified<'a>(diagnosis: &'a Diagnosis, code: &str) -> Vec<&'a Trial> {
    let finding = diagnosis.findings.iter().find(|f| f.meta.code == code);
    let all: Vec<&str> = diagnosis.findings.iter().map(|f| f.meta.code).collect();
    let finding = finding.unwrap_or_else(|| panic!("no {code} in {all:?}"));
    finding.remedies.iter().filter_map(|remedy| remedy.trial.as_ref()).collect()
}

/// Makes the finding about the subset the cause, and says where it stands.
fn blame(diagnosis: &mut Diagnosis) -> usize {
    let cause = diagnosis.findings.iter().position(|f| f.meta.code == "ISTIO104").unwrap();
    let told = RootCause {
        rank: 1,
        probability: 0.9,
        finding: cause,
        subject: diagnosis.findings[cause].subject.clone(),
        service: None,
        explains: vec![],
        chain: vec![],
        tests: vec![],
        change: None,
        take_back: Some(0),
        onset: None,
    };
    diagnosis.root_causes = vec![told];
    cause
}

#[test]
fn a_route_to_a_subset_without_pods_is_tried_by_patch_and_by_scaling() {
    let snapshot = shop(json!("v2"), vec![]);
    let mut diagnosis = analyze(&snapshot, &Options::default());
    blame(&mut diagnosis);
    try_fixes(&snapshot, None, &mut diagnosis, &Options::default());
    let trials = verified(&diagnosis, "ISTIO104");
    let told: Vec<&Verified> = trials
        .iter()
        .filter_map(|trial| match trial {
            Trial::Verified(verified) => Some(&**verified),
            Trial::NotTried(_) => None,
        })
        .collect();
    assert!(!told.is_empty(), "{trials:#?}");
    let own = &diagnosis.findings.iter().find(|f| f.meta.code == "ISTIO104").unwrap().id;
    for verified in &told {
        assert!(verified.resolves.contains(own), "{verified:#?}");
        assert!(verified.introduces.is_empty() && verified.restores, "{verified:#?}");
        let request = &verified.requests[0];
        assert!(request.before.fails && !request.after.fails, "{verified:#?}");
        assert_eq!(request.before.label, "200 (20 of 100 requests: 503 UH)");
        assert_eq!(request.after.label, "200");
    }
    assert!(told.iter().any(|verified| !verified.assumes.is_empty()), "one of them scales: {told:#?}");
}

#[test]
fn a_remedy_that_brings_an_error_goes_behind_the_others() {
    let snapshot = shop(json!("v2"), vec![]);
    let mut diagnosis = analyze(&snapshot, &Options::default());
    let cause = blame(&mut diagnosis);
    let route = snapshot.find(&ObjectRef::new("VirtualService", "n", "checkout")).unwrap();
    // To a subset that nothing defines.
    let worse = json!([{"op": "replace", "path": "/spec/http/0/route/1/destination/subset", "value": "v9"}]);
    diagnosis.findings[cause].remedies.insert(0, Remedy::patch(route, &worse, "worse").unwrap());
    try_fixes(&snapshot, None, &mut diagnosis, &Options::default());
    let remedies = &diagnosis.findings[cause].remedies;
    assert_ne!(remedies[0].summary, "worse");
    assert!(matches!(&remedies[0].trial, Some(Trial::Verified(v)) if !v.harms()), "{remedies:#?}");
    let place = remedies.iter().position(|r| r.summary == "worse").unwrap();
    assert_eq!(diagnosis.root_causes[0].take_back, Some(place));
    // Where nothing else is offered, that is said first.
    diagnosis.findings[cause].remedies = vec![Remedy::patch(route, &worse, "worse").unwrap()];
    try_fixes(&snapshot, None, &mut diagnosis, &Options::default());
    let remedies = &diagnosis.findings[cause].remedies;
    assert!(remedies.len() == 2 && !remedies[0].changes() && remedies[1].summary == "worse");
}

#[test]
fn what_objects_do_not_decide_is_not_claimed() {
    let snapshot = shop(json!("v2"), vec![]);
    let deployment = snapshot.find(&ObjectRef::new("Deployment", "n", "checkout-v1")).unwrap();
    let image =
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "other"}]);
    let remedy = Remedy::patch(deployment, &image, "s").unwrap();
    assert!(change(&snapshot, &remedy).unwrap_err().contains("new template"));
    // Labels alone do not make pods start otherwise.
    let label = json!([{"op": "replace", "path": "/spec/template/metadata/labels/version", "value": "v2"}]);
    let settled = change(&snapshot, &Remedy::patch(deployment, &label, "s").unwrap()).unwrap();
    let pod = settled.put.iter().find(|object| object.reference.kind == "Pod").unwrap();
    assert_eq!(pod.labels.get("version"), Some("v2"));
    let gone = Remedy::delete(snapshot.find(&ObjectRef::new("Pod", "n", "frontend-x")).unwrap(), "s");
    assert!(change(&snapshot, &gone).is_err());
}

#[test]
fn endpoints_follow_a_selector_and_pods_a_number() {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "checkout-abc", "namespace": "n", "labels": {"kubernetes.io/service-name": "checkout"}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["10.0.0.11"], "conditions": {"ready": true}}]});
    let before = shop(json!("v1"), vec![slice]);
    let service = before.find(&ObjectRef::new("Service", "n", "checkout")).unwrap();
    let typo = json!([{"op": "replace", "path": "/spec/selector/app", "value": "chekout"}]);
    let settled = change(&before, &Remedy::patch(service, &typo, "s").unwrap()).unwrap();
    let after = before.altered(&settled.put, &settled.gone);
    let followed = settle::endpoints(&before, &after);
    assert_eq!((followed.gone.len(), followed.put.len()), (1, 1));
    let after = after.altered(&followed.put, &followed.gone);
    let name = crate::model::network::ServiceName::new("n", "checkout");
    assert_eq!(after.endpoints(after.service(&name).unwrap()), Some((0, 0)));
    let scaled = Remedy::scale(&ObjectRef::new("Deployment", "n", "checkout-v1"), 1, 3, "s");
    let settled = change(&before, &scaled).unwrap();
    assert_eq!(settled.assumes, ["the 2 new pods of Deployment n/checkout-v1 become ready"]);
    let after = before.altered(&settled.put, &settled.gone);
    let followed = settle::endpoints(&before, &after);
    let after = after.altered(&followed.put, &followed.gone);
    assert_eq!(after.endpoints(after.service(&name).unwrap()), Some((3, 3)));
}
