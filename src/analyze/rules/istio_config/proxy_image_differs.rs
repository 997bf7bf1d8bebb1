//! ISTIO216.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::{Snapshot, is_system_namespace};

crate::rule! {
    /// Pods of a namespace run another proxy than its injector puts in now.
    ///
    /// ## What it detects
    /// Pods with an injected proxy whose image is neither the one in the injector's values (`global.proxy.image`,
    /// `global.hub`, `global.tag`) nor a variant of it, in namespaces that the injector's revision is for. Pods that
    /// ask for an image of their own are left out.
    /// ## Why it matters
    /// After an upgrade of the control plane old proxies go on until their pods are made anew: with old bugs, and
    /// beyond two minor versions unsupported.
    /// ## Evidence
    /// The image of the injector, and how many pods run another.
    /// ## How to confirm
    /// `istioctl proxy-status` lists the version of each proxy.
    /// ## How to fix
    /// Restart the workloads, one after the other.
    /// ## False positives
    /// An upgrade that is under way.
    /// ## References
    /// <https://istio.io/latest/docs/setup/upgrade/>
    ProxyImageDiffers {
        code: "ISTIO216", name: "proxy-image-differs", family: Mesh, severity: Info,
        needs: [Objects], aliases: ["IST0158"],
    }
}

/// A namespace whose proxies are not the injector's.
#[derive(Debug)]
pub struct Fact<'a> {
    namespace: &'a Object,
    injected: String,
    /// Another image, and the pods that run it.
    other: &'a str,
    pods: usize,
    owners: BTreeSet<ObjectRef>,
}

impl Check for ProxyImageDiffers {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let images: BTreeMap<&str, String> = snapshot
            .objects_of("ConfigMap")
            .filter(|map| map.name().starts_with("istio-sidecar-injector"))
            .filter_map(|map| Some((map.name(), image(&map.body)?)))
            .collect();
        let mut out = vec![];
        for namespace in snapshot
            .objects_of("Namespace")
            .filter(|n| !is_system_namespace(n.name()) && snapshot.in_scope(n.name()))
        {
            let enabled = namespace.labels.get("istio-injection").is_some_and(|value| value == "enabled");
            let revision = namespace.labels.get("istio.io/rev");
            let Some(revision) = enabled.then_some("default").or(revision) else { continue };
            let injector = match revision {
                "" | "default" => "istio-sidecar-injector".to_owned(),
                revision => format!("istio-sidecar-injector-{revision}"),
            };
            let Some(injected) = images.get(injector.as_str()) else { continue };
            let differing: Vec<(&Object, &str)> = snapshot
                .pods
                .iter()
                .filter(|pod| pod.object.namespace() == namespace.name() && !pod.ended())
                .filter(|pod| !pod.object.annotations.contains_key("sidecar.istio.io/proxyImage"))
                .filter_map(|pod| Some((&*pod.object, pod.template.container("istio-proxy")?.image.as_str())))
                .filter(|(_, own)| {
                    !own.is_empty()
                        && own
                            .strip_prefix(injected.as_str())
                            .is_none_or(|rest| !rest.is_empty() && !rest.starts_with('-'))
                })
                .collect();
            let Some((_, other)) = differing.first() else { continue };
            let owners = differing
                .iter()
                .map(|(pod, _)| snapshot.owner_by_name(pod.namespace(), pod.name()))
                .collect();
            out.push(Fact { namespace, injected: injected.clone(), other, pods: differing.len(), owners });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.namespace.reference;
        let (injected, other) = (text::plain(&fact.injected, 60), text::plain(fact.other, 60));
        let restarts = fact.owners.iter().filter(|owner| owner.kind != "Pod").take(5).map(|owner| {
            format!(
                "kubectl {}rollout restart {}/{}",
                crate::analyze::remedy::scope(owner),
                crate::analyze::remedy::resource(owner),
                crate::analyze::remedy::quote(&owner.name)
            )
        });
        let restarts: Vec<String> = restarts.collect();
        Finding::new(Self::META, own.clone(), &[])
            .title(format!("{} pods of {own} run proxy {other}, and the injector puts in {injected}", fact.pods))
            .message(format!(
                "Proxies are replaced when their pods are made anew. {} pods of {own} still run another image than the injector of their revision has now.",
                fact.pods
            ))
            .mechanism("proxy image differs from the injector's")
            .role(Role::Context, Confidence::Observed)
            .evidence(Evidence::object(own, format!("{} pods with {other}, injector {injected}", fact.pods)))
            .remedy(Remedy::commands("Restart the workloads, one after the other", restarts, vec![]))
            .prevention(Prevention::alert("Alert on proxies of several versions", "count(count by (tag) (istio_build{component=\"proxy\"})) > 1"))
    }
}

/// The image that an injector's values name.
fn image(body: &Value) -> Option<String> {
    let values: Value = serde_json::from_str(body.text("data.values")?).ok()?;
    let image = values.text("global.proxy.image")?;
    if image.contains('/') {
        return Some(image.to_owned());
    }
    Some(format!("{}/{image}:{}", values.text("global.hub")?, values.text("global.tag")?))
}
