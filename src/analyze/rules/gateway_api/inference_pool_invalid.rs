//! GWAPI114.

use super::fault::{Fault, set};
use super::prelude::*;

crate::rule! {
    /// An InferencePool whose endpoint picker is not there, or whose routes are not attached.
    ///
    /// ## What it detects
    /// An `endpointPickerRef` (`extensionRef` in older versions) that is no Service, whose Service does not exist or has not
    /// the port; and a pool all of whose HTTPRoutes are refused by their parents.
    /// ## Why it matters
    /// The proxy asks the picker for every request which model server takes it: without it requests fail, unless
    /// `failureMode` lets them pass unpicked.
    /// ## Evidence
    /// The reference against Services and their ports; the routes that name the pool.
    /// ## How to confirm
    /// `kubectl describe inferencepools NAME` shows `ResolvedRefs=False` with `InvalidExtensionRef`, or `Accepted=False` with
    /// `HTTPRouteNotAccepted`.
    /// ## How to fix
    /// Name the picker's Service and its port; correct the route's parentRef.
    /// ## False positives
    /// A pool that no route names is not reported.
    /// ## References
    /// <https://gateway-api-inference-extension.sigs.k8s.io/api-types/inferencepool/>
    InferencePoolInvalid {
        code: "GWAPI114", name: "inference-pool-invalid", family: Gateway, severity: Warning,
        needs: [Objects], aliases: ["IST0171"],
    }
}

const NO_PICKER: &str =
    "No model server is picked: requests to the pool fail, or pass unpicked where failureMode allows it.";

impl Check for InferencePoolInvalid {
    type Fact<'a> = Fault<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fault<'a>> {
        let pools: Vec<&Object> =
            snapshot.objects_of("InferencePool").filter(|o| seen::configured(o.namespace())).collect();
        if pools.is_empty() {
            return vec![];
        }
        let mut out: Vec<Fault<'a>> = pools.iter().filter_map(|pool| picker(snapshot, pool)).collect();
        let tried = attach::tried(snapshot);
        for pool in pools {
            let names = |tried: &&Tried<'_>| {
                tried.route.backends.iter().any(|b| {
                    b.kind == "InferencePool" && b.namespace == pool.namespace() && b.name == pool.name()
                })
            };
            let own: Vec<&Tried<'_>> = tried.iter().filter(names).collect();
            let open = own.iter().any(|t| matches!(t.result, Attachment::Accepted | Attachment::Unknown));
            let Some(first) = own.first().filter(|_| !open) else { continue };
            let why = format!(
                "{}, which sends requests to it, is not accepted by its parents",
                first.route.reference()
            );
            out.push(
                Fault::new(pool, "spec", "HTTPRouteNotAccepted", why)
                    .means("No gateway sends it requests.", "InferencePool without an accepted HTTPRoute")
                    .with(Some(first.route.reference().field(&first.parent.path))),
            );
        }
        out
    }

    fn describe(&self, fact: &Fault<'_>, _: &Snapshot) -> Finding {
        fact.finding(Self::META)
    }
}

/// What is wrong with the reference to the picker.
fn picker<'a>(snapshot: &Snapshot, pool: &'a Object) -> Option<Fault<'a>> {
    let base =
        ["spec.endpointPickerRef", "spec.extensionRef"].into_iter().find(|p| pool.body.at(p).is_some())?;
    let entry = pool.body.at(base)?;
    let bad = |field: &str, why: String| {
        Fault::new(pool, format!("{base}.{field}"), "InvalidExtensionRef", why)
            .means(NO_PICKER, "InferencePool endpoint picker not found")
    };
    let (kind, group) = (entry.text("kind").unwrap_or("Service"), entry.string("group"));
    if kind != "Service" || !(group.is_empty() || group == "core") {
        return Some(bad(
            "kind",
            format!("its endpoint picker is a {kind}; a Service is what the proxy can ask"),
        ));
    }
    let name = entry.string("name");
    let Some(service) = snapshot.service(&ServiceName::new(pool.namespace(), &name)) else {
        let beside = snapshot.services.iter().filter(|s| s.object.namespace() == pool.namespace());
        let near = nearest(&name, beside.map(|s| s.object.name()));
        let fix = near.and_then(|near| {
            set(pool, &format!("{base}.name"), json!(near), format!("Name Service {near}, which exists"))
        });
        let why = format!("its endpoint picker, Service {}/{name}, does not exist", pool.namespace());
        let known = attach::knows_namespace(snapshot, pool.namespace()) || !snapshot.runs();
        return known.then(|| bad("name", why).fix(fix));
    };
    let field = if entry.at("port").is_some() { "port.number" } else { "portNumber" };
    let port = entry.int("port.number").or_else(|| entry.int("portNumber"))?;
    if service.port(port).is_some() {
        return None;
    }
    let ports = service.ports.iter().map(|p| p.number.to_string()).collect::<Vec<_>>().join(", ");
    let only = service.ports.first().filter(|_| service.ports.len() == 1);
    let fix = only.and_then(|p| {
        set(
            pool,
            &format!("{base}.{field}"),
            json!(p.number),
            format!("Set the picker's port to {}", p.number),
        )
    });
    let why = format!("its endpoint picker, {}, has no port {port}; it has {ports}", service.reference());
    Some(bad(field, why).fix(fix))
}
