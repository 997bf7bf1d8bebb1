//! Which logs to read, and in which order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::collect::budget::Budget;
use crate::collect::kubernetes::neighbours::Neighbourhood;
use crate::collect::plan::Plan;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{
    Container, ContainerRole, ContainerState, ContainerStatus, Pod, is_proxy_container,
};

/// Names a pod: its namespace and its name.
pub type PodKey = (String, String);

/// One log to read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// Whether the instance before the current one is meant.
    pub previous: bool,
    /// Lines from its end.
    pub lines: u32,
}

/// Which logs to read, and how many pods had to be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// The logs, those of the most troubled pods first.
    pub requests: Vec<LogRequest>,
    /// Pods that the budget left out.
    pub left_out: usize,
}

/// The first, cheap pass: access logs of the proxies around the target, and whatever restarted or is not ready.
pub fn cheap(snapshot: &Snapshot, around: &Neighbourhood, plan: &Plan, budget: &Budget) -> Choice {
    let mut pods: Vec<(bool, u8, &Pod)> = pods_around(snapshot, around, plan)
        .into_iter()
        .map(|(pod, hops)| (!troubled(pod), hops, pod))
        .collect();
    pods.sort_by_key(|(calm, hops, pod)| (*calm, *hops, pod.object.name(), pod.object.namespace()));
    let left_out = pods.len().saturating_sub(budget.log_pods);
    let mut requests = vec![];
    for (_, _, pod) in pods.into_iter().take(budget.log_pods) {
        for (container, status) in wanted(pod, plan) {
            let lines = if is_proxy_container(&container.name) {
                budget.access_log_lines.min(plan.logs.tail_lines)
            } else if unwell(container, status) {
                plan.logs.tail_lines
            } else {
                continue;
            };
            push(&mut requests, pod, status, plan, lines);
        }
    }
    Choice { requests, left_out }
}

/// The second, deep pass: every container of the implicated pods, but what was read already. The first ones are the ones
/// that stay where the budget does not reach.
pub fn deep(
    snapshot: &Snapshot,
    implicated: &[PodKey],
    plan: &Plan,
    budget: &Budget,
    have: &BTreeSet<LogRequest>,
) -> Choice {
    // A request is the same whatever the number of lines.
    let key = |r: &LogRequest| (r.namespace.clone(), r.pod.clone(), r.container.clone(), r.previous);
    let have: BTreeMap<_, u32> = have.iter().map(|request| (key(request), request.lines)).collect();
    let mut seen = BTreeSet::new();
    let pods: Vec<&Pod> = implicated
        .iter()
        .filter(|key| plan.reaches(&key.0) && seen.insert(*key))
        .filter_map(|(namespace, name)| snapshot.pod(namespace, name))
        .collect();
    let left_out = pods.len().saturating_sub(budget.log_pods);
    let mut requests = vec![];
    for pod in pods.into_iter().take(budget.log_pods) {
        for (_, status) in wanted(pod, plan) {
            push(&mut requests, pod, status, plan, plan.logs.tail_lines);
        }
    }
    requests.retain(|request| have.get(&key(request)).is_none_or(|lines| *lines < request.lines));
    Choice { requests, left_out }
}

/// The pods that belong to the target or its neighbours and whose logs may be read, with their hops.
pub fn pods_around<'a>(snapshot: &'a Snapshot, around: &Neighbourhood, plan: &Plan) -> Vec<(&'a Pod, u8)> {
    let pods =
        snapshot.pods.iter().filter(|pod| plan.reaches(pod.object.namespace()) && pod.phase != "Succeeded");
    pods.filter_map(|pod| {
        let owner = snapshot.owner(pod);
        let by_owner =
            around.workloads.iter().find(|(workload, _)| workload.same_object(&owner)).map(|(_, hops)| *hops);
        let by_service = snapshot
            .services_before_pod(pod)
            .filter_map(|s| {
                around.services.get(&ServiceName::new(s.object.namespace(), s.object.name())).copied()
            })
            .min();
        Some((pod, by_owner.into_iter().chain(by_service).min()?))
    })
    .collect()
}

/// Whether something is wrong with a pod at first sight.
fn troubled(pod: &Pod) -> bool {
    !pod.ready() || pod.containers().any(|(container, status)| unwell(container, status))
}

/// Whether a container restarted, or is not as it should be.
fn unwell(container: &Container, status: &ContainerStatus) -> bool {
    let ended_well = matches!(&status.state, ContainerState::Terminated(end) if end.exit_code == 0);
    match container.role {
        ContainerRole::Init => status.restarts > 0 || !ended_well,
        _ => status.restarts > 0 || !status.ready,
    }
}

/// The containers of a pod that the plan wants and that have ever run.
fn wanted<'a>(pod: &'a Pod, plan: &'a Plan) -> impl Iterator<Item = (&'a Container, &'a ContainerStatus)> {
    pod.containers().filter(|(container, status)| {
        let named = plan.logs.containers.is_empty() || plan.logs.containers.contains(&container.name);
        let never_ran = matches!(status.state, ContainerState::Waiting { .. }) && status.last.is_none();
        named && !never_ran
    })
}

fn push(requests: &mut Vec<LogRequest>, pod: &Pod, status: &ContainerStatus, plan: &Plan, lines: u32) {
    let request = |previous| LogRequest {
        namespace: pod.object.namespace().to_owned(),
        pod: pod.object.name().to_owned(),
        container: status.name.clone(),
        previous,
        lines,
    };
    requests.push(request(false));
    if plan.logs.include_previous && status.last.is_some() {
        requests.push(request(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::assemble::assemble;
    use crate::collect::kubernetes::neighbours::{Mentions, neighbourhood};
    use crate::collect::material::Material;
    use crate::collect::plan::{Asker, Question};
    use crate::model::json::{Value, json};

    fn pod(name: &str, app: &Value) -> Value {
        let proxy =
            json!({"name": "istio-proxy", "ready": true, "restartCount": 0, "state": {"running": {}}});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "istio-proxy", "restartPolicy": "Always"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [app], "initContainerStatuses": [proxy]}})
    }

    fn setup(budget: &Budget) -> (Snapshot, Neighbourhood, Plan) {
        let well = json!({"name": "app", "ready": true, "restartCount": 0, "state": {"running": {}}});
        let crashing = json!({"name": "app", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1}}});
        let fresh = json!({"name": "app", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}});
        let mut objects = vec![
            pod("a-well", &well),
            pod("crashing", &crashing),
            pod("fresh", &fresh),
            pod("stranger", &well),
        ];
        for name in ["a-well", "crashing", "fresh"] {
            objects.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": {"selector": {"app": name}}}));
        }
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let mut question = Question::about("shop", Asker::Operator);
        question.target =
            crate::collect::plan::Target::Services(vec!["a-well".into(), "crashing".into(), "fresh".into()]);
        let plan = Plan::new(question, now, budget).unwrap();
        let snapshot = assemble(Material { objects, ..Material::default() });
        let around = neighbourhood(&snapshot, &plan, &Mentions::new(), &BTreeSet::new());
        (snapshot, around, plan)
    }

    fn short(choice: &Choice) -> Vec<String> {
        let form = |r: &LogRequest| {
            format!("{}/{}{} {}", r.pod, r.container, if r.previous { " previous" } else { "" }, r.lines)
        };
        choice.requests.iter().map(form).collect()
    }

    #[test]
    fn the_first_pass_reads_proxies_and_what_is_unwell() {
        let budget = Budget::default();
        let (snapshot, around, plan) = setup(&budget);
        let expected = [
            "crashing/istio-proxy 1000",
            "crashing/app 2000",
            "crashing/app previous 2000",
            "fresh/istio-proxy 1000",
            "a-well/istio-proxy 1000",
        ];
        assert_eq!(short(&cheap(&snapshot, &around, &plan, &budget)), expected);
    }

    #[test]
    fn the_budget_leaves_out_the_calm_ones() {
        let budget = Budget { log_pods: 1, ..Budget::default() };
        let (snapshot, around, plan) = setup(&budget);
        let choice = cheap(&snapshot, &around, &plan, &budget);
        assert_eq!(choice.left_out, 2);
        assert!(choice.requests.iter().all(|request| request.pod == "crashing"));
    }

    #[test]
    fn the_second_pass_reads_all_of_the_implicated_but_nothing_twice() {
        let budget = Budget::default();
        let (snapshot, around, plan) = setup(&budget);
        let have = cheap(&snapshot, &around, &plan, &budget).requests.into_iter().collect();
        let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let implicated =
            [key("shop", "a-well"), key("shop", "a-well"), key("other", "x"), key("shop", "gone")];
        let choice = deep(&snapshot, &implicated, &plan, &budget, &have);
        assert_eq!(short(&choice), ["a-well/istio-proxy 2000", "a-well/app 2000"]);
        let narrow = Budget { log_pods: 1, ..Budget::default() };
        let order = [key("shop", "stranger"), key("shop", "a-well")];
        let choice = deep(&snapshot, &order, &plan, &narrow, &BTreeSet::new());
        assert!(choice.left_out == 1 && choice.requests.iter().all(|request| request.pod == "stranger"));
    }
}
