//! GWAPI117.

use std::collections::BTreeMap;

use super::prelude::*;
use crate::model::mesh::istio::hosts_overlap;

crate::rule! {
    /// Two Gateways ask for one address.
    ///
    /// ## What it detects
    /// Gateways with the same type and value in `spec.addresses`. Where the address is a Service's name, which several
    /// may share, only those with listeners on one port for the same names.
    /// ## Why it matters
    /// An IP address belongs to one load balancer: the second Gateway's stays pending, or takes it from the first.
    /// Behind one Service both are the same proxies: of two listeners for one name the older Gateway's counts, and
    /// routes of the other are not reached.
    /// ## Evidence
    /// The address in both objects, and the listeners that overlap.
    /// ## How to confirm
    /// `kubectl get gateway -A` shows one of them with `PROGRAMMED` false, or both with the same address.
    /// ## How to fix
    /// Give each its own address, or put the listeners into one Gateway.
    /// ## False positives
    /// Load balancers that share an address between Services on different ports.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#gatewayspecaddress>
    AddressShared {
        code: "GWAPI117", name: "address-shared", family: Gateway, severity: Warning,
        needs: [Objects, GatewayApi], aliases: ["KIA1501", "KIA1502"],
    }
}

/// Type and value of an address, and the namespace that a short name is for.
type Address<'a> = (&'a str, &'a str, &'a str);

/// A Gateway that asks for what another one has.
#[derive(Debug)]
pub struct Fact<'a> {
    gateway: &'a Gateway,
    other: &'a Gateway,
    path: String,
    value: &'a str,
    /// Listeners of both that are for the same port and name.
    overlap: Option<(Listener<'a>, Listener<'a>)>,
}

impl Check for AddressShared {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut asked: BTreeMap<Address<'_>, Vec<(&Gateway, String)>> = BTreeMap::new();
        let gateways = snapshot.gateway_api.gateways.iter();
        for gateway in gateways.filter(|gateway| seen::configured(gateway.object.namespace())) {
            for (index, address) in gateway.object.body.list("spec.addresses").iter().enumerate() {
                let kind = address.text("type").unwrap_or("IPAddress");
                if let Some(value) = address.text("value").filter(|value| !value.is_empty()) {
                    // A short name of a Service is beside the Gateway.
                    let short = kind == "Hostname" && !value.contains('.');
                    let own = if short { gateway.object.namespace() } else { "" };
                    let path = format!("spec.addresses[{index}].value");
                    asked.entry((kind, value, own)).or_default().push((gateway, path));
                }
            }
        }
        let mut out = vec![];
        for ((kind, value, _), mut sharing) in asked {
            sharing.sort_by_key(|(gateway, _)| (gateway.object.created.is_none(), gateway.object.created));
            for (at, (gateway, path)) in sharing.iter().enumerate() {
                let earlier = sharing.iter().take(at).map(|(other, _)| *other);
                let earlier =
                    earlier.filter(|other| !other.object.reference.same_object(&gateway.object.reference));
                let mut met = earlier.map(|other| (other, overlap(gateway, other)));
                let first =
                    if kind == "Hostname" { met.find(|(_, both)| both.is_some()) } else { met.next() };
                out.extend(first.map(|(other, overlap)| Fact {
                    gateway,
                    other,
                    path: path.clone(),
                    value,
                    overlap,
                }));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (own, other) = (&fact.gateway.object.reference, &fact.other.object.reference);
        let subject = own.field(&fact.path);
        let value = crate::analyze::traffic::text::plain(fact.value, 80);
        let both = match &fact.overlap {
            Some((mine, theirs)) => format!(
                " Listener \"{}\" and {other}'s \"{}\" are both for port {} and share names: only one of them gets the requests.",
                mine.name, theirs.name, mine.port
            ),
            None => String::new(),
        };
        let mut finding = Finding::new(Self::META, subject.clone(), &[&other.namespace, &other.name])
            .title(format!("{own} and {other} ask for the same address {value}"))
            .message(format!("{value} is in spec.addresses of both, and can be had once.{both}"))
            .mechanism("Gateways with the same address")
            .role(Role::Context, Confidence::Possible)
            .evidence(Evidence::object(&subject, value.clone()))
            .evidence(Evidence::object(&other.field("spec.addresses"), value))
            .related(other.field("spec.addresses"))
            .remedy(Remedy::manual(
                "Give each Gateway an address of its own, or put the listeners into one Gateway",
            ))
            .prevention(Prevention::of(
                "Test",
                "Run meshscope analyze --fail-on warning over manifests before they are applied",
            ));
        if let Some((mine, theirs)) = &fact.overlap {
            for listener in [mine, theirs] {
                let at = listener.owner.reference.field(&listener.path);
                let name = if listener.hostname.is_empty() { "any name" } else { &listener.hostname };
                finding = finding.evidence(Evidence::object(&at, format!("port {}, {name}", listener.port)));
            }
        }
        finding
    }
}

/// Listeners of two Gateways for one port and a name in common.
fn overlap<'a>(gateway: &'a Gateway, other: &'a Gateway) -> Option<(Listener<'a>, Listener<'a>)> {
    let theirs = attach::listeners(&other.object);
    attach::listeners(&gateway.object).into_iter().find_map(|mine| {
        let names = |host: &str| if host.is_empty() { "*".to_owned() } else { host.to_owned() };
        let met = theirs
            .iter()
            .find(|l| l.port == mine.port && hosts_overlap(&names(&l.hostname), &names(&mine.hostname)))?;
        Some((mine.clone(), met.clone()))
    })
}
