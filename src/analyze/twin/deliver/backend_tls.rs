//! BackendTLSPolicies: TLS that proxies originate to a host, as if a DestinationRule beside the host said so.

use crate::analyze::rules::gateway_api::authorities::{self, Trust};
use crate::analyze::twin::registry::Host;
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

/// What a policy says of connections to a port of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackendTls {
    /// The policy.
    pub policy: ObjectRef,
    /// The name that the backend's certificate has to carry.
    pub hostname: String,
    /// Why no certificate can be verified, where that is so: the field, and the reason. Every connection fails then.
    pub broken: Option<(String, String)>,
}

/// The policy for a port of a host: one that names the port before one that does not, the oldest of several.
pub(super) fn of(snapshot: &Snapshot, host: &Host<'_>, port: u16) -> Option<BackendTls> {
    let own = &host.object().reference;
    let name = host.port(port).map(|port| port.name.as_str()).unwrap_or_default();
    let mut all: Vec<(bool, &Object)> = vec![];
    for policy in snapshot.objects_of("BackendTLSPolicy") {
        if policy.namespace() != own.namespace {
            continue;
        }
        for target in policy.body.list("spec.targetRefs") {
            let group = target.text("group").unwrap_or_default();
            let section = target.text("sectionName").unwrap_or_default();
            let meant = (group == own.group() || (group == "core" && own.group().is_empty()))
                && target.text("kind") == Some(own.kind.as_str())
                && target.text("name") == Some(own.name.as_str());
            if meant && (section.is_empty() || section == name) {
                all.push((section.is_empty(), policy));
            }
        }
    }
    let key = |(wide, policy): &(bool, &Object)| (*wide, policy.created, policy.name().to_owned());
    let (_, policy) = all.into_iter().min_by_key(key)?;
    Some(BackendTls {
        policy: policy.reference.clone(),
        hostname: policy.body.string("spec.validation.hostname"),
        broken: broken(snapshot, policy),
    })
}

/// Why no certificate can be verified by a policy. The first reference alone counts.
fn broken(snapshot: &Snapshot, policy: &Object) -> Option<(String, String)> {
    const PATH: &str = "spec.validation.caCertificateRefs";
    if policy.body.text("spec.validation.wellKnownCACertificates").is_some() {
        return None;
    }
    let refs = policy.body.list(PATH);
    let first = refs.first()?;
    let field = format!("{PATH}[0]");
    if first.text("kind").is_some_and(|kind| kind != "ConfigMap") {
        return Some((
            field,
            format!("{} holds no certificate for it; a ConfigMap does", first.string("kind")),
        ));
    }
    let trust = Trust { object: policy, path: PATH.to_owned(), refs, across: false, listeners: vec![] };
    authorities::look(snapshot, &trust, first).map(|bad| (field, bad.why))
}

#[cfg(test)]
mod tests {
    use crate::analyze::twin::Twin;
    use crate::analyze::twin::ask::{Ask, Named, Origin, Request};
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    /// What a call of Service `b` comes to from a pod with a sidecar, with a policy and what else there is.
    fn asked(policy: Value, more: Vec<Value>) -> String {
        let mut builder = Builder::new();
        for (name, port) in [("a", "http"), ("b", "https")] {
            let meta = json!({"name": name, "namespace": "n"});
            let container = json!({"name": "c"});
            let containers =
                if name == "a" { json!([container, {"name": "istio-proxy"}]) } else { json!([container]) };
            builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
                "spec": {"template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}}}));
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": name},
                "ports": [{"name": port, "port": 443, "targetPort": 8443}, {"name": "http", "port": 80, "targetPort": 8443}]}}));
        }
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": {"name": "p", "namespace": "n"}, "spec": policy}));
        more.into_iter().for_each(|object| builder.object(object));
        let snapshot = builder.finish();
        let from =
            Origin::Workload(Named { namespace: "n".into(), kind: "Deployment".into(), name: "a".into() });
        let request = Request { host: "b".into(), port: Some(80), ..Request::default() };
        let answer = Twin::new(&snapshot).answer(&Ask { name: String::new(), from, request });
        format!("{} {}", answer.label(), answer.detail)
    }

    fn policy(section: &str, validation: Value) -> Value {
        let mut target = json!({"group": "", "kind": "Service", "name": "b"});
        if !section.is_empty() {
            target["sectionName"] = json!(section);
        }
        json!({"targetRefs": [target], "validation": validation})
    }

    #[test]
    fn without_a_certificate_to_verify_with_every_connection_fails() {
        let refs = |name: &str| json!({"hostname": "b.example.com", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}]});
        let map = |name: &str, key: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "n"}, "data": {key: "-"}});
        let missing = asked(policy("", refs("gone")), vec![map("there", "ca.crt")]);
        assert!(
            missing.starts_with("503 UF") && missing.contains("ConfigMap n/gone does not exist"),
            "{missing}"
        );
        let keyless = asked(policy("", refs("there")), vec![map("there", "other")]);
        assert!(keyless.starts_with("503 UF"), "{keyless}");
        let good = asked(policy("", refs("there")), vec![map("there", "ca.crt")]);
        assert!(good.starts_with("200"), "{good}");
        // Another port is not meant, nor is a host for which a rule beside the client says otherwise.
        let other = asked(policy("https", refs("gone")), vec![]);
        assert!(other.starts_with("200"), "{other}");
    }

    #[test]
    fn a_rule_beside_the_client_comes_before_the_policy() {
        let system = json!({"hostname": "b.example.com", "wellKnownCACertificates": "System"});
        assert!(asked(policy("", system.clone()), vec![]).starts_with("200"));
        let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "r", "namespace": "n"},
            "spec": {"host": "b", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}});
        assert!(asked(policy("", system), vec![rule]).starts_with("200"));
    }
}
