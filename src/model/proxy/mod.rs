//! What proxies and their control plane say of themselves, on ports that only they listen on: which configuration a proxy
//! really has, what it thinks of each endpoint, and whether it took what the control plane sent.
//!
//! Formats: Envoy's admin interface in API version 3 (`/clusters`, `/config_dump`, `/certs`, `/server_info`, `/listeners`,
//! `/stats`), and istiod's `/debug/syncz`. Every part may be missing: a bundle may hold one file of a proxy and no other.

pub mod certificate;
pub mod cluster;
pub mod config;
pub mod server;
pub mod sync;

use crate::model::json::Value;

use self::certificate::Certificate;
use self::cluster::ProxyCluster;
use self::config::ProxyConfig;
use self::server::ServerInfo;
use super::fields::Fields;

/// The files of one proxy, as a bundle names them.
pub const FILES: &[&str] =
    &["clusters.json", "certs.json", "server_info.json", "stats.txt", "listeners.json", "config_dump.json"];

/// One proxy.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Its clusters and what it thinks of their endpoints, by name; empty where `/clusters` was not seen.
    pub clusters: Vec<ProxyCluster>,
    /// The configuration that it has; `None` where `/config_dump` was not seen.
    pub config: Option<ProxyConfig>,
    /// The certificates that it holds, its own and those it trusts; empty where `/certs` was not seen.
    pub certificates: Vec<Certificate>,
    /// Its version and how it fares; `None` where `/server_info` was not seen.
    pub server: Option<ServerInfo>,
    /// Listeners that are active, with their address; empty where `/listeners` was not seen.
    pub listeners: Vec<(String, String)>,
    /// Counters and gauges of `/stats`, by name. A statistic that Envoy was told not to keep, or that nobody has touched,
    /// is absent.
    pub stats: Vec<(String, i64)>,
    /// The files that were seen.
    pub seen: Vec<String>,
}

impl Proxy {
    /// A cluster by its name, as `/clusters` has it.
    pub fn cluster(&self, name: &str) -> Option<&ProxyCluster> {
        let at = self.clusters.binary_search_by(|cluster| cluster.name.as_str().cmp(name)).ok()?;
        self.clusters.get(at)
    }

    /// A statistic by its full name.
    pub fn stat(&self, name: &str) -> Option<i64> {
        let at = self.stats.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        self.stats.get(at).map(|(_, value)| *value)
    }

    /// A statistic of a cluster: `upstream_cx_overflow`, `circuit_breakers.default.cx_open`.
    pub fn cluster_stat(&self, cluster: &str, name: &str) -> Option<i64> {
        self.stat(&format!("cluster.{cluster}.{name}"))
    }

    /// Whether this file was seen: only then does the absence of something in it mean anything.
    pub fn has(&self, file: &str) -> bool {
        self.seen.iter().any(|seen| seen == file)
    }

    /// Takes in one answer of the admin port, told by its file name. What is not understood is left out.
    pub fn read(&mut self, file: &str, bytes: &[u8]) {
        if file == "stats.txt" {
            self.stats = read_stats(bytes);
            self.saw(file);
            return;
        }
        let Ok(body) = serde_json::from_slice::<Value>(bytes) else { return };
        match file {
            "clusters.json" => self.clusters = cluster::read(&body),
            "config_dump.json" => self.config = Some(config::read(&body)),
            "certs.json" => self.certificates = certificate::read(&body),
            "server_info.json" => self.server = Some(ServerInfo::read(&body)),
            "listeners.json" => self.listeners = read_listeners(&body),
            _ => return,
        }
        self.saw(file);
    }

    fn saw(&mut self, file: &str) {
        if !self.has(file) {
            self.seen.push(file.to_owned());
        }
    }
}

/// `name: value`, one a line; texts and histograms are left out. Istio ends a cluster's name with `;`, which is dropped.
fn read_stats(bytes: &[u8]) -> Vec<(String, i64)> {
    let text = String::from_utf8_lossy(bytes);
    let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
    let mut stats: Vec<(String, i64)> = pairs
        .filter_map(|(name, value)| Some((name.replace(";.", "."), value.trim().parse().ok()?)))
        .collect();
    stats.sort();
    stats
}

fn read_listeners(body: &Value) -> Vec<(String, String)> {
    let statuses = body.list("listener_statuses").iter();
    statuses.map(|status| (status.string("name"), address(status.at("local_address")))).collect()
}

/// `10.0.0.1:80` out of an `Address`; a pipe's path, an internal listener's name.
fn address(value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    match value.at("socket_address") {
        Some(socket) => format!("{}:{}", socket.string("address"), socket.int("port_value").unwrap_or(0)),
        None => value
            .text("pipe.path")
            .or_else(|| value.text("envoy_internal_address.server_listener_name"))
            .unwrap_or_default()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_found_by_their_name_whatever_ends_the_clusters() {
        let mut proxy = Proxy::default();
        proxy.read(
            "stats.txt",
            b"listener_manager.lds.version_text: \"x\"\nserver.live: 1\n\
              cluster.outbound|80||a.b.svc.cluster.local;.upstream_cx_overflow: 7\n\
              cluster.x.upstream_rq_time: P0(nan,1) P50(nan,2)\n",
        );
        assert_eq!(proxy.stat("server.live"), Some(1));
        assert_eq!(proxy.cluster_stat("outbound|80||a.b.svc.cluster.local", "upstream_cx_overflow"), Some(7));
        assert_eq!(proxy.stats.len(), 2);
        assert!(proxy.has("stats.txt") && !proxy.has("certs.json"));
    }

    #[test]
    fn an_answer_that_is_none_leaves_the_proxy_as_it_was() {
        let mut proxy = Proxy::default();
        for file in FILES.iter().filter(|file| file.ends_with(".json")) {
            proxy.read(file, b"upstream connect error");
            assert!(!proxy.has(file));
            proxy.read(file, b"[{\"a\": []}, null]");
            assert!(proxy.has(file), "{file}");
        }
        assert!(proxy.clusters.is_empty() && proxy.certificates.is_empty());
    }
}
