//! ISTIO207.

use crate::model::json::{Value, json};

use super::support::of_istio;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A DestinationRule begins TLS and names nobody by whom the server's certificate is checked.
    ///
    /// ## What it detects
    /// TLS mode `SIMPLE` or `MUTUAL`, for the whole host, a port or a subset, without `caCertificates`, without a
    /// credential and without `insecureSkipVerify`.
    /// ## Why it matters
    /// Istio up to 1.20 then checks nothing, and anybody on the way can answer. Later ones fall back on the system's
    /// authorities, which refuses a server with a private certificate: 503 with CERTIFICATE_VERIFY_FAILED.
    /// ## Evidence
    /// The TLS settings.
    /// ## How to confirm
    /// `istioctl proxy-config cluster POD --fqdn HOST -o json` shows `trusted_ca` or its absence.
    /// ## How to fix
    /// Name the authority in `caCertificates` (a file in the proxy, or `system` for the public ones) or in a
    /// credential.
    /// ## False positives
    /// A public host with a current Istio: the system's authorities are right for it.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#ClientTLSSettings>
    ServerCertificateNotChecked {
        code: "ISTIO207", name: "server-certificate-not-checked", family: Mesh, severity: Info,
        needs: [Istio], aliases: ["IST0128", "IST0129"],
    }
}

/// TLS settings without an authority.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// `spec.trafficPolicy.tls`.
    path: String,
    mode: &'a str,
    port: Option<i64>,
}

impl Check for ServerCertificateNotChecked {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for object in of_istio(snapshot, "DestinationRule") {
            policies(object, "spec.trafficPolicy".into(), object.body.at("spec.trafficPolicy"), &mut out);
            for (index, subset) in object.body.list("spec.subsets").iter().enumerate() {
                let path = format!("spec.subsets[{index}].trafficPolicy");
                policies(object, path, subset.at("trafficPolicy"), &mut out);
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let host = text::plain(&fact.object.body.string("spec.host"), 60);
        let at = fact.port.map(|port| format!(" port {port}")).unwrap_or_default();
        let subject = own.field(format!("{}.caCertificates", fact.path));
        let path = format!("{}/caCertificates", pointer(&fact.path));
        let operations = json!([{"op": "add", "path": path, "value": "system"}]);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} begins TLS to {host}{at} and names no authority for its certificate"))
            .message(format!(
                "TLS mode {} without caCertificates: proxies before Istio 1.21 accept any certificate of {host}{at}, later ones only those of public authorities.",
                fact.mode
            ))
            .mechanism("TLS origination without server verification")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&own.field(&fact.path), format!("mode {}, no caCertificates, no credentialName", fact.mode)))
            .maybe_remedy(Remedy::patch(fact.object, &operations, "Check by the system's authorities; for a private one name its file or Secret"))
            .prevention(Prevention::of("Policy", "An admission policy that asks for caCertificates or credentialName beside TLS mode SIMPLE or MUTUAL"))
    }
}

fn policies<'a>(object: &'a Object, path: String, policy: Option<&'a Value>, out: &mut Vec<Fact<'a>>) {
    let Some(policy) = policy else { return };
    out.extend(unchecked(object, format!("{path}.tls"), policy.at("tls"), None));
    for (index, entry) in policy.list("portLevelSettings").iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{index}].tls");
        out.extend(unchecked(object, path, entry.at("tls"), entry.int("port.number")));
    }
}

fn unchecked<'a>(
    object: &'a Object,
    path: String,
    tls: Option<&'a Value>,
    port: Option<i64>,
) -> Option<Fact<'a>> {
    let tls = tls?;
    let mode = tls.text("mode").filter(|mode| matches!(*mode, "SIMPLE" | "MUTUAL"))?;
    let given = |field: &str| tls.text(field).is_some_and(|value| !value.is_empty());
    let told = given("caCertificates") || given("credentialName") || tls.at("insecureSkipVerify").is_some();
    (!told).then_some(Fact { object, path, mode, port })
}
