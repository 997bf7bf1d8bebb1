//! GWAPI109.

use super::authorities::{self, Bad, Trust};
use super::fault::{Fault, set};
use super::prelude::*;

crate::rule! {
    /// A certificate of an authority, which connections are to be verified with, cannot be used.
    ///
    /// ## What it detects
    /// A `caCertificateRef` of a BackendTLSPolicy, of an XBackend or of a Gateway (`tls.frontend`) that names a kind which
    /// holds no certificate, an object that does not exist, one without the key `ca.crt`, or one in another namespace without
    /// a ReferenceGrant; `wellKnownCACertificates` with a value that nobody knows; and a Gateway's own client certificate
    /// (`tls.backend.clientCertificateRef`) of a wrong kind or without a grant.
    /// ## Why it matters
    /// Without one valid authority nothing can be verified: requests to such a backend are answered with 5xx, a listener with
    /// such a validation accepts no connection.
    /// ## Evidence
    /// The reference against the ConfigMap and its keys.
    /// ## How to confirm
    /// `kubectl describe` shows `Accepted=False` with `NoValidCACertificate`, or `ResolvedRefs=False` with
    /// `InvalidCACertificateRef`, `InvalidCACertificateKind`, `InvalidKind` or `RefNotPermitted`.
    /// ## How to fix
    /// Name a ConfigMap that holds the authority's certificate under the key `ca.crt`.
    /// ## False positives
    /// Secrets are missed only where some Secret was read; ConfigMaps only where their namespace was.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/api-types/backendtlspolicy/>
    AuthorityInvalid {
        code: "GWAPI109", name: "authority-invalid", family: Gateway, severity: Warning,
        needs: [Objects], aliases: ["IST0171"],
    }
}

const BACKEND: &str =
    "The proxy has nothing to verify the backend with: with no other authority it answers requests with 5xx.";
const FRONTEND: &str =
    "The listeners that verify clients with it are not programmed where it is their only authority.";
const MECHANISM: &str = "CA certificate reference invalid: NoValidCACertificate";

impl Check for AuthorityInvalid {
    type Fact<'a> = Fault<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fault<'a>> {
        let mut out = vec![];
        for trust in authorities::all(snapshot) {
            for (index, entry) in trust.refs.iter().enumerate() {
                if let Some(bad) = authorities::look(snapshot, &trust, entry) {
                    out.push(invalid(snapshot, &trust, index, bad));
                }
            }
        }
        for kind in ["BackendTLSPolicy", "XBackend"] {
            let place = if kind == "XBackend" { "spec.tls.validation" } else { "spec.validation" };
            let path = format!("{place}.wellKnownCACertificates");
            for object in snapshot.objects_of(kind).filter(|o| seen::configured(o.namespace())) {
                // Values of an implementation carry its domain; Istio has none of its own.
                let others = |value: &str| value.contains('/') && !snapshot.istio.present;
                let value = object.body.text(&path).filter(|value| *value != "System" && !others(value));
                out.extend(value.map(|value| {
                    let why = format!("wellKnownCACertificates is {value}; System is the one that is known");
                    Fault::new(object, path.clone(), "Invalid", why)
                        .means(BACKEND, MECHANISM)
                        .hits(behind(snapshot, object), &["tls", "5xx"])
                        .fix(set(object, &path, json!("System"), "Set wellKnownCACertificates to System"))
                }));
            }
        }
        for gateway in &snapshot.gateway_api.gateways {
            out.extend(client_certificate(snapshot, &gateway.object));
        }
        out
    }

    fn describe(&self, fact: &Fault<'_>, _: &Snapshot) -> Finding {
        fact.finding(Self::META)
    }
}

/// The Services that a policy is for.
fn behind(snapshot: &Snapshot, policy: &Object) -> Vec<ServiceName> {
    let targets = super::targets::of(policy).into_iter().filter(|t| t.kind == "Service");
    let names = targets.map(|t| ServiceName::new(t.namespace, t.name));
    names.filter(|name| snapshot.service(name).is_some()).collect()
}

fn invalid<'a>(snapshot: &Snapshot, trust: &Trust<'a>, index: usize, bad: Bad) -> Fault<'a> {
    let path = format!("{}[{index}].{}", trust.path, bad.field);
    let at = match trust.listeners.as_slice() {
        [] => String::new(),
        some => format!(" (verifies clients of listener {})", some.join(", ")),
    };
    let beside = snapshot.objects_of("ConfigMap").filter(|o| o.namespace() == trust.object.namespace());
    let near =
        (bad.field == "name").then(|| nearest(&bad.to.name, beside.map(Object::name))).flatten().and_then(
            |name| set(trust.object, &path, json!(name), format!("Name ConfigMap {name}, which exists")),
        );
    Fault::new(trust.object, path, bad.reason, format!("{}{at}", bad.why))
        .means(if trust.across { FRONTEND } else { BACKEND }, MECHANISM)
        .hits(behind(snapshot, trust.object), &["tls", "5xx"])
        .with(Some(bad.to))
        .fix(near)
}

/// A Gateway's own certificate towards backends: a Secret, in its namespace or granted.
fn client_certificate<'a>(snapshot: &Snapshot, gateway: &'a Object) -> Option<Fault<'a>> {
    let base = "spec.tls.backend.clientCertificateRef";
    let entry = gateway.body.at(base).filter(|_| seen::configured(gateway.namespace()))?;
    let (kind, group) = (entry.text("kind").unwrap_or("Secret"), entry.string("group"));
    let namespace = entry.text("namespace").unwrap_or(gateway.namespace());
    let to = ObjectRef::new(kind, namespace, entry.string("name"));
    let (field, reason, why) = if kind != "Secret" || !(group.is_empty() || group == "core") {
        (
            "kind",
            "InvalidClientCertificateRef",
            format!("{kind} {} is of a kind that holds no client certificate; Secret does", to.name),
        )
    } else if !super::grants::unread(snapshot)
        && !super::grants::granted(snapshot, &gateway.reference, &group, &to)
    {
        (
            "namespace",
            "RefNotPermitted",
            format!("{to} is in another namespace, and no ReferenceGrant there admits it"),
        )
    } else if snapshot.knows_kind("Secret") && snapshot.object("Secret", namespace, &to.name).is_none() {
        ("name", "InvalidClientCertificateRef", format!("{to} does not exist"))
    } else {
        let (flaw, _) = snapshot.object("Secret", namespace, &to.name).and_then(super::secrets::flaw)?;
        ("name", "InvalidClientCertificateRef", format!("{to} {flaw}"))
    };
    Some(
        Fault::new(gateway, format!("{base}.{field}"), reason, why)
            .means(
                "The Gateway shows backends no certificate of its own: those that ask for one refuse it.",
                "client certificate of a Gateway invalid",
            )
            .with(Some(to)),
    )
}
