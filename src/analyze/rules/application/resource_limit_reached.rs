//! APP115.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, ErrorGroup};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, EnvSource, Workload};

use super::calls::{plain, service_of, since};

crate::rule! {
    /// An application says that it ran into a limit: files, disk, heap, threads, or a file system that it may not write.
    ///
    /// ## What it detects
    /// Errors in the operating system's or the runtime's own words: too many open files, no space left on device, a heap that is
    /// full while the kernel killed nothing, threads or processes that cannot be made, a read-only file system.
    /// ## Why it matters
    /// The process goes on half alive: it answers probes and fails requests, so nothing restarts it.
    /// ## Evidence
    /// One of the lines with its count, and the field that sets the limit: a volume's size, a runtime's heap option, the memory
    /// limit of the container.
    /// ## How to confirm
    /// `kubectl exec POD -- df -h`, `ls /proc/1/fd | wc -l` against `grep files /proc/1/limits`, or the runtime's heap metric.
    /// ## How to fix
    /// Raise the limit that was reached, and find what grows: unclosed files, logs on disk, a cache without a bound.
    /// ## False positives
    /// A single line of a file watcher that cannot start. Containers that the kernel killed for memory have a rule of their own.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>
    ResourceLimitReached {
        code: "APP115", name: "resource-limit-reached", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// What ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Files,
    Disk,
    JavaHeap,
    Metaspace,
    Direct,
    NodeHeap,
    Memory,
    Threads,
    ReadOnly,
}

const TEXTS: &[(&str, Limit)] = &[
    ("too many open files", Limit::Files),
    ("emfile", Limit::Files),
    ("no space left on device", Limit::Disk),
    ("enospc", Limit::Disk),
    ("disk quota exceeded", Limit::Disk),
    ("outofmemoryerror: java heap space", Limit::JavaHeap),
    ("java heap space", Limit::JavaHeap),
    ("gc overhead limit exceeded", Limit::JavaHeap),
    ("outofmemoryerror: metaspace", Limit::Metaspace),
    ("outofmemoryerror: compressed class space", Limit::Metaspace),
    ("bytes of direct buffer memory", Limit::Direct),
    ("direct buffer memory", Limit::Direct),
    ("javascript heap out of memory", Limit::NodeHeap),
    ("runtime: out of memory", Limit::Memory),
    ("memory allocation of", Limit::Memory),
    ("cannot allocate memory", Limit::Memory),
    ("unable to create native thread", Limit::Threads),
    ("unable to create new native thread", Limit::Threads),
    ("can't start new thread", Limit::Threads),
    ("pthread_create failed", Limit::Threads),
    ("read-only file system", Limit::ReadOnly),
    ("erofs", Limit::ReadOnly),
];

impl Limit {
    fn words(self) -> &'static str {
        match self {
            Limit::Files => "too many open files",
            Limit::Disk => "no space left on a disk",
            Limit::JavaHeap => "the Java heap is full",
            Limit::Metaspace => "the JVM's space for classes is full",
            Limit::Direct => "the JVM's memory for direct buffers is full",
            Limit::NodeHeap => "the JavaScript heap is full",
            Limit::Memory => "memory cannot be allocated",
            Limit::Threads => "no more threads or processes can be made",
            Limit::ReadOnly => "a file system is read-only",
        }
    }

    /// How often it must be said: a full heap or disk is told once and is true.
    fn least(self) -> u64 {
        match self {
            Limit::JavaHeap | Limit::Metaspace | Limit::Direct | Limit::NodeHeap | Limit::Memory => 1,
            Limit::Files | Limit::Disk | Limit::Threads | Limit::ReadOnly => 3,
        }
    }

    fn alert(self, namespace: &str) -> String {
        match self {
            Limit::Files => format!(
                "max by (pod) (process_open_fds{{namespace=\"{namespace}\"}} / process_max_fds{{namespace=\"{namespace}\"}}) > 0.8"
            ),
            Limit::Disk | Limit::ReadOnly => format!(
                "min by (persistentvolumeclaim) (kubelet_volume_stats_available_bytes{{namespace=\"{namespace}\"}} / kubelet_volume_stats_capacity_bytes{{namespace=\"{namespace}\"}}) < 0.1"
            ),
            Limit::JavaHeap => format!(
                "sum by (pod) (jvm_memory_used_bytes{{area=\"heap\",namespace=\"{namespace}\"}}) / sum by (pod) (jvm_memory_max_bytes{{area=\"heap\",namespace=\"{namespace}\"}} > 0) > 0.9"
            ),
            Limit::Metaspace => format!(
                "sum by (pod) (jvm_memory_used_bytes{{id=\"Metaspace\",namespace=\"{namespace}\"}}) / sum by (pod) (jvm_memory_max_bytes{{id=\"Metaspace\",namespace=\"{namespace}\"}} > 0) > 0.9"
            ),
            Limit::Direct => format!(
                "max by (pod) (jvm_buffer_memory_used_bytes{{id=\"direct\",namespace=\"{namespace}\"}}) > 500e6"
            ),
            Limit::NodeHeap => format!(
                "nodejs_heap_size_used_bytes{{namespace=\"{namespace}\"}} / nodejs_heap_size_total_bytes{{namespace=\"{namespace}\"}} > 0.95"
            ),
            Limit::Memory => format!(
                "max by (pod, container) (container_memory_working_set_bytes{{namespace=\"{namespace}\"}}) / max by (pod, container) (kube_pod_container_resource_limits{{resource=\"memory\",namespace=\"{namespace}\"}}) > 0.9"
            ),
            Limit::Threads => format!("sum by (pod) (container_threads{{namespace=\"{namespace}\"}}) > 1000"),
        }
    }
}

/// A limit that a workload ran into.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    service: Option<ServiceName>,
    limit: Limit,
    error: ErrorGroup,
    count: u64,
    subject: ObjectRef,
    /// The field's words: `memory limit 128Mi`.
    field: String,
}

impl Check for ResourceLimitReached {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let digest = snapshot.derived::<Digest>();
        let mut out: Vec<Fact> = vec![];
        for (reference, log) in &digest.workloads {
            for error in log.errors.iter().filter(|e| !e.ended(log)) {
                let text = error.sample.to_ascii_lowercase();
                let Some((_, limit)) = TEXTS.iter().find(|(words, _)| text.contains(words)) else { continue };
                let memory = matches!(
                    limit,
                    Limit::JavaHeap | Limit::Metaspace | Limit::Direct | Limit::NodeHeap | Limit::Memory
                );
                if memory && killed_for_memory(snapshot, reference) {
                    continue;
                }
                if let Some(known) = out.iter_mut().find(|f| f.workload == *reference && f.limit == *limit) {
                    known.count += error.count;
                    continue;
                }
                let container = snapshot
                    .workload(reference)
                    .and_then(|w| Some((w, w.template.container(&error.place.container)?)));
                let (subject, field) = container.map_or_else(
                    || (reference.clone(), String::new()),
                    |(w, c)| field(snapshot, w, c, *limit, &error.sample),
                );
                out.push(Fact {
                    workload: reference.clone(),
                    service: service_of(snapshot, reference),
                    limit: *limit,
                    error: error.clone(),
                    count: error.count,
                    subject,
                    field,
                });
            }
        }
        out.retain(|fact| fact.count >= fact.limit.least());
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let error = &fact.error;
        let place = format!(
            "Pod {}/{}, container {}",
            fact.workload.namespace, error.place.pod, error.place.container
        );
        let set =
            if fact.field.is_empty() { String::new() } else { format!(" The limit is {}.", fact.field) };
        let mut finding = Finding::new(Self::META, fact.subject.clone(), &[fact.limit.words()])
            .title(format!(
                "{}: {}, {}{}",
                fact.workload,
                fact.limit.words(),
                text::times(fact.count),
                since(error.first)
            ))
            .message(format!(
                "The log of {} says that {}, {}{}.{set} The process goes on and fails what needs more.",
                fact.workload,
                fact.limit.words(),
                text::times(fact.count),
                since(error.first)
            ))
            .mechanism(format!("resource exhausted: {}", fact.limit.words()))
            .role(Role::Cause, Confidence::Observed)
            .severity(if fact.count >= 3 { Severity::Error } else { Severity::Warning })
            .service(fact.service.clone())
            .evidence(
                Evidence::new("Log", place, text::times(fact.count)).at(error.first).excerpt(&error.sample),
            )
            .onset(error.first)
            .effect(Effect::calls(&fact.workload))
            .remedy(remedy(fact))
            .prevention(Prevention::alert(
                "Alert before the limit is reached",
                fact.limit.alert(&fact.workload.namespace),
            ));
        if !fact.subject.same_object(&fact.workload) {
            finding = finding.related(fact.workload.clone());
        }
        if !fact.field.is_empty() {
            finding = finding.evidence(Evidence::object(&fact.subject, fact.field.clone()));
        }
        if let Some(service) = &fact.service {
            finding = finding.effect(Effect::requests(service, &["5xx", "500", "slow", "reset", "timeout"]));
        }
        finding
    }
}

/// Whether the kernel ended a container of the workload for memory: then that is the limit, and another rule tells of it.
fn killed_for_memory(snapshot: &Snapshot, workload: &ObjectRef) -> bool {
    let mut statuses = snapshot.pods_of(workload).flat_map(|pod| &pod.statuses);
    statuses.any(|status| status.latest_end().is_some_and(|end| end.out_of_memory()))
}

fn remedy(fact: &Fact) -> Remedy {
    let restart = super::settings::restart(&fact.workload);
    let place = if fact.subject.field_path.is_empty() {
        fact.subject.to_string()
    } else {
        format!("{} of {}", fact.subject.field_path, fact.subject)
    };
    let text = match fact.limit {
        Limit::Files => {
            "Free the open files with a restart, raise the limit of open files in the image's start command or on the node, and find what does not close them"
        }
        Limit::Disk => "Make room on the volume, or raise its size",
        Limit::JavaHeap => "Raise the heap (-XX:MaxRAMPercentage or -Xmx) and, with it, the memory limit",
        Limit::Metaspace => {
            "Raise or remove -XX:MaxMetaspaceSize and, with it, the memory limit; a larger -Xmx does not help; if it fills again, classes are loaded without end"
        }
        Limit::Direct => {
            "Raise -XX:MaxDirectMemorySize (it is as large as -Xmx unless set) and, with it, the memory limit; buffers that are never released fill it again"
        }
        Limit::NodeHeap => "Raise --max-old-space-size in NODE_OPTIONS and, with it, the memory limit",
        Limit::Memory => "Raise the memory limit",
        Limit::Threads => {
            "Free the threads with a restart, bound the thread pools, or raise the node's limit of processes per pod"
        }
        Limit::ReadOnly => "Mount a writable volume where the application writes",
    };
    let remedy = Remedy::manual(format!("{text}: {place}"));
    match fact.limit {
        // A restart ends it for a while and changes nothing that would have to be taken back.
        Limit::Files
        | Limit::Threads
        | Limit::JavaHeap
        | Limit::Metaspace
        | Limit::Direct
        | Limit::NodeHeap => Remedy { commands: vec![restart], ..remedy },
        _ => remedy,
    }
}

/// The field that sets a limit, and its words.
fn field(
    snapshot: &Snapshot,
    workload: &Workload,
    container: &Container,
    limit: Limit,
    text: &str,
) -> (ObjectRef, String) {
    let at = |path: String| workload.reference().field(workload.template_path(&path));
    let base = format!("spec.{}", container.path());
    let memory = || {
        let value = container
            .body
            .text("resources.limits.memory")
            .map_or("not set".to_owned(), |v| format!("memory limit {v}"));
        (at(format!("{base}.resources.limits.memory")), value)
    };
    match limit {
        Limit::JavaHeap | Limit::Metaspace | Limit::Direct | Limit::NodeHeap => {
            let names: &[&str] = if limit != Limit::NodeHeap {
                &["JAVA_OPTS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CATALINA_OPTS"]
            } else {
                &["NODE_OPTIONS"]
            };
            let option = container.env.iter().enumerate().find(|(_, var)| names.contains(&var.name.as_str()));
            match option {
                Some((index, var)) => {
                    let value = if let EnvSource::Literal(value) = &var.source {
                        plain(value).map(|v| format!("={v}")).unwrap_or_default()
                    } else {
                        String::new()
                    };
                    (at(format!("{base}.env[{index}].value")), format!("{}{value}", var.name))
                }
                None => memory(),
            }
        }
        Limit::Memory => memory(),
        Limit::Disk | Limit::ReadOnly => {
            volume(snapshot, workload, container, limit, text).unwrap_or_else(|| match limit {
                Limit::ReadOnly if container.body.flag("securityContext.readOnlyRootFilesystem") => (
                    at(format!("{base}.securityContext.readOnlyRootFilesystem")),
                    "a read-only root file system".to_owned(),
                ),
                Limit::Disk if container.body.at("resources.limits.ephemeral-storage").is_some() => {
                    let value = container.body.string("resources.limits.ephemeral-storage");
                    (
                        at(format!("{base}.resources.limits.ephemeral-storage")),
                        format!("ephemeral storage {value}"),
                    )
                }
                _ => (workload.reference().clone(), String::new()),
            })
        }
        Limit::Files | Limit::Threads => (workload.reference().clone(), String::new()),
    }
}

/// The mounted volume whose path the text names.
fn volume(
    snapshot: &Snapshot,
    workload: &Workload,
    container: &Container,
    limit: Limit,
    text: &str,
) -> Option<(ObjectRef, String)> {
    let mounts = container.body.list("volumeMounts").iter().enumerate();
    let (at, mount) = mounts
        .filter(|(_, m)| m.text("mountPath").is_some_and(|path| path.len() > 1 && text.contains(path)))
        .max_by_key(|(_, m)| m.string("mountPath").len())?;
    let path = mount.string("mountPath");
    if limit == Limit::ReadOnly && mount.flag("readOnly") {
        let field = workload.template_path(&format!("spec.{}.volumeMounts[{at}].readOnly", container.path()));
        return Some((workload.reference().field(field), format!("{path} is mounted read-only")));
    }
    let name = mount.string("name");
    let (index, volume) = workload
        .template
        .spec
        .list("volumes")
        .iter()
        .enumerate()
        .find(|(_, v)| v.text("name") == Some(&name))?;
    if let Some(claim) = volume.text("persistentVolumeClaim.claimName") {
        let namespace = workload.object.namespace();
        let object = snapshot.object("PersistentVolumeClaim", namespace, claim);
        let size = object
            .and_then(|o| o.body.text("spec.resources.requests.storage"))
            .map(|s| format!(" of {s}"))
            .unwrap_or_default();
        let reference = object.map_or_else(
            || ObjectRef::new("PersistentVolumeClaim", namespace, claim),
            |o| o.reference.clone(),
        );
        return Some((
            reference.field("spec.resources.requests.storage"),
            format!("the volume{size} at {path}"),
        ));
    }
    let size = volume.text("emptyDir.sizeLimit").map(|s| format!(" of {s}")).unwrap_or_default();
    let field = if volume.at("emptyDir").is_some() {
        format!("spec.volumes[{index}].emptyDir.sizeLimit")
    } else {
        format!("spec.volumes[{index}]")
    };
    Some((workload.reference().field(workload.template_path(&field)), format!("the volume{size} at {path}")))
}
