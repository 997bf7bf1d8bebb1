//! GWAPI116.

use super::prelude::*;

crate::rule! {
    /// A Gateway asks clients for a certificate and takes those without a valid one as well.
    ///
    /// ## What it detects
    /// `mode: AllowInsecureFallback` in the frontend validation of a Gateway (`spec.tls.frontend`).
    /// ## Why it matters
    /// Whoever has no certificate, or one that nobody signed, reaches the backends: only they can tell.
    /// ## Evidence
    /// The field.
    /// ## How to confirm
    /// `kubectl describe` shows the Gateway's condition `InsecureFrontendValidationMode=True`.
    /// ## How to fix
    /// Remove the mode, or set it to `AllowValidOnly`, once all clients have certificates.
    /// ## False positives
    /// During a migration it is meant that way: it is a note, not an error.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/geps/gep-91/>
    ClientsNotVerified {
        code: "GWAPI116", name: "clients-not-verified", family: Gateway, severity: Info,
        needs: [Objects, GatewayApi], aliases: [],
    }
}

/// A Gateway, and where the mode stands.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
}

impl Check for ClientsNotVerified {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for gateway in snapshot.gateway_api.gateways.iter().filter(|g| seen::configured(g.object.namespace()))
        {
            let object = &gateway.object;
            let ports = object.body.list("spec.tls.frontend.perPort").iter().enumerate();
            let ports = ports.map(|(index, entry)| {
                (
                    format!("spec.tls.frontend.perPort[{index}].tls.validation.mode"),
                    entry.text("tls.validation.mode"),
                )
            });
            let default = "spec.tls.frontend.default.validation.mode";
            let all = std::iter::once((default.to_owned(), object.body.text(default))).chain(ports);
            let open = all.filter(|(_, mode)| *mode == Some("AllowInsecureFallback"));
            out.extend(open.map(|(path, _)| Fact { object, path }));
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let reference = &fact.object.reference;
        let subject = reference.field(&fact.path);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{reference} lets clients in without a valid certificate"))
            .message(format!(
                "{} of {reference} is AllowInsecureFallback: clients are asked for a certificate, and those without a valid one are let in.",
                fact.path
            ))
            .mechanism("insecure frontend validation: client certificates are optional")
            .severity(Severity::Info)
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, "AllowInsecureFallback"))
            .maybe_remedy(super::fault::set(fact.object, &fact.path, json!("AllowValidOnly"), "Set the mode to AllowValidOnly, once all clients have certificates"))
            .prevention(Prevention::of("Policy", "An admission policy that refuses AllowInsecureFallback"))
    }
}
