//! Whether the proxies have come to rest: each says which configuration it has, and what of it is still being replaced.

use std::time::{Duration, Instant};

use crate::api::Api;
use crate::world::DRAIN;

/// How long proxies may go on changing. Others may work on the same cluster, and each change of theirs is sent to all proxies.
const REST: Duration = Duration::from_secs(60);
/// What tells a configuration from another: the versions of listeners and clusters, and how many are on their way in or out.
const GAUGES: [&str; 6] = [
    "envoy_cluster_manager_cds_version",
    "envoy_cluster_manager_warming_clusters",
    "envoy_listener_manager_lds_version",
    "envoy_listener_manager_total_filter_chains_draining",
    "envoy_listener_manager_total_listeners_draining",
    "envoy_listener_manager_total_listeners_warming",
];

/// Namespace and name of a proxy's pod, and whether it gives up old connections as fast as the pods of this world are told to;
/// others do so in a minute, and are not waited for.
pub(crate) type Proxy = (String, String, bool);

/// The configuration that proxies have; an error while one of them is replacing parts of it.
pub(crate) fn configuration(api: &Api, proxies: &[Proxy]) -> Result<Vec<String>, String> {
    let mut out = vec![];
    for (namespace, pod, fast) in proxies {
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}:15090/proxy/stats/prometheus?filter=(cluster|listener)_manager"
        );
        let (status, text) = api.call("GET", &path, None);
        if status != 200 {
            return Err(format!("{pod}: {status}"));
        }
        for line in text.lines() {
            let Some((name, value)) = line.split_once("{} ") else { continue };
            if !GAUGES.contains(&name) {
                continue;
            }
            let moving = name.ends_with("warming")
                || name.ends_with("warming_clusters")
                || (*fast && name.ends_with("draining"));
            if moving && value.trim() != "0" {
                return Err(format!("{pod}: {name} {value}"));
            }
            if name.ends_with("version") {
                out.push(format!("{pod} {line}"));
            }
        }
    }
    assert!(out.len() == 2 * proxies.len(), "proxies do not say which configuration they have: {out:?}");
    Ok(out)
}

/// Waits until nothing of the proxies' configuration has changed for as long as connections of the one before may last.
pub(crate) fn wait(api: &Api, proxies: &[Proxy]) {
    let deadline = Instant::now() + REST;
    let mut before = configuration(api, proxies);
    loop {
        std::thread::sleep(DRAIN);
        let now = configuration(api, proxies);
        if now.is_ok() && now == before {
            return;
        }
        if Instant::now() > deadline {
            crate::say(&format!("the proxies did not come to rest within {REST:?}: {now:?}"));
            return;
        }
        before = now;
    }
}
