//! The request of a session's symptom, and what becomes of it.

#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each type inside a function")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::common::TargetRef;

/// A request that fails: the model of the mesh says what becomes of it, and fixes are tried on it.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SymptomRequest {
    /// `HTTP` where it is left out.
    #[serde(default, skip_serializing_if = "super::session::is_default")]
    pub protocol: RequestProtocol,
    /// `GET` where it is left out; `POST` with gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Z]+$')").message(
        "spec.symptom.request.method is one word in capitals, such as GET"
    ))]
    pub method: Option<String>,
    /// The host as the client names it, such as `checkout` or `shop.example.com`, without scheme and path.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')").message(
        "spec.symptom.request.host is a name or an address alone, such as checkout or shop.example.com: scheme, port and path have fields of their own"
    ))]
    pub host: String,
    /// The port; 80 where it is left out, 443 with `HTTPS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// The path with its query; `/` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message(
        "spec.symptom.request.path begins with /, such as /pay?currency=EUR"
    ))]
    pub path: Option<String>,
    /// Headers that decide on its way. Nothing secret: everybody who reads the session reads them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "headers")]
    pub headers: BTreeMap<String, String>,
    /// Where it comes from.
    pub from: RequestFrom,
}

/// What a request is made of.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum RequestProtocol {
    /// HTTP/1.1 in plaintext, as a client beside a sidecar sends it.
    #[default]
    HTTP,
    /// HTTP/1.1 over TLS of the client's own.
    HTTPS,
    /// HTTP/2 in plaintext.
    HTTP2,
    /// gRPC.
    GRPC,
    /// A bare connection.
    TCP,
}

/// Where a request comes from: a workload or a gateway of the target namespace.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.workload) != has(self.gateway)").message(
    "give either spec.symptom.request.from.workload, such as frontend, or spec.symptom.request.from.gateway for a client outside, at that gateway"
))]
pub struct RequestFrom {
    /// The name of a workload, or of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub workload: Option<String>,
    /// The name of a Gateway, of Istio or of the Gateway API: the client is outside, at its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub gateway: Option<String>,
}

/// Names of up to 16 headers, values of up to 1024 bytes.
fn headers(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 1024 }
    })
}

/// What becomes of the request of `spec.symptom.request`, by configuration alone.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestAnswer {
    /// The request, and from where.
    #[schemars(length(max = 512))]
    pub request: String,
    /// `Forwarded`, `Responded`, `Refused`, or `NotModelled` where it cannot be said.
    #[schemars(length(max = 16))]
    pub outcome: String,
    /// What the caller sees, such as `503 UH`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub seen: String,
    /// What decided, or why it cannot be said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub detail: String,
    /// The decisions in order; the report has those that do not fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub steps: Vec<RequestStep>,
}

/// One decision on the way of a request.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestStep {
    /// What was decided.
    #[schemars(length(max = 384))]
    pub decision: String,
    /// The object and field that decided; none where the mesh's own behaviour did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<TargetRef>,
}
