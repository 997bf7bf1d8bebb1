//! ISTIO136.

use crate::model::json::json;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::network::{Service, ServiceName};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Pods are refused because the injection webhook of the mesh does not answer.
    ///
    /// ## What it detects
    /// Events `FailedCreate` that say `failed calling webhook … sidecar-injector.istio.io`, and why: no endpoint, a certificate
    /// that does not fit, a time-out, a refused connection.
    /// ## Why it matters
    /// Nothing can be started in the namespaces of the mesh: rollouts stop, and what dies stays away.
    /// ## Evidence
    /// The events, the Service that the webhook calls, its endpoints.
    /// ## How to confirm
    /// `kubectl get endpointslices` of the control plane, and port 15017 from the API server.
    /// ## How to fix
    /// Bring the control plane back; for x509 let it write its `caBundle` anew; for a time-out open port 15017 for the API server.
    /// ## False positives
    /// Some seconds while the control plane restarts.
    /// ## References
    /// <https://istio.io/latest/docs/ops/common-problems/injection/>
    InjectionWebhookFails {
        code: "ISTIO136", name: "injection-webhook-fails", family: Mesh, severity: Error,
        needs: [Events], aliases: [],
    }
}

/// Why the webhook does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    NoEndpoint,
    Certificate,
    Timeout,
    Refused,
    Other,
}

impl Why {
    fn of(message: &str) -> Self {
        let says = |word: &str| message.contains(word);
        if says("no endpoints available") || says("not found") {
            Why::NoEndpoint
        } else if says("x509") || says("certificate") {
            Why::Certificate
        } else if says("deadline exceeded") || says("timeout") || says("Timeout") {
            Why::Timeout
        } else if says("connection refused") {
            Why::Refused
        } else {
            Why::Other
        }
    }

    fn words(self) -> &'static str {
        match self {
            Why::NoEndpoint => "its control plane has no endpoint",
            Why::Certificate => "its certificate does not fit the webhook's caBundle",
            Why::Timeout => {
                "it does not answer in time: port 15017 is not open for the API server, or it is overloaded"
            }
            Why::Refused => "its connection is refused",
            Why::Other => "the call fails",
        }
    }
}

/// Workloads that one failing webhook keeps from starting pods.
#[derive(Debug)]
pub struct Fact<'a> {
    webhook: String,
    why: Why,
    /// The control plane's Service.
    service: Option<ServiceName>,
    owners: Vec<ObjectRef>,
    events: Vec<&'a Event>,
}

impl Check for InjectionWebhookFails {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<(String, Why), Vec<&'a Event>> = BTreeMap::new();
        for event in snapshot.events.iter().filter(|event| event.reason == "FailedCreate") {
            let Some((_, rest)) = event.message.split_once("failed calling webhook") else { continue };
            let name = rest.trim_start_matches([' ', '"']).split(['"', ' ', ':']).next().unwrap_or_default();
            if name.ends_with("sidecar-injector.istio.io") && snapshot.in_scope(&event.about.namespace) {
                found.entry((name.to_owned(), Why::of(rest))).or_default().push(event);
            }
        }
        found
            .into_iter()
            .map(|((webhook, why), events)| {
                let mut owners: Vec<ObjectRef> =
                    events.iter().map(|event| top(snapshot, &event.about)).collect();
                owners.sort();
                owners.dedup();
                let service = events.iter().find_map(|event| called(&event.message));
                Fact { webhook, why, service, owners, events }
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let hook = snapshot
            .objects_of("MutatingWebhookConfiguration")
            .find(|object| object.body.to_string().contains(&fact.webhook));
        let plane = fact.service.as_ref().and_then(|service| {
            let known = snapshot.service(service)?;
            Some(snapshot.workloads_behind(known).next()?.reference().clone())
        });
        let hook = hook.map(|object| object.reference.field("webhooks[0].clientConfig"));
        let of_hook = || {
            hook.clone().unwrap_or_else(|| {
                ObjectRef::new("MutatingWebhookConfiguration", "", "istio-sidecar-injector")
            })
        };
        let subject = match fact.why {
            Why::Certificate | Why::Other => of_hook(),
            _ => plane
                .clone()
                .or_else(|| fact.service.as_ref().map(ServiceName::reference))
                .unwrap_or_else(of_hook),
        };
        let names: Vec<&str> = fact.owners.iter().take(3).map(|owner| owner.name.as_str()).collect();
        let names = text::plain(&names.join(", "), 100);
        let count: i64 = fact.events.iter().map(|event| event.count).sum();
        let down = fact.owners.iter().any(|owner| !snapshot.pods_of(owner).any(|pod| pod.ready()));
        let namespace = fact.service.as_ref().map_or("istio-system", |service| service.namespace.as_str());
        let deployment = plane.map_or("istiod".to_owned(), |plane| plane.name);
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.webhook])
            .title(format!("No pods for {names}: the injection webhook fails, {}", fact.why.words()))
            .message(format!(
                "The API server calls webhook {} before it makes a pod, and {}. {count} pods of {names} were refused.",
                text::plain(&fact.webhook, 80),
                fact.why.words()
            ))
            .mechanism("injection webhook failing: pods are not created")
            .severity(if down { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .service(fact.owners.iter().flat_map(|owner| super::support::services_of(snapshot, owner)).next())
            .onset(fact.events.iter().filter_map(|event| event.first).min())
            .evidences(fact.events.iter().take(3).map(|event| {
                Evidence::new("Event", event.about.to_string(), format!("FailedCreate, {} times", event.count)).at(event.last).excerpt(&event.message)
            }))
            .effects(fact.owners.iter().map(Effect::pods))
            .maybe_remedy(start_again(fact, snapshot))
            .maybe_remedy(other_service(fact, snapshot))
            .remedy(match fact.why {
                Why::Certificate => Remedy::commands("Restart the control plane, which writes its caBundle into the webhook anew", vec![format!("kubectl -n {} rollout restart deployment {}", quote(namespace), quote(&deployment))], vec![format!("kubectl -n {} rollout undo deployment {}", quote(namespace), quote(&deployment))]),
                _ => Remedy::commands("See why the control plane does not answer", vec![format!("kubectl -n {} get pods,endpointslices -l app=istiod -o wide", quote(namespace)), format!("kubectl -n {} logs deployment/{} --tail=100", quote(namespace), quote(&deployment))], vec![]),
            })
            .maybe_remedy(ignore_failures(fact, snapshot))
            .prevention(Prevention::alert(
                "Alert when calls of admission webhooks fail",
                "sum by (name) (rate(apiserver_admission_webhook_rejection_count{error_type=\"calling_webhook_error\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Setting", "Two replicas and a disruption budget for the control plane"));
        if let Some(hook) = hook.filter(|hook| !hook.same_object(&subject)) {
            finding = finding.related(hook);
        }
        finding
    }
}

/// Starts the control plane again, where it is scaled to zero.
fn start_again(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let service = snapshot.service(fact.service.as_ref()?)?;
    let mut planes = snapshot.workloads_behind(service).filter(|_| fact.why != Why::Certificate);
    let plane = planes.find(|w| w.replicas == Some(0))?.reference();
    Some(Remedy::scale(plane, 0, 1, format!("Scale {plane} to 1 replica")))
}

/// The webhook of a name, its configuration and its place there.
fn webhook<'a>(fact: &Fact<'_>, snapshot: &'a Snapshot) -> Option<(&'a Object, usize)> {
    snapshot.objects_of("MutatingWebhookConfiguration").find_map(|object| {
        let hooks = object.body.list("webhooks");
        Some((object, hooks.iter().position(|hook| hook.text("name") == Some(fact.webhook.as_str()))?))
    })
}

/// Points the webhook at the one control plane that is there, where the one that it names is not.
fn other_service(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let missing = fact.service.as_ref().filter(|service| snapshot.service(service).is_none())?;
    let planes: Vec<&Service> = snapshot
        .services
        .iter()
        .filter(|s| s.selector.get("app").is_some_and(|app| app == "istiod"))
        .filter(|s| {
            s.object.namespace() == missing.namespace
                && snapshot.endpoints(s).is_none_or(|(ready, _)| ready > 0)
        })
        .collect();
    let [plane] = planes.as_slice() else { return None };
    let (object, index) = webhook(fact, snapshot)?;
    let name = plane.object.name();
    let path = format!("/webhooks/{index}/clientConfig/service/name");
    let remedy = Remedy::patch(
        object,
        &json!([{"op": "replace", "path": path, "value": name}]),
        format!("Let the webhook call Service {name}, the control plane that is there"),
    )?;
    Some(remedy.risk(Risk::Medium))
}

/// Lets pods start without a proxy until the webhook answers again.
fn ignore_failures(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let (object, index) = webhook(fact, snapshot)?;
    let path = format!("/webhooks/{index}/failurePolicy");
    let remedy = Remedy::patch(
        object,
        &json!([{"op": "add", "path": path, "value": "Ignore"}]),
        "Set failurePolicy to Ignore for as long as it lasts: pods then start without a proxy, outside of the mesh's encryption and policy",
    )?;
    Some(remedy.risk(Risk::High))
}

/// The Deployment of a ReplicaSet that an event is about.
fn top(snapshot: &Snapshot, about: &ObjectRef) -> ObjectRef {
    let mut reference = about.clone();
    // A chain longer than this is a loop that somebody made.
    for _ in 0..3 {
        match snapshot.workload(&reference).and_then(|workload| workload.object.owners.first()) {
            Some(owner) => reference = owner.clone(),
            None => break,
        }
    }
    reference
}

/// `Post "https://istiod.istio-system.svc:443/inject?timeout=10s": …`: the Service that was called.
fn called(message: &str) -> Option<ServiceName> {
    let host = message.split_once("https://")?.1.split([':', '/']).next()?;
    let mut parts = host.split('.');
    let (name, namespace) = (parts.next()?, parts.next()?);
    (parts.next() == Some("svc")).then(|| ServiceName::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_event_says() {
        let text = "Internal error occurred: failed calling webhook \"rev.namespace.sidecar-injector.istio.io\": failed to call webhook: Post \"https://istiod.istio-system.svc:443/inject?timeout=10s\": no endpoints available for service \"istiod\"";
        assert_eq!(Why::of(text), Why::NoEndpoint);
        assert_eq!(called(text), Some(ServiceName::new("istio-system", "istiod")));
        assert_eq!(Why::of("x509: certificate signed by unknown authority"), Why::Certificate);
    }
}
