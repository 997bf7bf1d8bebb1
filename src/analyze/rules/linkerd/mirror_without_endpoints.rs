//! LINKERD104.

use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Services that Linkerd mirrors from another cluster have no endpoint, or their gateway does not answer.
    ///
    /// ## What it detects
    /// Mirrored Services without any endpoint, and gateways of other clusters of which `gateway_alive` is 0.
    /// ## Why it matters
    /// Calls to the mirrored name fail at once, although the service in the other cluster runs.
    /// ## Evidence
    /// The mirrored Services with their cluster, their endpoints, and `gateway_alive`.
    /// ## How to confirm
    /// `linkerd multicluster gateways` and `linkerd multicluster check`.
    /// ## How to fix
    /// Open the other cluster's gateway (ports 4143 and 4191), renew the Link's credentials, share the trust anchor.
    /// ## False positives
    /// A Service whose pods in the other cluster are all away has no endpoint here as well: then several of one cluster are not
    /// empty together.
    /// ## References
    /// <https://linkerd.io/2-edge/tasks/multicluster/>
    MirrorWithoutEndpoints {
        code: "LINKERD104", name: "linkerd-mirror-without-endpoints", family: Mesh, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// Labels of mirrored Services: which cluster they come from, in today's and in older versions.
const CLUSTER: &str = "mirror.linkerd.io/cluster-name";
const REMOTE: &str = "mirror.linkerd.io/remote-discovery";

/// A cluster that is not reached.
#[derive(Debug)]
pub struct Fact {
    cluster: String,
    /// Mirrored Services without endpoints, of all of that cluster here.
    empty: Vec<ServiceName>,
    all: usize,
    /// What the gateway's probe says last.
    alive: Option<bool>,
    link: Option<ObjectRef>,
}

impl Check for MirrorWithoutEndpoints {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut clusters: BTreeMap<String, (Vec<ServiceName>, usize)> = BTreeMap::new();
        for service in &snapshot.services {
            let labels = &service.object.labels;
            let cluster = labels.get(CLUSTER).or_else(|| labels.get(REMOTE)).filter(|name| !name.is_empty());
            // The gateway's own Service is mirrored for its probe.
            let probe = service.object.name().starts_with("probe-gateway-");
            let Some(cluster) = cluster.filter(|_| !probe && snapshot.in_scope(service.object.namespace()))
            else {
                continue;
            };
            let entry = clusters.entry(cluster.to_owned()).or_default();
            entry.1 += 1;
            // A Service without a selector has endpoints in slices only: where none was read, nothing is known.
            let slices =
                snapshot.slices.iter().any(|slice| slice.object.namespace() == service.object.namespace());
            let none = snapshot.endpoints(service).is_none_or(|(_, all)| all == 0);
            if slices && none && snapshot.runs() {
                entry.0.push(service.service_name());
            }
        }
        let alive: BTreeMap<&str, bool> = snapshot
            .series_named("gateway_alive")
            .filter_map(|s| Some((s.label("target_cluster_name"), s.last()? > 0.0)))
            .collect();
        clusters
            .into_iter()
            .map(|(cluster, (empty, all))| Fact {
                alive: alive.get(cluster.as_str()).copied(),
                link: snapshot
                    .objects_of("Link")
                    .find(|link| {
                        link.name() == cluster
                            || link.body.text("spec.targetClusterName") == Some(cluster.as_str())
                    })
                    .map(|link| link.reference.clone()),
                cluster,
                empty,
                all,
            })
            .filter(|fact| fact.alive == Some(false) || !fact.empty.is_empty())
            .collect()
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let cluster = text::plain(&fact.cluster, 60);
        let subject = match (&fact.link, fact.empty.first()) {
            (Some(link), _) => link.field("spec"),
            (None, Some(service)) => service.reference(),
            (None, None) => ObjectRef::new("Link", "linkerd-multicluster", &cluster),
        };
        let names: Vec<&str> = fact.empty.iter().take(3).map(|s| s.name.as_str()).collect();
        let names = text::plain(&names.join(", "), 120);
        let dead = fact.alive == Some(false);
        let state = match (dead, fact.empty.is_empty()) {
            (true, _) => format!("the gateway of cluster {cluster} does not answer its probe"),
            (false, _) => format!(
                "{} of {} mirrored from cluster {cluster} have no endpoint",
                fact.empty.len(),
                text::several(fact.all as u64, "Service")
            ),
        };
        let certain = dead || fact.empty.len() == fact.all;
        let namespace = fact.link.as_ref().map_or("linkerd-multicluster", |link| link.namespace.as_str());
        Finding::new(Self::META, subject.clone(), &[&cluster])
            .title(format!("Cluster {cluster} is out of reach for Linkerd: {state}"))
            .message(format!(
                "Linkerd mirrors Services of cluster {cluster}, and {state}.{} Calls to these names fail at once, whatever runs there.",
                if names.is_empty() { String::new() } else { format!(" Without endpoints: {names}.") }
            ))
            .mechanism("multi-cluster: mirrored Service without endpoints, gateway not alive")
            .severity(if certain { Severity::Error } else { Severity::Warning })
            .role(if certain { Role::Cause } else { Role::Symptom }, if dead { Confidence::Observed } else { Confidence::Configured })
            .service(fact.empty.first().cloned())
            .evidence(Evidence::object(&subject, state))
            .evidences(fact.alive.map(|alive| Evidence::new("Metric", format!("gateway_alive of {cluster}"), format!("{}", u8::from(alive)))))
            .effects(fact.empty.iter().take(16).map(|service| Effect::requests(service, &["UH", "5xx", "refused", "dns"])))
            .remedy(Remedy::commands(
                "See what the mirror says, and whether ports 4143 and 4191 of the other cluster's gateway are open from here",
                vec![
                    "linkerd multicluster gateways".to_owned(),
                    format!("kubectl -n {} logs -l component=linkerd-service-mirror --tail=100 --prefix", quote(namespace)),
                    format!("kubectl -n {} get links.multicluster.linkerd.io {} -o yaml", quote(namespace), quote(&cluster)),
                ],
                vec![],
            ))
            .prevention(Prevention::alert("Alert when a gateway does not answer", "min by (target_cluster_name) (gateway_alive) < 1"))
    }
}
