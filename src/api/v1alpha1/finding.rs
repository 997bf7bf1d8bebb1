//! A finding as a session's status shows it.

#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each type inside a function")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Confidence, Moment, Severity, TargetRef};

/// One statement by one rule about one subject.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// A fingerprint of code, subject and parameters: the same over runs.
    #[schemars(length(min = 1, max = 32))]
    pub id: String,
    /// The rule's code, such as `ISTIO104`.
    #[schemars(length(max = 32))]
    pub code: String,
    /// The rule's name, such as `subset-without-pods`.
    #[schemars(length(max = 64))]
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// How much the evidence carries it.
    pub confidence: Confidence,
    /// What it is to the question why.
    pub role: Role,
    /// Compared with the run before.
    pub state: FindingState,
    /// When a run of this session first found it.
    pub first_seen: Moment,
    /// When a run of this session last found it.
    pub last_seen: Moment,
    /// The object, and the field, that somebody would change.
    pub subject: TargetRef,
    /// One sentence.
    #[schemars(length(max = 160))]
    pub title: String,
    /// What follows from what, with names and numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// What was seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub evidence: Vec<EvidenceItem>,
    /// What to do and how to take it back, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub remediation: Vec<Remedy>,
    /// What keeps it from coming back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub prevention: Vec<Prevention>,
}

/// What a finding is to the question why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// It can be the root cause: somebody can change it, and the trouble ends.
    Cause,
    /// It is what somebody feels or sees.
    Symptom,
    /// Good to know; it breaks nothing by itself.
    Context,
}

/// A finding compared with the run before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FindingState {
    /// The run before did not find it, or there was none.
    New,
    /// The run before found it too.
    Ongoing,
    /// The run before found it, this one did not.
    Resolved,
}

/// Something that was seen. `excerpt` is text of the cluster and may say anything; all else is ours.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceItem {
    /// Where it comes from, such as `Log`.
    #[schemars(length(max = 32))]
    pub source: String,
    /// Where it stands, such as `Pod shop/checkout-1, container app`.
    #[serde(rename = "ref")]
    #[schemars(length(max = 512))]
    pub reference: String,
    /// What it says, in our words, with its numbers.
    #[schemars(length(max = 512))]
    pub value: String,
    /// When it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Moment>,
    /// What it says word for word, redacted and without control characters. Untrusted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub excerpt: String,
}

/// One fix, and how to take it back.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remedy {
    /// What it does.
    #[schemars(length(max = 512))]
    pub summary: String,
    /// How much can go wrong.
    pub risk: Risk,
    /// Commands that do it, ready to paste.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), inner(length(max = 2048)))]
    pub commands: Vec<String>,
    /// Commands that take it back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), inner(length(max = 2048)))]
    pub rollback: Vec<String>,
    /// Why nothing takes it back, where it changes something that no command brings back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub no_rollback: String,
    /// Whether its commands are too long to stand here; the report has them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commands_in_report: bool,
    /// What came of trying it on the objects that were read and on the model of the mesh, where that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Why trying it decides nothing, or why it was not tried.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub not_verified: String,
}

/// The difference that a fix makes, as far as configuration and objects decide it.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Identifiers of the findings that are gone with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 32)))]
    pub resolves: Vec<String>,
    /// Findings that come with it: severity, code and title.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 192)))]
    pub introduces: Vec<String>,
    /// Requests that fare otherwise with it, and those that were seen to fail and still do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub requests: Vec<TriedRequest>,
    /// Whether the rollback was found to give the objects back as they were.
    #[serde(default)]
    pub rollback_restores: bool,
    /// What was taken for granted, such as that new pods become ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 256)))]
    pub assumes: Vec<String>,
}

/// A request before and after a fix.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriedRequest {
    /// The request, and from where.
    #[schemars(length(max = 256))]
    pub request: String,
    /// How it fares now, such as `503 UH`.
    #[schemars(length(max = 128))]
    pub before: String,
    /// How it fares with the fix, such as `200`.
    #[schemars(length(max = 128))]
    pub after: String,
}

/// How much can go wrong with a fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Risk {
    /// It touches only what is broken.
    Low,
    /// It touches traffic or pods that are well.
    Medium,
    /// It loosens a protection, or may lose something.
    High,
}

/// A way to keep a finding from coming back.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prevention {
    /// `Alert`, `Policy`, `Probe`, `Test` or `Setting`.
    #[serde(rename = "type")]
    #[schemars(length(max = 32))]
    pub kind: String,
    /// What to set up.
    #[schemars(length(max = 512))]
    pub summary: String,
    /// A PromQL expression or a piece of configuration.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub snippet: String,
}
