//! ISTIO219.

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A definition of the Gateway API is too old for Istio to read its objects.
    ///
    /// ## What it detects
    /// CustomResourceDefinitions of BackendTLSPolicy before bundle version 1.4, GRPCRoute before 1.1 and TLSRoute
    /// before 1.5.
    /// ## Why it matters
    /// Istio skips the kind without a word: routes attach to nothing, listeners are not programmed, and no status
    /// says why.
    /// ## Evidence
    /// The annotation `gateway.networking.k8s.io/bundle-version` of the definition.
    /// ## How to confirm
    /// istiod logs which definitions it ignores.
    /// ## How to fix
    /// Install the definitions of a newer release of the Gateway API.
    /// ## False positives
    /// A control plane before Istio 1.30 reads older definitions of some kinds.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/ingress/gateway-api/>
    DefinitionTooOld {
        code: "ISTIO219", name: "definition-too-old", family: Mesh, severity: Warning,
        needs: [Objects], aliases: ["IST0176"],
    }
}

const VERSION: &str = "gateway.networking.k8s.io/bundle-version";

/// Definitions, the kind of each, and the oldest release in whose form Istio reads it.
const OLDEST: &[(&str, &str, (u64, u64))] = &[
    ("backendtlspolicies.gateway.networking.k8s.io", "BackendTLSPolicy", (1, 4)),
    ("grpcroutes.gateway.networking.k8s.io", "GRPCRoute", (1, 1)),
    ("tlsroutes.gateway.networking.k8s.io", "TLSRoute", (1, 5)),
];

/// A definition that is too old.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    kind: &'static str,
    installed: (u64, u64),
    oldest: (u64, u64),
    /// Objects of the kind that were seen.
    objects: usize,
}

impl Check for DefinitionTooOld {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if !snapshot.istio.present {
            return vec![];
        }
        snapshot
            .objects_of("CustomResourceDefinition")
            .filter_map(|object| {
                let (_, kind, oldest) = OLDEST.iter().find(|(name, ..)| *name == object.name())?;
                let installed = minor(object.annotations.get(VERSION)?)?;
                let objects = snapshot.objects_of(kind).count();
                (installed < *oldest).then_some(Fact { object, kind, installed, oldest: *oldest, objects })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let (kind, (major, minor)) = (fact.kind, fact.oldest);
        let (had_major, had_minor) = fact.installed;
        let subject = own.field(format!("metadata.annotations[{VERSION}]"));
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("Istio skips every {kind}: its definition is of Gateway API {had_major}.{had_minor}, Istio needs {major}.{minor}"))
            .message(format!(
                "Istio reads kind {kind} in the form of Gateway API {major}.{minor} and leaves older definitions out. Objects of this kind have no effect; {} were seen.",
                fact.objects
            ))
            .mechanism("Gateway API definitions too old")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("bundle version {had_major}.{had_minor}, {} objects", fact.objects)))
            .remedy(Remedy::manual(format!(
                "Install the definitions of Gateway API {major}.{minor} or newer, of the channel (standard or experimental) that is installed now"
            )))
            .prevention(Prevention::of("Test", "Upgrade the definitions of the Gateway API before Istio"))
    }
}

/// Major and minor version of `v1.4.0-rc.1`.
fn minor(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
