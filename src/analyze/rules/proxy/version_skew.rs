//! PROXY110.

use std::collections::BTreeMap;

use super::{MAX_PROXIES, evidence, restart};
use crate::analyze::finding::{Confidence, Finding, Role, Severity};
use crate::analyze::remedy::Prevention;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text::plain;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A workload's proxies are much older than its control plane.
    ///
    /// ## What it detects
    /// A proxy whose version of Istio is more than two minor versions behind istiod's image, or ahead of it.
    /// ## Why it matters
    /// Istio supports proxies of two minor versions before its own. Farther apart, filters and fields are sent that the
    /// proxy does not know: it refuses the whole listener, or ignores what it was to enforce.
    /// ## Evidence
    /// The version that the proxy names, and the tag of istiod's image.
    /// ## How to confirm
    /// `istioctl version` lists control plane and data plane.
    /// ## How to fix
    /// Start the pods anew: the injector gives them the current proxy.
    /// ## False positives
    /// Images whose tag is no version, or a revision of the control plane that this workload does not belong to.
    /// ## References
    /// <https://istio.io/latest/docs/releases/supported-releases/#control-planedata-plane-skew>
    VersionSkew {
        code: "PROXY110", name: "version-skew", family: Mesh, severity: Warning,
        needs: [Proxies], aliases: [],
    }
}

/// Minor versions that a proxy may be behind.
const BEHIND: i64 = 2;

/// A workload with a proxy of another age.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    proxy: String,
    control_plane: String,
    pods: Vec<(String, String)>,
}

impl Check for VersionSkew {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let Some((tag, control)) = control_plane(snapshot) else { return vec![] };
        let from_admin = snapshot.proxies.iter().filter_map(|proxy| {
            Some((&proxy.namespace, &proxy.pod, proxy.server.as_ref()?.istio_version.as_str()))
        });
        let from_syncs =
            snapshot.proxy_syncs.iter().map(|sync| (&sync.namespace, &sync.pod, sync.istio_version.as_str()));
        let mut found: BTreeMap<(ObjectRef, String), Vec<(String, String)>> = BTreeMap::new();
        for (namespace, pod, version) in from_admin.chain(from_syncs) {
            let Some(minor) = minor(version).filter(|_| snapshot.in_scope(namespace)) else { continue };
            if minor.0 == control.0 && (control.1 - BEHIND..=control.1).contains(&minor.1) {
                continue;
            }
            let pods = found.entry((snapshot.owner_by_name(namespace, pod), version.to_owned())).or_default();
            let pod = (namespace.clone(), pod.clone());
            if !pods.contains(&pod) {
                pods.push(pod);
            }
        }
        let fact = |((workload, proxy), pods)| Fact { workload, proxy, control_plane: tag.clone(), pods };
        found.into_iter().map(fact).collect()
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let (proxy, control) = (plain(&fact.proxy, 30), plain(&fact.control_plane, 30));
        Finding::new(Self::META, fact.workload.clone(), &[&fact.proxy])
            .title(format!("{}: proxy {proxy} beside control plane {control}", fact.workload))
            .message(format!("The proxies of {} are of version {proxy}, istiod is {control}: farther apart than the two minor versions that Istio supports.", fact.workload))
            .mechanism("version skew between proxy and control plane")
            .severity(Severity::Warning)
            .role(Role::Context, Confidence::Observed)
            .evidences(fact.pods.iter().take(MAX_PROXIES).map(|(namespace, pod)| {
                evidence(namespace, pod, "server_info", format!("Istio {proxy}, control plane {control}"))
            }))
            .maybe_remedy(restart(&fact.workload, "Start the pods anew: they get the current proxy".to_owned()))
            .prevention(Prevention::alert("Alert on proxies of several versions", "count(count by (tag) (istio_build{component=\"proxy\"})) > 2"))
    }
}

/// The version of the control plane, where all its pods agree.
fn control_plane(snapshot: &Snapshot) -> Option<(String, (i64, i64))> {
    let istiod =
        snapshot.pods.iter().filter(|pod| pod.object.labels.get("app").is_some_and(|app| app == "istiod"));
    let mut tags: Vec<&str> = istiod
        .flat_map(|pod| &pod.template.containers)
        .filter(|container| container.name == "discovery")
        .filter_map(|container| Some(container.image.split('@').next()?.rsplit_once(':')?.1))
        .collect();
    tags.sort_unstable();
    tags.dedup();
    match tags.as_slice() {
        [tag] => Some(((*tag).to_owned(), minor(tag)?)),
        _ => None,
    }
}

/// Major and minor of `1.29.1`, `1.29.1-distroless`, `v1.29`; a commit's pseudo version (`v0.0.0-…`) is none.
fn minor(version: &str) -> Option<(i64, i64)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-']);
    let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (major > 0).then_some((major, minor))
}
