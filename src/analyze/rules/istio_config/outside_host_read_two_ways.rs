//! ISTIO220.

use crate::model::json::json;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};

use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{ServiceEntry, visible};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Two ServiceEntries give one port of one host different protocols.
    ///
    /// ## What it detects
    /// ServiceEntries that both a namespace sees, with the same host and port number and protocols that a proxy reads
    /// differently.
    /// ## Why it matters
    /// A proxy makes one listener for the port. Which of the two it follows depends on which object is older: HTTPS
    /// read as HTTP is cut, HTTP read as TCP loses routes and telemetry.
    /// ## Evidence
    /// Both ServiceEntries with the port and its protocols.
    /// ## How to confirm
    /// `istioctl proxy-config listener POD --port PORT` shows one of the two.
    /// ## How to fix
    /// Delete one, or give both the same protocol.
    /// ## False positives
    /// Two entries that no namespace sees together.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/service-entry/>
    OutsideHostReadTwoWays {
        code: "ISTIO220", name: "outside-host-read-two-ways", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0177", "KIA1211", "KIA1212"],
    }
}

/// Two entries that differ.
#[derive(Debug)]
pub struct Fact<'a> {
    host: &'a str,
    port: i64,
    first: (&'a ServiceEntry, &'a str),
    second: (&'a ServiceEntry, &'a str),
}

impl Check for OutsideHostReadTwoWays {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut by_port: BTreeMap<(&str, i64), Vec<(&'a ServiceEntry, &'a str)>> = BTreeMap::new();
        for entry in &snapshot.istio.service_entries {
            for host in &entry.hosts {
                for (port, protocol) in &entry.ports {
                    by_port.entry((host, *port)).or_default().push((entry, protocol));
                }
            }
        }
        let mut out = vec![];
        for ((host, port), entries) in by_port {
            for (at, second) in entries.iter().enumerate().skip(1) {
                let rival = entries.iter().take(at).find(|first| {
                    !first.1.eq_ignore_ascii_case(second.1) && seen_together(first.0, second.0)
                });
                if let Some(first) = rival.filter(|_| snapshot.in_scope(second.0.object.namespace())) {
                    out.push(Fact { host, port, first: *first, second: *second });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (first, second) = (&fact.first.0.object.reference, &fact.second.0.object);
        let own = &second.reference;
        let host = text::plain(fact.host, 60);
        let index = second
            .body
            .list("spec.ports")
            .iter()
            .position(|port| port.int("number") == Some(fact.port))
            .unwrap_or(0);
        let subject = own.field(format!("spec.ports[{index}].protocol"));
        let protocol = |text: &str| if text.is_empty() { "none".to_owned() } else { text::plain(text, 20) };
        let path = format!("/spec/ports/{index}/protocol");
        let operations = json!([{"op": "add", "path": path, "value": fact.first.1}]);
        Finding::new(Self::META, subject.clone(), &[&host])
            .title(format!(
                "Port {} of {host} is {} by {own} and {} by {first}",
                fact.port,
                protocol(fact.second.1),
                protocol(fact.first.1)
            ))
            .message(format!(
                "A proxy that sees both makes one listener for port {} and follows the older object. Through the other protocol connections break or lose their routes.",
                fact.port
            ))
            .mechanism("ServiceEntry protocol conflict")
            .role(Role::Context, Confidence::Configured)
            .related(first.clone())
            .evidence(Evidence::object(&subject, format!("{host} port {}: {}", fact.port, protocol(fact.second.1))))
            .evidence(Evidence::object(first, format!("{host} port {}: {}", fact.port, protocol(fact.first.1))))
            .maybe_remedy((!fact.first.1.is_empty()).then(|| Remedy::patch(second, &operations, format!("Give it the protocol that {first} has"))).flatten())
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}

/// Whether some namespace sees both.
fn seen_together(a: &ServiceEntry, b: &ServiceEntry) -> bool {
    let own = [a.object.namespace(), b.object.namespace()];
    let named = a.export_to.iter().chain(&b.export_to).map(String::as_str);
    let mut clients = own.into_iter().chain(named.filter(|scope| !matches!(*scope, "." | "*" | "~")));
    clients.any(|client| {
        visible(&a.export_to, a.object.namespace(), client)
            && visible(&b.export_to, b.object.namespace(), client)
    })
}
