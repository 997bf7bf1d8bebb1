//! What a session looks at: the target, what is wrong with it, and when.

#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each type inside a function")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::is_default;
use crate::api::v1alpha1::common::{Moment, Period};
use crate::api::v1alpha1::request::SymptomRequest;

/// What to look at: one of `services`, `workloads` and `selector`; none of them is the whole namespace.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.services) && size(self.services) > 0, has(self.workloads) && size(self.workloads) > 0, has(self.selector)].filter(given, given).size() <= 1"
).message("give only one of spec.target.services, spec.target.workloads and spec.target.selector; leave out all three to look at the whole namespace"))]
pub struct Target {
    /// Left out, it is the session's own. Another one is refused unless that namespace allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message(
        "spec.target.namespace is the name of one namespace, such as shop: lower-case letters, digits and '-'"
    ))]
    pub namespace: Option<String>,
    /// Names of Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))").message(
            "spec.target.services are names of Services, such as checkout: without a namespace, a port or a domain"
        )
    )]
    pub services: Vec<String>,
    /// Workloads by kind and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub workloads: Vec<WorkloadRef>,
    /// Pods by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// How many hops of the service graph around the targets are looked at too, callers and dependencies, 0 to 3;
    /// 1 where it is left out.
    #[serde(default = "default_depth", skip_serializing_if = "is_default_depth")]
    #[schemars(range(min = 0, max = 3))]
    pub dependency_depth: i32,
}

impl Default for Target {
    fn default() -> Self {
        Target {
            namespace: None,
            services: vec![],
            workloads: vec![],
            selector: None,
            dependency_depth: DEFAULT_DEPTH,
        }
    }
}

/// One workload of the target namespace.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message(
        "spec.target.workloads[].name is the name of one object, such as checkout: the kind stands beside it, in kind"
    ))]
    pub name: String,
}

/// Kinds of workloads that can be a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "each is the Kubernetes kind of that name")]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
    CronJob,
    Pod,
}

impl WorkloadKind {
    /// The Kubernetes kind.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkloadKind::Deployment => "Deployment",
            WorkloadKind::StatefulSet => "StatefulSet",
            WorkloadKind::DaemonSet => "DaemonSet",
            WorkloadKind::ReplicaSet => "ReplicaSet",
            WorkloadKind::Job => "Job",
            WorkloadKind::CronJob => "CronJob",
            WorkloadKind::Pod => "Pod",
        }
    }
}

/// Selects pods by their labels.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Every label must have this value.
    #[schemars(schema_with = "label_map")]
    #[x_kube(validation = Rule::new("size(self) > 0").message(
        "spec.target.selector.matchLabels needs at least one label, such as app: checkout; leave out selector to look at the whole namespace"
    ))]
    pub match_labels: BTreeMap<String, String>,
}

/// Labels: keys up to 317 bytes (a prefix of 253, `/`, a name of 63), values up to 63.
fn label_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 63 }
    })
}

/// What is wrong, as far as it is known.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Symptom {
    /// What users see, `Unknown` where it is left out. A hint for the ranking.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: SymptomKind,
    /// In your own words. Shown in reports, never interpreted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub description: String,
    /// A request that shows it. The answer is in `status.request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<SymptomRequest>,
    /// The trace, request or correlation id of a request that failed: it is followed through what was collected.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub request_id: String,
    /// Since when it fails, as far as you know; it must lie in the window. Metrics, logs and traces are compared with the time before, and
    /// what deviates since then can be the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onset: Option<Moment>,
}

/// What users see.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum SymptomKind {
    /// Requests are answered with errors.
    Errors,
    /// Requests are answered too late.
    Latency,
    /// Nothing answers.
    Unavailable,
    /// Not known.
    #[default]
    Unknown,
}

/// The span of time to look at: `since`, or `start` and `end`. The operator's configuration caps its length.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.since) != (has(self.start) || has(self.end)) && has(self.start) == has(self.end)").message(
        "give either spec.window.since, such as 1h, or both spec.window.start and spec.window.end; leave out spec.window for the last hour"
    ),
    validation = Rule::new("!has(self.start) || !has(self.end) || self.start < self.end").message(
        "spec.window.start must lie before spec.window.end"
    )
)]
pub struct Window {
    /// From this long before the run's start until then, such as `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(
        "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) >= duration('1m') && duration(self) <= duration('720h')"
    ).message("spec.window.since must lie between 1m and 720h and be written as hours, minutes and seconds, such as 30m or 1h"))]
    pub since: Option<Period>,
    /// The first instant to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Moment>,
    /// The last instant to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Moment>,
}

const DEFAULT_DEPTH: i32 = 1;

fn default_depth() -> i32 {
    DEFAULT_DEPTH
}

fn is_default_depth(depth: &i32) -> bool {
    *depth == DEFAULT_DEPTH
}
