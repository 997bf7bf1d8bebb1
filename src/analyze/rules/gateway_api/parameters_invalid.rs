//! GWAPI110.

use super::classes;
use super::fault::Fault;
use super::prelude::*;
use crate::analyze::rules::istio::hosts::unread;

crate::rule! {
    /// A Gateway of a class that nobody implements, or with parameters that its controller cannot read.
    ///
    /// ## What it detects
    /// A `gatewayClassName` for which no GatewayClass exists; `infrastructure.parametersRef` of a Gateway of Istio's that is no
    /// ConfigMap; and a `parametersRef` of a Gateway or a GatewayClass to a ConfigMap that does not exist.
    /// ## Why it matters
    /// No controller serves such a Gateway: it gets no address, and no route that names it works.
    /// ## Evidence
    /// The class or the reference against the objects that exist.
    /// ## How to confirm
    /// `kubectl describe gateways.gateway.networking.k8s.io NAME` shows `Accepted=False` with `InvalidParameters`, or no
    /// condition at all where no controller feels addressed.
    /// ## How to fix
    /// Name an existing class or ConfigMap, or leave the parameters out.
    /// ## False positives
    /// Classes are missed only where some GatewayClass was read; Istio's own classes need no object.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#gatewayinfrastructure>
    ParametersInvalid {
        code: "GWAPI110", name: "parameters-invalid", family: Gateway, severity: Warning,
        needs: [Objects], aliases: ["IST0171", "KIA1504"],
    }
}

const NOT_SERVED: &str = "The controller does not accept it, and routes that name it are not served.";

impl Check for ParametersInvalid {
    type Fact<'a> = Fault<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fault<'a>> {
        let mut out = vec![];
        for gateway in snapshot.gateway_api.gateways.iter().filter(|g| seen::configured(g.object.namespace()))
        {
            let object = &gateway.object;
            out.extend(class_unknown(snapshot, gateway));
            let istios = classes::is_istios(snapshot, gateway);
            out.extend(parameters(snapshot, object, "spec.infrastructure.parametersRef", istios));
        }
        for class in snapshot.objects_of("GatewayClass") {
            let istios = classes::is_istios_class(snapshot, class.name());
            out.extend(parameters(snapshot, class, "spec.parametersRef", istios));
        }
        out
    }

    fn describe(&self, fact: &Fault<'_>, _: &Snapshot) -> Finding {
        fact.finding(Self::META)
    }
}

fn class_unknown<'a>(snapshot: &Snapshot, gateway: &'a Gateway) -> Option<Fault<'a>> {
    let class = gateway.class.as_str();
    if classes::ISTIO_CLASSES.contains(&class)
        || !snapshot.knows_kind("GatewayClass")
        || snapshot.object("GatewayClass", "", class).is_some()
        || answered(snapshot, gateway)
    {
        return None;
    }
    let near = nearest(class, snapshot.objects_of("GatewayClass").map(Object::name));
    // Manifests need not hold the classes of the cluster that they are meant for.
    if near.is_none() && !snapshot.runs() {
        return None;
    }
    let hint = near.map(|name| format!("; {name} was probably meant")).unwrap_or_default();
    let path = "spec.gatewayClassName";
    let fix = near.and_then(|name| {
        super::fault::set(&gateway.object, path, json!(name), format!("Set gatewayClassName to {name}"))
    });
    let why = format!("GatewayClass {class} does not exist{hint}");
    let mut fault = Fault::new(&gateway.object, path, "Pending", why)
        .means("No controller feels addressed: the Gateway waits for ever.", "gateway class not found")
        .fix(fix);
    // It was served before, and is not any more.
    if !gateway.object.body.list("status.conditions").is_empty() {
        fault.severity = Severity::Error;
    }
    Some(fault)
}

/// Whether a controller has answered to a Gateway as it is now: it knows the class. An answer to what the Gateway was before says
/// nothing of it, and stays for ever where the class is nobody's.
fn answered(snapshot: &Snapshot, gateway: &Gateway) -> bool {
    let body = &gateway.object.body;
    let seen = body.list("status.conditions").iter().filter_map(|c| c.int("observedGeneration")).max();
    match (body.int("metadata.generation"), seen) {
        (Some(now), Some(seen)) => seen >= now,
        _ => !snapshot.runs() && !body.list("status.listeners").is_empty(),
    }
}

fn parameters<'a>(snapshot: &Snapshot, object: &'a Object, path: &str, istios: bool) -> Option<Fault<'a>> {
    let entry = object.body.at(path)?;
    let (group, kind) = (entry.text("group").unwrap_or_default(), entry.string("kind"));
    let config_map = kind == "ConfigMap" && matches!(group, "" | "core");
    let namespace = entry.text("namespace").unwrap_or(object.namespace());
    let to = ObjectRef::new(&kind, namespace, entry.string("name"));
    let remove = || {
        let operations = json!([{"op": "remove", "path": pointer(path)}]);
        Remedy::patch(object, &operations, "Remove the parametersRef: the defaults hold")
    };
    if !config_map {
        // Other controllers have parameters of kinds of their own.
        let of = if group.is_empty() { String::new() } else { format!(" of group {group}") };
        let why = format!("its parametersRef names {kind}{of}; Istio reads a ConfigMap");
        return istios.then(|| {
            Fault::new(object, format!("{path}.kind"), "InvalidParameters", why)
                .means(NOT_SERVED, "gateway parametersRef invalid")
                .fix(remove())
        });
    }
    let there = namespace.is_empty() || snapshot.object("ConfigMap", namespace, &to.name).is_some();
    let read = !unread(snapshot, "configmaps")
        && (!snapshot.runs() || snapshot.objects_of("ConfigMap").any(|o| o.namespace() == namespace));
    let beside = snapshot.objects_of("ConfigMap").filter(|o| o.namespace() == namespace);
    let near = nearest(&to.name, beside.map(Object::name));
    let name = format!("{path}.name");
    let rename = near.and_then(|near| {
        super::fault::set(object, &name, json!(near), format!("Name ConfigMap {near}, which exists"))
    });
    (!there && read).then(|| {
        Fault::new(object, name, "InvalidParameters", format!("{to}, its parameters, does not exist"))
            .means(NOT_SERVED, "gateway parametersRef invalid")
            .fix(rename)
            .fix(remove())
    })
}
