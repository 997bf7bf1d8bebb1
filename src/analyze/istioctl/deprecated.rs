//! Fields and kinds that are on their way out.

use super::context::{Context, DEFINITION, SIDECAR, TELEMETRY, VIRTUAL_SERVICE};
use super::message::Messages;
use crate::model::fields::Fields;

/// Kinds of `rbac.istio.io` that went with Istio 1.6.
const REMOVED: &[&str] = &["ClusterRbacConfig", "RbacConfig", "ServiceRole", "ServiceRoleBinding"];

/// IST0002.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for service in context.all(VIRTUAL_SERVICE) {
        let percent = |route: &crate::model::json::Value| {
            route.int("fault.delay.percent").is_some_and(|percent| percent > 0)
        };
        if service.body.list("spec.http").iter().any(percent) {
            let text = "http[].fault.delay.percent is deprecated: percentage takes its place";
            out.push("IST0002", service, "", text);
        }
    }
    for sidecar in context.all(SIDECAR) {
        if sidecar.body.at("spec.outboundTrafficPolicy.egressProxy").is_some() {
            out.push("IST0002", sidecar, "", "outboundTrafficPolicy.egressProxy is ignored");
        }
    }
    for definition in context.all(DEFINITION) {
        let kind = definition.body.string("spec.names.kind");
        if definition.body.text("spec.group") == Some("rbac.istio.io") && REMOVED.contains(&kind.as_str()) {
            out.push(
                "IST0002",
                definition,
                "",
                format!("kind {kind} of rbac.istio.io was removed from Istio"),
            );
        }
    }
    lightstep(context, out);
}

/// The tracing provider that went into OpenTelemetry.
fn lightstep(context: &Context<'_>, out: &mut Messages) {
    let providers = context.istio().mesh_config.list("extensionProviders").iter();
    let retired: Vec<String> = providers
        .filter(|provider| provider.at("lightstep").is_some())
        .map(|provider| provider.string("name"))
        .collect();
    for telemetry in context.all(TELEMETRY) {
        let tracing = telemetry.body.list("spec.tracing").iter();
        for provider in tracing.flat_map(|tracing| tracing.list("providers")) {
            let name = provider.string("name");
            if retired.contains(&name) {
                let text = format!(
                    "provider {name} is a Lightstep one, which is deprecated: OpenTelemetry takes its place"
                );
                out.push("IST0002", telemetry, "", text);
            }
        }
    }
}
