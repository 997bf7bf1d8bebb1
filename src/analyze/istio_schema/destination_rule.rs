//! DestinationRule: policies for all ports, for one, and for subsets.

use crate::model::json::{Value, json};
use std::collections::BTreeSet;

use super::words::{
    DOMAIN, LABEL, domain, duration, export_to, full_name, is_address, is_label, items, labels, nanoseconds,
    port, selector, set, shown, word,
};
use super::{Faults, Fix};
use crate::model::fields::Fields;

const NOT_NEGATIVE: &str = "0 or more";
const LOCALITY: &str =
    "region, region/zone or region/zone/subzone, with * only at the end and none within another";

pub(super) fn check(out: &mut Faults, namespace: &str, spec: &Value) {
    out.unless("spec.host", domain(word(spec, "host")), DOMAIN);
    policy(out, namespace, spec.at("trafficPolicy"), "spec.trafficPolicy");
    let mut seen = BTreeSet::new();
    for (path, subset) in items(spec, "subsets", "spec") {
        let name = word(subset, "name");
        if !seen.insert(name) {
            out.error(
                format!("{path}.name"),
                format!("two subsets are called \"{}\"", shown(name)),
                "a name for each subset",
            );
        }
        subset_name(out, format!("{path}.name"), name);
        labels(out, subset, "labels", &path);
        let before = out.0.len();
        policy(out, namespace, subset.at("trafficPolicy"), &format!("{path}.trafficPolicy"));
        out.forget_warnings(before);
    }
    export_to(out, namespace, spec, set(spec, "workloadSelector"));
    selector(out, spec.at("workloadSelector"), "spec.workloadSelector");
}

/// The name of a subset.
pub(super) fn subset_name(out: &mut Faults, path: String, name: &str) {
    if !is_label(name) {
        out.error(path, format!("\"{}\" is no name of a subset", shown(name)), LABEL);
    }
}

fn policy(out: &mut Faults, namespace: &str, policy: Option<&Value>, path: &str) {
    let Some(policy) = policy.filter(|policy| policy.is_object()) else { return };
    let known = [
        "outlierDetection",
        "connectionPool",
        "loadBalancer",
        "tls",
        "tunnel",
        "proxyProtocol",
        "retryBudget",
    ];
    if policy.list("portLevelSettings").is_empty() && !known.iter().any(|key| set(policy, key)) {
        out.error(path, "a traffic policy is empty", "at least one setting").fix(Fix::Remove);
        return;
    }
    if set(policy, "tunnel") && set(policy, "proxyProtocol") {
        out.error(path, "a traffic policy has tunnel and proxyProtocol", "one of the two");
        return;
    }
    settings(out, namespace, policy, path);
    for (path, own) in items(policy, "portLevelSettings", path) {
        let before = out.0.len();
        if !set(own, "port") {
            out.error(format!("{path}.port"), "a policy for a port names none", "port.number");
        }
        if ["outlierDetection", "connectionPool", "loadBalancer", "tls"].iter().any(|key| set(own, key)) {
            settings(out, namespace, own, &path);
        } else {
            out.error(path, "a policy for a port is empty", "at least one setting").fix(Fix::Remove);
        }
        out.forget_warnings(before);
    }
    if let Some(tunnel) = policy.at("tunnel").filter(|tunnel| tunnel.is_object()) {
        let path = format!("{path}.tunnel");
        if !matches!(word(tunnel, "protocol"), "" | "CONNECT" | "POST") {
            out.error(format!("{path}.protocol"), "a tunnel has a protocol of its own", "CONNECT or POST");
        }
        let host = word(tunnel, "targetHost");
        if !is_address(host) {
            out.unless(
                format!("{path}.targetHost"),
                full_name(host).map(|what| format!("of a tunnel, {what}")),
                "a whole name or an address",
            );
        }
        port(out, format!("{path}.targetPort"), tunnel.int("targetPort").unwrap_or(0));
    }
}

/// What policies for all ports and for one have in common.
fn settings(out: &mut Faults, namespace: &str, policy: &Value, path: &str) {
    let part = |key: &str| policy.at(key).filter(|part| part.is_object());
    if let Some(outlier) = part("outlierDetection") {
        outliers(out, outlier, &format!("{path}.outlierDetection"));
    }
    if let Some(pool) = part("connectionPool") {
        pools(out, pool, &format!("{path}.connectionPool"));
    }
    if let Some(balancer) = part("loadBalancer") {
        balancing(out, balancer, part("outlierDetection").is_some(), &format!("{path}.loadBalancer"));
    }
    if let Some(tls) = part("tls") {
        client_tls(out, namespace, tls, &format!("{path}.tls"));
    }
}

fn outliers(out: &mut Faults, outlier: &Value, path: &str) {
    duration(out, outlier, "baseEjectionTime", path);
    if outlier.int("consecutiveErrors").unwrap_or(0) != 0 {
        out.warn(
            format!("{path}.consecutiveErrors"),
            "consecutiveErrors is on its way out",
            "consecutiveGatewayErrors or consecutive5xxErrors",
        );
    }
    if !outlier.flag("splitExternalLocalOriginErrors")
        && outlier.int("consecutiveLocalOriginFailures").unwrap_or(0) > 0
    {
        out.error(
            format!("{path}.consecutiveLocalOriginFailures"),
            "local failures are counted and not told apart",
            "splitExternalLocalOriginErrors: true beside it",
        );
    }
    duration(out, outlier, "interval", path);
    for key in ["maxEjectionPercent", "minHealthPercent"] {
        let percent = outlier.int(key).unwrap_or(0);
        if !(0..=100).contains(&percent) {
            out.error(format!("{path}.{key}"), format!("{percent} is no percentage"), "0 to 100")
                .fix(Fix::Write(json!(percent.clamp(0, 100))));
        }
    }
}

/// The limits of connections and requests.
pub(super) fn pools(out: &mut Faults, pool: &Value, path: &str) {
    if !set(pool, "http") && !set(pool, "tcp") {
        out.error(path, "a connection pool is empty", "http, tcp or both").fix(Fix::Remove);
        return;
    }
    let negative = |out: &mut Faults, key: &str| {
        if pool.int(key).is_some_and(|count| count < 0) {
            out.error(format!("{path}.{key}"), format!("{key} is negative"), NOT_NEGATIVE);
        }
    };
    for key in [
        "http1MaxPendingRequests",
        "http2MaxRequests",
        "maxRequestsPerConnection",
        "maxRetries",
        "maxConcurrentStreams",
    ] {
        negative(out, &format!("http.{key}"));
    }
    negative(out, "tcp.maxConnections");
    if let Some(http) = pool.at("http") {
        let path = format!("{path}.http");
        duration(out, http, "idleTimeout", &path);
        if word(http, "h2UpgradePolicy") == "UPGRADE" && http.flag("useClientProtocol") {
            out.error(
                format!("{path}.useClientProtocol"),
                "the client's protocol is kept and upgraded",
                "one of UPGRADE and useClientProtocol",
            );
        }
        if let Some(alive) = http.at("http2KeepAlive").filter(|alive| alive.is_object()) {
            for key in ["interval", "timeout"] {
                if word(alive, key).is_empty() {
                    out.error(
                        format!("{path}.http2KeepAlive.{key}"),
                        format!("http2KeepAlive has no {key}"),
                        "interval and timeout",
                    );
                }
                duration(out, alive, key, &format!("{path}.http2KeepAlive"));
            }
        }
    }
    if let Some(tcp) = pool.at("tcp") {
        let path = format!("{path}.tcp");
        duration(out, tcp, "connectTimeout", &path);
        duration(out, tcp, "maxConnectionDuration", &path);
        // Below one millisecond is off.
        if nanoseconds(tcp, "idleTimeout").is_some_and(|long| long / 1_000_000 != 0) {
            duration(out, tcp, "idleTimeout", &path);
        }
        if let Some(alive) = tcp.at("tcpKeepalive") {
            duration(out, alive, "time", &format!("{path}.tcpKeepalive"));
            duration(out, alive, "interval", &format!("{path}.tcpKeepalive"));
        }
    }
}

fn balancing(out: &mut Faults, balancer: &Value, ejects: bool, path: &str) {
    if let Some(hash) = balancer.at("consistentHash").filter(|hash| hash.is_object()) {
        hashing(out, hash, &format!("{path}.consistentHash"));
    }
    let part = |key: &str| balancer.at(key).filter(|part| part.is_object());
    let (locality, zones) = (part("localityLbSetting"), part("zoneAwareLbSetting"));
    if locality.is_some() && zones.is_some() {
        out.error(path, "localityLbSetting is beside zoneAwareLbSetting", "one of the two");
    }
    if let Some(locality) = locality {
        localities(out, locality, ejects, &format!("{path}.localityLbSetting"));
    }
    if let Some(zones) = zones {
        let path = format!("{path}.zoneAwareLbSetting");
        for (path, label) in items(zones, "failoverPriority", &path).filter(|(_, label)| is_topology(label)) {
            let what = format!("zones have {} for a priority", shown(label.as_str().unwrap_or_default()));
            out.error(path, what, "labels other than those of the topology");
        }
        failover(out, zones, ejects, &path, "zones");
    }
    if let Some(warmup) = part("warmup") {
        let path = format!("{path}.warmup");
        if word(warmup, "duration").is_empty() {
            out.error(format!("{path}.duration"), "warmup has no duration", super::words::DURATION);
        }
        duration(out, warmup, "duration", &path);
        if warmup.number("minimumPercent").is_some_and(|percent| percent > 100.0) {
            out.error(format!("{path}.minimumPercent"), "warmup begins above 100 percent", "0 to 100")
                .fix(Fix::Write(json!(100)));
        }
        if warmup.number("aggression").is_some_and(|aggression| aggression <= 0.0) {
            out.error(
                format!("{path}.aggression"),
                "the aggression of warmup is not above 0",
                "a number above 0",
            );
        }
    }
}

fn hashing(out: &mut Faults, hash: &Value, path: &str) {
    if let Some(cookie) = hash.at("httpCookie").filter(|cookie| cookie.is_object()) {
        let path = format!("{path}.httpCookie");
        if word(cookie, "name").is_empty() {
            out.error(format!("{path}.name"), "a cookie has no name", "a name");
        }
        let mut seen = BTreeSet::new();
        for (path, attribute) in items(cookie, "attributes", &path) {
            let name = word(attribute, "name");
            if name.is_empty() {
                out.error(format!("{path}.name"), "an attribute of a cookie has no name", "a name");
            } else if !seen.insert(name) {
                out.error(
                    path,
                    format!("a cookie has attribute {} twice", shown(name)),
                    "each attribute once",
                )
                .fix(Fix::Remove);
            }
        }
    }
    if hash.int("minimumRingSize").unwrap_or(0) != 0 {
        let at = format!("{path}.minimumRingSize");
        out.warn(at.clone(), "minimumRingSize is on its way out", "ringHash.minimumRingSize");
        if set(hash, "ringHash") || set(hash, "maglev") {
            out.error(
                at,
                "minimumRingSize is beside an algorithm",
                "one of minimumRingSize, ringHash and maglev",
            )
            .fix(Fix::Remove);
        }
    }
    if let Some(maglev) = hash.at("maglev").filter(|maglev| maglev.is_object()) {
        let path = format!("{path}.maglev.tableSize");
        let size = maglev.int("tableSize").unwrap_or(0);
        let accepts = "a prime below 5000011";
        if size == 0 {
            out.error(path.clone(), "a table of maglev has no size", accepts);
        }
        if size >= 5_000_011 {
            out.error(path.clone(), "a table of maglev is too large", accepts);
        }
        // What Envoy takes for a prime: 1 too, and 2 and 3.
        let odd = size % 2 != 0
            && (3..).step_by(2).take_while(|factor| factor * factor <= size).all(|factor| size % factor != 0);
        if !(matches!(size, 1..=3) || odd) {
            out.error(path, "the size of maglev's table is no prime", accepts);
        }
    }
}

fn is_topology(label: &Value) -> bool {
    matches!(
        label.as_str(),
        Some("topology.kubernetes.io/region" | "topology.kubernetes.io/zone" | "topology.istio.io/subzone")
    )
}

fn localities(out: &mut Faults, locality: &Value, ejects: bool, path: &str) {
    let shares = locality.list("distribute");
    let fails_over = !locality.list("failover").is_empty();
    if !shares.is_empty() && fails_over {
        out.error(path, "distribute is beside failover", "one of the two");
        return;
    }
    if fails_over
        && let Some((path, label)) =
            items(locality, "failoverPriority", path).find(|(_, label)| is_topology(label))
    {
        let what =
            format!("failover is beside the priority of {}", shown(label.as_str().unwrap_or_default()));
        out.error(path, what, "failover, or labels of the topology");
        return;
    }
    let mut from = vec![];
    for (path, share) in items(locality, "distribute", path) {
        from.push(word(share, "from"));
        let to = share.map("to");
        let weights = || to.into_iter().flatten().map(|(_, weight)| weight.as_i64().unwrap_or(0));
        if weights().any(|weight| !(1..=100).contains(&weight)) {
            out.error(
                format!("{path}.to"),
                "the weight of a locality is not in range",
                "weights from 1 to 100, 100 in all",
            );
            return;
        }
        let sum: i64 = weights().sum();
        if sum != 100 {
            out.error(
                format!("{path}.to"),
                format!("weights of localities make {sum}"),
                "weights from 1 to 100, 100 in all",
            );
            return;
        }
        let to: Vec<&str> = to.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        out.unless(format!("{path}.to"), overlap(&to), LOCALITY);
    }
    out.unless(format!("{path}.distribute"), overlap(&from), LOCALITY);
    failover(out, locality, ejects, path, "localities");
}

/// The first locality that is none, or lies in an earlier one. Istio compares them as they are written: a wildcard holds what comes
/// after it, and not what came before.
fn overlap(all: &[&str]) -> Option<String> {
    let mut seen: Vec<Vec<&str>> = vec![];
    for name in all {
        let parts: Vec<&str> = name.splitn(3, '/').collect();
        let stars = name.matches('*').count();
        let bad = stars > 1 || stars == 1 && !name.ends_with('*') || parts.iter().any(|part| part.is_empty());
        let held = |earlier: &Vec<&str>| {
            let differs = earlier.iter().zip(&parts).find(|(earlier, part)| earlier != part);
            differs.is_none_or(|(earlier, _)| *earlier == "*")
        };
        if bad || seen.iter().any(held) {
            return Some(format!("locality {} is none, or overlaps with an earlier one", shown(name)));
        }
        seen.push(parts);
    }
    None
}

fn failover(out: &mut Faults, setting: &Value, ejects: bool, path: &str, of: &str) {
    let any = !setting.list("failover").is_empty() || !setting.list("failoverPriority").is_empty();
    if any && !ejects {
        out.warn(
            path,
            "failover has no outlier detection",
            "outlierDetection beside it: without it nothing is found to fail",
        );
    }
    for (path, one) in items(setting, "failover", path) {
        let (from, to) = (word(one, "from"), word(one, "to"));
        if from == to {
            out.error(path.clone(), format!("failover of {of} leads to where it is from"), "two regions");
        }
        if from.contains('/') || to.contains('/') {
            out.error(path.clone(), format!("failover of {of} names more than regions"), "names of regions");
        }
        if from.contains('*') || to.contains('*') {
            out.error(path, format!("failover of {of} has a wildcard"), "names of regions");
        }
    }
}

fn client_tls(out: &mut Faults, namespace: &str, tls: &Value, path: &str) {
    let has = |key: &str| !word(tls, key).is_empty();
    let credential = word(tls, "credentialName");
    let (simple, mutual) = (word(tls, "mode") == "SIMPLE", word(tls, "mode") == "MUTUAL");
    if let Some(name) = credential.strip_prefix("configmap://") {
        let own = match name.split_once('/') {
            Some((place, name)) => place == namespace && !name.is_empty(),
            None => !name.is_empty(),
        };
        if !own || namespace.is_empty() {
            out.error(
                format!("{path}.credentialName"),
                "a ConfigMap of certificates is elsewhere",
                "a ConfigMap of the rule's own namespace",
            );
        }
    }
    if tls.flag("insecureSkipVerify") && (simple || mutual) {
        let names = !tls.list("subjectAltNames").is_empty();
        if has("caCertificates") || names || simple && !credential.is_empty() {
            let mode = if simple { "SIMPLE" } else { "MUTUAL" };
            out.error(
                format!("{path}.insecureSkipVerify"),
                format!("mode {mode} checks nothing and says against what"),
                "insecureSkipVerify, or what to check against",
            );
        }
    }
    if (simple || mutual) && !credential.is_empty() {
        if ["clientCertificate", "caCertificates", "privateKey", "caCrl"].iter().any(|key| has(key)) {
            out.error(path, "files of certificates are beside credentialName", "credentialName, or files");
        }
        return;
    }
    for (key, what) in [
        ("clientCertificate", "mutual TLS has no client certificate"),
        ("privateKey", "mutual TLS has no private key"),
    ] {
        if mutual && !has(key) {
            out.error(format!("{path}.{key}"), what, "credentialName, or files of certificate and key");
        }
    }
}
