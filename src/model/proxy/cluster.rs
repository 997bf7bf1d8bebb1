//! `/clusters?format=json`: the endpoints that a proxy knows, what it thinks of them, and how it fared with each.

use crate::model::json::Value;

use super::address;
use crate::model::fields::Fields;
use crate::model::traffic::ClusterName;

/// One endpoint of a cluster, as the proxy sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyHost {
    /// Address and port.
    pub address: String,
    /// Whether outlier detection has taken it out (`failed_outlier_check`).
    pub ejected: bool,
    /// Whether the proxy's own health checks fail (`failed_active_health_check`).
    pub check_failed: bool,
    /// Whether the control plane has taken it away while connections to it last (`pending_dynamic_removal`).
    pub leaving: bool,
    /// What the control plane says of it: `HEALTHY`, `UNHEALTHY`, `DRAINING`, `TIMEOUT`, `DEGRADED`; empty where it says
    /// nothing.
    pub health: String,
    /// Connections that could not be made, since the proxy knows the host.
    pub connect_failures: i64,
    /// Connections that were made or tried.
    pub connections: i64,
    /// Connections that are open.
    pub active_connections: i64,
    /// Requests that were sent.
    pub requests: i64,
    /// Requests that are under way.
    pub active_requests: i64,
    /// Requests that failed: answered with 5xx, or not at all.
    pub failed_requests: i64,
    /// Requests that took too long.
    pub timeouts: i64,
}

impl ProxyHost {
    /// Whether the proxy sends requests to it.
    pub fn usable(&self) -> bool {
        !self.ejected
            && !self.check_failed
            && matches!(self.health.as_str(), "" | "HEALTHY" | "DEGRADED" | "UNKNOWN")
    }

    /// The address without its port.
    pub fn ip(&self) -> &str {
        self.address.rsplit_once(':').map_or(self.address.as_str(), |(ip, _)| ip)
    }

    /// The port; 0 where there is none.
    pub fn port(&self) -> i64 {
        self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
    }
}

/// The limits of a cluster's pool, for requests of default priority. Envoy writes "no limit" as 2^32-1 (Istio's default).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections.
    pub connections: i64,
    /// Requests that wait for a connection.
    pub pending: i64,
    /// Requests under way.
    pub requests: i64,
    /// Retries under way.
    pub retries: i64,
}

impl PoolLimits {
    /// The largest figure of an unsigned 32-bit field: no limit.
    pub const NONE: i64 = 4_294_967_295;
    /// Envoy's own defaults (`circuit_breakers`): connections, pending and requests 1024, retries 3.
    pub const DEFAULT: PoolLimits =
        PoolLimits { connections: 1024, pending: 1024, requests: 1024, retries: 3 };

    /// Reads `circuit_breakers`: the threshold of default priority.
    pub fn read(breakers: &Value) -> Option<Self> {
        let priority = |t: &&Value| matches!(t.text("priority"), None | Some("DEFAULT"));
        let threshold = breakers.list("thresholds").iter().find(priority)?;
        let limit = |field: &str, default: i64| threshold.int(field).unwrap_or(default);
        Some(PoolLimits {
            connections: limit("max_connections", Self::DEFAULT.connections),
            pending: limit("max_pending_requests", Self::DEFAULT.pending),
            requests: limit("max_requests", Self::DEFAULT.requests),
            retries: limit("max_retries", Self::DEFAULT.retries),
        })
    }
}

/// One cluster of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyCluster {
    /// `outbound|80|v1|host`.
    pub name: String,
    /// Its endpoints.
    pub hosts: Vec<ProxyHost>,
    /// What its pool may hold.
    pub limits: Option<PoolLimits>,
}

impl ProxyCluster {
    /// The parts of its name.
    pub fn parts(&self) -> ClusterName {
        ClusterName::read(&self.name)
    }

    /// Endpoints that requests are sent to.
    pub fn usable(&self) -> usize {
        self.hosts.iter().filter(|host| host.usable()).count()
    }

    /// Endpoints that outlier detection has taken out.
    pub fn ejected(&self) -> usize {
        self.hosts.iter().filter(|host| host.ejected).count()
    }

    /// Connections that are open, to all endpoints.
    pub fn active_connections(&self) -> i64 {
        self.hosts.iter().map(|host| host.active_connections).sum()
    }

    /// Requests under way, to all endpoints.
    pub fn active_requests(&self) -> i64 {
        self.hosts.iter().map(|host| host.active_requests).sum()
    }
}

/// All clusters, by name.
pub(super) fn read(body: &Value) -> Vec<ProxyCluster> {
    let mut clusters: Vec<ProxyCluster> = body.list("cluster_statuses").iter().map(read_cluster).collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters
}

fn read_cluster(entry: &Value) -> ProxyCluster {
    let name = entry.string("name");
    ProxyCluster {
        name: name.trim_end_matches(';').to_owned(),
        hosts: entry.list("host_statuses").iter().map(read_host).collect(),
        limits: entry.at("circuit_breakers").and_then(PoolLimits::read),
    }
}

fn read_host(host: &Value) -> ProxyHost {
    let stat = |name: &str| {
        let found = host.list("stats").iter().find(|stat| stat.text("name") == Some(name));
        found.and_then(|stat| stat.int("value")).unwrap_or(0)
    };
    ProxyHost {
        address: address(host.at("address")),
        ejected: host.flag("health_status.failed_outlier_check"),
        check_failed: host.flag("health_status.failed_active_health_check"),
        leaving: host.flag("health_status.pending_dynamic_removal"),
        health: host.string("health_status.eds_health_status"),
        connect_failures: stat("cx_connect_fail"),
        connections: stat("cx_total"),
        active_connections: stat("cx_active"),
        requests: stat("rq_total"),
        active_requests: stat("rq_active"),
        failed_requests: stat("rq_error"),
        timeouts: stat("rq_timeout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn hosts_are_told_apart_by_what_the_proxy_thinks_of_them() {
        let host = |address: &str, health: Value, failed: &str| {
            json!({"address": {"socket_address": {"address": address, "port_value": 80}}, "health_status": health,
                "stats": [{"name": "cx_connect_fail", "value": failed}, {"name": "rq_total"}]})
        };
        let clusters = read(&json!({"cluster_statuses": [
            {"name": "outbound|80|v1|a.b.svc.cluster.local", "circuit_breakers": {"thresholds": [
                {"priority": "HIGH", "max_connections": 9}, {"max_connections": 1, "max_requests": 4_294_967_295u32}]},
             "host_statuses": [
                host("10.0.0.1", json!({"eds_health_status": "HEALTHY"}), "0"),
                host("10.0.0.2", json!({"eds_health_status": "HEALTHY", "failed_outlier_check": true}), "12"),
                host("10.0.0.3", json!({"eds_health_status": "UNHEALTHY"}), "0"),
                host("10.0.0.4", json!({"failed_active_health_check": true}), "x")]},
            {"name": "BlackHoleCluster"}, null]}));
        let cluster = clusters.iter().find(|c| c.name.starts_with("outbound")).unwrap();
        assert_eq!((cluster.usable(), cluster.ejected(), cluster.hosts.len()), (1, 1, 4));
        assert_eq!(
            (cluster.hosts[1].connect_failures, cluster.hosts[1].ip(), cluster.hosts[1].port()),
            (12, "10.0.0.2", 80)
        );
        assert_eq!(cluster.parts().subset, "v1");
        let limits = cluster.limits.unwrap();
        assert_eq!((limits.connections, limits.pending, limits.requests), (1, 1024, PoolLimits::NONE));
    }
}
