//! HorizontalPodAutoscalers as the rules about them read them, of every version of their API.

use crate::model::json::Value;

use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Condition, Workload, conditions};

/// An autoscaler.
#[derive(Debug)]
pub(crate) struct Autoscaler<'a> {
    /// The object.
    pub object: &'a Object,
    /// What it scales.
    pub target: ObjectRef,
    /// The same, where it was seen.
    pub workload: Option<&'a Workload>,
    /// Its conditions: from its status, or in version 1 from an annotation.
    pub conditions: Vec<Condition>,
    /// Its upper end.
    pub max: i64,
    /// How many replicas there are.
    pub current: Option<i64>,
}

/// All autoscalers of wanted namespaces.
pub(crate) fn autoscalers(snapshot: &Snapshot) -> impl Iterator<Item = Autoscaler<'_>> {
    let wanted = snapshot.objects_of("HorizontalPodAutoscaler").filter(|o| snapshot.in_scope(o.namespace()));
    wanted.map(|object| {
        let body = &object.body;
        let target = ObjectRef {
            api_version: body.string("spec.scaleTargetRef.apiVersion"),
            ..ObjectRef::new(
                body.string("spec.scaleTargetRef.kind"),
                object.namespace(),
                body.string("spec.scaleTargetRef.name"),
            )
        };
        let mut found = conditions(body.list("status.conditions"));
        if found.is_empty()
            && let Some(text) = object.annotations.get("autoscaling.alpha.kubernetes.io/conditions")
            && let Ok(Value::Array(list)) = serde_json::from_str(text)
        {
            found = conditions(&list);
        }
        Autoscaler {
            workload: snapshot.workload(&target),
            target,
            conditions: found,
            max: body.int("spec.maxReplicas").unwrap_or(0),
            current: body.int("status.currentReplicas"),
            object,
        }
    })
}

impl Autoscaler<'_> {
    /// A condition by its type.
    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }

    /// The Services in front of what it scales.
    pub(crate) fn services(&self, snapshot: &Snapshot) -> Vec<ServiceName> {
        self.workload
            .map(|w| snapshot.services_before(w).map(|s| s.service_name()).collect())
            .unwrap_or_default()
    }

    /// The largest use of a resource over its target, in percent of the request: current and wanted.
    pub(crate) fn utilization(&self) -> Option<(i64, i64)> {
        let body = &self.object.body;
        if let (Some(now), Some(wanted)) = (
            body.int("status.currentCPUUtilizationPercentage"),
            body.int("spec.targetCPUUtilizationPercentage"),
        ) {
            return Some((now, wanted));
        }
        let part = |entry: &Value, which: &str| {
            ["resource", "containerResource"].into_iter().find_map(|kind| {
                let value = entry.int(&format!("{kind}.{which}.averageUtilization"))?;
                Some((entry.string(&format!("{kind}.name")), value))
            })
        };
        let wanted: Vec<_> = body.list("spec.metrics").iter().filter_map(|m| part(m, "target")).collect();
        let now = body.list("status.currentMetrics").iter().filter_map(|m| part(m, "current"));
        now.filter_map(|(name, value)| Some((value, wanted.iter().find(|(n, _)| *n == name)?.1)))
            .max_by(|a, b| (a.0 * b.1.max(1)).cmp(&(b.0 * a.1.max(1))))
    }
}
