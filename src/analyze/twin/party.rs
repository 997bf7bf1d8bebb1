//! Who is at either end of a connection.

use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, PodTemplate};

use super::ask::Named;

/// A pod at one end of a connection: one that runs, or one that a template would make.
#[derive(Debug, Clone)]
pub struct Party<'a> {
    /// The workload, or the pod where nothing owns it.
    pub reference: ObjectRef,
    /// What it is made of: labels, service account, named ports.
    pub template: &'a PodTemplate,
    /// The pod, where one was seen.
    pub pod: Option<&'a Pod>,
    /// Whether a sidecar of Istio stands beside it.
    pub proxy: bool,
}

impl<'a> Party<'a> {
    /// A pod of what a question names: one that is ready rather than one that is not, and where no pod was seen the one
    /// that the template would make.
    pub fn find(snapshot: &'a Snapshot, named: &Named) -> Option<Self> {
        let kinds: Vec<&str> = match named.kind.as_str() {
            "" => vec![
                "Deployment",
                "StatefulSet",
                "DaemonSet",
                "Rollout",
                "ReplicaSet",
                "Job",
                "CronJob",
                "Pod",
            ],
            kind => vec![kind],
        };
        kinds.into_iter().find_map(|kind| {
            let reference = ObjectRef::new(kind, &named.namespace, &named.name);
            if kind == "Pod"
                && let Some(pod) = snapshot.pod(&named.namespace, &named.name)
            {
                return Some(Party::of_pod(snapshot, pod));
            }
            let pods: Vec<&Pod> = snapshot.pods_of(&reference).filter(|pod| !pod.ended()).collect();
            let name =
                pods.iter().find(|pod| pod.ready()).or(pods.first()).map(|pod| pod.object.name().to_owned());
            let pod = name.and_then(|name| snapshot.pod(&named.namespace, &name));
            let workload = snapshot.workload(&reference);
            match (pod, workload) {
                (Some(pod), workload) => Some(Party {
                    reference: workload.map_or(reference, |w| w.reference().clone()),
                    ..Party::of_pod(snapshot, pod)
                }),
                (None, Some(workload)) => Some(Party {
                    reference: workload.reference().clone(),
                    template: &workload.template,
                    pod: None,
                    proxy: injected(snapshot, workload.object.namespace(), &workload.template),
                }),
                (None, None) => owned(snapshot, kind, named)
                    .map(|pod| Party { reference, ..Party::of_pod(snapshot, pod) }),
            }
        })
    }

    /// A pod that was seen.
    pub fn of_pod(snapshot: &'a Snapshot, pod: &'a Pod) -> Self {
        let proxy = if pod.has_status() {
            snapshot.has_istio_proxy(pod)
        } else {
            injected(snapshot, pod.object.namespace(), &pod.template)
        };
        Party { reference: snapshot.owner(pod), template: &pod.template, pod: Some(pod), proxy }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.reference.namespace
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.template.labels
    }

    /// Its addresses, where they are known.
    pub fn ips(&self) -> &[String] {
        self.pod.map_or(&[], |pod| pod.ips.as_slice())
    }
}

/// A pod that names this as its owner: a ReplicaSet below a Deployment, or whatever was not read itself. An owner without a
/// kind goes by its name alone.
fn owned<'a>(snapshot: &'a Snapshot, kind: &str, named: &Named) -> Option<&'a Pod> {
    let own = |owner: &ObjectRef| {
        owner.name == named.name && (owner.kind == kind || (owner.kind.is_empty() && kind == "Pod"))
    };
    snapshot.pods.iter().find(|pod| {
        pod.object.namespace() == named.namespace && !pod.ended() && pod.object.owners.iter().any(own)
    })
}

/// Whether Istio's webhook puts a proxy into pods of this template: the pod's own word, else its namespace's.
pub fn injected(snapshot: &Snapshot, namespace: &str, template: &PodTemplate) -> bool {
    if template.has_running_container("istio-proxy") {
        return true;
    }
    if template.host_network {
        return false;
    }
    let own = template.labels.get("sidecar.istio.io/inject");
    match own.or_else(|| template.annotations.get("sidecar.istio.io/inject")) {
        Some("true") => return true,
        Some("false") => return false,
        _ => {}
    }
    let Some(namespace) = snapshot.object("Namespace", "", namespace) else {
        return template.labels.contains_key("istio.io/rev");
    };
    match namespace.labels.get("istio-injection") {
        Some("enabled") => true,
        Some(_) => false,
        None => namespace.labels.contains_key("istio.io/rev") || template.labels.contains_key("istio.io/rev"),
    }
}

/// One end of a connection.
#[derive(Debug, Clone)]
pub enum Peer<'a> {
    /// A pod.
    Pod(Party<'a>),
    /// An address of no pod that was seen.
    Address(String),
    /// A pod of some ingress controller, its labels and namespace unknown.
    IngressController,
}

impl<'a> Peer<'a> {
    /// Whoever has an address: a pod, or somebody outside.
    pub fn at(snapshot: &'a Snapshot, ip: &str) -> Self {
        match snapshot.pod_by_ip(ip) {
            Some(pod) => Peer::Pod(Party::of_pod(snapshot, pod)),
            None => Peer::Address(ip.to_owned()),
        }
    }

    /// The pod, where it is one.
    pub fn party(&self) -> Option<&Party<'a>> {
        match self {
            Peer::Pod(party) => Some(party),
            _ => None,
        }
    }

    /// Whether a sidecar of Istio stands beside it.
    pub fn has_proxy(&self) -> bool {
        self.party().is_some_and(|party| party.proxy)
    }
}

impl std::fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Pod(party) => write!(f, "{}", party.reference),
            Peer::Address(ip) => f.write_str(ip),
            Peer::IngressController => f.write_str("an ingress controller"),
        }
    }
}
