//! VirtualServices as routing reads them: hosts and gateways in full, delegates merged in, in the order in which they count.

use crate::model::json::Value;
use std::collections::{BTreeMap, HashMap};

use super::delegate;
use super::full_host;
use crate::analyze::twin::registry::visible;
use crate::model::fields::Fields;
use crate::model::mesh::istio::VirtualService;
use crate::model::mesh::part::Part;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// The gateway name that stands for all sidecars.
pub const MESH: &str = "mesh";

/// One rule of `spec.http`, its delegate's rules in its place.
#[derive(Debug, Clone)]
pub struct HttpRule {
    /// The rule, with what its root and its delegate say merged.
    pub body: Part,
    /// Its conditions, each with where it stands; none takes every request.
    pub matches: Vec<(Part, ObjectRef)>,
    /// Where the rule itself stands.
    pub source: ObjectRef,
    /// The namespace in which its short names are read.
    pub namespace: String,
}

/// A VirtualService as it takes effect.
#[derive(Debug, Clone)]
pub struct Effective {
    /// What names it.
    pub reference: ObjectRef,
    /// Its hosts in full, in lower case.
    pub hosts: Vec<String>,
    /// The gateways it is bound to: `mesh`, `namespace/name`.
    pub gateways: Vec<String>,
    /// Who sees it.
    pub export_to: Vec<String>,
    /// `spec.http`.
    pub http: Vec<HttpRule>,
    /// `spec.tls`.
    pub tls: Vec<(Part, ObjectRef)>,
    /// `spec.tcp`.
    pub tcp: Vec<(Part, ObjectRef)>,
    /// Whether prefixes are of whole segments, as in an Ingress.
    pub ingress: bool,
}

impl Effective {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.reference.namespace
    }

    /// Whether proxies of a namespace see it.
    pub fn visible_to(&self, namespace: &str) -> bool {
        visible(&self.export_to, self.namespace(), namespace)
    }

    /// Whether everyone sees it.
    fn public(&self) -> bool {
        self.export_to.is_empty() || self.export_to.iter().any(|to| to == "*")
    }

    /// The hosts that its rules send requests and bytes to, each with the port where one is named. Rules for other namespaces than the
    /// client's do not count.
    pub(super) fn destinations(&self, client: &str) -> Vec<(String, Option<u16>)> {
        let mut out = vec![];
        let mut add = |entry: Option<&Value>, namespace: &str| {
            let Some(entry) = entry else { return };
            let port = entry.int("port.number").and_then(|port| u16::try_from(port).ok());
            out.push((full_host(&entry.string("host"), namespace).to_ascii_lowercase(), port));
        };
        for rule in &self.http {
            let wanted = rule.matches.iter().filter_map(|(entry, _)| entry.text("sourceNamespace"));
            let wanted: Vec<&str> = wanted.filter(|namespace| !namespace.is_empty()).collect();
            if !wanted.is_empty() && !wanted.contains(&client) {
                continue;
            }
            for entry in rule.body.list("route") {
                add(entry.at("destination"), &rule.namespace);
            }
            add(rule.body.at("mirror"), &rule.namespace);
            for entry in rule.body.list("mirrors") {
                add(entry.at("destination"), &rule.namespace);
            }
        }
        for (rule, _) in self.tls.iter().chain(&self.tcp) {
            for entry in rule.list("route") {
                add(entry.at("destination"), self.namespace());
            }
        }
        out
    }
}

/// All of them, oldest first, then by name and namespace.
#[derive(Debug, Default)]
pub struct VirtualServices {
    all: Vec<Effective>,
    by_gateway: HashMap<String, Vec<usize>>,
    by_labels: bool,
}

impl VirtualServices {
    /// Reads all, and those that Ingresses stand for, by their names.
    pub fn new(snapshot: &Snapshot, of_ingresses: Vec<(String, Effective)>) -> Self {
        let default = snapshot.istio.mesh_config.texts("defaultVirtualServiceExportTo");
        let roots: BTreeMap<(&str, &str), &VirtualService> = snapshot
            .istio
            .virtual_services
            .iter()
            .map(|vs| ((vs.object.namespace(), vs.object.name()), vs))
            .collect();
        let own = snapshot.istio.virtual_services.iter().filter(|vs| !vs.hosts.is_empty()).map(|vs| {
            // Without hosts it is a delegate: it counts where another one names it.
            let name = format!("{}.{}", vs.object.name(), vs.object.namespace());
            (vs.object.created, name, effective(vs, &roots, &default))
        });
        // What is made from Ingresses carries no time, and so comes before what does.
        let made = of_ingresses.into_iter().map(|(name, vs)| (None, name, vs));
        let mut all: Vec<(Option<jiff::Timestamp>, String, Effective)> = own.chain(made).collect();
        all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let all: Vec<Effective> = all.into_iter().map(|(_, _, vs)| vs).collect();
        let mut by_gateway: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, vs) in all.iter().enumerate() {
            for gateway in &vs.gateways {
                let list = by_gateway.entry(gateway.clone()).or_default();
                if list.last() != Some(&at) {
                    list.push(at);
                }
            }
        }
        let http =
            all.iter().flat_map(|vs| &vs.http).flat_map(|rule| &rule.matches).map(|(entry, _)| &**entry);
        let bytes =
            all.iter().flat_map(|vs| vs.tls.iter().chain(&vs.tcp)).flat_map(|(rule, _)| rule.list("match"));
        let by_labels = http.chain(bytes).any(|entry| entry.at("sourceLabels").is_some());
        VirtualServices { all, by_gateway, by_labels }
    }

    /// Whether a rule of any of them looks at the labels of clients.
    pub fn tell_clients_apart(&self) -> bool {
        self.by_labels
    }

    /// Those bound to a gateway that proxies of a namespace see: its own that not everyone sees first, then what others export
    /// to it by name.
    pub fn bound<'s>(&'s self, gateway: &str, namespace: &'s str) -> Vec<&'s Effective> {
        let at = self.by_gateway.get(gateway).map_or(&[][..], Vec::as_slice);
        let mut seen: Vec<&Effective> =
            at.iter().filter_map(|at| self.all.get(*at)).filter(|vs| vs.visible_to(namespace)).collect();
        seen.sort_by_key(|vs| (vs.public(), !vs.public() && vs.namespace() != namespace));
        seen
    }
}

fn effective(
    vs: &VirtualService,
    known: &BTreeMap<(&str, &str), &VirtualService>,
    default: &[String],
) -> Effective {
    let namespace = vs.object.namespace();
    let body = &vs.object.body;
    let entries = |list: &'static str| {
        let all = 0..body.list(list).len();
        all.map(|at| (Part::of(body, list, at), vs.reference().field(format!("{list}[{at}]"))))
            .collect::<Vec<_>>()
    };
    let gateways = vs.gateways.iter().map(|gateway| match gateway.as_str() {
        MESH => MESH.to_owned(),
        name if name.contains('/') => name.to_owned(),
        name => format!("{namespace}/{name}"),
    });
    Effective {
        reference: vs.reference().clone(),
        hosts: vs.hosts.iter().map(|host| full_host(host, namespace).to_ascii_lowercase()).collect(),
        gateways: gateways.collect(),
        export_to: if vs.export_to.is_empty() { default.to_vec() } else { vs.export_to.clone() },
        http: delegate::rules(vs, known),
        tls: entries("spec.tls"),
        tcp: entries("spec.tcp"),
        ingress: false,
    }
}
