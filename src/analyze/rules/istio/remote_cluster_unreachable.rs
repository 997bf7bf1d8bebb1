//! ISTIO148.

use crate::model::json::Value;
use jiff::Timestamp;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::support::{Said, of_control_plane};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{Reporter, address};

crate::rule! {
    /// Another cluster of the mesh is not reached: by the control plane, or by calls to its endpoints.
    ///
    /// ## What it detects
    /// A control plane that cannot read a remote cluster; failing connections to the port of east-west gateways (15443); failing
    /// connections to endpoints that are no pods of this cluster while no network is named for it; and a mesh of several networks
    /// in which this cluster has no east-west gateway, or one that passes nothing on.
    /// ## Why it matters
    /// Endpoints of a cluster that cannot be read grow old. Endpoints that cannot be reached take their share of the requests all
    /// the same, so that share fails.
    /// ## Evidence
    /// Lines of the control plane's log with the cluster's name; addresses and flags in access logs of callers; the label
    /// `topology.istio.io/network`; Services and Gateways with port 15443.
    /// ## How to confirm
    /// `istioctl remote-clusters`, and `istioctl proxy-config endpoints POD --cluster NAME` for addresses of the other cluster.
    /// ## How to fix
    /// Renew the remote secret; open port 15443 of the gateway; label the mesh's root namespace with the network; install the
    /// east-west gateway and a Gateway with `AUTO_PASSTHROUGH`.
    /// ## False positives
    /// Addresses of pods that ended a moment ago: only those count that fail for two minutes and more.
    /// ## References
    /// <https://istio.io/latest/docs/ops/diagnostic-tools/multicluster/>
    RemoteClusterUnreachable {
        code: "ISTIO148", name: "remote-cluster-unreachable", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// The port on which east-west gateways take mutual TLS of other networks.
const EAST_WEST: i64 = 15443;
/// The label of a network.
const NETWORK: &str = "topology.istio.io/network";
/// Fewer failing connections say nothing.
const FEW: u64 = 5;
/// An address of a pod that ended is forgotten within this many seconds.
const LASTING: i64 = 120;

/// What is not reached.
#[derive(Debug)]
enum What {
    /// The control plane cannot read this cluster.
    Api(String, Said, ObjectRef),
    /// A gateway of another network.
    Gateway(Calls),
    /// Endpoints of another cluster, which are called directly.
    Endpoints(Calls),
    /// This cluster has a network of its own and no way in: what is missing.
    NoGateway(&'static str, String),
}

/// Failing connections to addresses of another cluster.
#[derive(Debug, Clone, Default)]
struct Calls {
    count: u64,
    of: u64,
    hosts: BTreeSet<String>,
    callers: BTreeSet<ObjectRef>,
    services: BTreeSet<ServiceName>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

/// Something of another cluster that is not reached.
#[derive(Debug)]
pub struct Fact(What);

impl Check for RemoteClusterUnreachable {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: Vec<Fact> = unread(snapshot).into_iter().map(Fact).collect();
        let (gateways, endpoints) = failing(snapshot);
        if gateways.count >= FEW {
            out.push(Fact(What::Gateway(gateways)));
        }
        let lasts = endpoints
            .first
            .zip(endpoints.last)
            .is_some_and(|(a, b)| b.as_second() - a.as_second() >= LASTING);
        if endpoints.count >= FEW && lasts && several_clusters(snapshot) && network(snapshot).is_none() {
            out.push(Fact(What::Endpoints(endpoints)));
        }
        out.extend(no_gateway(snapshot).map(Fact));
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let root = &snapshot.istio.root_namespace;
        let namespace = ObjectRef { api_version: "v1".into(), ..ObjectRef::new("Namespace", "", root) };
        let label = namespace.field(format!("metadata.labels[{NETWORK}]"));
        match &fact.0 {
            What::Api(cluster, said, plane) => {
                let name = text::plain(cluster, 60);
                let secret = ObjectRef { api_version: "v1".into(), ..ObjectRef::new("Secret", root, format!("istio-remote-secret-{name}")) };
                Finding::new(Self::META, secret.field("data"), &[&name])
                    .title(format!("The control plane cannot read remote cluster {name}: {} lines of its log", said.count))
                    .message(format!(
                        "{plane} logged {} that it cannot read cluster {name}. It keeps the endpoints that it knew: calls go to pods of that cluster that ended, and none to new ones.",
                        text::times(said.count)
                    ))
                    .mechanism("multi-cluster: remote cluster not readable, remote secret")
                    .severity(Severity::Warning)
                    .role(Role::Cause, Confidence::Observed)
                    .onset(said.first)
                    .evidence(said.evidence(format!("log of {plane}")))
                    .remedy(Remedy::commands(
                        format!("See what the control plane says of {name}, then write its secret anew from a context of that cluster"),
                        vec![
                            "istioctl remote-clusters".to_owned(),
                            format!("kubectl -n {} get secret {} -o jsonpath='{{.metadata.creationTimestamp}}'", quote(root), quote(&secret.name)),
                            format!("istioctl create-remote-secret --context={} --name={} | kubectl apply -f -", quote(&name), quote(&name)),
                        ],
                        vec![format!("kubectl -n {} delete secret {}", quote(root), quote(&secret.name))],
                    ))
                    .prevention(Prevention::alert(
                        "Alert when a remote cluster is not read in time",
                        "sum(increase(remote_cluster_sync_timeouts_total[15m])) > 0",
                    ))
            }
            What::Gateway(calls) => {
                let subject = calls.services.first().map_or_else(|| namespace.clone(), |s| s.reference());
                let hosts = hosts(calls);
                self.calls(subject, calls, "gateway")
                    .title(format!("East-west gateway {hosts} is not reached: {}", text::share(calls.count, calls.of, "connections")))
                    .message(format!(
                        "Endpoints in another network are called through its east-west gateway {hosts} on port {EAST_WEST}, and {} fail before anything is sent. That share of the requests fails as long as the gateway is among the endpoints.",
                        text::share(calls.count, calls.of, "connections")
                    ))
                    .mechanism("multi-cluster: east-west gateway unreachable")
                    .remedy(Remedy::commands(
                        "Look at the gateway in the other cluster: its address, its pods, and whether port 15443 is open between the networks",
                        vec![
                            "kubectl --context OTHER -n istio-system get service,pods -l istio=eastwestgateway -o wide".to_owned(),
                            "istioctl remote-clusters".to_owned(),
                        ],
                        vec![],
                    ))
            }
            What::Endpoints(calls) => {
                let hosts = hosts(calls);
                self.calls(label.clone(), calls, "endpoints")
                    .title(format!("Endpoints of another cluster ({hosts}) are called directly and not reached; no network is named"))
                    .message(format!(
                        "{hosts} are no pods of this cluster, and {} to them fail. Without the label {NETWORK} on namespace {root} the control plane takes all clusters for one network and lets pods call each other directly.",
                        text::share(calls.count, calls.of, "connections")
                    ))
                    .mechanism("multi-cluster: network label missing, remote endpoints unreachable")
                    .evidence(Evidence::object(&label, "no such label"))
                    .remedy(Remedy::commands(
                        "Name the network of this cluster, as its proxies' ISTIO_META_NETWORK and the other clusters' do",
                        vec![format!("kubectl label namespace {} {NETWORK}=NAME-OF-THIS-NETWORK", quote(root))],
                        vec![format!("kubectl label namespace {} {NETWORK}-", quote(root))],
                    ))
            }
            What::NoGateway(what, network) => Finding::new(Self::META, label.clone(), &[what])
                .title(format!("Network {} has no way in for other clusters: {what}", text::plain(network, 40)))
                .message(format!(
                    "This cluster is one of several and has a network of its own ({}), so other clusters call its pods through an east-west gateway on port {EAST_WEST}. {what}: they find no endpoint here.",
                    text::plain(network, 40)
                ))
                .mechanism("multi-cluster: east-west gateway missing")
                .severity(Severity::Warning)
                .role(Role::Context, Confidence::Configured)
                .evidence(Evidence::object(&label, text::plain(network, 40)))
                .evidence(Evidence::object(&namespace, *what))
                .remedy(passthrough(root))
                .prevention(Prevention::of("Test", "After each change of the mesh: `istioctl remote-clusters`, and a call from each cluster to each other")),
        }
    }
}

impl RemoteClusterUnreachable {
    /// What findings about failing calls have in common.
    fn calls(&self, subject: ObjectRef, calls: &Calls, what: &str) -> Finding {
        let callers: Vec<&str> = calls.callers.iter().take(3).map(|c| c.name.as_str()).collect();
        Finding::new(Self::META, subject, &[what])
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(calls.services.first().cloned())
            .onset(calls.first)
            .evidence(
                Evidence::new(
                    "AccessLog",
                    format!("proxies of {}", text::plain(&callers.join(", "), 100)),
                    format!("{} to {} fail", text::share(calls.count, calls.of, "connections"), hosts(calls)),
                )
                .at(calls.first),
            )
            .effects(calls.services.iter().map(|s| Effect::requests(s, &["UF", "timeout", "refused", "URX"])))
            .prevention(Prevention::alert(
                "Alert when calls to another cluster fail",
                "sum by (destination_cluster) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*UF.*\"}[5m])) > 0",
            ))
    }
}

/// A few of the addresses.
fn hosts(calls: &Calls) -> String {
    let shown: Vec<&str> = calls.hosts.iter().take(3).map(String::as_str).collect();
    text::plain(&shown.join(", "), 100)
}

/// Clusters that the control plane says it cannot read.
fn unread(snapshot: &Snapshot) -> Vec<What> {
    static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"(?i)(?:watch error in cluster |remote cluster |adding cluster |sync(?:ing)? (?:of )?cluster |"?cluster"?[=:] ?"?)([A-Za-z0-9][A-Za-z0-9._-]{0,62})"#).ok()
    });
    const FAILS: &[&str] = &[
        "nauthorized",
        "timed out",
        "timeout",
        "watch error",
        "no such host",
        "connection refused",
        "orbidden",
        "certificate",
    ];
    let Some(words) = WORDS.as_ref() else { return vec![] };
    let mut found: BTreeMap<String, (Said, ObjectRef)> = BTreeMap::new();
    for log in snapshot.logs.iter().filter(|log| of_control_plane(log)) {
        for line in &log.lines {
            let about = line.text.contains("luster") && FAILS.iter().any(|word| line.text.contains(word));
            let Some(name) = about.then(|| words.captures(&line.text)).flatten().and_then(|c| c.get(1))
            else {
                continue;
            };
            let name = name.as_str().trim_end_matches(['.', ':']);
            // The control plane's own cluster.
            if name.eq_ignore_ascii_case("kubernetes") || name.eq_ignore_ascii_case("local") {
                continue;
            }
            let owner = snapshot.owner_by_name(&log.namespace, &log.pod);
            let (said, _) = found.entry(name.to_owned()).or_insert_with(|| (Said::default(), owner));
            said.add(&log.pod, line.time, &line.text);
        }
    }
    let mut all = found.into_iter().collect::<Vec<_>>();
    all.retain(|(_, (said, _))| said.count > 1);
    all.into_iter().map(|(name, (said, plane))| What::Api(name, said, plane)).collect()
}

/// Failing connections to gateways of other networks, and to endpoints that are no pods of this cluster.
fn failing(snapshot: &Snapshot) -> (Calls, Calls) {
    let known: BTreeSet<&str> = snapshot
        .slices
        .iter()
        .flat_map(|s| &s.endpoints)
        .flat_map(|e| &e.addresses)
        .map(String::as_str)
        .collect();
    let (mut gateways, mut endpoints) = (Calls::default(), Calls::default());
    for edge in snapshot
        .traffic
        .iter()
        .filter(|e| e.reporter == Reporter::Source && e.cluster.direction == "outbound")
    {
        let Some(service) = edge.service.as_ref().filter(|s| snapshot.service(s).is_some()) else { continue };
        if !snapshot.in_scope(&edge.workload.namespace) && !snapshot.in_scope(&service.namespace) {
            continue;
        }
        let mut here = (false, false);
        for outcome in edge.outcomes.iter().filter(|o| o.has_flag("UF")) {
            for (host, count) in &outcome.upstreams {
                let (ip, port) =
                    (address(host), host.rsplit_once(':').and_then(|(_, p)| p.parse::<i64>().ok()));
                if known.contains(ip) || snapshot.pod_by_ip(ip).is_some() {
                    continue;
                }
                let calls = if port == Some(EAST_WEST) {
                    here.0 = true;
                    &mut gateways
                } else {
                    here.1 = true;
                    &mut endpoints
                };
                calls.count += count;
                calls.services.insert(service.clone());
                calls.hosts.insert(host.clone());
                calls.callers.insert(edge.workload.clone());
                calls.first = calls.first.into_iter().chain(outcome.first).min();
                calls.last = calls.last.into_iter().chain(outcome.last).max();
            }
        }
        gateways.of += edge.requests * u64::from(here.0);
        endpoints.of += edge.requests * u64::from(here.1);
    }
    (gateways, endpoints)
}

/// Whether the mesh spans several clusters: secrets of remote ones, or counted calls between them.
fn several_clusters(snapshot: &Snapshot) -> bool {
    let secret = |secret: &Object| secret.labels.get("istio/multiCluster").is_some_and(|v| v == "true");
    if snapshot.objects_of("Secret").any(secret) {
        return true;
    }
    let counted = snapshot.series_named("istio_requests_total");
    let clusters = counted.flat_map(|s| [s.label("source_cluster"), s.label("destination_cluster")]);
    clusters.filter(|name| !name.is_empty() && *name != "unknown").collect::<BTreeSet<_>>().len() > 1
}

/// The network that is named for this cluster.
fn network(snapshot: &Snapshot) -> Option<&str> {
    snapshot.object("Namespace", "", &snapshot.istio.root_namespace)?.labels.get(NETWORK)
}

/// What is missing for other clusters to get in.
fn no_gateway(snapshot: &Snapshot) -> Option<What> {
    let network = network(snapshot).filter(|_| several_clusters(snapshot))?;
    let gateway = snapshot.services.iter().any(|s| s.port(EAST_WEST).is_some());
    if !gateway {
        return Some(What::NoGateway("no Service has port 15443", network.to_owned()));
    }
    let passes = |body: &Value| body.text("tls.mode") == Some("AUTO_PASSTHROUGH");
    let open = snapshot
        .istio
        .gateways
        .iter()
        .flat_map(|g| &g.servers)
        .any(|s| s.port == EAST_WEST && passes(&s.body));
    let gateway_api = snapshot
        .gateway_api
        .gateways
        .iter()
        .any(|g| g.object.body.string("spec.gatewayClassName").contains("east-west"));
    (!open && !gateway_api)
        .then(|| What::NoGateway("no Gateway passes port 15443 on (AUTO_PASSTHROUGH)", network.to_owned()))
}

/// The Gateway that passes calls of other clusters on.
fn passthrough(root: &str) -> Remedy {
    let body = crate::model::json::json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "cross-network-gateway", "namespace": root},
        "spec": {"selector": {"istio": "eastwestgateway"}, "servers": [{
            "port": {"number": EAST_WEST, "name": "tls", "protocol": "TLS"}, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"]}]}
    });
    Remedy::commands(
        "Install an east-west gateway (label istio=eastwestgateway, port 15443), and the Gateway that passes calls on",
        vec![format!("kubectl apply -f - <<'EOF'\n{body}\nEOF")],
        vec![format!("kubectl -n {} delete gateways.networking.istio.io cross-network-gateway", quote(root))],
    )
}
