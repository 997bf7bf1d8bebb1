//! What the rules of this family share: marks in logs, series of pods, fields of containers.

use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, WorkloadLog};
use crate::analyze::logs::marks::{Mark, Marks};
use crate::analyze::rule::Meta;
use crate::analyze::rules::application::calls::service_of;
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{EnvSource, Workload};

/// Marks of one sort in the log of a workload, that were not followed by a long silence.
pub fn marked(snapshot: &Snapshot, marks: &[Mark]) -> Vec<(ObjectRef, Mark, Marks)> {
    let digest = snapshot.derived::<Digest>();
    let mut out = vec![];
    for (workload, log) in &digest.workloads {
        for mark in marks {
            if let Some(found) =
                log.marks.get(mark).filter(|found| !log.is_over(found.first, found.last, found.count))
            {
                out.push((workload.clone(), *mark, found.clone()));
            }
        }
    }
    out
}

/// The log of a workload.
pub fn with_log<T>(
    snapshot: &Snapshot,
    workload: &ObjectRef,
    read: impl FnOnce(&WorkloadLog) -> T,
) -> Option<T> {
    snapshot.derived::<Digest>().workloads.get(workload).map(read)
}

/// Marks as evidence.
pub fn evidence(workload: &ObjectRef, marks: &Marks) -> Evidence {
    let place =
        format!("Pod {}/{}, container {}", workload.namespace, marks.place.pod, marks.place.container);
    Evidence::new("Log", place, text::times(marks.count)).at(marks.first).excerpt(&marks.sample)
}

/// Series of these names by the workload of their pod. Series without a pod of this snapshot are left out.
pub fn by_workload<'a>(snapshot: &'a Snapshot, names: &[&str]) -> BTreeMap<ObjectRef, Vec<&'a Series>> {
    let mut out: BTreeMap<ObjectRef, Vec<&Series>> = BTreeMap::new();
    for series in snapshot.series.iter().filter(|series| names.contains(&series.name.as_str())) {
        let (namespace, pod) = (series.label("namespace"), series.label("pod"));
        if let Some(pod) = snapshot.pod(namespace, pod).filter(|_| snapshot.in_scope(namespace)) {
            out.entry(snapshot.owner(pod)).or_default().push(series);
        }
    }
    out
}

/// How much a counter grows in a second, over all of it.
pub fn rate(series: &Series) -> Option<f64> {
    let (first, last) = (series.points.first()?.0, series.points.last()?.0);
    (last > first).then(|| series.total_increase().map(|grown| grown / (last - first)))?
}

/// A finding about a workload, its Service and what fails because of it.
pub fn finding(
    snapshot: &Snapshot,
    meta: &'static Meta,
    subject: ObjectRef,
    workload: &ObjectRef,
    flags: &[&str],
) -> Finding {
    let service = service_of(snapshot, workload);
    let mut finding = Finding::new(meta, subject.clone(), &[&workload.name])
        .role(Role::Cause, Confidence::Observed)
        .severity(Severity::Error)
        .service(service.clone())
        .effect(Effect::calls(workload));
    if !subject.same_object(workload) {
        finding = finding.related(workload.clone());
    }
    if let Some(service) = &service {
        finding = finding.effect(Effect::requests(service, flags));
    }
    finding
}

/// The field of a workload's first container that sets its memory: an option of the runtime in its environment, else its limit.
pub fn memory_field(workload: &Workload, names: &[&str]) -> (ObjectRef, String) {
    let Some(container) = workload.template.application_containers().next() else {
        return (workload.reference().clone(), "no limit".to_owned());
    };
    let base = format!("spec.{}", container.path());
    for (index, var) in container.env.iter().enumerate() {
        if names.contains(&var.name.as_str())
            && let EnvSource::Literal(_) = &var.source
        {
            let field = workload.template_path(&format!("{base}.env[{index}].value"));
            return (workload.reference().field(field), var.name.clone());
        }
    }
    let field = workload.template_path(&format!("{base}.resources.limits.memory"));
    let limit = crate::model::fields::Fields::text(&*container.body, "resources.limits.memory");
    (
        workload.reference().field(field),
        limit.map_or("no memory limit".to_owned(), |limit| format!("memory limit {limit}")),
    )
}

/// The image of a workload's first container: where a fault of the program itself is mended.
pub fn image_field(snapshot: &Snapshot, workload: &ObjectRef) -> ObjectRef {
    let known = snapshot.workload(workload);
    let container = known.and_then(|w| Some((w, w.template.application_containers().next()?)));
    container.map_or_else(
        || workload.clone(),
        |(w, c)| workload.field(w.template_path(&format!("spec.{}.image", c.path()))),
    )
}

/// Whether a CPU limit holds the workload's containers back: then pauses and waits follow from it.
pub fn throttled(snapshot: &Snapshot, workload: &ObjectRef) -> bool {
    let sum = |name: &str| -> f64 {
        let all = by_workload(snapshot, &[name]);
        all.get(workload).into_iter().flatten().filter_map(|s| s.total_increase()).sum()
    };
    let periods = sum("container_cpu_cfs_periods_total");
    periods > 0.0 && sum("container_cpu_cfs_throttled_periods_total") / periods > 0.25
}
