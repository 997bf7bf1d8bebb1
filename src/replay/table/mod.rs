//! `kubectl get`'s tables, which an API server prints itself: the same columns and the same words as Kubernetes.
//!
//! Ages are those at the time of the recording, so that a pod that was 5m old then is 5m old for ever.

mod age;
mod cluster;
mod jsonpath;
mod network;
mod pods;
mod workloads;

use crate::model::json::{Value, json};
use jiff::Timestamp;
use std::sync::Arc;

use super::kinds::Kind;
use crate::model::fields::Fields;

/// One object to print, and the time against which its age counts.
pub(super) struct Row {
    pub(super) object: Arc<Value>,
    pub(super) now: Timestamp,
}

/// Which form of the object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(super) fn of(parameter: &str) -> Self {
        match parameter {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        }
    }
}

/// Title, type and priority: columns above 0 show with `-o wide` only.
type Column = (&'static str, &'static str, u8);

/// How one kind is printed.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A column of a custom resource: title, type, priority, path.
#[derive(Debug, Clone)]
struct CustomColumn {
    name: String,
    of: String,
    priority: i64,
    path: jsonpath::Path,
}

/// The table of some objects. `crd` is the definition of a custom resource, where the recording has it.
pub(super) fn table(
    kind: &Kind,
    version: &str,
    crd: Option<&Value>,
    rows: &[Row],
    include: Include,
    metadata: Value,
) -> Value {
    let (columns, cells) = match printer(kind) {
        Some(printer) => {
            let columns: Vec<Value> =
                printer.columns.iter().map(|(name, of, wide)| column(name, of, *wide)).collect();
            let cells: Vec<Vec<Value>> =
                rows.iter().map(|row| (printer.cells)(&row.object, row.now)).collect();
            (columns, cells)
        }
        None => custom(&custom_columns(kind, version, crd), rows),
    };
    let rows: Vec<Value> = rows
        .iter()
        .zip(cells)
        .map(|(row, cells)| {
            let mut out = json!({ "cells": cells });
            let object = match include {
                Include::None => None,
                Include::Object => Some(Value::clone(&row.object)),
                Include::Metadata => Some(json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": row.object.at("metadata").cloned().unwrap_or_default(),
                })),
            };
            if let (Some(object), Some(out)) = (object, out.as_object_mut()) {
                out.insert("object".to_owned(), object);
            }
            out
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn column(name: &str, of: &str, priority: impl Into<i64>) -> Value {
    let format = if name == "Name" { "name" } else { "" };
    json!({ "name": name, "type": of, "format": format, "description": "", "priority": priority.into() })
}

fn printer(kind: &Kind) -> Option<Printer> {
    let printer = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pods::PODS,
        ("apps", "deployments") => workloads::DEPLOYMENTS,
        ("apps", "replicasets") | ("", "replicationcontrollers") => workloads::REPLICA_SETS,
        ("apps", "statefulsets") => workloads::STATEFUL_SETS,
        ("apps", "daemonsets") => workloads::DAEMON_SETS,
        ("batch", "jobs") => workloads::JOBS,
        ("batch", "cronjobs") => workloads::CRON_JOBS,
        ("autoscaling", "horizontalpodautoscalers") => workloads::AUTOSCALERS,
        ("policy", "poddisruptionbudgets") => workloads::DISRUPTION_BUDGETS,
        ("", "services") => network::SERVICES,
        ("", "endpoints") => network::ENDPOINTS,
        ("discovery.k8s.io", "endpointslices") => network::ENDPOINT_SLICES,
        ("networking.k8s.io", "ingresses") => network::INGRESSES,
        ("networking.k8s.io", "ingressclasses") => network::INGRESS_CLASSES,
        ("networking.k8s.io", "networkpolicies") => network::NETWORK_POLICIES,
        ("" | "events.k8s.io", "events") => cluster::EVENTS,
        ("", "nodes") => cluster::NODES,
        ("", "namespaces") => cluster::NAMESPACES,
        ("", "configmaps") => cluster::CONFIG_MAPS,
        ("", "secrets") => cluster::SECRETS,
        ("", "serviceaccounts") => cluster::SERVICE_ACCOUNTS,
        ("", "resourcequotas") => cluster::QUOTAS,
        ("", "persistentvolumeclaims") => cluster::CLAIMS,
        ("", "persistentvolumes") => cluster::VOLUMES,
        ("storage.k8s.io", "storageclasses") => cluster::STORAGE_CLASSES,
        ("coordination.k8s.io", "leases") => cluster::LEASES,
        ("rbac.authorization.k8s.io", "roles" | "clusterroles")
        | ("apiextensions.k8s.io", "customresourcedefinitions")
        | ("", "limitranges") => cluster::CREATED,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => cluster::BINDINGS,
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => cluster::WEBHOOKS,
        ("scheduling.k8s.io", "priorityclasses") => cluster::PRIORITY_CLASSES,
        _ => return None,
    };
    Some(printer)
}

/// Group, kind, and title, type, priority and path of its columns: what well-known CRDs define, for recordings whose
/// CRDs are cut down to their names.
type Known = (&'static str, &'static str, &'static [(&'static str, &'static str, u8, &'static str)]);

const KNOWN: &[Known] = &[
    (
        "networking.istio.io",
        "VirtualService",
        &[
            ("Gateways", "string", 0, ".spec.gateways"),
            ("Hosts", "string", 0, ".spec.hosts"),
            ("Age", "date", 0, ".metadata.creationTimestamp"),
        ],
    ),
    (
        "networking.istio.io",
        "DestinationRule",
        &[("Host", "string", 0, ".spec.host"), ("Age", "date", 0, ".metadata.creationTimestamp")],
    ),
    (
        "networking.istio.io",
        "ServiceEntry",
        &[
            ("Hosts", "string", 0, ".spec.hosts"),
            ("Location", "string", 0, ".spec.location"),
            ("Resolution", "string", 0, ".spec.resolution"),
            ("Age", "date", 0, ".metadata.creationTimestamp"),
        ],
    ),
    (
        "networking.istio.io",
        "WorkloadEntry",
        &[("Age", "date", 0, ".metadata.creationTimestamp"), ("Address", "string", 0, ".spec.address")],
    ),
    (
        "security.istio.io",
        "PeerAuthentication",
        &[("Mode", "string", 0, ".spec.mtls.mode"), ("Age", "date", 0, ".metadata.creationTimestamp")],
    ),
    (
        "security.istio.io",
        "AuthorizationPolicy",
        &[("Action", "string", 0, ".spec.action"), ("Age", "date", 0, ".metadata.creationTimestamp")],
    ),
    (
        "gateway.networking.k8s.io",
        "Gateway",
        &[
            ("Class", "string", 0, ".spec.gatewayClassName"),
            ("Address", "string", 0, ".status.addresses[*].value"),
            ("Programmed", "string", 0, ".status.conditions[?(@.type==\"Programmed\")].status"),
            ("Age", "date", 0, ".metadata.creationTimestamp"),
        ],
    ),
    (
        "gateway.networking.k8s.io",
        "GatewayClass",
        &[
            ("Controller", "string", 0, ".spec.controllerName"),
            ("Accepted", "string", 0, ".status.conditions[?(@.type==\"Accepted\")].status"),
            ("Age", "date", 0, ".metadata.creationTimestamp"),
        ],
    ),
    (
        "gateway.networking.k8s.io",
        "HTTPRoute",
        &[("Hostnames", "string", 0, ".spec.hostnames"), ("Age", "date", 0, ".metadata.creationTimestamp")],
    ),
    (
        "gateway.networking.k8s.io",
        "GRPCRoute",
        &[("Hostnames", "string", 0, ".spec.hostnames"), ("Age", "date", 0, ".metadata.creationTimestamp")],
    ),
];

fn custom_columns(kind: &Kind, version: &str, crd: Option<&Value>) -> Vec<CustomColumn> {
    let versions = crd.map_or(&[][..], |crd| crd.list("spec.versions"));
    let defined = versions
        .iter()
        .find(|entry| entry.text("name") == Some(version))
        .map_or(&[][..], |entry| entry.list("additionalPrinterColumns"));
    let read = |column: &Value| {
        Some(CustomColumn {
            name: column.text("name")?.to_owned(),
            of: column.text("type")?.to_owned(),
            priority: column.int("priority").unwrap_or_default(),
            path: jsonpath::Path::parse(column.text("jsonPath")?)?,
        })
    };
    let mut columns: Vec<CustomColumn> = defined.iter().filter_map(read).collect();
    if columns.is_empty() {
        let known = KNOWN.iter().find(|(group, name, _)| *group == kind.group && *name == kind.kind);
        let fallback: &[(&str, &str, u8, &str)] = &[("Age", "date", 0, ".metadata.creationTimestamp")];
        let rows = known.map_or(fallback, |(_, _, rows)| rows);
        columns = rows
            .iter()
            .filter_map(|(name, of, priority, path)| {
                Some(CustomColumn {
                    name: (*name).to_owned(),
                    of: (*of).to_owned(),
                    priority: i64::from(*priority),
                    path: jsonpath::Path::parse(path)?,
                })
            })
            .collect();
    }
    columns
}

fn custom(columns: &[CustomColumn], rows: &[Row]) -> (Vec<Value>, Vec<Vec<Value>>) {
    let mut definitions = vec![column("Name", "string", 0)];
    definitions.extend(columns.iter().map(|c| column(&c.name, &c.of, c.priority)));
    let cells = rows.iter().map(|row| {
        let mut cells = vec![json!(row.object.string("metadata.name"))];
        cells.extend(columns.iter().map(|column| cell(column, row)));
        cells
    });
    (definitions, cells.collect())
}

fn cell(column: &CustomColumn, row: &Row) -> Value {
    let Some(value) = column.path.first(&row.object) else { return Value::Null };
    match (column.of.as_str(), value) {
        ("date", Value::String(text)) => json!(age::since_text(text, row.now)),
        ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("string", Value::String(text)) => json!(text),
        ("string", other) => json!(other.to_string()),
        _ => Value::Null,
    }
}

/// `metadata.name`, the first cell of every row.
fn name(object: &Value) -> Value {
    json!(object.string("metadata.name"))
}

/// The age since `metadata.creationTimestamp`.
fn created(object: &Value, now: Timestamp) -> Value {
    json!(age::since(object.time("metadata.creationTimestamp"), now))
}

/// Text, or `<none>`.
fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

/// A whole number, 0 where it is absent.
fn count(object: &Value, path: &str) -> i64 {
    object.int(path).unwrap_or_default()
}

/// Names and images of a pod template's containers.
fn containers(object: &Value, path: &str) -> (Value, Value) {
    let list = object.list(path);
    let join = |field: &str| list.iter().map(|c| c.string(field)).collect::<Vec<_>>().join(",");
    (json!(join("name")), json!(join("image")))
}

/// A `metav1.LabelSelector` as text, or `<none>`.
fn selector(object: &Value, path: &str) -> Value {
    let Some(selector) = object.at(path) else { return json!("<none>") };
    let mut parts: Vec<String> =
        selector.text_map("matchLabels").into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    for expression in selector.list("matchExpressions") {
        let (key, values) = (expression.string("key"), expression.texts("values").join(","));
        parts.push(match expression.text("operator") {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key,
        });
    }
    or_none(&parts.join(","))
}

/// Plain labels as text, or `<none>`.
fn labels(object: &Value, path: &str) -> Value {
    let labels = object.text_map(path);
    let parts = labels.iter().map(|(key, value)| format!("{key}={value}"));
    or_none(&parts.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests;
