//! The raw material of a snapshot: what a live run gathers, what a bundle holds, what a replay serves.

use crate::model::json::Value;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::redact::Counts;
use crate::model::gap::Gap;
use crate::model::source::Sources;
use crate::model::time::Window;

/// `meshscope.json`, the manifest of a bundle. Every field but `version` is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    /// The version of the bundle format: 1.
    pub version: u32,
    /// When the material was taken: the analysis' clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured_at: Option<Timestamp>,
    /// The span of time that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// When the trouble began, where somebody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onset: Option<Timestamp>,
    /// What was asked about; absent means every service of every namespace in the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<ManifestTarget>,
    /// Known calls, caller first, each `service` or `namespace/service`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<(String, String)>,
    /// What is known of Istio's installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub istio: Option<ManifestIstio>,
    /// What the capture could not see.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Paths of logs of which the capture kept the newest part only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub truncated_logs: Vec<String>,
}

impl Manifest {
    /// The newest version of the format that this program reads, and the one it writes.
    pub const VERSION: u32 = 1;
}

/// `target` of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManifestTarget {
    /// The namespace asked about.
    pub namespace: String,
    /// Names of Services in it; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// `istio` of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManifestIstio {
    /// The mesh's root namespace; empty means `istio-system`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root_namespace: String,
    /// MeshConfig, only what differs from Istio's defaults.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub mesh_config: Value,
}

/// The log of one container, or of its previous instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// Whether this is the instance before the current one.
    pub previous: bool,
    /// The bytes as `kubectl logs --timestamps` prints them; not necessarily UTF-8.
    pub bytes: Vec<u8>,
    /// Whether the budget cut it.
    pub truncated: bool,
}

impl LogFile {
    /// Its path in a bundle.
    pub fn path(&self) -> String {
        let suffix = if self.previous { ".previous.log" } else { ".log" };
        format!("logs/{}/{}/{}{suffix}", self.namespace, self.pod, self.container)
    }
}

/// A response body of Prometheus' `query` or `query_range`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricFile {
    /// The file's name without `.json`, or the name of the catalogue's query.
    pub name: String,
    /// The body: `{"status": "success", "data": {"resultType": …, "result": […]}}`.
    pub body: Value,
}

/// A file of traces: OTLP/JSON, Jaeger, Zipkin v2 or X-Ray. It stays text: as a tree it would take ten times the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFile {
    /// The file's name without `.json`.
    pub name: String,
    /// The document, redacted; whether it is well-formed shows when it is read.
    pub bytes: Vec<u8>,
}

/// An answer of a proxy's admin port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyFile {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// One of [`crate::model::proxy::FILES`].
    pub file: String,
    /// The answer as it came.
    pub bytes: Vec<u8>,
}

/// An answer of a control plane's debug endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlPlaneFile {
    /// The control plane's pod.
    pub pod: String,
    /// `syncz.json`, …
    pub file: String,
    /// The answer.
    pub body: Value,
}

/// All that one source gave. Text of clusters in here has been redacted when it was read.
#[derive(Debug, Clone, Default)]
pub struct Material {
    /// The manifest.
    pub manifest: Manifest,
    /// Kubernetes objects of every kind, Events and CRDs included; Lists are unrolled.
    pub objects: Vec<Value>,
    /// Where objects stand in the YAML files that they were read from.
    pub sources: Sources,
    /// Logs of containers.
    pub logs: Vec<LogFile>,
    /// Answers of Prometheus.
    pub metrics: Vec<MetricFile>,
    /// Traces.
    pub traces: Vec<TraceFile>,
    /// Answers of proxies' admin ports.
    pub proxies: Vec<ProxyFile>,
    /// Answers of control planes.
    pub control_plane: Vec<ControlPlaneFile>,
    /// What could not be read, besides the manifest's own gaps.
    pub gaps: Vec<Gap>,
    /// Files or entries that no rule of the format names.
    pub ignored: usize,
    /// What was masked on the way in.
    pub redacted: Counts,
}
