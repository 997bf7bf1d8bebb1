//! CONSUL102.

use crate::model::json::{Value, json};
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::support::{parts, since};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// Consul's intentions refuse a caller.
    ///
    /// ## What it detects
    /// Requests that the callee's Consul proxy denied (`rbac_access_denied`), and what the ServiceIntentions of the callee say of
    /// the caller: they deny it, name others only, or there are none.
    /// ## Why it matters
    /// Each such request ends with 403, or its connection is closed, before it reaches the application.
    /// ## Evidence
    /// The denials in access logs, the ServiceIntentions of the callee and the one that holds for all.
    /// ## How to confirm
    /// `consul intention check CALLER CALLEE`.
    /// ## How to fix
    /// Name the caller among the sources with the action `allow`.
    /// ## False positives
    /// Callers that are not meant to come in.
    /// ## References
    /// <https://developer.hashicorp.com/consul/docs/connect/config-entries/service-intentions>
    IntentionDenies {
        code: "CONSUL102", name: "consul-intention-denies", family: Mesh, severity: Error,
        needs: [AccessLogs], aliases: [],
    }
}

/// What decides.
#[derive(Debug)]
enum Why<'a> {
    /// An entry that denies: its object and the path of its action.
    Denied(&'a Object, String),
    /// Intentions that do not name the caller.
    NotNamed(&'a Object),
    /// No intention at all: the default of the servers.
    Default,
}

/// A caller that is refused.
#[derive(Debug)]
pub struct Fact<'a> {
    service: ServiceName,
    caller: String,
    group: Failures,
    why: Why<'a>,
}

impl Check for IntentionDenies {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for group in failures(snapshot, Way::Rbac) {
            let Some(service) = group.callee.service.clone() else { continue };
            let Some(known) = snapshot.service(&service) else { continue };
            let consul = |pod: &Pod| {
                pod.template
                    .containers
                    .iter()
                    .any(|c| matches!(c.name.as_str(), "consul-dataplane" | "envoy-sidecar"))
            };
            if !snapshot.pods_behind(known).any(consul) {
                continue;
            }
            let callers: BTreeSet<String> =
                group.callers().iter().map(|caller| connect_name(snapshot, caller)).collect();
            for caller in callers {
                let why = decide(snapshot, &service, &caller);
                if let Some(why) = why {
                    out.push(Fact { service: service.clone(), caller, group: group.clone(), why });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (name, caller) = (&fact.service.name, text::plain(&fact.caller, 60));
        let default = ObjectRef {
            api_version: "consul.hashicorp.com/v1alpha1".to_owned(),
            ..ObjectRef::new("ServiceIntentions", &fact.service.namespace, name)
        };
        let (subject, why) = match &fact.why {
            Why::Denied(object, path) => {
                (object.reference.field(path), format!("{} denies it", object.reference))
            }
            Why::NotNamed(object) => {
                (object.reference.field("spec.sources"), format!("{} names others only", object.reference))
            }
            Why::Default => (
                default.field("spec.sources"),
                "no intention names the two, and the servers deny by default".to_owned(),
            ),
        };
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        Finding::new(Self::META, subject.clone(), &[&caller, name])
            .title(format!("Consul refuses calls of {caller} to {name}: {why}"))
            .message(format!(
                "The proxy of {name} denied {figures}{}; of {caller}, {why}.",
                since(fact.group.onset)
            ))
            .mechanism("intention denied: RBAC access denied")
            .severity(fact.group.severity().unwrap_or(Self::META.severity))
            .role(Role::Cause, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .onset(fact.group.onset)
            .evidence(Evidence::object(&subject, why))
            .evidences(parts(&fact.group))
            .effect(Effect::requests(&fact.service, &["rbac", "403", "4xx", "reset"]))
            .maybe_remedy(allow(fact))
            .prevention(Prevention::alert(
                "Alert on requests that intentions refuse",
                "sum by (local_cluster) (rate(envoy_http_rbac_denied[5m])) > 0",
            ))
            .prevention(Prevention::of(
                "Test",
                "In the pipeline: each call between services has an intention that allows it",
            ))
    }
}

/// The name of a workload in Consul: its annotation, else that of its ServiceAccount or itself.
fn connect_name(snapshot: &Snapshot, workload: &ObjectRef) -> String {
    let template = snapshot.workload(workload).map(|w| &w.template);
    let annotated = template.and_then(|t| t.annotations.get("consul.hashicorp.com/connect-service"));
    annotated.map(str::to_owned).unwrap_or_else(|| workload.name.clone())
}

/// What the intentions say of a caller; `None` where they let it in.
fn decide<'a>(snapshot: &'a Snapshot, service: &ServiceName, caller: &str) -> Option<Why<'a>> {
    let intentions = |name: &str| {
        snapshot
            .objects_of("ServiceIntentions")
            .find(|object| object.body.text("spec.destination.name") == Some(name))
    };
    // The more precise destination counts first, then the more precise source.
    for object in [intentions(&service.name), intentions("*")].into_iter().flatten() {
        let sources = object.body.list("spec.sources");
        for wanted in [caller, "*"] {
            let Some(at) = sources.iter().position(|s| s.text("name") == Some(wanted)) else { continue };
            let action = sources.get(at).and_then(|s| s.text("action"));
            return match action {
                Some("deny") => Some(Why::Denied(object, format!("spec.sources[{at}].action"))),
                // Permissions decide request by request, and their denials are theirs.
                None => Some(Why::Denied(object, format!("spec.sources[{at}].permissions"))),
                Some(_) => None,
            };
        }
    }
    Some(intentions(&service.name).map_or(Why::Default, Why::NotNamed))
}

/// Lets the caller in.
fn allow(fact: &Fact<'_>) -> Option<Remedy> {
    let source = json!({"name": fact.caller, "action": "allow"});
    let summary = format!("Let {} call {}", text::plain(&fact.caller, 60), fact.service.name);
    let remedy = match &fact.why {
        Why::Denied(object, path)
            if path.ends_with(".action") && named(object, path) == Some(&fact.caller) =>
        {
            Remedy::patch(
                object,
                &json!([{"op": "replace", "path": pointer(path), "value": "allow"}]),
                summary,
            )?
        }
        Why::Denied(_, path) if path.ends_with(".permissions") => return None,
        Why::NotNamed(object) => Remedy::patch(
            object,
            &json!([{"op": "add", "path": "/spec/sources/-", "value": source}]),
            summary,
        )?,
        Why::Denied(object, _) if object.body.text("spec.destination.name") == Some(&fact.service.name) => {
            Remedy::patch(
                object,
                &json!([{"op": "add", "path": "/spec/sources/-", "value": source}]),
                summary,
            )?
        }
        Why::Denied(..) | Why::Default => {
            let body = json!({
                "apiVersion": "consul.hashicorp.com/v1alpha1", "kind": "ServiceIntentions",
                "metadata": {"name": fact.service.name, "namespace": fact.service.namespace},
                "spec": {"destination": {"name": fact.service.name}, "sources": [source]}
            });
            Remedy::create(vec![body], summary)
        }
    };
    Some(remedy.risk(Risk::High))
}

/// The source that an action belongs to.
fn named<'a>(object: &'a Object, path: &str) -> Option<&'a str> {
    let source = path.strip_suffix(".action")?;
    let value: Option<&Value> = object.body.pointer(&pointer(source));
    value?.text("name")
}
