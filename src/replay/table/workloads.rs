//! What runs pods, and what scales and protects them.

use crate::model::json::{Value, json};
use jiff::Timestamp;

use super::{Printer, age, containers, count, created, labels, name, or_none, selector};
use crate::model::fields::Fields;

const TEMPLATE: &str = "spec.template.spec.containers";

pub(super) const DEPLOYMENTS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Up-to-date", "string", 0),
        ("Available", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    cells: |object, now| {
        let (names, images) = containers(object, TEMPLATE);
        vec![
            name(object),
            json!(format!("{}/{}", count(object, "status.readyReplicas"), desired(object))),
            json!(count(object, "status.updatedReplicas")),
            json!(count(object, "status.availableReplicas")),
            created(object, now),
            names,
            images,
            selector(object, "spec.selector"),
        ]
    },
};

/// `spec.replicas`, whose default is 1.
fn desired(object: &Value) -> i64 {
    object.int("spec.replicas").unwrap_or(1)
}

pub(super) const REPLICA_SETS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Desired", "integer", 0),
        ("Current", "integer", 0),
        ("Ready", "integer", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    cells: |object, now| {
        let (names, images) = containers(object, TEMPLATE);
        let plain = object.text("kind") == Some("ReplicationController");
        vec![
            name(object),
            json!(desired(object)),
            json!(count(object, "status.replicas")),
            json!(count(object, "status.readyReplicas")),
            created(object, now),
            names,
            images,
            if plain { labels(object, "spec.selector") } else { selector(object, "spec.selector") },
        ]
    },
};

pub(super) const STATEFUL_SETS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
    ],
    cells: |object, now| {
        let (names, images) = containers(object, TEMPLATE);
        let ready = format!("{}/{}", count(object, "status.readyReplicas"), desired(object));
        vec![name(object), json!(ready), created(object, now), names, images]
    },
};

pub(super) const DAEMON_SETS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Desired", "integer", 0),
        ("Current", "integer", 0),
        ("Ready", "integer", 0),
        ("Up-to-date", "integer", 0),
        ("Available", "integer", 0),
        ("Node Selector", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    cells: |object, now| {
        let (names, images) = containers(object, TEMPLATE);
        vec![
            name(object),
            json!(count(object, "status.desiredNumberScheduled")),
            json!(count(object, "status.currentNumberScheduled")),
            json!(count(object, "status.numberReady")),
            json!(count(object, "status.updatedNumberScheduled")),
            json!(count(object, "status.numberAvailable")),
            labels(object, "spec.template.spec.nodeSelector"),
            created(object, now),
            names,
            images,
            selector(object, "spec.selector"),
        ]
    },
};

pub(super) const JOBS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Status", "string", 0),
        ("Completions", "string", 0),
        ("Duration", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    cells: |object, now| {
        let (names, images) = containers(object, TEMPLATE);
        let succeeded = count(object, "status.succeeded");
        let completions = match (object.int("spec.completions"), object.int("spec.parallelism").unwrap_or(1))
        {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let duration = object.time("status.startTime").map_or(String::new(), |start| {
            let end = object.time("status.completionTime").unwrap_or(now);
            age::human(end.as_second() - start.as_second())
        });
        vec![
            name(object),
            json!(job_status(object)),
            json!(completions),
            json!(duration),
            created(object, now),
            names,
            images,
            selector(object, "spec.selector"),
        ]
    },
};

fn job_status(job: &Value) -> &'static str {
    let has = |of: &str| {
        let mut conditions = job.list("status.conditions").iter();
        conditions.any(|c| c.text("type") == Some(of) && c.text("status") == Some("True"))
    };
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if job.at("metadata.deletionTimestamp").is_some() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub(super) const CRON_JOBS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Schedule", "string", 0),
        ("Timezone", "string", 0),
        ("Suspend", "boolean", 0),
        ("Active", "integer", 0),
        ("Last Schedule", "string", 0),
        ("Age", "string", 0),
        ("Containers", "string", 1),
        ("Images", "string", 1),
        ("Selector", "string", 1),
    ],
    cells: |object, now| {
        let (names, images) = containers(object, "spec.jobTemplate.spec.template.spec.containers");
        let last = object.time("status.lastScheduleTime");
        vec![
            name(object),
            json!(object.string("spec.schedule")),
            or_none(object.text("spec.timeZone").unwrap_or_default()),
            json!(if object.flag("spec.suspend") { "True" } else { "False" }),
            json!(object.list("status.active").len()),
            last.map_or(json!("<none>"), |at| json!(age::since(Some(at), now))),
            created(object, now),
            names,
            images,
            selector(object, "spec.jobTemplate.spec.selector"),
        ]
    },
};

pub(super) const AUTOSCALERS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Reference", "string", 0),
        ("Targets", "string", 0),
        ("MinPods", "string", 0),
        ("MaxPods", "string", 0),
        ("Replicas", "string", 0),
        ("Age", "string", 0),
    ],
    cells: |object, now| {
        let target = |field: &str| object.string(&format!("spec.scaleTargetRef.{field}"));
        vec![
            name(object),
            json!(format!("{}/{}", target("kind"), target("name"))),
            json!(targets(object)),
            object.int("spec.minReplicas").map_or(json!("<unset>"), |min| json!(min.to_string())),
            json!(count(object, "spec.maxReplicas").to_string()),
            json!(count(object, "status.currentReplicas").to_string()),
            created(object, now),
        ]
    },
};

/// `cpu: 45%/80%`, two of them at most.
fn targets(object: &Value) -> String {
    let specs = object.list("spec.metrics");
    let current = object.list("status.currentMetrics");
    let one = |(index, spec): (usize, &Value)| {
        let of = spec.string("type");
        let field = match of.as_str() {
            "ContainerResource" => "containerResource".to_owned(),
            of => of.to_ascii_lowercase(),
        };
        let (wanted, now) = (spec.at(&field), current.get(index).and_then(|metric| metric.at(&field)));
        let value = |path: &str| now.and_then(|now| now.at(path)).map(plain);
        let target = |path: &str| wanted.and_then(|wanted| wanted.at(path)).map(plain);
        let text = if let Some(utilization) = target("target.averageUtilization") {
            let now =
                value("current.averageUtilization").map_or("<unknown>".to_owned(), |now| format!("{now}%"));
            format!("{now}/{utilization}%")
        } else if let Some(average) = target("target.averageValue") {
            format!("{}/{average} (avg)", value("current.averageValue").unwrap_or("<unknown>".to_owned()))
        } else {
            let now = value("current.value").unwrap_or("<unknown>".to_owned());
            format!("{now}/{}", target("target.value").unwrap_or("<auto>".to_owned()))
        };
        match target("name") {
            Some(name) => format!("{name}: {text}"),
            None => text,
        }
    };
    let shown: Vec<String> = specs.iter().enumerate().take(2).map(one).collect();
    match specs.len() {
        0 => "<none>".to_owned(),
        1 | 2 => shown.join(", "),
        more => format!("{} + {} more...", shown.join(", "), more - 2),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) const DISRUPTION_BUDGETS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Min Available", "string", 0),
        ("Max Unavailable", "string", 0),
        ("Allowed Disruptions", "integer", 0),
        ("Age", "string", 0),
    ],
    cells: |object, now: Timestamp| {
        let bound = |path: &str| object.at(path).map_or("N/A".to_owned(), plain);
        vec![
            name(object),
            json!(bound("spec.minAvailable")),
            json!(bound("spec.maxUnavailable")),
            json!(count(object, "status.disruptionsAllowed")),
            created(object, now),
        ]
    },
};
