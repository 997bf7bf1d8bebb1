//! GWAPI102.

use super::attach::GROUP;
use super::prelude::*;
use super::{grants, listener_sets, references, status};

crate::rule! {
    /// A route or a Gateway refers to an object of another namespace that does not permit it.
    ///
    /// ## What it detects
    /// A `backendRef` of a route, or a certificate of a Gateway's listener, in another namespace, without a ReferenceGrant
    /// there that admits this kind from this namespace.
    /// ## Why it matters
    /// The gateway leaves the backend out and answers its requests with `500`; a listener without its certificate does not
    /// take connections.
    /// ## Evidence
    /// Both namespaces, the ReferenceGrants of the target's namespace, the condition `ResolvedRefs` with `RefNotPermitted`.
    /// ## How to confirm
    /// `kubectl get referencegrants -n TARGET-NAMESPACE -o yaml`
    /// ## How to fix
    /// Make a ReferenceGrant in the namespace of the target, or move the route.
    /// ## False positives
    /// Where ReferenceGrants cannot be read nothing is reported without the route's own status saying so.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/api-types/referencegrant/>
    ReferenceNotGranted {
        code: "GWAPI102", name: "reference-not-granted", family: Gateway, severity: Error,
        needs: [Objects, GatewayApi], aliases: ["IST0171"],
    }
}

/// A reference that nobody permits.
#[derive(Debug)]
pub struct Fact<'a> {
    from: &'a Object,
    path: String,
    to_group: String,
    to: ObjectRef,
    /// Grants of the target's namespace, which do not admit it.
    grants: Vec<&'a Object>,
    route: Option<&'a Route>,
    /// Something before it in the list serves in its place.
    spare: bool,
    /// The status says so too.
    status: Option<&'a Value>,
    seen: Seen,
}

impl Check for ReferenceNotGranted {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        let unread = grants::unread(snapshot);
        for route in &snapshot.gateway_api.routes {
            // Beside clients nobody is asked for leave: a consumer's route concerns the consumer's own requests.
            if !route.parents.is_empty() && route.parents.iter().all(|p| p.kind.starts_with("Service")) {
                continue;
            }
            for backend in references::all(route) {
                let own = route.object.namespace();
                if backend.namespace == own || backend.kind == "Hostname" || !seen::configured(own) {
                    continue;
                }
                let to = ObjectRef::new(&backend.kind, &backend.namespace, &backend.name);
                let status = route.parents.iter().find_map(|parent| {
                    attach::parent_condition(route, parent, "ResolvedRefs").filter(|c| {
                        c.text("status") == Some("False") && c.text("reason") == Some("RefNotPermitted")
                    })
                });
                if grants::granted(snapshot, route.reference(), &backend.group, &to)
                    || (unread && status.is_none())
                {
                    continue;
                }
                out.push(Fact {
                    from: &route.object,
                    path: backend.path.clone(),
                    to_group: backend.group.clone(),
                    grants: grants::of_namespace(snapshot, &to.namespace),
                    to,
                    route: Some(route),
                    spare: false,
                    status,
                    seen: attach::requests(snapshot, route, |o| o.code >= 500 && o.details != "via_upstream"),
                });
            }
        }
        let gateways = snapshot.gateway_api.gateways.iter().map(|gateway| &*gateway.object);
        let sets = listener_sets::KINDS.iter().flat_map(|kind| snapshot.objects_of(kind));
        for object in gateways.chain(sets).filter(|_| !unread) {
            out.extend(certificates(snapshot, object));
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = &fact.from.reference;
        let target = &fact.to;
        let observed = fact.status.is_some() || fact.seen.any();
        let since = fact.status.and_then(|s| s.time("lastTransitionTime"));
        let existing = match fact.grants.as_slice() {
            [] => format!("namespace {} has no ReferenceGrant", target.namespace),
            some => format!(
                "{} do not admit it",
                some.iter().map(|g| g.reference.to_string()).collect::<Vec<_>>().join(", ")
            ),
        };
        let service = fact.route.and_then(|r| attach::service(snapshot, r));
        let mut finding = Finding::new(Self::META, reference.field(&fact.path), &[&target.kind, &target.namespace, &target.name])
            .title(format!("{reference} refers to {target} across namespaces without a ReferenceGrant"))
            .message(format!(
                "{} in namespace {} is referred to from namespace {} at {}, and {existing}. The reference is refused: its requests are answered with an error.",
                target.name, target.namespace, reference.namespace, fact.path
            ))
            .mechanism("ReferenceGrant missing: cross-namespace reference not permitted")
            .severity(if observed || !snapshot.runs() && !fact.spare { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(service)
            .evidence(Evidence::object(&reference.field(&fact.path), format!("refers to {target}; {existing}")))
            .evidences(fact.status.map(|s| {
                Evidence::object(&reference.field("status.parents"), "condition ResolvedRefs is False: RefNotPermitted")
                    .at(since)
                    .excerpt(s.text("message").unwrap_or_default())
            }))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset.or(since))
            .remedy(grant(fact))
            .prevention(Prevention::of("Test", "In the pipeline: every reference to another namespace has its ReferenceGrant (meshscope analyze on the manifests)"));
        if let Some(route) = fact.route {
            finding =
                finding.effects(attach::effects(snapshot, route, &["NC", "5xx", "direct_response", "UH"]));
            let name = ServiceName::new(&target.namespace, &target.name);
            if target.kind == "Service" {
                finding = finding.effect(Effect::requests(&name, &["NC", "5xx", "direct_response", "UH"]));
            }
        }
        finding.related.push(match fact.grants.first() {
            Some(grant) => grant.reference.field("spec"),
            None => ObjectRef {
                api_version: format!("{GROUP}/v1beta1"),
                ..ObjectRef::new("ReferenceGrant", &target.namespace, grant_name(fact))
            }
            .field("spec"),
        });
        finding
    }
}

/// Certificates of a Gateway's or ListenerSet's listeners in other namespaces.
fn certificates<'a>(snapshot: &'a Snapshot, owner: &'a Object) -> Vec<Fact<'a>> {
    let mut out = vec![];
    let own = owner.namespace();
    for listener in attach::listeners(owner) {
        for (index, entry) in listener.body.list("tls.certificateRefs").iter().enumerate() {
            let namespace = entry.text("namespace").unwrap_or(own);
            let to = ObjectRef::new(entry.text("kind").unwrap_or("Secret"), namespace, entry.string("name"));
            let group = entry.string("group");
            if namespace == own
                || !seen::configured(own)
                || grants::granted(snapshot, &owner.reference, &group, &to)
            {
                continue;
            }
            let status = owner
                .body
                .list("status.listeners")
                .iter()
                .filter(|l| l.text("name") == Some(listener.name.as_str()));
            let status = status
                .flat_map(|l| l.list("conditions"))
                .find(|c| c.text("reason") == Some("RefNotPermitted") && c.text("status") == Some("False"))
                .filter(|c| status::current(owner, c));
            out.push(Fact {
                from: owner,
                path: format!("{}.tls.certificateRefs[{index}]", listener.path),
                to_group: group,
                grants: grants::of_namespace(snapshot, namespace),
                to,
                route: None,
                // A controller looks at the first: with one that is fine the listener is served without the others.
                spare: index > 0,
                status,
                seen: Seen::default(),
            });
        }
    }
    out
}

fn grant_name(fact: &Fact<'_>) -> String {
    format!("from-{}", fact.from.namespace())
}

/// The grant that is missing.
fn grant(fact: &Fact<'_>) -> Remedy {
    let from = &fact.from.reference;
    let name = grant_name(fact);
    let body = json!({
        "apiVersion": format!("{GROUP}/v1beta1"), "kind": "ReferenceGrant",
        "metadata": {"name": name, "namespace": fact.to.namespace},
        "spec": {
            "from": [{"group": from.group(), "kind": from.kind, "namespace": from.namespace}],
            "to": [{"group": fact.to_group, "kind": fact.to.kind, "name": fact.to.name}]}
    });
    Remedy::create(
        vec![body],
        format!(
            "Make a ReferenceGrant in namespace {} that admits {} of namespace {}",
            fact.to.namespace, from.kind, from.namespace
        ),
    )
}
