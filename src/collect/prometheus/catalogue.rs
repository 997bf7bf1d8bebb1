//! The queries, as data: one row for each, and what each exporter needs in order to be there. What is here is what a
//! bundle's `metrics/` holds.
//!
//! Names: Istio's standard metrics; Envoy's cluster, HTTP and listener statistics; kube-state-metrics' exposed metrics;
//! cAdvisor's container metrics; the kubelet's, CoreDNS' and node-exporter's; Linkerd's proxy metrics; the conventions of
//! common runtimes, connection pools and frameworks.

use Exporter::{
    Application, CAdvisor, CoreDns, Envoy, Istio, KubeState, Kubelet, Linkerd, Node, Runtime, Target,
};
use Pass::{Cheap, Deep};
use Shape::{Any, CallsIn, CallsOut, Containers, EnvoyClusters, Objects, Platform, Pods};

/// In which pass a query is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// At once, for the whole namespace: few series for each pod.
    Cheap,
    /// For what the first look implicates.
    Deep,
}

/// Who exposes the metrics of a row: where one is missing, so are all of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exporter {
    /// Istio's proxies, as the mesh counts requests.
    Istio,
    /// Envoy's own statistics.
    Envoy,
    /// Linkerd's proxies.
    Linkerd,
    /// kube-state-metrics.
    KubeState,
    /// The containers' use of resources, out of the kubelet.
    CAdvisor,
    /// The kubelet itself.
    Kubelet,
    /// The cluster's DNS.
    CoreDns,
    /// node-exporter.
    Node,
    /// Runtimes of languages and their pools.
    Runtime,
    /// What applications count.
    Application,
    /// The metrics source itself.
    Target,
}

impl Exporter {
    /// All of them.
    pub const ALL: [Exporter; 11] =
        [Istio, Envoy, Linkerd, KubeState, CAdvisor, Kubelet, CoreDns, Node, Runtime, Application, Target];

    /// What to call it, and the scrape configuration that brings it. `None` for what nobody can be asked to have.
    pub fn missing(self) -> Option<(&'static str, &'static str)> {
        match self {
            Istio => Some((
                "requests as Istio's proxies count them (istio_requests_total)",
                "scrape port 15020, path /stats/prometheus, of every pod with the annotation prometheus.io/scrape (role: pod), \
                 and see that no Telemetry disables metrics",
            )),
            Linkerd => Some((
                "requests as Linkerd's proxies count them (response_total)",
                "scrape port 4191 of the container linkerd-proxy (role: pod), as the extension linkerd-viz does",
            )),
            KubeState => Some((
                "states of objects over time (kube-state-metrics)",
                "install kube-state-metrics and scrape its port 8080 with honor_labels: true",
            )),
            CAdvisor => Some((
                "use of processor, memory and network by containers (cAdvisor)",
                "scrape /metrics/cadvisor of every kubelet (role: node, port 10250, with a token)",
            )),
            CoreDns => Some((
                "answers of the cluster's DNS (CoreDNS)",
                "scrape port 9153 of the pods with the label k8s-app=kube-dns in namespace kube-system",
            )),
            Envoy | Kubelet | Node | Runtime | Application | Target => None,
        }
    }
}

/// How the series of a row are labelled: which label must be the namespace, and whose series they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `namespace` and `pod`.
    Pods,
    /// The same, of containers only: not of a pod's own cgroup and its pause container.
    Containers,
    /// `namespace` and `pod`, by `cluster_name`, without the clusters of the proxy's own machinery.
    EnvoyClusters,
    /// Calls into the namespace, whoever calls: `destination_workload`.
    CallsIn,
    /// Calls out of the namespace; those inside it are calls into it: `source_workload`.
    CallsOut,
    /// `namespace`, of another object: a Deployment, a quota, a claim.
    Objects,
    /// `namespace` and `pod`, by conventions of applications: nothing is missed where there is none.
    Any,
    /// No namespace: figures of the platform itself, which belong to nobody's namespace.
    Platform,
}

/// Whose series these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The label `pod` names a pod.
    Pod,
    /// The label `destination_workload` names the workload that was called.
    DestinationWorkload,
    /// The label `source_workload` names the workload that called.
    SourceWorkload,
    /// Another object: a Deployment, a quota, a claim.
    Other,
}

/// A condition on a label, besides the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Not the query's own namespace.
    NotTheNamespace,
    /// None of these.
    NoneOf(&'static [&'static str]),
}

impl Shape {
    /// The label that must be the namespace; `None` for the platform.
    pub fn namespace_label(self) -> Option<&'static str> {
        match self {
            CallsIn => Some("destination_service_namespace"),
            CallsOut => Some("source_workload_namespace"),
            Platform => None,
            Pods | Containers | EnvoyClusters | Objects | Any => Some("namespace"),
        }
    }

    /// Further conditions.
    pub fn matchers(self) -> &'static [(&'static str, Match)] {
        match self {
            Containers => &[("container", Match::NoneOf(&["", "POD"]))],
            EnvoyClusters => &[("cluster_name", OWN_CLUSTERS)],
            CallsOut => &[("destination_service_namespace", Match::NotTheNamespace)],
            Pods | CallsIn | Objects | Any | Platform => &[],
        }
    }

    /// Whose series these are.
    pub fn subject(self) -> Subject {
        match self {
            Pods | Containers | EnvoyClusters | Any => Subject::Pod,
            CallsIn => Subject::DestinationWorkload,
            CallsOut => Subject::SourceWorkload,
            Objects | Platform => Subject::Other,
        }
    }
}

/// Clusters of Envoy that belong to the proxy's own machinery.
const OWN_CLUSTERS: Match = Match::NoneOf(&[
    "xds-grpc",
    "sds-grpc",
    "prometheus_stats",
    "agent",
    "zipkin",
    "xds-grpc;",
    "sds-grpc;",
    "prometheus_stats;",
    "agent;",
]);

/// One query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name, unique: a file's name in a bundle.
    pub name: &'static str,
    /// In which pass it is asked.
    pub pass: Pass,
    /// Who exposes it.
    pub exporter: Exporter,
    /// How its series are labelled.
    pub shape: Shape,
    /// What it shows, and the unit.
    pub shows: &'static str,
    /// The metrics that it reads.
    pub metrics: &'static [&'static str],
}

const fn row(
    name: &'static str,
    pass: Pass,
    exporter: Exporter,
    shape: Shape,
    shows: &'static str,
    metrics: &'static [&'static str],
) -> Entry {
    Entry { name, pass, exporter, shape, shows, metrics }
}

const REQUESTS: &[&str] = &[
    "istio_requests_total",
    "istio_request_duration_milliseconds_sum",
    "istio_request_duration_milliseconds_count",
];
const CONNECTIONS: &[&str] = &[
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_connections_failed_total",
];
const DURATIONS: &[&str] = &["istio_request_duration_milliseconds_bucket"];
const SIZES: &[&str] = &[
    "istio_request_bytes_sum",
    "istio_response_bytes_sum",
    "istio_request_messages_total",
    "istio_response_messages_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
];

/// The catalogue.
#[rustfmt::skip]
pub const CATALOGUE: &[Entry] = &[
    row("istio_requests_in", Cheap, Istio, CallsIn, "requests and their duration (ms) per edge, by reporter, response code and flags", REQUESTS),
    row("istio_requests_out", Cheap, Istio, CallsOut, "the same for calls that leave the namespace", REQUESTS),
    row("istio_connections_in", Cheap, Istio, CallsIn, "TCP connections per edge", CONNECTIONS),
    row("istio_connections_out", Cheap, Istio, CallsOut, "TCP connections that leave the namespace", CONNECTIONS),
    row("istio_durations_in", Deep, Istio, CallsIn, "duration (ms) of requests per edge as a histogram", DURATIONS),
    row("istio_durations_out", Deep, Istio, CallsOut, "the same for calls that leave the namespace", DURATIONS),
    row("istio_sizes_in", Deep, Istio, CallsIn, "bytes and messages per edge", SIZES),
    row("istio_sizes_out", Deep, Istio, CallsOut, "the same for calls that leave the namespace", SIZES),
    row("istio_control_plane", Cheap, Istio, Platform, "the control plane: pushes, refusals, how long configuration takes to arrive (s), certificates' ends (Unix s)", &[
        "pilot_total_xds_rejects", "pilot_xds_write_timeout", "pilot_total_xds_internal_errors", "pilot_xds", "pilot_proxy_convergence_time_sum",
        "pilot_proxy_convergence_time_count", "pilot_conflict_inbound_listener", "pilot_conflict_outbound_listener_tcp_over_current_tcp",
        "pilot_duplicate_envoy_clusters", "pilot_eds_no_instances", "pilot_endpoint_not_ready", "pilot_vservice_dup_domain",
        "pilot_total_rejected_configs", "sidecar_injection_failure_total", "sidecar_injection_success_total", "galley_validation_failed",
        "citadel_server_csr_sign_err_count", "citadel_server_authentication_failure_count", "citadel_server_root_cert_expiry_timestamp",
    ]),
    row("envoy_requests", Cheap, Envoy, EnvoyClusters, "requests of each proxy to each of its clusters, by response code, and their duration (ms)", &[
        "envoy_cluster_upstream_rq", "envoy_cluster_upstream_rq_total", "envoy_cluster_upstream_rq_time_sum",
        "envoy_cluster_upstream_rq_time_count", "envoy_cluster_upstream_rq_xx",
    ]),
    row("envoy_failures", Cheap, Envoy, EnvoyClusters, "what Envoy itself did to requests and connections: refused, overflowed, timed out, retried, reset", &[
        "envoy_cluster_upstream_cx_connect_fail", "envoy_cluster_upstream_cx_connect_timeout",
        "envoy_cluster_upstream_cx_destroy_remote_with_active_rq", "envoy_cluster_upstream_cx_none_healthy", "envoy_cluster_upstream_cx_overflow",
        "envoy_cluster_upstream_cx_protocol_error", "envoy_cluster_upstream_rq_pending_overflow", "envoy_cluster_upstream_rq_per_try_timeout",
        "envoy_cluster_upstream_rq_retry", "envoy_cluster_upstream_rq_retry_success", "envoy_cluster_upstream_rq_retry_limit_exceeded",
        "envoy_cluster_upstream_rq_retry_overflow", "envoy_cluster_upstream_rq_rx_reset", "envoy_cluster_upstream_rq_tx_reset",
        "envoy_cluster_upstream_rq_timeout", "envoy_cluster_upstream_rq_max_duration_reached", "envoy_cluster_upstream_rq_maintenance_mode",
        "envoy_cluster_lb_healthy_panic", "envoy_cluster_ssl_connection_error", "envoy_cluster_ssl_fail_verify_error",
        "envoy_cluster_ssl_fail_verify_san", "envoy_cluster_ssl_fail_verify_no_cert",
    ]),
    row("envoy_membership", Cheap, Envoy, EnvoyClusters, "hosts of each cluster: all, healthy, ejected", &[
        "envoy_cluster_membership_healthy", "envoy_cluster_membership_total", "envoy_cluster_membership_degraded",
        "envoy_cluster_outlier_detection_ejections_active", "envoy_cluster_outlier_detection_ejections_enforced_total",
        "envoy_cluster_outlier_detection_ejections_overflow",
    ]),
    row("envoy_proxy", Cheap, Envoy, Pods, "the proxy itself: alive, its certificates' days, rejected and warming configuration, requests that it refused, their duration (ms)", &[
        "envoy_server_live", "envoy_server_state", "envoy_server_days_until_first_cert_expiring", "envoy_control_plane_connected_state",
        "envoy_listener_manager_lds_update_rejected", "envoy_listener_manager_listener_create_failure",
        "envoy_listener_manager_total_listeners_warming", "envoy_cluster_manager_cds_update_rejected", "envoy_cluster_manager_warming_clusters",
        "envoy_http_no_route", "envoy_http_no_cluster", "envoy_http_downstream_rq_too_large", "envoy_http_downstream_rq_idle_timeout",
        "envoy_http_downstream_rq_max_duration_reached", "envoy_http_downstream_rq_time_sum", "envoy_http_downstream_rq_time_count",
        "envoy_listener_downstream_cx_overflow", "envoy_http_ext_authz_denied", "envoy_http_ext_authz_error",
        "envoy_http_local_rate_limiter_http_local_rate_limit_rate_limited", "envoy_http_rbac_denied", "envoy_http_jwt_authn_denied",
        "envoy_http_jwt_authn_jwks_fetch_failed", "istiod_connection_failures", "envoy_connection_terminations", "num_outgoing_retries",
    ]),
    row("envoy_pools", Deep, Envoy, EnvoyClusters, "connections and requests in each pool, and whether its limits are reached", &[
        "envoy_cluster_upstream_cx_active", "envoy_cluster_upstream_cx_total", "envoy_cluster_upstream_rq_active",
        "envoy_cluster_upstream_rq_pending_active", "envoy_cluster_upstream_rq_pending_total", "envoy_cluster_circuit_breakers_default_cx_open",
        "envoy_cluster_circuit_breakers_default_cx_pool_open", "envoy_cluster_circuit_breakers_default_rq_open",
        "envoy_cluster_circuit_breakers_default_rq_pending_open", "envoy_cluster_circuit_breakers_default_rq_retry_open",
    ]),
    row("envoy_durations", Deep, Envoy, EnvoyClusters, "duration (ms) of requests as a histogram", &["envoy_cluster_upstream_rq_time_bucket"]),
    row("envoy_memory", Deep, Envoy, Pods, "memory of the proxy (bytes), its worker threads", &[
        "envoy_server_memory_allocated", "envoy_server_memory_heap_size", "envoy_server_concurrency",
    ]),
    row("linkerd_requests", Cheap, Linkerd, Pods, "requests and responses by direction, authority and classification, and what the proxy itself refused", &[
        "request_total", "response_total", "response_latency_ms_sum", "response_latency_ms_count", "outbound_http_errors_total",
        "inbound_http_errors_total", "inbound_http_authz_deny_total", "inbound_http_authz_allow_total", "inbound_http_route_not_found_total",
        "inbound_http_local_ratelimit_total", "inbound_tcp_authz_deny_total", "outbound_http_route_request_statuses_total",
        "outbound_http_route_backend_response_statuses_total", "outbound_grpc_route_request_statuses_total",
    ]),
    row("linkerd_proxy", Cheap, Linkerd, Pods, "the proxy itself: connections, endpoints, its certificate's end (Unix s)", &[
        "tcp_open_connections", "tcp_close_total", "outbound_http_balancer_endpoints", "identity_cert_expiration_timestamp_seconds",
        "outbound_http_route_retry_limit_exceeded_total", "outbound_http_route_retry_overflow_total",
    ]),
    row("linkerd_durations", Deep, Linkerd, Pods, "duration (ms) of responses as a histogram", &["response_latency_ms_bucket"]),
    row("kube_containers", Cheap, KubeState, Pods, "containers: restarts, readiness, why they wait, how they ended", &[
        "kube_pod_container_status_restarts_total", "kube_pod_container_status_ready", "kube_pod_container_status_waiting_reason",
        "kube_pod_init_container_status_waiting_reason", "kube_pod_init_container_status_restarts_total",
        "kube_pod_container_status_last_terminated_reason", "kube_pod_container_status_last_terminated_exitcode",
    ]),
    row("kube_pods", Cheap, KubeState, Pods, "pods: readiness, phase, place; requests and limits (cores, bytes)", &[
        "kube_pod_status_ready", "kube_pod_status_phase", "kube_pod_status_reason", "kube_pod_status_scheduled", "kube_pod_status_unschedulable",
        "kube_pod_status_disruption_reason", "kube_pod_deletion_timestamp", "kube_pod_start_time", "kube_pod_info",
        "kube_pod_container_resource_limits", "kube_pod_container_resource_requests",
    ]),
    row("kube_workloads", Cheap, KubeState, Objects, "workloads: wanted and available replicas, rollouts, scaling, what quotas and disruption budgets leave", &[
        "kube_deployment_spec_replicas", "kube_deployment_status_condition", "kube_deployment_metadata_generation",
        "kube_deployment_status_observed_generation", "kube_deployment_status_replicas_available", "kube_deployment_status_replicas_updated",
        "kube_replicaset_spec_replicas", "kube_replicaset_status_ready_replicas", "kube_statefulset_replicas",
        "kube_statefulset_status_replicas_ready", "kube_statefulset_status_current_revision", "kube_statefulset_status_update_revision",
        "kube_daemonset_status_desired_number_scheduled", "kube_daemonset_status_current_number_scheduled",
        "kube_daemonset_status_number_misscheduled", "kube_daemonset_status_number_ready", "kube_horizontalpodautoscaler_spec_min_replicas",
        "kube_horizontalpodautoscaler_spec_max_replicas", "kube_horizontalpodautoscaler_status_condition",
        "kube_horizontalpodautoscaler_status_current_replicas", "kube_horizontalpodautoscaler_status_desired_replicas", "kube_job_status_failed",
        "kube_job_failed", "kube_job_complete", "kube_cronjob_spec_suspend", "kube_cronjob_status_last_successful_time", "kube_resourcequota",
        "kube_persistentvolumeclaim_status_phase", "kube_poddisruptionbudget_status_current_healthy",
        "kube_poddisruptionbudget_status_desired_healthy", "kube_poddisruptionbudget_status_expected_pods",
        "kube_poddisruptionbudget_status_pod_disruptions_allowed", "kube_endpoint_address", "kube_endpointslice_endpoints",
        "kube_namespace_status_phase",
    ]),
    row("kube_nodes", Cheap, KubeState, Platform, "conditions of nodes", &[
        "kube_node_status_condition", "kube_node_spec_unschedulable",
    ]),
    row("container_resources", Cheap, CAdvisor, Containers, "containers: CPU (seconds), throttling, memory (bytes), kills for memory", &[
        "container_cpu_usage_seconds_total", "container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total",
        "container_cpu_cfs_throttled_seconds_total", "container_memory_working_set_bytes", "container_memory_rss", "container_oom_events_total",
        "container_pressure_cpu_waiting_seconds_total", "container_pressure_memory_waiting_seconds_total",
    ]),
    row("container_limits", Deep, CAdvisor, Containers, "threads, files and sockets of containers, and what they write to disk (bytes)", &[
        "container_threads", "container_threads_max", "container_file_descriptors", "container_sockets", "container_fs_usage_bytes",
        "container_fs_writes_bytes_total",
    ]),
    row("container_network", Cheap, CAdvisor, Pods, "pods: bytes, errors and drops on their network", &[
        "container_network_receive_bytes_total", "container_network_transmit_bytes_total", "container_network_receive_packets_dropped_total",
        "container_network_transmit_packets_dropped_total", "container_network_receive_errors_total", "container_network_transmit_errors_total",
    ]),
    row("kubelet_probes", Cheap, Kubelet, Pods, "probes by result", &["prober_probe_total"]),
    row("kubelet_volumes", Cheap, Kubelet, Objects, "volumes: bytes and inodes that are left", &[
        "kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes", "kubelet_volume_stats_inodes",
        "kubelet_volume_stats_inodes_free",
    ]),
    row("kubelet_itself", Deep, Kubelet, Platform, "the kubelet: evictions, failing runtime operations, its certificate (s)", &[
        "kubelet_evictions", "kubelet_runtime_operations_errors_total", "kubelet_certificate_manager_client_ttl_seconds",
    ]),
    row("coredns", Cheap, CoreDns, Platform, "the cluster's DNS: answers by code, forwarding that failed, duration (s)", &[
        "coredns_dns_responses_total", "coredns_dns_request_duration_seconds_sum", "coredns_dns_request_duration_seconds_count",
        "coredns_panics_total", "coredns_forward_responses_total", "coredns_forward_healthcheck_broken_total", "coredns_forward_max_concurrent_rejects_total",
        "coredns_proxy_healthcheck_failures_total", "coredns_proxy_request_duration_seconds_count",
    ]),
    row("nodes", Deep, Node, Platform, "nodes: waiting for processors (s), connection tracking, files, clock", &[
        "node_pressure_cpu_waiting_seconds_total",
        "node_nf_conntrack_entries", "node_nf_conntrack_entries_limit", "node_nf_conntrack_stat_insert_failed", "node_filefd_allocated",
        "node_filefd_maximum", "node_timex_offset_seconds", "node_timex_sync_status",
    ]),
    row("up", Cheap, Target, Pods, "whether each target of the metrics source answers it", &["up"]),
    row("applications", Deep, Application, Any, "requests as applications count them, by the conventions of common frameworks, and their duration (s)", &[
        "http_requests_total", "http_request_duration_seconds_sum", "http_request_duration_seconds_count", "http_server_requests_seconds_sum",
        "http_server_requests_seconds_count", "http_client_requests_seconds_sum", "http_client_requests_seconds_count",
        "http_server_request_duration_seconds_sum", "http_server_request_duration_seconds_count", "grpc_server_handled_total",
        "grpc_client_handled_total",
    ]),
    row("runtimes", Deep, Runtime, Any, "runtimes: heap (bytes), collections (s), busy threads, queues, lag of event loops (s), open files", &[
        "jvm_memory_used_bytes", "jvm_memory_max_bytes", "jvm_gc_pause_seconds_sum", "jvm_gc_pause_seconds_max", "jvm_gc_collection_seconds_sum",
        "jvm_gc_overhead", "jvm_gc_overhead_percent", "jvm_memory_usage_after_gc", "jvm_memory_usage_after_gc_percent",
        "jvm_threads_states_threads", "jvm_threads_deadlocked", "tomcat_threads_busy_threads", "tomcat_threads_config_max_threads",
        "jetty_threads_busy", "jetty_threads_config_max", "dotnet_thread_pool_queue_length", "process_runtime_dotnet_thread_pool_queue_length",
        "go_goroutines", "go_gc_duration_seconds_sum", "go_memstats_heap_inuse_bytes", "nodejs_eventloop_lag_seconds",
        "nodejs_eventloop_lag_p99_seconds", "nodejs_heap_size_used_bytes", "nodejs_heap_size_total_bytes", "python_gc_objects_uncollectable_total",
        "process_open_fds", "process_max_fds", "process_resident_memory_bytes",
    ]),
    row("pools", Deep, Runtime, Any, "connection pools of applications: in use, waiting, timed out", &[
        "hikaricp_connections_active", "hikaricp_connections_max", "hikaricp_connections_pending", "hikaricp_connections_timeout_total",
        "hikaricp_active_connections", "hikaricp_max_connections", "hikaricp_pending_threads", "go_sql_in_use_connections",
        "go_sql_max_open_connections", "go_sql_wait_count_total", "go_sql_wait_duration_seconds_total",
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::prometheus::query::Query;
    use crate::collect::prometheus::variants::Variants;
    use promql_parser::label::{MatchOp, Matcher};
    use promql_parser::parser::{Expr, parse};
    use std::collections::BTreeSet;

    fn matchers(query: &Query) -> (Option<String>, Vec<Matcher>) {
        match parse(query.text()) {
            Ok(Expr::VectorSelector(selector)) => (selector.name.clone(), selector.matchers.matchers.clone()),
            other => panic!("{}: {other:?}", query.text()),
        }
    }

    fn every_query(namespace: &str) -> Vec<(&'static Entry, Query)> {
        let plain = Variants::default();
        let queries = CATALOGUE.iter().flat_map(|entry| {
            let about = Query::about(entry, namespace, ["a-1", "b.2"], &plain);
            let all = Query::new(entry, namespace, &plain)
                .into_iter()
                .chain(about)
                .chain(Query::split(entry, namespace, &plain))
                .collect::<Vec<_>>();
            all.into_iter().map(move |query| (entry, query))
        });
        queries.collect()
    }

    #[test]
    fn every_query_is_promql_and_carries_its_namespace() {
        for namespace in ["shop", "x\"} or up{a=\"b\\"] {
            for (entry, query) in every_query(namespace) {
                let (name, matchers) = matchers(&query);
                let own = |label: &str| {
                    matchers
                        .iter()
                        .any(|m| m.name == label && m.value == namespace && matches!(m.op, MatchOp::Equal))
                };
                assert!(entry.shape.namespace_label().is_none_or(own), "{}", query.text());
                assert_eq!(name.is_some(), !query.text().contains("__name__"), "{}", query.text());
            }
        }
    }

    #[test]
    fn without_a_namespace_only_the_platform_is_asked_about() {
        const PLATFORM: &[&str] = &[
            "coredns_",
            "kubelet_",
            "kube_node_",
            "node_",
            "pilot_",
            "citadel_",
            "galley_",
            "sidecar_injection_",
        ];
        for entry in CATALOGUE.iter().filter(|entry| entry.shape.namespace_label().is_none()) {
            for metric in entry.metrics {
                assert!(PLATFORM.iter().any(|prefix| metric.starts_with(prefix)), "{metric}");
            }
        }
    }

    #[test]
    fn names_are_unique_and_good_as_files() {
        let names: BTreeSet<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        assert!(names.iter().all(|name| name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')));
        assert!(CATALOGUE.iter().all(|entry| !entry.metrics.is_empty() && !entry.shows.is_empty()));
        for exporter in Exporter::ALL {
            assert!(CATALOGUE.iter().any(|entry| entry.exporter == exporter), "{exporter:?}");
        }
    }

    #[test]
    fn no_series_is_read_twice_in_a_pass() {
        let mut seen = BTreeSet::new();
        for entry in CATALOGUE {
            for metric in entry.metrics {
                assert!(seen.insert((metric, entry.shape.namespace_label())), "{metric}");
            }
        }
    }

    #[test]
    fn a_query_about_pods_names_these_pods() {
        let plain = Variants::default();
        let entry = CATALOGUE.iter().find(|entry| entry.name == "up").unwrap();
        let query = Query::about(entry, "shop", ["a-1", "b-2"], &plain).unwrap();
        assert_eq!(query.text(), r#"up{namespace="shop",pod=~"a\\-1|b\\-2"}"#);
        let workloads = CATALOGUE.iter().find(|entry| entry.name == "kube_workloads").unwrap();
        assert_eq!(Query::about(workloads, "shop", ["a"], &plain), None);
    }
}
