//! GWAPI115.

use std::collections::BTreeMap;

use super::prelude::*;
use crate::analyze::rules::gateway_api::listener_sets;
use crate::model::mesh::istio::hosts_overlap;

crate::rule! {
    /// Listeners for TLS on one port share hostnames, so that one connection serves both.
    ///
    /// ## What it detects
    /// Two HTTPS listeners of a Gateway on one port of which one's hostname lies in the other's (`*.example.com` and
    /// `shop.example.com`).
    /// ## Why it matters
    /// A browser sends requests for both names over one HTTP/2 connection where one certificate covers both. They reach the
    /// listener that the connection was opened for: routes of the other are not looked at, and the answer is 404 or 421.
    /// ## Evidence
    /// Both hostnames, and whether the certificate is the same.
    /// ## How to confirm
    /// `kubectl describe` shows the listener's condition `OverlappingTLSConfig=True`.
    /// ## How to fix
    /// Give the listeners certificates that do not cover each other's names, or attach the routes to one listener.
    /// ## False positives
    /// Clients that open a connection for each name do not notice: it is a note, not an error.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/geps/gep-3567/>
    ListenersOverlap {
        code: "GWAPI115", name: "listeners-overlap", family: Gateway, severity: Info,
        needs: [Objects, GatewayApi], aliases: [],
    }
}

/// A listener whose names another one on its port covers as well.
#[derive(Debug)]
pub struct Fact<'a> {
    listener: Listener<'a>,
    other: Listener<'a>,
    /// Both end TLS with the same certificate.
    same_certificate: bool,
}

impl Check for ListenersOverlap {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for gateway in snapshot.gateway_api.gateways.iter().filter(|g| seen::configured(g.object.namespace()))
        {
            let mut parts = vec![&*gateway.object];
            let sets = listener_sets::of(snapshot, gateway).into_iter();
            parts.extend(sets.filter(|set| listener_sets::refused(snapshot, gateway, set).is_none()));
            let mut ports: BTreeMap<i64, Vec<Listener<'a>>> = BTreeMap::new();
            for listener in parts.iter().flat_map(|part| attach::listeners(part)) {
                // Without a hostname on either side the names are not known.
                if listener.protocol == "HTTPS" && !listener.hostname.is_empty() {
                    ports.entry(listener.port).or_default().push(listener);
                }
            }
            for listeners in ports.into_values() {
                for (at, listener) in listeners.iter().enumerate() {
                    let other = listeners.iter().take(at).find(|other| {
                        other.hostname != listener.hostname
                            && hosts_overlap(&other.hostname, &listener.hostname)
                    });
                    out.extend(other.map(|other| Fact {
                        listener: listener.clone(),
                        other: other.clone(),
                        same_certificate: certificates(other) == certificates(listener),
                    }));
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (listener, other) = (&fact.listener, &fact.other);
        let reference = &listener.owner.reference;
        let subject = reference.field(format!("{}.hostname", listener.path));
        let beside = other.owner.reference.field(format!("{}.hostname", other.path));
        let certificate = if fact.same_certificate { "; both show the same certificate" } else { "" };
        Finding::new(Self::META, subject.clone(), &[&other.name])
            .title(format!("{reference} listener \"{}\" ({}) shares names with \"{}\" ({})", listener.name, listener.hostname, other.name, other.hostname))
            .message(format!(
                "On port {} listener \"{}\" is for {} and listener \"{}\" for {}{certificate}. A client that reuses one connection for both names finds the routes of the listener that it was opened for.",
                listener.port, listener.name, listener.hostname, other.name, other.hostname
            ))
            .mechanism("overlapping TLS configuration: connection reuse over listeners (OverlappingHostnames)")
            .severity(Severity::Info)
            .role(Role::Context, Confidence::Possible)
            .evidence(Evidence::object(&subject, format!("hostname {}", listener.hostname)))
            .evidence(Evidence::object(&beside, format!("hostname {}", other.hostname)))
            .related(beside)
            .prevention(Prevention::of("Test", "In the pipeline: one certificate for each hostname of a port"))
    }
}

/// The certificates that a listener names.
fn certificates(listener: &Listener<'_>) -> Vec<(String, String)> {
    let list = listener.body.list("tls.certificateRefs").iter();
    list.map(|entry| {
        let namespace = entry.text("namespace").unwrap_or(listener.owner.namespace());
        (namespace.to_owned(), entry.string("name"))
    })
    .collect()
}
