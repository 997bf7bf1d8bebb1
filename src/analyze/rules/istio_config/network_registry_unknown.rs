//! ISTIO222.

use crate::model::json::{Text, Value};
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A network of the mesh takes its endpoints from a cluster that nobody connected.
    ///
    /// ## What it detects
    /// In `meshNetworks` of the control plane's ConfigMap an endpoint with `fromRegistry` that is none of the
    /// built-in registries, no cluster of a remote Secret and not the cluster's own name.
    /// ## Why it matters
    /// Pods of that cluster belong to no network: requests to them go to addresses that cannot be reached instead of
    /// through their gateway.
    /// ## Evidence
    /// The network, and the clusters that Secrets name.
    /// ## How to confirm
    /// `istioctl remote-clusters` lists the clusters that are connected.
    /// ## How to fix
    /// Correct the name, or create the Secret (`istioctl create-remote-secret`).
    /// ## False positives
    /// The control plane's own cluster under a name that was not part of what was read.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshNetworks>
    NetworkRegistryUnknown {
        code: "ISTIO222", name: "network-registry-unknown", family: Mesh, severity: Warning,
        needs: [Objects], aliases: ["IST0126"],
    }
}

const BUILT_IN: &[&str] = &["Kubernetes", "External", "Mock"];

/// A registry that nobody names.
#[derive(Debug)]
pub struct Fact<'a> {
    map: &'a Object,
    network: String,
    registry: String,
    near: Option<String>,
}

impl Check for NetworkRegistryUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let root = &snapshot.istio.root_namespace;
        let Some(map) = snapshot.object("ConfigMap", root, "istio") else { return vec![] };
        let text = map.body.at("data").and_then(|data| data.child("meshNetworks")).and_then(Value::as_str);
        let parsed: Option<Value> = text.and_then(|text| serde_saphyr::from_str(text).ok());
        let networks = parsed.unwrap_or_default();
        let remote = snapshot
            .objects_of("Secret")
            .filter(|secret| secret.labels.get("istio/multiCluster").is_some_and(|value| value == "true"));
        let mut known: BTreeSet<String> = BUILT_IN.iter().map(|name| (*name).to_owned()).collect();
        known.extend(remote.flat_map(|secret| {
            secret.body.map("data").into_iter().flat_map(|data| data.keys().map(Text::to_string))
        }));
        // The control plane's own cluster, as it is told.
        let own = snapshot.workloads.iter().flat_map(|workload| &workload.template.containers);
        let own = own.flat_map(|container| container.body.list("env"));
        let own = own.filter(|entry| entry.text("name") == Some("CLUSTER_ID"));
        known.extend(own.map(|entry| entry.string("value")));
        let mut out = vec![];
        for (network, entry) in networks.map("networks").into_iter().flatten() {
            for endpoint in entry.list("endpoints") {
                let Some(registry) = endpoint.text("fromRegistry").filter(|name| !known.contains(*name))
                else {
                    continue;
                };
                let near = nearest(registry, known.iter().map(String::as_str)).map(str::to_owned);
                out.push(Fact { map, network: network.to_string(), registry: registry.to_owned(), near });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let subject = fact.map.reference.field("data.meshNetworks");
        let (network, registry) = (text::plain(&fact.network, 60), text::plain(&fact.registry, 60));
        let fix = match &fact.near {
            Some(near) => format!("Name registry {} in network {network}", text::plain(near, 60)),
            None => format!(
                "Connect cluster {registry} (istioctl create-remote-secret --name={registry}), or remove it from network {network}"
            ),
        };
        Finding::new(Self::META, subject.clone(), &[&network, &registry])
            .title(format!("Network {network} takes endpoints from {registry}, a cluster that no Secret connects"))
            .message(format!(
                "{} has a network with endpoints from registry {registry}, which is neither built in nor named by the Secret of a remote cluster. Its pods belong to no network.",
                fact.map.reference
            ))
            .mechanism("unknown registry in the mesh networks")
            .role(Role::Context, Confidence::Possible)
            .evidence(Evidence::object(&subject, format!("network {network}: fromRegistry {registry}")))
            .remedy(Remedy::manual(fix))
            .prevention(Prevention::of("Test", "istioctl remote-clusters lists every cluster of the networks as synced"))
    }
}
