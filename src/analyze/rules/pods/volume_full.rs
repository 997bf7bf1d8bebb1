//! POD119.

use crate::model::json::json;
use std::collections::{BTreeMap, BTreeSet};

use super::common;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time::from_unix;
use crate::model::workload::quantity;

crate::rule! {
    /// A volume is full, or nearly, and what writes to it fails.
    ///
    /// ## What it detects
    /// A PersistentVolumeClaim with less than three hundredths of its bytes or inodes left, by the kubelet's figures, and the pods
    /// that use it.
    /// ## Why it matters
    /// A database that cannot write stops or goes read-only; a queue refuses messages; logs end.
    /// ## Evidence
    /// `kubelet_volume_stats_available_bytes` against the capacity, or inodes, and since when.
    /// ## How to confirm
    /// `df -h` and `df -i` in a pod that uses the claim.
    /// ## How to fix
    /// Delete what is not needed, or enlarge the claim where its storage class allows it (`allowVolumeExpansion`).
    /// ## False positives
    /// File systems that report no inodes have none to run out of. A volume that is full and only read does not hurt.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims>
    VolumeFull {
        code: "POD119", name: "volume-nearly-full", family: Workload, severity: Error,
        needs: [Metrics], aliases: ["K8S-PVC"],
    }
}

/// With less than this share left writes fail soon, or do.
const LEFT: f64 = 0.03;

/// What is left, of how much, and what it is.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes", "bytes"),
    ("kubelet_volume_stats_inodes_free", "kubelet_volume_stats_inodes", "inodes"),
];

/// A claim whose volume is full.
#[derive(Debug)]
pub struct Fact<'a> {
    namespace: &'a str,
    name: &'a str,
    claim: Option<&'a Object>,
    what: &'static str,
    left: f64,
    all: f64,
    since: f64,
    users: BTreeSet<ObjectRef>,
}

impl Check for VolumeFull {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for (left, all, what) in FAMILIES {
            let sizes: BTreeMap<(&str, &str), f64> = named(snapshot, all)
                .filter_map(|s| Some((claim_of(s), s.last().filter(|all| *all > 0.0)?)))
                .collect();
            for series in named(snapshot, left) {
                let (namespace, name) = claim_of(series);
                let (Some(all), Some(last)) = (sizes.get(&(namespace, name)), series.last()) else {
                    continue;
                };
                // The beginning of the last phase: what was freed meanwhile is over.
                let phase = series.points.iter().rev().take_while(|(_, value)| *value < LEFT * all).last();
                let Some((since, _)) = phase.filter(|_| last < LEFT * all && snapshot.in_scope(namespace))
                else {
                    continue;
                };
                let uses = |volume: &crate::model::json::Value| {
                    volume.text("persistentVolumeClaim.claimName") == Some(name)
                };
                let users = snapshot
                    .pods
                    .iter()
                    .filter(|pod| {
                        pod.object.namespace() == namespace
                            && !pod.ended()
                            && pod.template.spec.list("volumes").iter().any(uses)
                    })
                    .map(|pod| snapshot.owner(pod));
                out.push(Fact {
                    claim: snapshot.object("PersistentVolumeClaim", namespace, name),
                    users: users.collect(),
                    namespace,
                    name,
                    what,
                    left: last,
                    all: *all,
                    since: *since,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.claim.map_or_else(
            || ObjectRef {
                api_version: "v1".to_owned(),
                ..ObjectRef::new("PersistentVolumeClaim", fact.namespace, fact.name)
            },
            |claim| claim.reference.clone(),
        );
        let subject = reference.field("spec.resources.requests.storage");
        let percent = fact.left * 100.0 / fact.all;
        let amount =
            |value: f64| if fact.what == "bytes" { common::bytes(value) } else { format!("{value:.0}") };
        let names = fact.users.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let by = if names.is_empty() { "nobody that was seen".to_owned() } else { names };
        let onset = from_unix(fact.since);
        let services: BTreeSet<_> = fact
            .users
            .iter()
            .filter_map(|w| snapshot.workload(w))
            .flat_map(|w| snapshot.services_before(w))
            .map(|s| s.service_name())
            .collect();
        let mut finding = Finding::new(Self::META, subject, &[fact.what])
            .title(format!("{reference} is full: {} of {} {} left ({percent:.1} %)", amount(fact.left), amount(fact.all), fact.what))
            .message(format!(
                "The volume of {reference} has {} of {} {} left ({percent:.1} %), and {by} writes to it: what it cannot write fails.",
                amount(fact.left),
                amount(fact.all),
                fact.what
            ))
            .mechanism("volume full (no space left)")
            .severity(if fact.users.is_empty() { Severity::Warning } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .service(services.iter().next().cloned())
            .evidence(
                Evidence::new("Metric", format!("kubelet_volume_stats of {reference}"), format!("{} of {} {} left", amount(fact.left), amount(fact.all), fact.what))
                    .at(onset),
            )
            .onset(onset)
            .effects(fact.users.iter().map(Effect::pods))
            .effects(services.iter().map(|s| Effect::requests(s, &["5xx", "500", "503", "timeout", "refused"])));
        for user in fact.users.iter().take(3) {
            finding = finding.related(user.clone());
        }
        finding
            .maybe_remedy(enlarge(fact, snapshot))
            .remedy(Remedy::commands(
                "See what fills it, and delete what nobody needs",
                vec![common::describe_command(&reference)],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert while there is time",
                format!("kubelet_volume_stats_available_bytes{{namespace=\"{0}\"}} / kubelet_volume_stats_capacity_bytes{{namespace=\"{0}\"}} < 0.15", fact.namespace),
            ))
    }
}

fn named<'a>(snapshot: &'a Snapshot, name: &'static str) -> impl Iterator<Item = &'a Series> {
    snapshot.series.iter().filter(move |s| s.name == name)
}

fn claim_of(series: &Series) -> (&str, &str) {
    (series.label("namespace"), series.label("persistentvolumeclaim"))
}

/// Twice the size, where the storage class allows a claim to grow. A claim never shrinks again.
fn enlarge(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let claim = fact.claim.filter(|_| fact.what == "bytes")?;
    let class = snapshot.object("StorageClass", "", claim.body.text("spec.storageClassName")?)?;
    if !class.body.flag("allowVolumeExpansion") {
        return None;
    }
    let now = claim.body.text("spec.resources.requests.storage")?;
    let next = common::bytes(2.0 * quantity(now)?);
    let operations = json!([{"op": "replace", "path": "/spec/resources/requests/storage", "value": next}]);
    let r = &claim.reference;
    Some(
        Remedy::lasting(
            format!("Enlarge the claim from {now} to {next}: its storage class allows it"),
            vec![format!(
                "kubectl -n {} patch persistentvolumeclaim {} --type=json -p {}",
                quote(&r.namespace),
                quote(&r.name),
                quote(&operations.to_string())
            )],
            "a volume can grow and not shrink",
        )
        .risk(Risk::Medium),
    )
}
