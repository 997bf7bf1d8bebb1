//! ISTIO221.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::network::{Protocol, Service, ServicePort};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A TCP port of an ExternalName Service takes all outgoing traffic of that port number.
    ///
    /// ## What it detects
    /// A Service of type ExternalName with a port that a proxy reads as TCP (named `tcp…`, or by no protocol), beside
    /// a control plane that makes listeners for such Services: older than Istio 1.21, or with
    /// `ENABLE_EXTERNAL_NAME_ALIAS=false`. Newer ones take the Service for another name of its target.
    /// ## Why it matters
    /// An ExternalName Service has no address, so its TCP listener stands for every address: other connections to
    /// that port, to any host, go to it.
    /// ## Evidence
    /// The Service and its port.
    /// ## How to confirm
    /// `istioctl proxy-config listener POD --port PORT` shows `0.0.0.0` with the Service's cluster.
    /// ## How to fix
    /// Name the port by its protocol (`http`, `https`, `tls`), or leave ports out and use a ServiceEntry with
    /// addresses.
    /// ## False positives
    /// Nobody else in the mesh uses that port number.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/analysis/ist0150/>
    ExternalNameTakesThePort {
        code: "ISTIO221", name: "external-name-takes-the-port", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0150"],
    }
}

/// Turns the reading as another name off.
const SETTING: &str = "ENABLE_EXTERNAL_NAME_ALIAS";
/// The first minor version of Istio 1 that has it on.
const FIRST_ALIAS: u64 = 21;

/// A port that takes others' traffic.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    index: usize,
    port: &'a ServicePort,
}

impl Check for ExternalNameTakesThePort {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if !snapshot.workloads.iter().any(makes_listeners) {
            return vec![];
        }
        let services = snapshot.services.iter().filter(|service| {
            service.object.body.text("spec.type") == Some("ExternalName")
                && snapshot.in_scope(service.object.namespace())
        });
        services
            .flat_map(|service| {
                service.ports.iter().enumerate().map(move |(index, port)| Fact { service, index, port })
            })
            .filter(|fact| {
                let read = Protocol::of(&fact.port.app_protocol, &fact.port.name, &fact.port.transport);
                matches!(read, Protocol::Tcp | Protocol::OtherTcp | Protocol::Unknown)
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.service.object.reference;
        let subject = own.field(format!("spec.ports[{}].name", fact.index));
        let number = fact.port.number;
        let name = if fact.port.name.is_empty() {
            "no name".to_owned()
        } else {
            format!("the name {}", text::plain(&fact.port.name, 40))
        };
        let web =
            [(80, "http"), (8080, "http"), (443, "https")].into_iter().find(|(port, _)| *port == number);
        let fix = web.and_then(|(_, protocol)| {
            let path = format!("/spec/ports/{}/name", fact.index);
            Remedy::patch(
                &fact.service.object,
                &json!([{"op": "add", "path": path, "value": protocol}]),
                format!("Name the port {protocol}"),
            )
        });
        Finding::new(Self::META, subject.clone(), &[&number.to_string()])
            .title(format!("{own} takes all TCP connections to port {number}: it is an ExternalName with {name}"))
            .message(format!(
                "A proxy knows no address for {own}, so its TCP listener is for port {number} of every address: connections to other hosts on that port go to it."
            ))
            .mechanism("ExternalName Service with a TCP port")
            .role(Role::Context, Confidence::Possible)
            .evidence(Evidence::object(&subject, format!("port {number}, {name}, type ExternalName")))
            .maybe_remedy(fix)
            .remedy(Remedy::manual("Replace the Service by a ServiceEntry with the host and its addresses"))
            .prevention(Prevention::of("Policy", "An admission policy that asks for appProtocol on ports of ExternalName Services"))
    }
}

/// Whether this is a control plane that makes listeners for ExternalName Services.
fn makes_listeners(workload: &Workload) -> bool {
    let istiod = workload.object.labels.get("app").is_some_and(|app| app == "istiod");
    istiod
        && workload.template.containers.iter().any(|container| {
            let mut env = container.body.list("env").iter();
            let old = || {
                container.image.contains("pilot") && minor(&container.image).is_some_and(|m| m < FIRST_ALIAS)
            };
            match env.find(|entry| entry.text("name") == Some(SETTING)) {
                Some(entry) => entry.string("value") == "false",
                None => old(),
            }
        })
}

/// The minor version in the tag of an image of Istio 1.
fn minor(image: &str) -> Option<u64> {
    let (_, tag) = image.rsplit_once(':')?;
    tag.strip_prefix("1.")?.split(['.', '-']).next()?.parse().ok()
}
