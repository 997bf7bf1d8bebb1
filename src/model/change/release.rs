//! Tools that deploy: to which of their releases an object belongs, and which versions these brought in. Helm keeps its own
//! history in Secrets, which nobody here reads: what it tells stands in labels, annotations and managed fields.

use crate::model::json::Value;
use std::fmt;

use super::{Change, ChangeKind, Difference};
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::objects::Objects;

/// A tool that deploys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// Helm.
    Helm,
    /// An Argo CD Application.
    ArgoCd,
    /// A HelmRelease of Flux.
    FluxHelm,
    /// A Kustomization of Flux.
    FluxKustomize,
}

impl Tool {
    /// Whether it writes what it wants again as soon as somebody else changes it.
    pub fn reconciles(self) -> bool {
        self != Tool::Helm
    }

    /// Whether a field manager is this tool.
    pub fn is(self, manager: &str) -> bool {
        match self {
            Tool::Helm => manager.eq_ignore_ascii_case("helm"),
            Tool::ArgoCd => manager.starts_with("argocd"),
            Tool::FluxHelm => matches!(manager, "helm-controller" | "helm"),
            Tool::FluxKustomize => manager == "kustomize-controller",
        }
    }
}

/// A release: what one deployment of a tool is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The tool.
    pub tool: Tool,
    /// Its name there.
    pub name: String,
    /// Its namespace there; empty where nobody says.
    pub namespace: String,
    /// The version: a chart's, as the label `helm.sh/chart` has it; empty where nobody says.
    pub version: String,
}

impl Release {
    /// The release that an object belongs to. A tool that works through another one comes first.
    pub fn of(object: &Object) -> Option<Release> {
        let label = |key: &str| object.labels.get(key).map(str::to_owned).unwrap_or_default();
        let annotation = |key: &str| object.annotations.get(key).map(str::to_owned).unwrap_or_default();
        let chart = label("helm.sh/chart");
        let release = |tool, name: String, namespace: String, version: &str| {
            (!name.is_empty()).then(|| Release { tool, name, namespace, version: version.to_owned() })
        };
        let flux = |tool, group: &str, version: &str| {
            release(tool, label(&format!("{group}/name")), label(&format!("{group}/namespace")), version)
        };
        let tracking = annotation("argocd.argoproj.io/tracking-id");
        let application = tracking.split(':').next().unwrap_or_default();
        let (namespace, name) = application.split_once('_').unwrap_or(("", application));
        flux(Tool::FluxHelm, "helm.toolkit.fluxcd.io", &chart)
            .or_else(|| flux(Tool::FluxKustomize, "kustomize.toolkit.fluxcd.io", ""))
            .or_else(|| release(Tool::ArgoCd, name.to_owned(), namespace.to_owned(), ""))
            .or_else(|| release(Tool::ArgoCd, label("argocd.argoproj.io/instance"), String::new(), ""))
            .or_else(|| {
                let (name, namespace) =
                    (annotation("meta.helm.sh/release-name"), annotation("meta.helm.sh/release-namespace"));
                release(Tool::Helm, name, namespace, &chart)
            })
    }
}

/// `Helm release shop/checkout (checkout-1.4.2)`.
impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.tool {
            Tool::Helm => "Helm release ",
            Tool::ArgoCd => "Argo CD Application ",
            Tool::FluxHelm => "Flux HelmRelease ",
            Tool::FluxKustomize => "Flux Kustomization ",
        })?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        if self.version.is_empty() { Ok(()) } else { write!(f, " ({})", self.version) }
    }
}

/// The versions that Argo CD's Applications and Flux' releases brought in, as far as their status remembers.
pub(super) fn releases(objects: &Objects) -> Vec<Change> {
    let mut out = vec![];
    for object in objects {
        match (object.reference.kind.as_str(), object.reference.group()) {
            ("Application", "argoproj.io") => out.extend(applications(object)),
            ("HelmRelease", "helm.toolkit.fluxcd.io") => out.extend(helm_releases(object)),
            ("Kustomization", "kustomize.toolkit.fluxcd.io") => out.extend(kustomization(object)),
            _ => {}
        }
    }
    out
}

/// One version after another: each with the one before it.
fn steps(object: &Object, mut history: Vec<(jiff::Timestamp, String)>) -> Vec<Change> {
    history.sort();
    let before =
        std::iter::once(String::new()).chain(history.iter().map(|(_, v)| v.clone())).collect::<Vec<_>>();
    let step = |((time, after), before): ((jiff::Timestamp, String), String)| Change {
        fields: vec!["revision".to_owned()],
        differences: vec![Difference { path: "revision".to_owned(), before, after }],
        ..Change::new(time, &object.reference, ChangeKind::Released)
    };
    history.into_iter().zip(before).map(step).collect()
}

fn applications(object: &Object) -> Vec<Change> {
    let entry = |entry: &Value| {
        let revisions = entry.texts("revisions");
        let revision = entry
            .text("revision")
            .filter(|r| !r.is_empty())
            .map_or_else(|| revisions.join(" "), str::to_owned);
        Some((entry.time("deployedAt")?, revision))
    };
    let mut out = steps(object, object.body.list("status.history").iter().filter_map(entry).collect());
    // Only the last operation says who asked for it.
    let by = object.body.text("status.operationState.operation.initiatedBy.username");
    let automated = object.body.flag("status.operationState.operation.initiatedBy.automated");
    if let Some(last) = out.last_mut() {
        last.by = by.map_or_else(
            || if automated { "automated sync".to_owned() } else { String::new() },
            str::to_owned,
        );
    }
    out
}

fn helm_releases(object: &Object) -> Vec<Change> {
    let entry = |entry: &Value| {
        let version = format!("{} {}", entry.string("chartName"), entry.string("chartVersion"));
        Some((entry.time("lastDeployed")?, version.trim().to_owned()))
    };
    steps(object, object.body.list("status.history").iter().filter_map(entry).collect())
}

fn kustomization(object: &Object) -> Option<Change> {
    let ready = |c: &&Value| c.text("type") == Some("Ready") && c.text("status") == Some("True");
    let at = object.body.list("status.conditions").iter().find(ready)?.time("lastTransitionTime")?;
    let after = object.body.text("status.lastAppliedRevision")?.to_owned();
    steps(object, vec![(at, after)]).pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn object(metadata: Value) -> Object {
        Object::read(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata})).unwrap()
    }

    #[test]
    fn labels_and_annotations_name_the_release() {
        let helm = object(json!({"name": "a", "namespace": "n", "labels": {"helm.sh/chart": "shop-1.2.0"},
            "annotations": {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "n"}}));
        assert_eq!(Release::of(&helm).unwrap().to_string(), "Helm release n/shop (shop-1.2.0)");
        let argo = object(
            json!({"name": "a", "annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:n/a"}}),
        );
        assert_eq!(Release::of(&argo).unwrap().to_string(), "Argo CD Application shop");
        let flux = object(
            json!({"name": "a", "labels": {"helm.toolkit.fluxcd.io/name": "shop", "helm.toolkit.fluxcd.io/namespace": "flux"},
            "annotations": {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "n"}}),
        );
        assert_eq!(Release::of(&flux).unwrap().tool, Tool::FluxHelm);
        assert_eq!(
            Release::of(&object(json!({"name": "a", "labels": {"app.kubernetes.io/instance": "shop"}}))),
            None
        );
    }

    #[test]
    fn an_application_tells_who_brought_in_which_revision() {
        let body = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": "shop", "namespace": "argocd"},
            "status": {"history": [{"deployedAt": "2026-11-21T10:00:00Z", "revision": "b2"}, {"deployedAt": "2026-11-20T10:00:00Z", "revision": "a1"}],
                "operationState": {"operation": {"initiatedBy": {"username": "kim"}}}}});
        let found = applications(&Object::read(body).unwrap());
        assert_eq!(found.len(), 2);
        assert_eq!(
            (
                found[1].by.as_str(),
                found[1].differences[0].before.as_str(),
                found[1].differences[0].after.as_str()
            ),
            ("kim", "a1", "b2")
        );
    }
}
