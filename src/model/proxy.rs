//! What a proxy's admin port says: the endpoints it knows and what it thinks of them.

use serde_json::Value;

use super::fields::Fields;

/// One endpoint of a cluster, as the proxy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHost {
    /// Address and port.
    pub address: String,
    /// Whether outlier detection has taken it out.
    pub ejected: bool,
    /// What the control plane says of it: `HEALTHY`, `UNHEALTHY`, …
    pub health: String,
}

/// One cluster of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyCluster {
    /// `outbound|80|v1|host`.
    pub name: String,
    /// Its endpoints.
    pub hosts: Vec<ProxyHost>,
}

/// One proxy.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Its clusters; empty where `/clusters` was not seen.
    pub clusters: Vec<ProxyCluster>,
    /// Counters and gauges of `/stats`.
    pub stats: Vec<(String, i64)>,
}

impl Proxy {
    /// A cluster by its name.
    pub fn cluster(&self, name: &str) -> Option<&ProxyCluster> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    /// A statistic by its full name.
    pub fn stat(&self, name: &str) -> Option<i64> {
        self.stats.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// Takes in one answer of the admin port, told by its file name. What is not understood is left out.
    pub fn read(&mut self, file: &str, bytes: &[u8]) {
        match file {
            "clusters.json" => {
                if let Ok(body) = serde_json::from_slice::<Value>(bytes) {
                    self.clusters = body.list("cluster_statuses").iter().map(read_cluster).collect();
                }
            }
            "stats.txt" => {
                let text = String::from_utf8_lossy(bytes);
                let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
                self.stats = pairs
                    .filter_map(|(name, value)| Some((name.replace(";.", "."), value.parse().ok()?)))
                    .collect();
            }
            _ => {}
        }
    }
}

fn read_cluster(entry: &Value) -> ProxyCluster {
    let hosts = entry.list("host_statuses").iter().map(|host| {
        let address = host.at("address.socket_address");
        ProxyHost {
            address: address
                .map(|a| format!("{}:{}", a.string("address"), a.int("port_value").unwrap_or(0)))
                .unwrap_or_default(),
            ejected: host.flag("health_status.failed_outlier_check"),
            health: host.string("health_status.eds_health_status"),
        }
    });
    ProxyCluster { name: entry.string("name"), hosts: hosts.collect() }
}
