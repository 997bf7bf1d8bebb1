//! POD121.

use crate::model::json::{Value, json};

use super::common::{self, Group};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// The kubelet turns pods away that the scheduler gave it, so the workload makes one after another.
    ///
    /// ## What it detects
    /// Pods that ended as Failed before a container of theirs was made, with a reason that the kubelet's admission gives
    /// (`SysctlForbidden`, `OutOfcpu`, `UnexpectedAdmissionError`, …), while their workload lacks ready pods now.
    /// ## Why it matters
    /// No container ever runs, so there is no log and no restart; the workload's controller makes a new pod at once, dozens a minute.
    /// ## Evidence
    /// The reason and message in the status of the pods, and the field that they are about.
    /// ## How to confirm
    /// `kubectl get pods` lists pods of the workload with this reason as their status; `kubectl describe pod` shows the message.
    /// ## How to fix
    /// Take out of the template what the node does not allow, or allow it on the nodes.
    /// ## False positives
    /// Pods that a node turned away after it was started again, and whose successors run, stay listed: they are not reported, for the
    /// workload is complete.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/>
    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>
    RejectedByKubelet {
        code: "POD121", name: "rejected-by-the-kubelet", family: Workload, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// Pods of a workload that a kubelet turned away.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, ()>);

impl Check for RejectedByKubelet {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let look = |pod: &'a Pod| if rejected(pod) { vec![(String::new(), ())] } else { vec![] };
        let mut groups = common::groups(snapshot, look);
        groups.retain(|group| {
            let wanted = group.workload.and_then(|w| w.object.body.int("spec.replicas")).unwrap_or(1);
            group.owner.kind != "Job" && (group.ready as i64) < wanted
        });
        groups.into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let Some((pod, ())) = group.cases.iter().max_by_key(|(pod, ())| pod.object.created) else {
            return Finding::new(Self::META, group.owner.clone(), &[]);
        };
        let rest = field(&pod.reason);
        let path = group.pod_field(rest);
        let subject = group.owner.field(&path);
        let written = pod.template.spec.at(rest).map(Value::to_string).unwrap_or_default();
        let drop = group
            .workload
            .filter(|w| rest.contains('.') && w.template.spec.at(rest).is_some())
            .and_then(|workload| {
                let operation = common::operation("remove", &path, &Value::Null);
                Remedy::patch(
                    &workload.object,
                    &json!([operation]),
                    format!("Remove {rest} from the template: the kubelet takes the pods"),
                )
            });
        let finding = Finding::new(Self::META, subject.clone(), &[&pod.reason])
            .title(format!("{}: the kubelet of {} turns {} away: {}", group.owner, pod.node, common::plural(group.cases.len(), "pod"), pod.reason))
            .message(format!(
                "{} of {} ended before a container of theirs was made: the kubelet rejected them with {}, and the controller makes new ones.{}",
                common::plural(group.cases.len(), "pod"),
                group.owner,
                pod.reason,
                if group.all_down() { " No pod of the workload serves." } else { " Other pods take its traffic." }
            ))
            .mechanism(format!("pod rejected by the kubelet: {}{}", pod.reason, if pod.reason == "SysctlForbidden" { " (sysctl)" } else { "" }))
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .evidence(Evidence::object(&pod.object.reference, format!("{} {}", pod.phase, pod.reason)).excerpt(&pod.message).at(pod.object.created))
            .evidence(Evidence::object(&subject, "as the pod has it").excerpt(&written))
            .onset(group.cases.iter().filter_map(|(pod, ())| pod.object.created).min())
            .maybe_remedy(group.undo_rollout(snapshot, rest.rsplit('.').next().unwrap_or_default()))
            .maybe_remedy(drop)
            .remedy(Remedy::commands("Read the kubelet's message, and compare it with what its node allows", vec![common::describe_command(&pod.object.reference)], vec![]))
            .prevention(Prevention::alert(
                "Alert when pods end before they run",
                format!("sum by (reason) (kube_pod_status_reason{{namespace=\"{}\",reason!~\"Evicted|Shutdown\"}}) > 0", group.owner.namespace),
            ))
            .prevention(Prevention::of("Policy", "Refuse templates with settings that the nodes do not allow (Pod Security: baseline)"));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// Whether a kubelet turned a pod away: the reasons of its admission handlers, in kubernetes/pkg/kubelet.
fn rejected(pod: &Pod) -> bool {
    let known = [
        "SysctlForbidden",
        "UnexpectedAdmissionError",
        "NodeAffinity",
        "NodePorts",
        "NodeName",
        "NodeUnschedulable",
        "TaintToleration",
        "AppArmor",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "PodOSNotSupported",
        "InitContainerRestartPolicyForbidden",
        "SupplementalGroupsPolicyNotSupported",
        "PodLevelResourcesNotAdmittedReason",
        "TopologyAffinityError",
    ];
    pod.phase == "Failed"
        && pod.statuses.iter().all(|status| !status.started && status.latest_end().is_none())
        && (known.contains(&pod.reason.as_str()) || pod.reason.starts_with("OutOf"))
}

/// The field of a pod's spec that a reason is about.
fn field(reason: &str) -> &'static str {
    match reason {
        "SysctlForbidden" => "securityContext.sysctls",
        "NodeAffinity" => "affinity.nodeAffinity",
        "NodeName" => "nodeName",
        "TaintToleration" => "tolerations",
        "AppArmor" => "securityContext.appArmorProfile",
        "PodOSSelectorNodeLabelDoesNotMatch" | "PodOSNotSupported" => "os.name",
        "SupplementalGroupsPolicyNotSupported" => "securityContext.supplementalGroupsPolicy",
        _ => "containers",
    }
}
