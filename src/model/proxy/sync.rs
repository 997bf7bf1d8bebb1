//! istiod's `/debug/syncz`: what it sent to each proxy, and what each proxy said to it.

use crate::model::json::Value;
use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::model::fields::Fields;

/// The sorts of configuration that a control plane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigKind {
    /// Where a proxy listens (LDS).
    Listeners,
    /// Which request goes where (RDS).
    Routes,
    /// What can be called (CDS).
    Clusters,
    /// Who answers there (EDS).
    Endpoints,
    /// Certificates and keys (SDS).
    Secrets,
    /// Filters that are sent on their own, such as Wasm modules (ECDS).
    Extensions,
}

impl ConfigKind {
    /// Its name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            ConfigKind::Listeners => "listeners",
            ConfigKind::Routes => "routes",
            ConfigKind::Clusters => "clusters",
            ConfigKind::Endpoints => "endpoints",
            ConfigKind::Secrets => "secrets",
            ConfigKind::Extensions => "extensions",
        }
    }

    /// The kind of a resource's type URL (`type.googleapis.com/envoy.config.cluster.v3.Cluster`).
    pub fn of_type(url: &str) -> Option<Self> {
        match url.rsplit('.').next()? {
            "Listener" => Some(ConfigKind::Listeners),
            "RouteConfiguration" => Some(ConfigKind::Routes),
            "Cluster" => Some(ConfigKind::Clusters),
            "ClusterLoadAssignment" => Some(ConfigKind::Endpoints),
            "Secret" => Some(ConfigKind::Secrets),
            "TypedExtensionConfig" => Some(ConfigKind::Extensions),
            _ => None,
        }
    }
}

/// How a proxy stands with one sort of configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncState {
    /// Which sort.
    pub kind: ConfigKind,
    /// The nonce of what was sent last; empty where nothing was sent.
    pub sent: String,
    /// The nonce that the proxy acknowledged last; empty where it never did.
    pub acked: String,
    /// When it was sent; older control planes do not say.
    pub sent_at: Option<Timestamp>,
    /// Why the proxy refused it, in Envoy's words; empty where it did not. It may quote configuration.
    pub error: String,
}

impl SyncState {
    /// Whether the proxy has what was sent last.
    pub fn synced(&self) -> bool {
        self.error.is_empty() && self.sent == self.acked
    }
}

/// What the control plane knows of one proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySync {
    /// The control plane's pod that serves it.
    pub control_plane: String,
    /// The proxy's namespace.
    pub namespace: String,
    /// The proxy's pod.
    pub pod: String,
    /// The version that the proxy's agent names.
    pub istio_version: String,
    /// The sorts of configuration, in their order.
    pub states: Vec<SyncState>,
}

/// The names under which older control planes wrote each sort.
const FLAT: &[(ConfigKind, &str)] = &[
    (ConfigKind::Listeners, "listener"),
    (ConfigKind::Routes, "route"),
    (ConfigKind::Clusters, "cluster"),
    (ConfigKind::Endpoints, "endpoint"),
    (ConfigKind::Extensions, "extensionconfig"),
];

/// Reads one `syncz` answer of the control plane's pod.
pub fn read(control_plane: &str, body: &Value) -> Vec<ProxySync> {
    let entries = body.as_array().map(|list| list.as_slice()).unwrap_or_default();
    entries.iter().filter_map(|entry| read_one(control_plane, entry)).collect()
}

fn read_one(control_plane: &str, entry: &Value) -> Option<ProxySync> {
    // `pod.namespace`; names of pods may hold dots, namespaces may not.
    let (pod, namespace) = entry.text("proxy")?.rsplit_once('.')?;
    let mut states: BTreeMap<ConfigKind, SyncState> = BTreeMap::new();
    for (kind, name) in FLAT {
        let (sent, acked) = (entry.string(&format!("{name}_sent")), entry.string(&format!("{name}_acked")));
        if !sent.is_empty() || !acked.is_empty() {
            states.insert(*kind, SyncState { kind: *kind, sent, acked, sent_at: None, error: String::new() });
        }
    }
    for (url, resource) in entry.map("resources").into_iter().flatten() {
        let Some(kind) = ConfigKind::of_type(url) else { continue };
        let state = SyncState {
            kind,
            sent: resource.string("sent"),
            acked: resource.string("acked"),
            sent_at: resource.time("sentTime"),
            error: resource.string("lastError"),
        };
        states.insert(kind, state);
    }
    Some(ProxySync {
        control_plane: control_plane.to_owned(),
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        istio_version: entry.string("istio_version"),
        states: states.into_values().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn newer_and_older_answers_say_the_same() {
        let newer = json!([{"proxy": "a-1.b.shop", "istio_version": "1.29.1", "cluster_sent": "x", "cluster_acked": "x",
            "resources": {
                "type.googleapis.com/envoy.config.cluster.v3.Cluster": {"sent": "x", "acked": "x", "sentTime": "2026-11-22T02:51:41.79Z"},
                "type.googleapis.com/envoy.config.listener.v3.Listener": {"sent": "y", "sentTime": "2026-11-22T02:51:41.79Z", "lastError": "script load error"},
                "type.googleapis.com/istio.unknown": {"sent": "z"}}}, {"proxy": "nonsense"}, 7]);
        let read_newer = read("istiod-1", &newer);
        assert_eq!(read_newer.len(), 1);
        let one = &read_newer[0];
        assert_eq!((one.pod.as_str(), one.namespace.as_str()), ("a-1.b", "shop"));
        let states: Vec<_> = one.states.iter().map(|s| (s.kind, s.synced())).collect();
        assert_eq!(states, [(ConfigKind::Listeners, false), (ConfigKind::Clusters, true)]);

        let older = json!([{"proxy": "a-1.shop", "listener_sent": "1", "listener_acked": "1", "route_sent": "2", "route_acked": "1"}]);
        let states: Vec<_> = read("i", &older)[0].states.iter().map(|s| (s.kind, s.synced())).collect();
        assert_eq!(states, [(ConfigKind::Listeners, true), (ConfigKind::Routes, false)]);
        assert!(read("i", &json!({"error": "no"})).is_empty());
    }
}
