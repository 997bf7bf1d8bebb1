//! CONSUL101.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Condition, conditions};

crate::rule! {
    /// A configuration entry of Consul was refused by its servers.
    ///
    /// ## What it detects
    /// Objects of `consul.hashicorp.com` whose condition `Synced` is false, with the servers' reason.
    /// ## Why it matters
    /// The servers go on with what they had: an intention that is not there denies, a router or splitter does nothing.
    /// ## Evidence
    /// The condition with reason and message.
    /// ## How to confirm
    /// `kubectl get serviceintentions,servicedefaults,servicerouters` shows `SYNCED False`.
    /// ## How to fix
    /// What the message names: most often a router, splitter or HTTP intention for a Service whose protocol is `tcp`, which a
    /// ServiceDefaults with `protocol: http` corrects.
    /// ## False positives
    /// Seconds after an object was made; then the condition turns true.
    /// ## References
    /// <https://developer.hashicorp.com/consul/docs/connect/config-entries>
    ConfigEntryNotSynced {
        code: "CONSUL101", name: "config-entry-not-synced", family: Mesh, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// The group of Consul's objects.
const GROUP: &str = "consul.hashicorp.com";
/// An object this young is not judged, in seconds.
const YOUNG_S: i64 = 30;

/// An entry that the servers refused.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    condition: Condition,
    service: Option<ServiceName>,
}

impl Check for ConfigEntryNotSynced {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let young = |object: &Object| {
            object.created.is_some_and(|at| snapshot.now.as_second() - at.as_second() < YOUNG_S)
        };
        let own =
            snapshot.objects.iter().filter(|object| object.reference.group() == GROUP && !young(object));
        own.filter_map(|object| {
            let all = conditions(object.body.list("status.conditions"));
            let condition = all.into_iter().find(|c| c.kind == "Synced" && c.status == "False")?;
            let name = object.body.text("spec.destination.name").unwrap_or(object.name());
            let service = ServiceName::new(object.namespace(), name);
            let service = snapshot.service(&service).map(|_| service);
            Some(Fact { object, condition, service })
        })
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let object = &fact.object.reference;
        let reason = text::plain(&fact.condition.reason, 60);
        let protocol = fact.condition.message.contains("does not permit advanced routing")
            || fact.condition.message.contains("protocol");
        let hint = if protocol {
            " The message is about the protocol: a ServiceDefaults with protocol http makes routes and HTTP permissions possible."
        } else {
            ""
        };
        Finding::new(Self::META, object.field("spec"), &[])
            .title(format!("{object} is not in force: Consul's servers refused it ({reason})"))
            .message(format!("The condition Synced of {object} is false since the servers refused it ({reason}): they go on with what they had before.{hint}"))
            .mechanism(if protocol { "config entry refused: protocol mismatch" } else { "config entry not synced" })
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(fact.service.clone())
            .onset(fact.condition.since)
            .evidence(Evidence::object(object, format!("Synced False, {reason}")).at(fact.condition.since).excerpt(&fact.condition.message))
            .effects(fact.service.iter().map(|service| Effect::requests(service, &["rbac", "NR", "404", "403", "UPE"])))
            .maybe_remedy(if protocol { speak_http(fact, snapshot) } else { whole_weights(fact) })
            .remedy(Remedy::commands(
                "Read the servers' reason, and correct the field that it names",
                vec![format!("kubectl {}get {} {} -o yaml", scope(object), object.kind.to_ascii_lowercase(), quote(&object.name))],
                vec![],
            ))
            .prevention(Prevention::of("Test", "Wait for the condition Synced after each apply: kubectl wait --for=condition=Synced"))
    }
}

/// Lets the Service's protocol be HTTP, which routes and HTTP permissions need.
fn speak_http(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let routes = matches!(
        fact.object.reference.kind.as_str(),
        "ServiceRouter" | "ServiceSplitter" | "ServiceIntentions"
    );
    // Which protocol a Service really speaks is known where its port says so, or where its own name stands alone.
    let (namespace, name) = (
        fact.object.namespace(),
        fact.object.body.text("spec.destination.name").unwrap_or(fact.object.name()),
    );
    let known = snapshot.object("ServiceDefaults", namespace, name);
    let bytes = |protocol: Option<&str>| matches!(protocol, None | Some("tcp"));
    if !routes || name == "*" || known.is_some_and(|object| !bytes(object.body.text("spec.protocol"))) {
        return None;
    }
    let summary = format!(
        "Set protocol of ServiceDefaults {namespace}/{name} to http (grpc or http2 where the service speaks that)"
    );
    if let Some(defaults) = known {
        let op = if defaults.body.at("spec.protocol").is_some() { "replace" } else { "add" };
        let remedy = Remedy::patch(
            defaults,
            &json!([{"op": op, "path": "/spec/protocol", "value": "http"}]),
            summary,
        )?;
        return Some(remedy.risk(Risk::Medium));
    }
    let body = json!({
        "apiVersion": "consul.hashicorp.com/v1alpha1", "kind": "ServiceDefaults",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"protocol": "http"}
    });
    Some(Remedy::create(vec![body], summary).risk(Risk::Medium))
}

/// Lets the weights of a splitter sum up to 100 by its last one.
fn whole_weights(fact: &Fact<'_>) -> Option<Remedy> {
    let splits = fact.object.body.list("spec.splits");
    let weights: Vec<f64> = splits.iter().map(|split| split.number("weight").unwrap_or(0.0)).collect();
    let (last, others) = weights.split_last()?;
    let rest = 100.0 - others.iter().sum::<f64>();
    if fact.object.reference.kind != "ServiceSplitter" || rest < 0.0 || (rest - last).abs() < 0.001 {
        return None;
    }
    let rest = (rest * 100.0).round() / 100.0;
    let value = if rest.fract() == 0.0 { json!(rest as i64) } else { json!(rest) };
    Remedy::patch(
        fact.object,
        &json!([{"op": "replace", "path": format!("/spec/splits/{}/weight", others.len()), "value": value}]),
        format!("Set the last weight to {rest}, so that all of them sum up to 100"),
    )
}
