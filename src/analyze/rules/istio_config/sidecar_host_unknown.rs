//! ISTIO232.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts::{Hosts, unread};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Sidecar lets through a host that does not exist.
    ///
    /// ## What it detects
    /// Entries of `egress.hosts` with a namespace and a host, both without a wildcard, that are no Service and no
    /// ServiceEntry of that namespace, and that no VirtualService of it speaks for, where Services of it were seen.
    /// ## Why it matters
    /// A Sidecar takes everything away that it does not list. The host that was meant is not reachable by its name:
    /// requests get 502 or go out in plain text.
    /// ## Evidence
    /// The entry, and the host that is nearly called so.
    /// ## How to confirm
    /// `istioctl proxy-config clusters POD` does not list the host.
    /// ## How to fix
    /// Write NAMESPACE/NAME.NAMESPACE.svc.cluster.local of a Service that exists.
    /// ## False positives
    /// A host that is created later.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/sidecar/#IstioEgressListener>
    SidecarHostUnknown {
        code: "ISTIO232", name: "sidecar-host-unknown", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA1004"],
    }
}

/// An entry for a host that is not there.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    scope: &'a str,
    host: &'a str,
    near: Option<String>,
}

impl Check for SidecarHostUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if unread(snapshot, "serviceentries") {
            return vec![];
        }
        let hosts = Hosts::new(snapshot);
        let mut out = vec![];
        for sidecar in snapshot.istio.sidecars.iter().filter(|s| snapshot.in_scope(s.object.namespace())) {
            let own = &sidecar.object;
            for (listener, entry) in own.body.list("spec.egress").iter().enumerate() {
                for (at, written) in entry.list("hosts").iter().enumerate() {
                    let Some((scope, host)) = written.as_str().and_then(|written| written.split_once('/'))
                    else {
                        continue;
                    };
                    let namespace = if scope == "." { own.namespace() } else { scope };
                    if matches!(scope, "*" | "~") || host.contains('*') {
                        continue;
                    }
                    let mut routes = snapshot.istio.virtual_services.iter();
                    if !hosts.missing(host, namespace, namespace)
                        || routes.any(|vs| vs.object.namespace() == namespace && vs.covers(host))
                    {
                        continue;
                    }
                    let near = hosts.near(host, namespace);
                    let path = format!("spec.egress[{listener}].hosts[{at}]");
                    out.push(Fact { object: own, path, scope, host, near });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(&fact.path);
        let host = text::plain(fact.host, 80);
        let fix = fact.near.as_ref().and_then(|near| {
            let operations = json!([{"op": "replace", "path": pointer(&fact.path), "value": format!("{}/{near}", fact.scope)}]);
            Remedy::patch(fact.object, &operations, format!("Name host {}", text::plain(near, 80)))
        });
        Finding::new(Self::META, subject.clone(), &[&host])
            .title(format!("{own} lists host {host}, which does not exist"))
            .message(format!(
                "No Service and no ServiceEntry is called {host}. What {own} does not list, its pods do not know: if another host was meant, it is out of reach."
            ))
            .mechanism("Sidecar with an unknown host")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("lists {host}")))
            .maybe_remedy(fix)
            .remedy(Remedy::manual("Name a host that exists, or remove the entry"))
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}
