//! Istio's objects: the fields that routing and policy follow from. What is not here stands in the object's body.

use crate::model::json::Value;
use std::sync::{Arc, OnceLock};

use crate::model::fields::Fields;
use crate::model::mesh::by_host::ByHost;
use crate::model::mesh::part::Part;
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::{Labels, Selector};

/// The domain of a cluster. Istio's default; a cluster that changed it has full names in its own domain everywhere.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The full name of a host as Istio reads it in an object of `namespace`: a name without a dot is a Service beside it.
pub fn full_host(host: &str, namespace: &str) -> String {
    if host.contains('.') || host.contains('*') || namespace.is_empty() {
        host.to_owned()
    } else {
        // Asked for each host of each object: putting pieces together is several times as fast as formatting them.
        [host, ".", namespace, ".svc.", CLUSTER_DOMAIN].concat()
    }
}

/// The Service that a full host names: `a.b.svc.cluster.local`, `a.b.svc` and `a.b` name Service `b/a`.
pub fn service_of_host(host: &str) -> Option<(String, String)> {
    let (name, rest) = cut(host)?;
    // What follows the namespace is nothing, or begins with `svc`.
    let (namespace, rest) = cut(rest).unwrap_or((rest, "svc"));
    let inside = cut(rest).map_or(rest, |(word, _)| word) == "svc";
    (inside && !name.is_empty() && !name.contains('*')).then(|| (namespace.to_owned(), name.to_owned()))
}

/// What stands before and behind the first dot.
fn cut(host: &str) -> Option<(&str, &str)> {
    let dot = host.bytes().position(|byte| byte == b'.')?;
    Some((host.get(..dot)?, host.get(dot + 1..)?))
}

/// Whether something exported to `export_to` by `owner` is seen by `client`: by everyone where nothing or `*` is written, else
/// by nobody where `~` is.
pub fn visible(export_to: &[String], owner: &str, client: &str) -> bool {
    let has = |word: &str| export_to.iter().any(|to| to == word);
    export_to.is_empty() || has("*") || !has("~") && (has(client) || owner == client && has("."))
}

/// Whether a host pattern covers a host: equal, `*`, or `*.suffix`.
pub fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix) && (suffix.is_empty() || host.len() > suffix.len()),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Whether two host patterns have a host in common.
pub fn hosts_overlap(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(x), Some(y)) => x.ends_with(y) || y.ends_with(x),
        (Some(_), None) => host_matches(a, b),
        (None, Some(_)) => host_matches(b, a),
        (None, None) => a.eq_ignore_ascii_case(b),
    }
}

/// Where a route sends requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// The host as it is written.
    pub host: String,
    /// The subset; empty where none is named.
    pub subset: String,
    /// The port, where one is named.
    pub port: Option<i64>,
    /// Its weight; `None` where none is written.
    pub weight: Option<i64>,
    /// Where it stands: `spec.http[0].route[1].destination`.
    pub path: String,
}

/// One route of a VirtualService.
#[derive(Debug, Clone)]
pub struct Route {
    /// `http`, `tls` or `tcp`.
    pub protocol: &'static str,
    /// Its name; empty where it has none.
    pub name: String,
    /// Where it sends requests.
    pub destinations: Vec<Destination>,
    /// Its time-out in seconds.
    pub timeout: Option<f64>,
    /// Where it stands: `spec.http[0]`.
    pub path: String,
    /// All of it.
    pub body: Part,
}

impl Route {
    /// Its conditions; empty matches everything.
    pub fn matches(&self) -> &[Value] {
        self.body.list("match")
    }
}

/// A VirtualService.
#[derive(Debug, Clone)]
pub struct VirtualService {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
    /// The hosts it speaks for, as they are written.
    pub hosts: Vec<String>,
    /// The gateways it is bound to; `mesh` alone where it names none.
    pub gateways: Vec<String>,
    /// `spec.exportTo`.
    pub export_to: Vec<String>,
    /// Its routes, in order.
    pub routes: Vec<Route>,
}

impl VirtualService {
    /// Reads a VirtualService.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let body = &object.body;
        let mut routes = vec![];
        for (protocol, list) in [("http", "spec.http"), ("tls", "spec.tls"), ("tcp", "spec.tcp")] {
            for (index, entry) in body.list(list).iter().enumerate() {
                let path = format!("spec.{protocol}[{index}]");
                let destinations = entry.list("route").iter().enumerate().map(|(at, route)| Destination {
                    host: route.string("destination.host"),
                    subset: route.string("destination.subset"),
                    port: route.int("destination.port.number"),
                    weight: route.int("weight"),
                    path: format!("{path}.route[{at}].destination"),
                });
                routes.push(Route {
                    protocol,
                    name: entry.string("name"),
                    destinations: destinations.collect(),
                    timeout: entry.seconds("timeout"),
                    path,
                    body: Part::of(body, list, index),
                });
            }
        }
        let mut gateways = body.texts("spec.gateways");
        if gateways.is_empty() {
            gateways.push("mesh".to_owned());
        }
        VirtualService {
            hosts: body.texts("spec.hosts"),
            gateways,
            export_to: body.texts("spec.exportTo"),
            routes,
            object,
        }
    }

    /// What names it.
    pub fn reference(&self) -> &ObjectRef {
        &self.object.reference
    }

    /// Whether it speaks, inside the mesh or at a gateway, for this full host.
    pub fn covers(&self, full: &str) -> bool {
        self.hosts.iter().any(|host| host_matches(&full_host(host, self.object.namespace()), full))
    }

    /// All destinations with the route they stand in.
    pub fn destinations(&self) -> impl Iterator<Item = (&Route, &Destination)> {
        self.routes
            .iter()
            .flat_map(|route| route.destinations.iter().map(move |destination| (route, destination)))
    }
}

/// A subset of a DestinationRule.
#[derive(Debug, Clone)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// Labels that its pods carry, besides being behind the host.
    pub labels: Labels,
    /// Where it stands: `spec.subsets[0]`.
    pub path: String,
    /// All of it.
    pub body: Part,
}

/// A DestinationRule.
#[derive(Debug, Clone)]
pub struct DestinationRule {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
    /// The host as it is written.
    pub host: String,
    /// Its subsets.
    pub subsets: Vec<Subset>,
    /// `spec.exportTo`.
    pub export_to: Vec<String>,
}

impl DestinationRule {
    /// Reads a DestinationRule.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let subsets = object.body.list("spec.subsets").iter().enumerate().map(|(index, entry)| Subset {
            name: entry.string("name"),
            labels: entry.text_map("labels"),
            path: format!("spec.subsets[{index}]"),
            body: Part::of(&object.body, "spec.subsets", index),
        });
        DestinationRule {
            host: object.body.string("spec.host"),
            subsets: subsets.collect(),
            export_to: object.body.texts("spec.exportTo"),
            object,
        }
    }

    /// What names it.
    pub fn reference(&self) -> &ObjectRef {
        &self.object.reference
    }

    /// Its host in full.
    pub fn full_host(&self) -> String {
        full_host(&self.host, self.object.namespace())
    }

    /// Whether it is exported to a namespace.
    pub fn visible_to(&self, client: &str) -> bool {
        visible(&self.export_to, self.object.namespace(), client)
    }

    /// The part of the traffic policy at `path` (`tls.mode`, `connectionPool`) that counts for a port, with where it
    /// stands. A port's own settings replace the general ones as a whole.
    pub fn policy(&self, port: Option<i64>, path: &str) -> Option<(String, &Value)> {
        for (index, entry) in self.object.body.list("spec.trafficPolicy.portLevelSettings").iter().enumerate()
        {
            if port.is_some() && entry.int("port.number") == port {
                return Some((
                    format!("spec.trafficPolicy.portLevelSettings[{index}].{path}"),
                    entry.at(path)?,
                ));
            }
        }
        let value = self.object.body.at(&format!("spec.trafficPolicy.{path}"))?;
        Some((format!("spec.trafficPolicy.{path}"), value))
    }
}

/// One server of a Gateway.
#[derive(Debug, Clone)]
pub struct GatewayServer {
    /// The port it listens on.
    pub port: i64,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, …
    pub protocol: String,
    /// Hosts as they are written: `*`, `a.example.com`, `ns/*.example.com`.
    pub hosts: Vec<String>,
    /// Where it stands: `spec.servers[0]`.
    pub path: String,
    /// All of it.
    pub body: Part,
}

/// An Istio Gateway.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
    /// Labels of the pods that serve it, in any namespace.
    pub selector: Labels,
    /// Its servers.
    pub servers: Vec<GatewayServer>,
}

impl Gateway {
    /// Reads an Istio Gateway.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let servers =
            object.body.list("spec.servers").iter().enumerate().map(|(index, entry)| GatewayServer {
                port: entry.int("port.number").unwrap_or(0),
                protocol: entry.string("port.protocol"),
                hosts: entry.texts("hosts"),
                path: format!("spec.servers[{index}]"),
                body: Part::of(&object.body, "spec.servers", index),
            });
        Gateway { selector: object.body.text_map("spec.selector"), servers: servers.collect(), object }
    }
}

/// A ServiceEntry.
#[derive(Debug, Clone)]
pub struct ServiceEntry {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
    /// Its hosts.
    pub hosts: Vec<String>,
    /// Port numbers and protocols.
    pub ports: Vec<(i64, String)>,
    /// `spec.exportTo`.
    pub export_to: Vec<String>,
}

impl ServiceEntry {
    /// Reads a ServiceEntry.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let ports = object
            .body
            .list("spec.ports")
            .iter()
            .filter_map(|p| Some((p.int("number")?, p.string("protocol"))));
        ServiceEntry {
            hosts: object.body.texts("spec.hosts"),
            ports: ports.collect(),
            export_to: object.body.texts("spec.exportTo"),
            object,
        }
    }
}

/// An object that applies to workloads by a selector: a PeerAuthentication, an AuthorizationPolicy, a Sidecar,
/// an EnvoyFilter, a RequestAuthentication, a Telemetry. Its rules are read where they are evaluated.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
    /// The workloads it applies to: empty means all of its namespace, and all of the mesh in the root namespace.
    pub selector: Selector,
    /// `spec.targetRefs` or `spec.targetRef`: what it is attached to instead.
    pub targets: Vec<Value>,
}

impl Policy {
    /// Reads any of them. Sidecar and EnvoyFilter call their selector `workloadSelector`.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let body = &object.body;
        let labels = [
            "spec.selector.matchLabels",
            "spec.workloadSelector.labels",
            "spec.workloadSelector.matchLabels",
        ]
        .iter()
        .map(|path| body.text_map(path))
        .find(|labels| !labels.is_empty())
        .unwrap_or_default();
        let mut targets = body.list("spec.targetRefs").to_vec();
        targets.extend(body.at("spec.targetRef").cloned());
        Policy { selector: Selector::labels(labels), targets, object }
    }

    /// Whether it applies to pods with these labels in this namespace.
    pub fn applies_to(&self, namespace: &str, labels: &Labels, root_namespace: &str) -> bool {
        self.targets.is_empty()
            && (self.object.namespace() == namespace || self.object.namespace() == root_namespace)
            && self.selector.matches(labels)
    }
}

/// All of Istio's objects that were seen.
#[derive(Debug, Clone, Default)]
pub struct Istio {
    /// Whether anything of Istio was seen: a control plane, one of its objects, a proxy.
    pub present: bool,
    /// The root namespace.
    pub root_namespace: String,
    /// MeshConfig, as far as it is known.
    pub mesh_config: Value,
    /// VirtualServices.
    pub virtual_services: Vec<VirtualService>,
    /// DestinationRules.
    pub destination_rules: Vec<DestinationRule>,
    /// Gateways, in order of namespace and name.
    pub gateways: Vec<Gateway>,
    /// ServiceEntries.
    pub service_entries: Vec<ServiceEntry>,
    /// PeerAuthentications.
    pub peer_authentications: Vec<Policy>,
    /// AuthorizationPolicies.
    pub authorization_policies: Vec<Policy>,
    /// RequestAuthentications.
    pub request_authentications: Vec<Policy>,
    /// Sidecars.
    pub sidecars: Vec<Policy>,
    /// EnvoyFilters.
    pub envoy_filters: Vec<Policy>,
    /// Where to look for a host; made at the first question, when the lists are complete.
    by_host: OnceLock<ByHost>,
}

impl Istio {
    fn by_host(&self) -> &ByHost {
        self.by_host.get_or_init(|| ByHost::new(self))
    }

    /// The Gateway with this name.
    pub fn gateway(&self, namespace: &str, name: &str) -> Option<&Gateway> {
        let place = |g: &Gateway| (g.object.namespace(), g.object.name()).cmp(&(namespace, name));
        self.gateways.binary_search_by(place).ok().and_then(|at| self.gateways.get(at))
    }

    /// The ServiceEntries that may speak for a host, given in full and as it is written, in their order.
    pub fn service_entries_for(&self, full: &str, written: &str) -> impl Iterator<Item = &ServiceEntry> {
        let entries = &self.by_host().service_entries;
        let mut found = entries.candidates("", full);
        if written != full && !entries.is_empty() {
            found.extend(entries.candidates("", written));
            found.sort_unstable();
            found.dedup();
        }
        found.into_iter().filter_map(|at| self.service_entries.get(at))
    }

    /// The VirtualServices that speak for a full host, inside the mesh or at a gateway, in their order.
    pub fn virtual_services_for(&self, full: &str) -> impl Iterator<Item = &VirtualService> {
        let found = self.by_host().virtual_services.candidates("", full);
        found.into_iter().filter_map(|at| self.virtual_services.get(at)).filter(move |vs| vs.covers(full))
    }

    /// The DestinationRules that decide for a host when a workload of `client` calls it: Istio looks in the client's
    /// namespace, then in the service's, then in the root namespace, and takes the first namespace that has one which is
    /// exported to the client. Within it rules for the same host are merged; the most specific host wins.
    pub fn destination_rules_for(&self, full: &str, client: &str) -> Vec<&DestinationRule> {
        let service = service_of_host(full).map(|(namespace, _)| namespace).unwrap_or_default();
        for namespace in [client, service.as_str(), self.root_namespace.as_str()] {
            let candidates = self.by_host().destination_rules.candidates(namespace, full);
            let mut found: Vec<&DestinationRule> = candidates
                .into_iter()
                .filter_map(|at| self.destination_rules.get(at))
                .filter(|rule| host_matches(&rule.full_host(), full) && rule.visible_to(client))
                .collect();
            let longest = found.iter().map(|rule| specificity(&rule.full_host())).max();
            found.retain(|rule| Some(specificity(&rule.full_host())) == longest);
            if !found.is_empty() {
                return found;
            }
        }
        vec![]
    }

    /// The effective PeerAuthentication mode (`STRICT`, `PERMISSIVE`, `DISABLE`) of pods with these labels for a port of
    /// theirs, and the object and field that say so. Narrower wins: port, workload, namespace, mesh; of several at one
    /// level the oldest alone counts, and what it leaves unset comes from the next level. `PERMISSIVE` where none says
    /// anything. A selector in the root namespace reaches nobody.
    pub fn peer_mode(
        &self,
        namespace: &str,
        labels: &Labels,
        port: Option<i64>,
    ) -> (String, Option<ObjectRef>) {
        peer_mode(self.peer_authentications.iter(), &self.root_namespace, namespace, labels, port)
    }
}

/// The same, of some PeerAuthentications: those of the pods' namespace and of the root namespace are enough.
pub fn peer_mode<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    root: &str,
    namespace: &str,
    labels: &Labels,
    port: Option<i64>,
) -> (String, Option<ObjectRef>) {
    let oldest = |selects: bool, own: &str| {
        let level = policies.clone().filter(|policy| {
            policy.object.namespace() == own
                && policy.selector.is_empty() != selects
                && policy.applies_to(namespace, labels, root)
        });
        level.min_by_key(|policy| (policy.object.created, policy.object.reference.clone()))
    };
    let inside = namespace != root;
    let workload = oldest(true, namespace).filter(|_| inside);
    let set = |value: Option<&Value>| value?.text("mode").filter(|mode| *mode != "UNSET").map(str::to_owned);
    if let (Some(policy), Some(port)) = (workload, port)
        && let Some(ports) = policy.object.body.at("spec.portLevelMtls")
        && let Some(mode) = set(ports.child(&port.to_string()))
    {
        let field = format!("spec.portLevelMtls.{port}.mode");
        return (mode, Some(policy.object.reference.field(field)));
    }
    for policy in [workload, oldest(false, namespace).filter(|_| inside), oldest(false, root)] {
        if let Some(policy) = policy
            && let Some(mode) = set(policy.object.body.at("spec.mtls"))
        {
            return (mode, Some(policy.object.reference.field("spec.mtls.mode")));
        }
    }
    ("PERMISSIVE".to_owned(), None)
}

/// An exact host before a wildcard, a longer wildcard before a shorter one.
fn specificity(host: &str) -> (bool, usize) {
    (!host.starts_with('*'), host.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn hosts() {
        assert_eq!(full_host("a", "n"), "a.n.svc.cluster.local");
        assert_eq!(full_host("a.example.com", "n"), "a.example.com");
        assert_eq!(service_of_host("a.n.svc.cluster.local"), Some(("n".into(), "a".into())));
        assert_eq!(service_of_host("api.example.com"), None);
        assert!(host_matches("*.example.com", "a.example.com"));
        assert!(!host_matches("*.example.com", ".example.com"));
        assert!(hosts_overlap("*.example.com", "*.a.example.com"));
        assert!(!hosts_overlap("*.example.com", "example.com"));
    }

    fn peer(namespace: &str, name: &str, spec: Value) -> Policy {
        Policy::read(Object::read(json!({"kind": "PeerAuthentication", "metadata": {"name": name, "namespace": namespace}, "spec": spec})).unwrap())
    }

    #[test]
    fn the_narrower_peer_authentication_wins() {
        let labels: Labels = [("app".to_owned(), "a".to_owned())].into();
        let istio = Istio {
            root_namespace: "root".into(),
            peer_authentications: vec![
                peer("root", "mesh", json!({"mtls": {"mode": "STRICT"}})),
                peer(
                    "n",
                    "one",
                    json!({"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "UNSET"},
                    "portLevelMtls": {"8080": {"mode": "DISABLE"}}}),
                ),
            ],
            ..Istio::default()
        };
        assert_eq!(istio.peer_mode("n", &labels, Some(8080)).0, "DISABLE");
        assert_eq!(istio.peer_mode("n", &labels, Some(9090)).0, "STRICT");
        assert_eq!(istio.peer_mode("other", &labels, None).1.unwrap().name, "mesh");
        // The oldest of a level alone counts; a selector in the root namespace reaches nobody.
        let mut made = peer("n", "old", json!({"mtls": {"mode": "UNSET"}}));
        Arc::make_mut(&mut made.object).created = Some(jiff::Timestamp::UNIX_EPOCH);
        let mut later = peer("n", "new", json!({"mtls": {"mode": "DISABLE"}}));
        Arc::make_mut(&mut later.object).created = Some(jiff::Timestamp::MAX);
        let by_label = json!({"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "STRICT"}});
        let istio = Istio {
            root_namespace: "root".into(),
            peer_authentications: vec![later, made, peer("root", "one", by_label)],
            ..Istio::default()
        };
        assert_eq!(istio.peer_mode("n", &labels, None).0, "PERMISSIVE");
        assert_eq!(istio.peer_mode("root", &labels, None).0, "PERMISSIVE");
    }

    #[test]
    fn a_host_finds_whoever_speaks_for_it() {
        let vs = |name: &str, hosts: Value| {
            VirtualService::read(Object::read(json!({"kind": "VirtualService", "metadata": {"name": name, "namespace": "n"}, "spec": {"hosts": hosts}})).unwrap())
        };
        let istio = Istio {
            virtual_services: vec![
                vs("a", json!(["A", "a"])),
                vs("b", json!(["*.n.svc.cluster.local", "a"])),
                vs("c", json!(["*"])),
                vs("d", json!(["other"])),
            ],
            ..Istio::default()
        };
        let names =
            |host: &str| -> String { istio.virtual_services_for(host).map(|vs| vs.object.name()).collect() };
        assert_eq!(names("a.n.svc.cluster.local"), "abc");
        assert_eq!(names("x.n.svc.cluster.local"), "bc");
        assert_eq!(names("a"), "c");
    }

    #[test]
    fn a_rule_in_the_clients_namespace_hides_the_services_own() {
        let rule = |namespace: &str, host: &str| {
            DestinationRule::read(Object::read(json!({"kind": "DestinationRule", "metadata": {"name": "d", "namespace": namespace}, "spec": {"host": host}})).unwrap())
        };
        let istio = Istio {
            destination_rules: vec![rule("server", "a"), rule("client", "a.server.svc.cluster.local")],
            ..Istio::default()
        };
        let found = istio.destination_rules_for("a.server.svc.cluster.local", "client");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].object.namespace(), "client");
    }
}
