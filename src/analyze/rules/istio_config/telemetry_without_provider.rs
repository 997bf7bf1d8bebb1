//! ISTIO210.

use crate::model::json::json;

use super::support::of_istio;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Telemetry asks for access logs and names nobody to write them.
    ///
    /// ## What it detects
    /// A Telemetry with `accessLogging` that is not disabled and has no provider, while the mesh has no default
    /// provider for access logs; and a provider's name that MeshConfig does not define.
    /// ## Why it matters
    /// No log is written, and nobody notices until the logs are needed.
    /// ## Evidence
    /// The Telemetry and the providers that MeshConfig has.
    /// ## How to confirm
    /// `kubectl logs POD -c istio-proxy` shows no requests.
    /// ## How to fix
    /// Name a provider: `envoy` writes to the proxy's own log and is always there.
    /// ## False positives
    /// MeshConfig was not part of what was read: then only a missing name is said, not an unknown one.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/observability/logs/telemetry-api/>
    TelemetryWithoutProvider {
        code: "ISTIO210", name: "telemetry-without-provider", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0157"],
    }
}

/// Providers that every mesh has.
const BUILT_IN: &[&str] = &["envoy", "prometheus", "stackdriver"];

/// Access logging that goes nowhere.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    index: usize,
    /// The provider that nobody defines; `None` where none is named.
    unknown: Option<&'a str>,
}

impl Check for TelemetryWithoutProvider {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mesh = &snapshot.istio.mesh_config;
        let by_default = !mesh.list("defaultProviders.accessLogging").is_empty();
        let defined: Vec<&str> =
            mesh.list("extensionProviders").iter().filter_map(|p| p.text("name")).collect();
        let mut out = vec![];
        for object in of_istio(snapshot, "Telemetry") {
            for (index, logging) in object.body.list("spec.accessLogging").iter().enumerate() {
                if logging.flag("disabled") {
                    continue;
                }
                let providers = logging.list("providers");
                let unknown = providers
                    .iter()
                    .filter_map(|provider| provider.text("name"))
                    .find(|name| !BUILT_IN.contains(name) && !defined.contains(name) && !defined.is_empty());
                if unknown.is_some() || (providers.is_empty() && !by_default) {
                    out.push(Fact { object, index, unknown });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(format!("spec.accessLogging[{}].providers", fact.index));
        let what = match fact.unknown {
            Some(name) => {
                format!("names provider {}, which MeshConfig does not define", text::plain(name, 40))
            }
            None => "names no provider, and the mesh has none by default".to_owned(),
        };
        let path = format!("/spec/accessLogging/{}/providers", fact.index);
        let operations = json!([{"op": "add", "path": path, "value": [{"name": "envoy"}]}]);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} {what}: no access log is written"))
            .message(format!("{own} turns access logs on and {what}. Istio leaves it out."))
            .mechanism("access logs without provider")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, what))
            .maybe_remedy(Remedy::patch(fact.object, &operations, "Write to the proxy's own log"))
            .prevention(Prevention::of(
                "Test",
                "After each change ask once for a path, and look for it in the proxy's log",
            ))
    }
}
