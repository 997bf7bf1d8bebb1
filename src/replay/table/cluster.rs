//! Events, nodes, configuration, storage and access.

use crate::model::json::{Value, json};

use super::{Printer, age, created, name, or_none};
use crate::model::fields::Fields;

pub(super) const EVENTS: Printer = Printer {
    columns: &[
        ("Last Seen", "string", 0),
        ("Type", "string", 0),
        ("Reason", "string", 0),
        ("Object", "string", 0),
        ("Subobject", "string", 1),
        ("Source", "string", 1),
        ("Message", "string", 0),
        ("First Seen", "string", 1),
        ("Count", "string", 1),
        ("Name", "string", 1),
    ],
    cells: |object, now| {
        // Both faces of events come here.
        let either = |core: &str, new: &str| object.at(core).or_else(|| object.at(new));
        let time = |core: &str, new: &str| {
            either(core, new).and_then(Value::as_str).and_then(crate::model::time::parse)
        };
        let first = time("firstTimestamp", "deprecatedFirstTimestamp").or(object.time("eventTime"));
        let last = object
            .time("series.lastObservedTime")
            .or(time("lastTimestamp", "deprecatedLastTimestamp"))
            .or(first);
        let count = object
            .int("series.count")
            .or(either("count", "deprecatedCount").and_then(Value::as_i64))
            .filter(|count| *count > 0)
            .unwrap_or(1);
        let target = either("involvedObject", "regarding").cloned().unwrap_or_default();
        let source = either("source", "deprecatedSource").cloned().unwrap_or_default();
        let component = source
            .text("component")
            .or(either("reportingComponent", "reportingController").and_then(Value::as_str))
            .unwrap_or_default();
        let source = match source.text("host") {
            Some(host) if !host.is_empty() => format!("{component}, {host}"),
            _ => component.to_owned(),
        };
        let kind = target.string("kind").to_ascii_lowercase();
        let target_name = match target.text("name") {
            Some(name) if !name.is_empty() => format!("{kind}/{name}"),
            _ => kind,
        };
        let message = either("message", "note").and_then(Value::as_str).unwrap_or_default();
        vec![
            json!(age::since(last, now)),
            json!(object.string("type")),
            json!(object.string("reason")),
            json!(target_name),
            json!(target.string("fieldPath")),
            json!(source),
            json!(message.trim()),
            json!(age::since(first, now)),
            json!(count),
            name(object),
        ]
    },
};

pub(super) const NODES: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Status", "string", 0),
        ("Roles", "string", 0),
        ("Age", "string", 0),
        ("Version", "string", 0),
        ("Internal-IP", "string", 1),
        ("External-IP", "string", 1),
        ("OS-Image", "string", 1),
        ("Kernel-Version", "string", 1),
        ("Container-Runtime", "string", 1),
    ],
    cells: |object, now| {
        let ready = object.list("status.conditions").iter().find(|c| c.text("type") == Some("Ready"));
        let mut status = match ready.and_then(|c| c.text("status")) {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_owned();
        if object.flag("spec.unschedulable") {
            status.push_str(",SchedulingDisabled");
        }
        let address = |of: &str| {
            let found = object.list("status.addresses").iter().find(|entry| entry.text("type") == Some(of));
            or_none(found.and_then(|entry| entry.text("address")).unwrap_or_default())
        };
        let info = |field: &str| {
            let text = object.string(&format!("status.nodeInfo.{field}"));
            json!(if text.is_empty() { "<unknown>".to_owned() } else { text })
        };
        let labels = object.text_map("metadata.labels");
        let roles = labels.keys().filter_map(|key| {
            key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty()).map(str::to_owned)
        });
        vec![
            name(object),
            json!(status),
            or_none(&roles.collect::<Vec<_>>().join(",")),
            created(object, now),
            json!(object.string("status.nodeInfo.kubeletVersion")),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
};

pub(super) const NAMESPACES: Printer = Printer {
    columns: &[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)],
    cells: |object, now| {
        vec![name(object), json!(object.text("status.phase").unwrap_or("Active")), created(object, now)]
    },
};

fn keys(object: &Value, paths: &[&str]) -> Value {
    json!(paths.iter().filter_map(|path| object.map(path)).map(crate::model::json::Map::len).sum::<usize>())
}

pub(super) const CONFIG_MAPS: Printer = Printer {
    columns: &[("Name", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
    cells: |object, now| vec![name(object), keys(object, &["data", "binaryData"]), created(object, now)],
};

pub(super) const SECRETS: Printer = Printer {
    columns: &[("Name", "string", 0), ("Type", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
    cells: |object, now| {
        let of = object.text("type").unwrap_or("Opaque");
        vec![name(object), json!(of), keys(object, &["data"]), created(object, now)]
    },
};

pub(super) const SERVICE_ACCOUNTS: Printer = Printer {
    columns: &[("Name", "string", 0), ("Secrets", "string", 0), ("Age", "string", 0)],
    cells: |object, now| vec![name(object), json!(object.list("secrets").len()), created(object, now)],
};

pub(super) const QUOTAS: Printer = Printer {
    columns: &[("Name", "string", 0), ("Request", "string", 0), ("Limit", "string", 0), ("Age", "string", 0)],
    cells: |object, now| {
        let (mut requests, mut limits) = (vec![], vec![]);
        let used = object.at("status.used").cloned().unwrap_or_default();
        for (resource, hard) in object.map("status.hard").into_iter().flatten() {
            let used = used.child(resource).and_then(Value::as_str).unwrap_or("0");
            let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
            if resource.starts_with("limits") { limits.push(text) } else { requests.push(text) }
        }
        vec![name(object), json!(requests.join(", ")), json!(limits.join(", ")), created(object, now)]
    },
};

fn access_modes(object: &Value, path: &str) -> String {
    let modes = object.texts(path);
    let short = modes.iter().map(|mode| match mode.as_str() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    short.collect::<Vec<_>>().join(",")
}

pub(super) const CLAIMS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Status", "string", 0),
        ("Volume", "string", 0),
        ("Capacity", "string", 0),
        ("Access Modes", "string", 0),
        ("StorageClass", "string", 0),
        ("VolumeAttributesClass", "string", 0),
        ("Age", "string", 0),
        ("VolumeMode", "string", 1),
    ],
    cells: |object, now| {
        let going = object.at("metadata.deletionTimestamp").is_some();
        let phase = if going { "Terminating".to_owned() } else { object.string("status.phase") };
        let attributes = object.string("spec.volumeAttributesClassName");
        vec![
            name(object),
            json!(phase),
            json!(object.string("spec.volumeName")),
            json!(object.string("status.capacity.storage")),
            json!(access_modes(object, "status.accessModes")),
            json!(object.string("spec.storageClassName")),
            json!(if attributes.is_empty() { "<unset>".to_owned() } else { attributes }),
            created(object, now),
            json!(object.text("spec.volumeMode").unwrap_or("<unset>")),
        ]
    },
};

pub(super) const VOLUMES: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Capacity", "string", 0),
        ("Access Modes", "string", 0),
        ("Reclaim Policy", "string", 0),
        ("Status", "string", 0),
        ("Claim", "string", 0),
        ("StorageClass", "string", 0),
        ("VolumeAttributesClass", "string", 0),
        ("Reason", "string", 0),
        ("Age", "string", 0),
        ("VolumeMode", "string", 1),
    ],
    cells: |object, now| {
        let claim = object
            .at("spec.claimRef")
            .map_or(String::new(), |claim| format!("{}/{}", claim.string("namespace"), claim.string("name")));
        let attributes = object.string("spec.volumeAttributesClassName");
        vec![
            name(object),
            json!(object.string("spec.capacity.storage")),
            json!(access_modes(object, "spec.accessModes")),
            json!(object.string("spec.persistentVolumeReclaimPolicy")),
            json!(object.string("status.phase")),
            json!(claim),
            json!(object.string("spec.storageClassName")),
            json!(if attributes.is_empty() { "<unset>".to_owned() } else { attributes }),
            json!(object.string("status.reason")),
            created(object, now),
            json!(object.text("spec.volumeMode").unwrap_or("<unset>")),
        ]
    },
};

pub(super) const STORAGE_CLASSES: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Provisioner", "string", 0),
        ("ReclaimPolicy", "string", 0),
        ("VolumeBindingMode", "string", 0),
        ("AllowVolumeExpansion", "string", 0),
        ("Age", "string", 0),
    ],
    cells: |object, now| {
        let annotations = object.text_map("metadata.annotations");
        let default =
            annotations.get("storageclass.kubernetes.io/is-default-class").is_some_and(|v| v == "true");
        let shown = object.string("metadata.name");
        vec![
            json!(if default { format!("{shown} (default)") } else { shown }),
            json!(object.string("provisioner")),
            json!(object.text("reclaimPolicy").unwrap_or("Delete")),
            json!(object.text("volumeBindingMode").unwrap_or("Immediate")),
            json!(object.flag("allowVolumeExpansion")),
            created(object, now),
        ]
    },
};

pub(super) const LEASES: Printer = Printer {
    columns: &[("Name", "string", 0), ("Holder", "string", 0), ("Age", "string", 0)],
    cells: |object, now| {
        vec![name(object), json!(object.string("spec.holderIdentity")), created(object, now)]
    },
};

pub(super) const CREATED: Printer = Printer {
    columns: &[("Name", "string", 0), ("Created At", "date", 0)],
    cells: |object, _| vec![name(object), json!(object.string("metadata.creationTimestamp"))],
};

pub(super) const BINDINGS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Role", "string", 0),
        ("Age", "string", 0),
        ("Users", "string", 1),
        ("Groups", "string", 1),
        ("ServiceAccounts", "string", 1),
    ],
    cells: |object, now| {
        let subjects = |kind: &str| {
            let of = object.list("subjects").iter().filter(|subject| subject.text("kind") == Some(kind));
            let shown = of.map(|subject| match subject.text("namespace") {
                Some(namespace) => format!("{namespace}/{}", subject.string("name")),
                None => subject.string("name"),
            });
            json!(shown.collect::<Vec<_>>().join(", "))
        };
        vec![
            name(object),
            json!(format!("{}/{}", object.string("roleRef.kind"), object.string("roleRef.name"))),
            created(object, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
};

pub(super) const WEBHOOKS: Printer = Printer {
    columns: &[("Name", "string", 0), ("Webhooks", "integer", 0), ("Age", "string", 0)],
    cells: |object, now| vec![name(object), json!(object.list("webhooks").len()), created(object, now)],
};

pub(super) const PRIORITY_CLASSES: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Value", "integer", 0),
        ("Global-Default", "boolean", 0),
        ("Age", "string", 0),
        ("PreemptionPolicy", "string", 0),
    ],
    cells: |object, now| {
        vec![
            name(object),
            json!(object.int("value").unwrap_or_default()),
            json!(object.flag("globalDefault")),
            created(object, now),
            json!(object.text("preemptionPolicy").unwrap_or("PreemptLowerPriority")),
        ]
    },
};
