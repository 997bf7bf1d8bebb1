//! PLAT107.

use crate::model::json::json;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::refused::{Refused, refused};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// An admission webhook does not answer, and the API server refuses what it should have looked at.
    ///
    /// ## What it detects
    /// Pods that are not made because the API server "failed calling webhook", told apart by why: its Service has no endpoint or does
    /// not exist, nothing listens, it does not answer in time, or its certificate is not trusted or has expired. Also a webhook for
    /// pods with `failurePolicy: Fail` whose Service has no ready endpoint right now.
    /// ## Why it matters
    /// With `failurePolicy: Fail`, the default, every object that the webhook's rules match is refused, in all namespaces that it
    /// selects: no pod is replaced, no rollout goes on, no node can be emptied.
    /// ## Evidence
    /// The `FailedCreate` event of the ReplicaSet or StatefulSet, the webhook's configuration, the endpoints of its Service.
    /// ## How to confirm
    /// `kubectl run probe --image=registry.k8s.io/pause --dry-run=server` in the namespace gives the same refusal.
    /// ## How to fix
    /// Bring the webhook's Service back, or renew its certificate and `caBundle`. In between, `failurePolicy: Ignore` lets pods be made
    /// without its check.
    /// ## False positives
    /// A webhook that answers and denies is no failure of the webhook (PLAT108). A refusal that a later attempt made good is not
    /// reported.
    /// ## References
    /// <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#failure-policy>
    WebhookFails {
        code: "PLAT107", name: "admission-webhook-failing", family: Platform, severity: Error,
        needs: [Status], aliases: ["K8S-WEBHOOK"],
    }
}

/// Why a webhook could not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    NoEndpoints,
    NoService,
    Certificate,
    Refused,
    TimedOut,
    Unresolved,
    Other,
}

impl Why {
    fn of(message: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
        match () {
            () if has(&["no endpoints available"]) => Why::NoEndpoints,
            () if has(&["x509:", "tls: ", "certificate"]) => Why::Certificate,
            () if has(&["service \""]) && has(&["not found"]) => Why::NoService,
            () if has(&["connection refused"]) => Why::Refused,
            () if has(&["no such host"]) => Why::Unresolved,
            () if has(&["deadline exceeded", "i/o timeout", "Client.Timeout"]) => Why::TimedOut,
            () => Why::Other,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Why::NoEndpoints => "its Service has no endpoint",
            Why::NoService => "its Service does not exist",
            Why::Certificate => "its certificate is not trusted or has expired",
            Why::Refused => "nothing listens where its Service leads",
            Why::TimedOut => "it does not answer in time",
            Why::Unresolved => "its host name does not resolve",
            Why::Other => "the call fails",
        }
    }
}

/// One webhook of a configuration.
#[derive(Debug, Clone, Copy)]
struct Hook<'a> {
    object: &'a Object,
    index: usize,
    body: &'a crate::model::json::Value,
}

impl Hook<'_> {
    fn field(&self, rest: &str) -> ObjectRef {
        self.object.reference.field(format!("webhooks[{}].{rest}", self.index))
    }

    fn service(&self) -> Option<ServiceName> {
        let service = self.body.at("clientConfig.service")?;
        Some(ServiceName::new(service.string("namespace"), service.string("name")))
    }
}

const KINDS: &[&str] = &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

fn hooks(snapshot: &Snapshot) -> impl Iterator<Item = Hook<'_>> {
    KINDS.iter().flat_map(|kind| snapshot.objects_of(kind)).flat_map(|object| {
        let list = object.body.list("webhooks").iter().enumerate();
        list.map(move |(index, body)| Hook { object, index, body })
    })
}

/// A webhook that cannot be called.
#[derive(Debug)]
pub struct Fact<'a> {
    /// Its name: `validate.policy.example`.
    name: String,
    hook: Option<Hook<'a>>,
    service: Option<ServiceName>,
    why: Why,
    /// Whose pods it keeps from being made; empty where nobody has tried.
    refused: Vec<Refused<'a>>,
}

impl Check for WebhookFails {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: BTreeMap<String, Fact<'a>> = BTreeMap::new();
        for refused in refused(snapshot) {
            let Some((name, service)) = called(refused.message) else { continue };
            let why = Why::of(refused.message);
            let hook = hooks(snapshot).find(|hook| hook.body.text("name") == Some(&name));
            let service = hook.and_then(|hook| hook.service()).or(service);
            let fact = out.entry(name.clone()).or_insert(Fact { name, hook, service, why, refused: vec![] });
            if !fact.refused.iter().any(|known| known.owner.same_object(&refused.owner)) {
                fact.refused.push(refused);
            }
        }
        for hook in hooks(snapshot).filter(|hook| blocks_pods(hook.body)) {
            let name = hook.body.string("name");
            let Some(service) = hook.service() else { continue };
            let idle =
                snapshot.service(&service).and_then(|s| snapshot.endpoints(s)).is_some_and(|e| e.0 == 0);
            if idle && snapshot.runs() && !out.contains_key(&name) {
                let fact = Fact {
                    name: name.clone(),
                    hook: Some(hook),
                    service: Some(service),
                    why: Why::NoEndpoints,
                    refused: vec![],
                };
                out.insert(name, fact);
            }
        }
        out.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (name, why) = (&fact.name, fact.why);
        let service = fact.service.as_ref();
        let own = |s: &ServiceName| s.reference();
        let subject = match (fact.hook, why) {
            (Some(hook), Why::Certificate) => hook.field("clientConfig.caBundle"),
            (Some(hook), _) => hook.field("clientConfig.service"),
            (None, _) => {
                service.map_or_else(|| ObjectRef::new("ValidatingWebhookConfiguration", "", name), own)
            }
        };
        let by = service.map(|s| format!(" (Service {s})")).unwrap_or_default();
        let finding = match fact.refused.first() {
            Some(refused) => {
                let others = fact.refused.len() - 1;
                let more = if others > 0 { format!(", and those of {others} more workloads") } else { String::new() };
                refused
                    .finding(Self::META, subject.clone(), &[name], snapshot)
                    .title(format!("{}: pods refused, admission webhook {name} cannot be called: {}", refused.owner, why.meaning()))
                    .message(format!(
                        "{}{more}: the API server must ask the admission webhook {name}{by} before it makes them, and {}. {}",
                        refused.lacks(),
                        why.meaning(),
                        refused.serves()
                    ))
                    .evidences(fact.refused.iter().skip(1).take(2).map(|r| r.evidence.clone()))
                    .effects(fact.refused.iter().skip(1).map(|r| crate::analyze::finding::Effect::pods(&r.owner)))
            }
            None => Finding::new(Self::META, subject.clone(), &[name])
                .title(format!("Admission webhook {name} cannot be called: {}", why.meaning()))
                .message(format!(
                    "The API server must ask the admission webhook {name}{by} before it makes a pod, and {}: the next pod in a namespace that it selects is refused.",
                    why.meaning()
                ))
                .severity(Severity::Warning)
                .role(Role::Cause, Confidence::Configured),
        };
        let mut finding = finding
            .mechanism(format!("admission webhook failing: {}", why.meaning()))
            .evidences(fact.hook.map(|hook| {
                let policy = hook.body.text("failurePolicy").unwrap_or("Fail");
                let seconds = hook.body.int("timeoutSeconds").unwrap_or(10);
                Evidence::object(&hook.field("failurePolicy"), format!("{policy}, timeout {seconds} s"))
            }))
            .evidences(service.and_then(|name| snapshot.service(name)).and_then(|s| {
                let (ready, all) = snapshot.endpoints(s)?;
                Some(Evidence::object(s.reference(), format!("{ready} of {all} endpoints are ready")))
            }));
        if let Some(service) = service.filter(|_| fact.hook.is_some()) {
            finding = finding.related(service.reference());
        }
        finding
            .maybe_remedy(start(snapshot, service))
            .remedy(restore(fact))
            .maybe_remedy(fact.hook.and_then(ignore))
            .prevention(Prevention::alert(
                "Alert when calls of admission webhooks fail",
                format!("sum by (name, error_type) (rate(apiserver_admission_webhook_rejection_count{{name=\"{name}\",error_type!=\"no_error\"}}[5m])) > 0"),
            ))
            .prevention(Prevention::of("Setting", "Give the webhook two replicas on different nodes, a PodDisruptionBudget and a namespaceSelector that leaves out kube-system and its own namespace"))
    }
}

/// The webhook that a refusal names, and the Service that its URL leads to.
fn called(message: &str) -> Option<(String, Option<ServiceName>)> {
    static HOOK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"failed calling webhook "([^"]+)""#).ok());
    static URL: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"https://([a-z0-9-]+)\.([a-z0-9-]+)\.svc[.:/]").ok());
    let name = HOOK.as_ref()?.captures(message)?.get(1)?.as_str().to_owned();
    let service = URL
        .as_ref()
        .and_then(|r| r.captures(message))
        .and_then(|found| Some(ServiceName::new(found.get(2)?.as_str(), found.get(1)?.as_str())));
    Some((name, service))
}

/// Whether a webhook must be asked before a pod is made, whatever the namespace.
fn blocks_pods(hook: &crate::model::json::Value) -> bool {
    let covers = |rule: &crate::model::json::Value| {
        let any = |list: &str, words: &[&str]| rule.texts(list).iter().any(|w| words.contains(&w.as_str()));
        any("resources", &["pods", "*", "*/*"])
            && any("operations", &["CREATE", "*"])
            && any("apiGroups", &["", "*"])
    };
    hook.text("failurePolicy").unwrap_or("Fail") == "Fail" && hook.list("rules").iter().any(covers)
}

/// Starts what should answer, where it is scaled to zero.
fn start(snapshot: &Snapshot, service: Option<&ServiceName>) -> Option<Remedy> {
    let service = snapshot.service(service?)?;
    let stopped = |w: &&Workload| w.replicas == Some(0);
    let workload = snapshot.workloads_behind(service).find(stopped)?.reference();
    Some(Remedy::scale(
        workload,
        0,
        1,
        format!("Scale {workload} up: it answers for the webhook and has 0 replicas"),
    ))
}

/// Bring back what answers.
fn restore(fact: &Fact<'_>) -> Remedy {
    let look = fact.service.as_ref().map(|service| {
        let ns = scope(&service.reference());
        vec![
            format!("kubectl {ns}get endpointslices -l kubernetes.io/service-name={}", quote(&service.name)),
            format!("kubectl {ns}describe service {}", quote(&service.name)),
        ]
    });
    let summary = match fact.why {
        Why::Certificate => {
            "Renew the webhook's serving certificate and write its authority into clientConfig.caBundle (cert-manager's cainjector or the webhook's own job does both)"
        }
        Why::TimedOut => {
            "Find out why the webhook does not answer the API server: its load, a NetworkPolicy in front of it, or the route from the control plane to its pods"
        }
        Why::NoService => {
            "Install the webhook's Service again, or delete the webhook's configuration if what it belonged to is gone"
        }
        _ => "Bring back the pods behind the webhook's Service",
    };
    Remedy::commands(summary, look.unwrap_or_default(), vec![])
}

/// Lets pods be made without the check. Not for one that changes pods: they would lack what it adds.
fn ignore(hook: Hook<'_>) -> Option<Remedy> {
    let path = format!("/webhooks/{}/failurePolicy", hook.index);
    let operation = json!([{"op": "add", "path": path, "value": "Ignore"}]);
    let lacks = if hook.object.reference.kind == "MutatingWebhookConfiguration" {
        "pods that are made meanwhile lack what the webhook adds to them"
    } else {
        "what is made meanwhile is not checked"
    };
    let summary = format!("Until it answers again, set failurePolicy of this webhook to Ignore: {lacks}");
    Some(Remedy::patch(hook.object, &operation, summary)?.risk(Risk::High))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_sentence() {
        let text = r#"Internal error occurred: failed calling webhook "check.policy.example": failed to call webhook: Post "https://policy.guard.svc:443/validate?timeout=10s": "#;
        let (name, service) = called(text).unwrap();
        assert_eq!(
            (name.as_str(), service),
            ("check.policy.example", Some(ServiceName::new("guard", "policy")))
        );
        let why = |end: &str| Why::of(&format!("{text}{end}"));
        assert_eq!(why("no endpoints available for service \"policy\""), Why::NoEndpoints);
        assert_eq!(why("x509: certificate has expired or is not yet valid"), Why::Certificate);
        assert_eq!(why("service \"policy\" not found"), Why::NoService);
        assert_eq!(why("dial tcp 10.96.1.1:443: connect: connection refused"), Why::Refused);
        assert_eq!(why("context deadline exceeded"), Why::TimedOut);
        assert!(called("admission webhook \"a\" denied the request: no").is_none());
    }
}
