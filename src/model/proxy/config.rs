//! `/config_dump`: the configuration that a proxy really has, and what it refused.
//!
//! Private keys and other inline data are dropped when the answer is taken in; names, versions and references stay.

use crate::model::json::Value;
use jiff::Timestamp;
use std::collections::BTreeSet;

use super::address;
use super::cluster::PoolLimits;
use crate::model::fields::Fields;

/// How far a piece of configuration is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceState {
    /// It is in use.
    #[default]
    Active,
    /// It waits for something, such as a certificate or its endpoints.
    Warming,
    /// It is on its way out.
    Draining,
    /// There is only an update that the proxy refused.
    Refused,
}

/// An update that a proxy refused; what it had before stays in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why, in Envoy's words. It may quote configuration.
    pub details: String,
    /// When.
    pub at: Option<Timestamp>,
    /// The version that was refused.
    pub version: String,
}

/// What all pieces of configuration have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: ResourceState,
    /// Its version, as the control plane names it; often empty.
    pub version: String,
    /// When the proxy took it.
    pub updated: Option<Timestamp>,
    /// The last update, where the proxy refused it.
    pub refused: Option<Refusal>,
}

/// A cluster as it is configured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfiguredCluster {
    /// Its name and state.
    pub resource: Resource,
    /// `EDS`, `STRICT_DNS`, `LOGICAL_DNS`, `STATIC`, `ORIGINAL_DST`.
    pub discovery: String,
    /// How long it tries to connect, in seconds.
    pub connect_timeout: Option<f64>,
    /// What its pool may hold.
    pub limits: Option<PoolLimits>,
    /// Answers with 5xx in a row after which an endpoint is taken out; `None` where outlier detection is off.
    pub ejects_after: Option<i64>,
    /// The share of endpoints, in percent, that may be taken out; Envoy's default is 10.
    pub max_ejection_percent: Option<i64>,
    /// The path of the object that it was made of, as Istio notes it:
    /// `/apis/networking.istio.io/v1/namespaces/shop/destination-rule/checkout`.
    pub made_of: String,
    /// Names of certificates that it needs.
    pub secrets: BTreeSet<String>,
}

/// A listener as it is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfiguredListener {
    /// Its name and state.
    pub resource: Resource,
    /// Its address and port.
    pub address: String,
    /// `INBOUND` or `OUTBOUND`; empty for the proxy's own.
    pub direction: String,
    /// Names of the route configurations that it follows.
    pub routes: BTreeSet<String>,
    /// Names of certificates that it needs.
    pub secrets: BTreeSet<String>,
    /// Whether any of its filters writes an access log.
    pub access_log: bool,
}

/// One route of a virtual host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProxyRoute {
    /// Its name; often empty.
    pub name: String,
    /// Clusters with their weights; a single one has the weight 100. Empty for redirects and direct answers.
    pub clusters: Vec<(String, i64)>,
    /// Seconds; 0 is no limit.
    pub timeout: Option<f64>,
    /// The status that the proxy answers with by itself.
    pub direct_response: Option<i64>,
}

/// A virtual host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VirtualHost {
    /// Its name.
    pub name: String,
    /// The hosts that it answers for.
    pub domains: Vec<String>,
    /// Its routes, in their order.
    pub routes: Vec<ProxyRoute>,
}

/// A route configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfiguredRoutes {
    /// Its name and state.
    pub resource: Resource,
    /// Its virtual hosts.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// The configuration that a proxy has. Each list is in order of names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProxyConfig {
    /// Clusters.
    pub clusters: Vec<ConfiguredCluster>,
    /// Listeners.
    pub listeners: Vec<ConfiguredListener>,
    /// Route configurations.
    pub routes: Vec<ConfiguredRoutes>,
    /// Certificates, by name only; empty where the section was left out.
    pub secrets: Vec<Resource>,
    /// Whether the dump has clusters, and routes or listeners at all: only then does a missing one mean anything.
    pub complete: bool,
}

impl ProxyConfig {
    /// A cluster by its name.
    pub fn cluster(&self, name: &str) -> Option<&ConfiguredCluster> {
        self.clusters.iter().find(|cluster| cluster.resource.name == name)
    }

    /// A listener by its name.
    pub fn listener(&self, name: &str) -> Option<&ConfiguredListener> {
        self.listeners.iter().find(|listener| listener.resource.name == name)
    }

    /// Every piece of configuration with its sort: `cluster`, `listener`, `routes` or `secret`.
    pub fn resources(&self) -> impl Iterator<Item = (&'static str, &Resource)> {
        let clusters = self.clusters.iter().map(|c| ("cluster", &c.resource));
        let listeners = self.listeners.iter().map(|l| ("listener", &l.resource));
        let routes = self.routes.iter().map(|r| ("routes", &r.resource));
        clusters.chain(listeners).chain(routes).chain(self.secrets.iter().map(|s| ("secret", s)))
    }

    /// Every route with the configuration and the virtual host that it stands in.
    pub fn all_routes(&self) -> impl Iterator<Item = (&ConfiguredRoutes, &VirtualHost, &ProxyRoute)> {
        self.routes.iter().flat_map(|routes| {
            routes
                .virtual_hosts
                .iter()
                .flat_map(move |host| host.routes.iter().map(move |route| (routes, host, route)))
        })
    }
}

/// Reads a dump; sections of an unknown type are left out.
pub(super) fn read(body: &Value) -> ProxyConfig {
    let mut config = ProxyConfig::default();
    for section in body.list("configs") {
        let kind = section.text("@type").and_then(|url| url.rsplit('.').next()).unwrap_or_default();
        match kind {
            "ClustersConfigDump" => read_clusters(section, &mut config.clusters),
            "ListenersConfigDump" => read_listeners(section, &mut config.listeners),
            "RoutesConfigDump" => read_routes(section, &mut config.routes),
            "SecretsConfigDump" => read_secrets(section, &mut config.secrets),
            _ => {}
        }
    }
    config.clusters.sort_by(|a, b| a.resource.name.cmp(&b.resource.name));
    config.listeners.sort_by(|a, b| a.resource.name.cmp(&b.resource.name));
    config.routes.sort_by(|a, b| a.resource.name.cmp(&b.resource.name));
    config.secrets.sort_by(|a, b| a.name.cmp(&b.name));
    config.complete = !config.clusters.is_empty() && !config.listeners.is_empty();
    config
}

fn refusal(entry: &Value) -> Option<Refusal> {
    let state = entry.at("error_state")?;
    Some(Refusal {
        details: state.string("details"),
        at: state.time("last_update_attempt"),
        version: state.string("version_info"),
    })
}

fn resource(entry: &Value, name: String, state: ResourceState) -> Resource {
    Resource {
        name,
        state,
        version: entry.string("version_info"),
        updated: entry.time("last_updated"),
        refused: refusal(entry),
    }
}

fn read_clusters(section: &Value, out: &mut Vec<ConfiguredCluster>) {
    let parts = [
        ("static_clusters", ResourceState::Active),
        ("dynamic_active_clusters", ResourceState::Active),
        ("dynamic_warming_clusters", ResourceState::Warming),
    ];
    for (field, state) in parts {
        out.extend(section.list(field).iter().map(|entry| {
            let body = entry.at("cluster").unwrap_or(&Value::Null);
            // An update that was refused at once has no cluster, only the configuration that failed.
            let (name, state) = match body.text("name") {
                Some(name) => (name.to_owned(), state),
                None => (entry.string("error_state.failed_configuration.name"), ResourceState::Refused),
            };
            let outliers = body.at("outlier_detection");
            ConfiguredCluster {
                resource: resource(entry, name, state),
                discovery: body
                    .text("type")
                    .or_else(|| body.text("cluster_type.name"))
                    .unwrap_or_default()
                    .to_owned(),
                connect_timeout: body.seconds("connect_timeout"),
                limits: body.at("circuit_breakers").and_then(PoolLimits::read),
                ejects_after: outliers.map(|o| {
                    o.int("consecutive_5xx")
                        .or_else(|| o.int("consecutive_gateway_failure"))
                        .unwrap_or(DEFAULT_EJECTS_AFTER)
                }),
                max_ejection_percent: outliers.and_then(|o| o.int("max_ejection_percent")),
                made_of: body.string("metadata.filter_metadata.istio.config"),
                secrets: walk(body).secrets,
            }
        }));
    }
}

/// Envoy's default of `consecutive_5xx`.
const DEFAULT_EJECTS_AFTER: i64 = 5;

fn read_listeners(section: &Value, out: &mut Vec<ConfiguredListener>) {
    let listener = |entry: &Value, holder: &Value, name: String, state: ResourceState| {
        let body = holder.at("listener").unwrap_or(&Value::Null);
        let found = walk(body);
        let mut resource = resource(holder, name, state);
        resource.refused = refusal(entry);
        ConfiguredListener {
            resource,
            address: address(body.at("address")),
            direction: body.string("traffic_direction"),
            routes: found.routes,
            secrets: found.secrets,
            access_log: found.access_log,
        }
    };
    for entry in section.list("static_listeners") {
        out.push(listener(entry, entry, entry.string("listener.name"), ResourceState::Active));
    }
    for entry in section.list("dynamic_listeners") {
        let name = entry.string("name");
        let states = [
            ("active_state", ResourceState::Active),
            ("warming_state", ResourceState::Warming),
            ("draining_state", ResourceState::Draining),
        ];
        let mut any = false;
        for (field, state) in states {
            if let Some(holder) = entry.at(field) {
                any = true;
                out.push(listener(entry, holder, name.clone(), state));
            }
        }
        if !any {
            out.push(listener(entry, entry, name, ResourceState::Refused));
        }
    }
}

fn read_routes(section: &Value, out: &mut Vec<ConfiguredRoutes>) {
    for field in ["static_route_configs", "dynamic_route_configs"] {
        out.extend(section.list(field).iter().map(|entry| {
            let body = entry.at("route_config").unwrap_or(&Value::Null);
            ConfiguredRoutes {
                resource: resource(entry, body.string("name"), ResourceState::Active),
                virtual_hosts: body.list("virtual_hosts").iter().map(virtual_host).collect(),
            }
        }));
    }
}

fn virtual_host(body: &Value) -> VirtualHost {
    VirtualHost {
        name: body.string("name"),
        domains: body.texts("domains"),
        routes: body.list("routes").iter().map(route).collect(),
    }
}

fn route(body: &Value) -> ProxyRoute {
    let single = body.text("route.cluster").map(|name| (name.to_owned(), 100));
    let weighted = body.list("route.weighted_clusters.clusters").iter();
    let weighted = weighted.map(|c| (c.string("name"), c.int("weight").unwrap_or(0)));
    ProxyRoute {
        name: body.string("name"),
        clusters: single.into_iter().chain(weighted).collect(),
        timeout: body.seconds("route.timeout"),
        direct_response: body.int("direct_response.status"),
    }
}

fn read_secrets(section: &Value, out: &mut Vec<Resource>) {
    let parts = [
        ("static_secrets", ResourceState::Active),
        ("dynamic_active_secrets", ResourceState::Active),
        ("dynamic_warming_secrets", ResourceState::Warming),
    ];
    for (field, state) in parts {
        out.extend(section.list(field).iter().map(|entry| resource(entry, entry.string("name"), state)));
    }
}

/// What filters and transport sockets refer to, wherever it stands in them.
#[derive(Default)]
struct References {
    routes: BTreeSet<String>,
    secrets: BTreeSet<String>,
    access_log: bool,
}

fn walk(body: &Value) -> References {
    let mut found = References::default();
    visit(body, &mut found, 0);
    found
}

/// As deep as the JSON parser goes.
const MAX_DEPTH: usize = 128;

fn visit(value: &Value, found: &mut References, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| visit(item, found, depth + 1)),
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "route_config_name" {
                    found.routes.extend(value.as_str().map(str::to_owned));
                } else if key.ends_with("sds_secret_config") {
                    found.secrets.extend(value.text("name").map(str::to_owned));
                } else if key.ends_with("sds_secret_configs") {
                    let names = value.as_array().into_iter().flatten().filter_map(|one| one.text("name"));
                    found.secrets.extend(names.map(str::to_owned));
                } else if key == "access_log" {
                    found.access_log |= value.as_array().is_some_and(|logs| !logs.is_empty());
                } else {
                    visit(value, found, depth + 1);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn dump() -> ProxyConfig {
        read(&json!({"configs": [
            {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
             "dynamic_active_clusters": [{"version_info": "7", "last_updated": "2026-11-22T03:00:07.515Z", "cluster": {
                "name": "outbound|80|v1|a.b.svc.cluster.local", "type": "EDS", "connect_timeout": "10s",
                "circuit_breakers": {"thresholds": [{"max_connections": 1}]}, "outlier_detection": {"max_ejection_percent": 100},
                "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/b/destination-rule/a"}}},
                "transport_socket_matches": [{"transport_socket": {"typed_config": {"common_tls_context": {
                    "tls_certificate_sds_secret_configs": [{"name": "default"}],
                    "combined_validation_context": {"validation_context_sds_secret_config": {"name": "ROOTCA"}}}}}}]}}],
             "dynamic_warming_clusters": [{"cluster": {"name": "slow"}}, {"error_state": {"details": "bad", "failed_configuration": {"name": "bad"}}}]},
            {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [
                {"name": "virtualInbound", "active_state": {"version_info": "1", "listener": {"traffic_direction": "INBOUND",
                    "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
                    "filter_chains": [{"filters": [{"typed_config": {"rds": {"route_config_name": "80"}, "access_log": [{}]}}]}]}},
                 "error_state": {"details": "script load error", "last_update_attempt": "2026-11-22T03:00:07Z", "version_info": "2"}},
                {"name": "new", "error_state": {"details": "no"}}, {"name": "w", "warming_state": {}}]},
            {"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": [{"route_config": {"name": "80",
                "virtual_hosts": [{"name": "a", "domains": ["a"], "routes": [
                    {"route": {"weighted_clusters": {"clusters": [{"name": "x", "weight": 20}, {"name": "y", "weight": 80}]}, "timeout": "0.5s"}},
                    {"direct_response": {"status": 502}}]}]}}]},
            {"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump", "dynamic_warming_secrets": [{"name": "kubernetes://cert"}]},
            {"@type": "type.googleapis.com/envoy.admin.v3.Unknown"}, 1]}))
    }

    #[test]
    fn clusters_have_their_limits_their_origin_and_their_certificates() {
        let config = dump();
        let cluster = config.cluster("outbound|80|v1|a.b.svc.cluster.local").unwrap();
        assert_eq!((cluster.discovery.as_str(), cluster.connect_timeout), ("EDS", Some(10.0)));
        assert_eq!(
            (cluster.limits.unwrap().connections, cluster.ejects_after, cluster.max_ejection_percent),
            (1, Some(5), Some(100))
        );
        assert!(cluster.made_of.ends_with("destination-rule/a"));
        assert_eq!(cluster.secrets, ["ROOTCA".to_owned(), "default".to_owned()].into());
        assert_eq!(config.cluster("slow").unwrap().resource.state, ResourceState::Warming);
        assert_eq!(config.cluster("bad").unwrap().resource.state, ResourceState::Refused);
    }

    #[test]
    fn a_refused_update_leaves_the_listener_in_use() {
        let config = dump();
        let listener = config.listener("virtualInbound").unwrap();
        assert_eq!(listener.resource.state, ResourceState::Active);
        assert_eq!(listener.resource.refused.as_ref().unwrap().details, "script load error");
        assert!(listener.access_log && listener.routes.contains("80"));
        assert_eq!(listener.address, "0.0.0.0:15006");
        assert_eq!(config.listener("new").unwrap().resource.state, ResourceState::Refused);
        assert_eq!(config.listener("w").unwrap().resource.state, ResourceState::Warming);
        assert_eq!(config.secrets[0].state, ResourceState::Warming);
        assert!(config.complete);
    }

    #[test]
    fn routes_have_their_clusters_with_weights() {
        let config = dump();
        let routes: Vec<_> =
            config.all_routes().map(|(_, host, route)| (host.name.as_str(), route)).collect();
        assert_eq!(routes[0].1.clusters, [("x".to_owned(), 20), ("y".to_owned(), 80)]);
        assert_eq!((routes[0].1.timeout, routes[1].1.direct_response), (Some(0.5), Some(502)));
        assert_eq!(config.resources().count(), 3 + 3 + 1 + 1);
    }
}
