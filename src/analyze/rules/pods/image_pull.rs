//! POD103.

use crate::model::json::json;

use super::common::{self, Group};
use crate::analyze::finding::{Confidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::model::event::Event;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerState, ContainerStatus, Pod};

crate::rule! {
    /// The kubelet cannot get a container's image.
    ///
    /// ## What it detects
    /// A container that waits in `ErrImagePull`, `ImagePullBackOff`, `InvalidImageName`, `ErrImageNeverPull`, `ImageInspectError` or
    /// `RegistryUnavailable`, told apart by the registry's answer: no such image or tag, no permission, a rate limit, a registry
    /// whose name does not resolve or that does not answer, another platform, a full disk, a name that is no name.
    /// ## Why it matters
    /// The pod never starts. A rollout stops there; pods that move to a new node do not come back.
    /// ## Evidence
    /// The container's waiting reason and message, and the kubelet's `Failed` events with the registry's own words.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows the registry's answer; `crane manifest IMAGE` or `docker manifest inspect IMAGE` asks it again.
    /// ## How to fix
    /// By the answer: correct the image's name or tag (the revision before had one that worked), name an `imagePullSecrets` entry
    /// that may pull it, pull through a mirror, or make the registry's name resolve from the nodes.
    /// ## False positives
    /// One failed pull that a later one made good is not reported: the container does not wait any more.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/containers/images/>
    ImagePull {
        code: "POD103", name: "image-pull-failed", family: Workload, severity: Error,
        needs: [Status], aliases: ["K8S-IMAGE"],
    }
}

/// What the registry, or the kubelet before it, answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    InvalidName,
    NeverPull,
    RateLimit,
    NotFound,
    DeniedOrMissing,
    Unauthorized,
    Dns,
    Tls,
    Unreachable,
    Platform,
    Signature,
    DiskFull,
    Unknown,
}

impl Answer {
    /// From the waiting reason and everything that was said. The order matters: a registry that hides what exists says "denied"
    /// and "does not exist" in one sentence, and a message about a time-out may hold "not found" in a path.
    fn of(reason: &str, message: &str) -> Self {
        let text = message.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match () {
            () if reason == "InvalidImageName"
                || has(&["invalid reference format", "couldn't parse image"]) =>
            {
                Answer::InvalidName
            }
            () if reason == "ErrImageNeverPull" => Answer::NeverPull,
            () if reason == "SignatureValidationFailed" || has(&["signature"]) => Answer::Signature,
            () if has(&["toomanyrequests", "rate limit", "429 too many"]) => Answer::RateLimit,
            () if has(&["pull access denied", "may require authorization"]) => Answer::DeniedOrMissing,
            () if has(&[
                "unauthorized",
                "authentication required",
                "no basic auth",
                "insufficient_scope",
                "403 forbidden",
                "401 ",
                "access denied",
                "denied:",
            ]) =>
            {
                Answer::Unauthorized
            }
            () if has(&["no such host", "server misbehaving", "temporary failure in name resolution"]) => {
                Answer::Dns
            }
            () if has(&["x509", "tls:", "http response to https client"]) => Answer::Tls,
            () if has(&["no match for platform", "no matching manifest", "exec format"]) => Answer::Platform,
            () if has(&["no space left"]) => Answer::DiskFull,
            () if has(&["manifest unknown", "name unknown", "not found", "manifest for", "404"]) => {
                Answer::NotFound
            }
            () if has(&[
                "connection refused",
                "i/o timeout",
                "deadline exceeded",
                "no route to host",
                "connection reset",
                "eof",
                "timeout",
            ]) || reason == "RegistryUnavailable" =>
            {
                Answer::Unreachable
            }
            () => Answer::Unknown,
        }
    }

    /// What it means, after "its image cannot be pulled:".
    fn meaning(self) -> &'static str {
        match self {
            Answer::InvalidName => "the image's name is no valid name",
            Answer::NeverPull => {
                "the node does not have the image, and imagePullPolicy Never forbids to pull it"
            }
            Answer::RateLimit => "the registry's rate limit is used up",
            Answer::NotFound => "the registry has no such image or tag",
            Answer::DeniedOrMissing => "the registry has no such image, or hides it from these credentials",
            Answer::Unauthorized => "the registry does not let these credentials pull it",
            Answer::Dns => "the registry's name does not resolve on the node",
            Answer::Tls => {
                "the node does not trust the registry's certificate or speaks another protocol to it"
            }
            Answer::Unreachable => "the registry does not answer the node",
            Answer::Platform => "the image has no variant for the node's platform",
            Answer::Signature => "its signature is missing or not accepted by the node's policy",
            Answer::DiskFull => "the node's disk has no room for it",
            Answer::Unknown => "the kubelet's message names the reason",
        }
    }

    /// Whether the image's name or tag is at fault, as far as the answer tells.
    fn is_name(self) -> bool {
        matches!(
            self,
            Answer::InvalidName
                | Answer::NotFound
                | Answer::DeniedOrMissing
                | Answer::Platform
                | Answer::NeverPull
                | Answer::Unknown
        )
    }
}

/// A pull that fails in one pod.
#[derive(Debug)]
pub struct Case<'a> {
    status: &'a ContainerStatus,
    event: Option<&'a Event>,
    answer: Answer,
}

/// A container of a workload whose image cannot be had.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

/// Waiting reasons of a failed pull.
const REASONS: &[&str] = &[
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

impl Check for ImagePull {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| failed(snapshot, pod)).into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let container = &group.container;
        // The telling answer: a back-off alone repeats none.
        let told =
            group.cases.iter().find(|(_, case)| case.answer != Answer::Unknown).or_else(|| group.first());
        let Some((pod, case)) = told else {
            return Finding::new(Self::META, group.owner.clone(), &[container]);
        };
        let image = pod.template.container(container).map_or("", |c| c.image.as_str());
        let answer = case.answer;
        let before = group.before(snapshot, &format!("[name={container}].image"));
        let mut message = format!(
            "{} of {} wait for the image {image} of container {container}: {}",
            group.share(),
            group.owner,
            answer.meaning()
        );
        if let Some((old, at)) = before.as_ref().filter(|(old, _)| !old.is_empty()) {
            message += &format!(". The rollout of {} changed it from {old}", common::clock(*at));
        }
        message += if group.all_down() {
            ". No pod of the workload serves."
        } else {
            ". Pods that have their image still serve."
        };
        let field = if answer == Answer::Unauthorized {
            group.pod_field("imagePullSecrets")
        } else {
            group.container_field("image")
        };
        let created = group.cases.iter().filter_map(|(pod, _)| pod.object.created).min();
        let onset = group.cases.iter().filter_map(|(_, case)| case.event?.first).min().or(created);
        let finding = Finding::new(Self::META, group.owner.field(field), &[container])
            .title(format!("{}: image {image} cannot be pulled: {}", group.owner, answer.meaning()))
            .message(message)
            .mechanism(format!("image pull failed: {}", answer.meaning()))
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .evidences(group.cases.iter().take(3).map(|(pod, case)| common::container_evidence(pod, case.status)))
            .evidences(case.event.map(common::event_evidence))
            .onset(onset)
            .maybe_remedy(before.filter(|(old, _)| !old.is_empty()).and_then(|(old, at)| {
                group.patch_container(
                    &[("replace", "image", json!(old))],
                    format!("Set the image of container {container} back to {old}, which ran before {}", common::clock(at)),
                )
            }))
            .maybe_remedy(group.undo_rollout(snapshot, "image"))
            .remedy(by_answer(answer, group, pod, image))
            .prevention(Prevention::alert(
                "Alert when a container waits for its image",
                format!("max_over_time(kube_pod_container_status_waiting_reason{{{},reason=~\"ErrImagePull|ImagePullBackOff|InvalidImageName\"}}[5m]) >= 1", common::pod_matcher(&group.owner)),
            ))
            .prevention(Prevention::of("Test", "Resolve every image of a manifest to its digest in the pipeline before it is applied, with the credentials that the cluster uses"));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// The containers of a pod that wait for their image.
fn failed<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Vec<(String, Case<'a>)> {
    let mut out = vec![];
    for (_, status) in common::statuses(pod) {
        let ContainerState::Waiting { reason, message } = &status.state else { continue };
        if !REASONS.contains(&reason.as_str()) {
            continue;
        }
        let telling =
            |event: &&Event| event.message.contains("pull image") || event.message.contains("image \"");
        let event = ["Failed", "InspectFailed", "ErrImageNeverPull"]
            .iter()
            .find_map(|reason| common::container_events(snapshot, pod, &status.name, reason).find(telling));
        let own = Answer::of(reason, message);
        let answer =
            if own == Answer::Unknown { event.map_or(own, |e| Answer::of(reason, &e.message)) } else { own };
        out.push((status.name.clone(), Case { status, event, answer }));
    }
    out
}

/// What to do for each answer.
fn by_answer(answer: Answer, group: &Group<'_, Case<'_>>, pod: &Pod, image: &str) -> Remedy {
    let describe = common::describe_command(&pod.object.reference);
    let registry = image.split('/').next().filter(|host| host.contains(['.', ':'])).unwrap_or("docker.io");
    match answer {
        Answer::Unauthorized | Answer::DeniedOrMissing => {
            let account = &pod.template.service_account;
            let ns = scope(&pod.object.reference);
            let patch = json!({"imagePullSecrets": [{"name": "registry-credentials"}]}).to_string();
            Remedy::commands(
                format!(
                    "Give the pods imagePullSecrets with credentials that may pull from {registry} (or correct the image's name)"
                ),
                vec![
                    format!(
                        "kubectl {ns}create secret docker-registry registry-credentials --docker-server={} --docker-username=USER --docker-password=PASSWORD",
                        quote(registry)
                    ),
                    format!("kubectl {ns}patch serviceaccount {} -p {}", quote(account), quote(&patch)),
                ],
                vec![
                    format!(
                        "kubectl {ns}patch serviceaccount {} --type=json -p {}",
                        quote(account),
                        quote(&json!([{"op": "remove", "path": "/imagePullSecrets"}]).to_string())
                    ),
                    format!("kubectl {ns}delete secret registry-credentials"),
                ],
            )
        }
        Answer::RateLimit => Remedy::manual(format!(
            "Pull from {registry} with credentials (imagePullSecrets), or name the same image in a mirror of your own"
        )),
        Answer::Dns | Answer::Unreachable | Answer::Tls => Remedy::commands(
            format!(
                "Make {registry} reachable from node {}: its DNS, its route or proxy, its trust in the registry's certificate; the image field is right only if the host in it is",
                pod.node
            ),
            vec![describe],
            vec![],
        ),
        Answer::DiskFull => Remedy::commands(
            format!("Free the disk of node {}: unused images and logs", pod.node),
            vec![describe],
            vec![],
        ),
        _ if answer.is_name() => Remedy::commands(
            format!(
                "Correct the image of container {} to a name and tag that {registry} has for this platform",
                group.container
            ),
            vec![describe],
            vec![],
        ),
        _ => Remedy::commands("Read the registry's answer in the events", vec![describe], vec![]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_answers() {
        let of = |message: &str| Answer::of("ErrImagePull", message);
        assert_eq!(
            of(
                "rpc error: code = NotFound desc = failed to pull and unpack image \"r.example/app:2\": failed to resolve reference: r.example/app:2: not found"
            ),
            Answer::NotFound
        );
        assert_eq!(
            of("pull access denied for app, repository does not exist or may require authorization"),
            Answer::DeniedOrMissing
        );
        assert_eq!(of("unexpected status from HEAD request: 401 Unauthorized"), Answer::Unauthorized);
        assert_eq!(of("toomanyrequests: You have reached your pull rate limit"), Answer::RateLimit);
        assert_eq!(of("dial tcp: lookup r.example on 10.0.0.2:53: no such host"), Answer::Dns);
        assert_eq!(of("dial tcp 10.1.1.1:443: i/o timeout"), Answer::Unreachable);
        assert_eq!(of("no match for platform in manifest: not found"), Answer::Platform);
        assert_eq!(
            of("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
            Answer::Tls
        );
        assert_eq!(of("write /var/lib/x: no space left on device"), Answer::DiskFull);
        assert_eq!(Answer::of("SignatureValidationFailed", ""), Answer::Signature);
        assert_eq!(Answer::of("ErrImageNeverPull", ""), Answer::NeverPull);
        assert_eq!(Answer::of("InvalidImageName", ""), Answer::InvalidName);
        assert_eq!(of("Back-off pulling image \"app:2\""), Answer::Unknown);
    }
}
