//! The queries, as data. What is here is what a bundle's `metrics/` holds.
//!
//! Sources: Istio's standard metrics; Envoy's cluster, HTTP and listener statistics; kube-state-metrics' exposed metrics;
//! cAdvisor's container metrics.

/// In which pass a query is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// At once, for the whole namespace: few series for each pod.
    Cheap,
    /// For what the first look implicates.
    Deep,
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

/// One query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name, unique: a file's name in a bundle.
    pub name: &'static str,
    /// What it shows, and the unit.
    pub shows: &'static str,
    /// In which pass it is asked.
    pub pass: Pass,
    /// The metrics that it reads, all with the same labels.
    pub metrics: &'static [&'static str],
    /// The label that must be the namespace.
    pub namespace_label: &'static str,
    /// Further conditions.
    pub matchers: &'static [(&'static str, Match)],
    /// Whose series these are.
    pub subject: Subject,
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

const fn pods(
    name: &'static str,
    shows: &'static str,
    pass: Pass,
    metrics: &'static [&'static str],
) -> Entry {
    Entry { name, shows, pass, metrics, namespace_label: "namespace", matchers: &[], subject: Subject::Pod }
}

const fn envoy(
    name: &'static str,
    shows: &'static str,
    pass: Pass,
    metrics: &'static [&'static str],
) -> Entry {
    Entry { matchers: &[("cluster_name", OWN_CLUSTERS)], ..pods(name, shows, pass, metrics) }
}

/// Calls into the namespace, whoever calls.
const fn calls_in(
    name: &'static str,
    shows: &'static str,
    pass: Pass,
    metrics: &'static [&'static str],
) -> Entry {
    Entry {
        namespace_label: "destination_service_namespace",
        subject: Subject::DestinationWorkload,
        ..pods(name, shows, pass, metrics)
    }
}

/// Calls out of the namespace; those inside it are calls into it.
const fn calls_out(
    name: &'static str,
    shows: &'static str,
    pass: Pass,
    metrics: &'static [&'static str],
) -> Entry {
    Entry {
        namespace_label: "source_workload_namespace",
        matchers: &[("destination_service_namespace", Match::NotTheNamespace)],
        subject: Subject::SourceWorkload,
        ..pods(name, shows, pass, metrics)
    }
}

const ISTIO_REQUESTS: &[&str] = &[
    "istio_requests_total",
    "istio_request_duration_milliseconds_sum",
    "istio_request_duration_milliseconds_count",
];
const ISTIO_CONNECTIONS: &[&str] =
    &["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"];
const ISTIO_DURATIONS: &[&str] = &["istio_request_duration_milliseconds_bucket"];

/// The catalogue.
pub const CATALOGUE: &[Entry] = &[
    calls_in(
        "istio_requests_in",
        "requests and their duration (ms) per edge, by reporter, response code and flags",
        Pass::Cheap,
        ISTIO_REQUESTS,
    ),
    calls_out(
        "istio_requests_out",
        "the same for calls that leave the namespace",
        Pass::Cheap,
        ISTIO_REQUESTS,
    ),
    calls_in("istio_connections_in", "TCP connections per edge", Pass::Cheap, ISTIO_CONNECTIONS),
    calls_out(
        "istio_connections_out",
        "TCP connections that leave the namespace",
        Pass::Cheap,
        ISTIO_CONNECTIONS,
    ),
    envoy(
        "envoy_requests",
        "requests of each proxy to each of its clusters, by response code, and their duration (ms)",
        Pass::Cheap,
        &[
            "envoy_cluster_upstream_rq",
            "envoy_cluster_upstream_rq_total",
            "envoy_cluster_upstream_rq_time_sum",
            "envoy_cluster_upstream_rq_time_count",
        ],
    ),
    envoy(
        "envoy_failures",
        "what Envoy itself did to requests and connections: refused, overflowed, timed out, retried, reset",
        Pass::Cheap,
        &[
            "envoy_cluster_upstream_cx_connect_fail",
            "envoy_cluster_upstream_cx_connect_timeout",
            "envoy_cluster_upstream_cx_destroy_remote_with_active_rq",
            "envoy_cluster_upstream_cx_none_healthy",
            "envoy_cluster_upstream_cx_overflow",
            "envoy_cluster_upstream_cx_protocol_error",
            "envoy_cluster_upstream_rq_pending_overflow",
            "envoy_cluster_upstream_rq_per_try_timeout",
            "envoy_cluster_upstream_rq_retry",
            "envoy_cluster_upstream_rq_retry_limit_exceeded",
            "envoy_cluster_upstream_rq_retry_overflow",
            "envoy_cluster_upstream_rq_rx_reset",
            "envoy_cluster_upstream_rq_timeout",
            "envoy_cluster_ssl_connection_error",
            "envoy_cluster_ssl_fail_verify_error",
            "envoy_cluster_ssl_fail_verify_san",
        ],
    ),
    envoy(
        "envoy_membership",
        "hosts of each cluster: all, healthy, ejected",
        Pass::Cheap,
        &[
            "envoy_cluster_membership_healthy",
            "envoy_cluster_membership_total",
            "envoy_cluster_outlier_detection_ejections_active",
            "envoy_cluster_outlier_detection_ejections_enforced_total",
        ],
    ),
    pods(
        "envoy_proxy",
        "the proxy itself: alive, its certificates' days, rejected configuration, requests without a route, their duration (ms)",
        Pass::Cheap,
        &[
            "envoy_server_live",
            "envoy_server_days_until_first_cert_expiring",
            "envoy_listener_manager_lds_update_rejected",
            "envoy_cluster_manager_cds_update_rejected",
            "envoy_http_no_route",
            "envoy_http_downstream_rq_time_sum",
            "envoy_http_downstream_rq_time_count",
        ],
    ),
    envoy(
        "envoy_pools",
        "connections and requests in each pool, and whether its limits are reached",
        Pass::Deep,
        &[
            "envoy_cluster_upstream_cx_active",
            "envoy_cluster_upstream_cx_total",
            "envoy_cluster_upstream_rq_active",
            "envoy_cluster_upstream_rq_pending_active",
            "envoy_cluster_upstream_rq_pending_total",
            "envoy_cluster_circuit_breakers_default_cx_open",
            "envoy_cluster_circuit_breakers_default_rq_open",
            "envoy_cluster_circuit_breakers_default_rq_pending_open",
        ],
    ),
    envoy(
        "envoy_durations",
        "duration (ms) of requests as a histogram",
        Pass::Deep,
        &["envoy_cluster_upstream_rq_time_bucket"],
    ),
    pods("envoy_memory", "memory of the proxy (bytes)", Pass::Deep, &["envoy_server_memory_allocated"]),
    calls_in(
        "istio_durations_in",
        "duration (ms) of requests per edge as a histogram",
        Pass::Deep,
        ISTIO_DURATIONS,
    ),
    calls_out(
        "istio_durations_out",
        "the same for calls that leave the namespace",
        Pass::Deep,
        ISTIO_DURATIONS,
    ),
    pods(
        "kube_containers",
        "containers: restarts, readiness, why they wait, how they ended",
        Pass::Cheap,
        &[
            "kube_pod_container_status_restarts_total",
            "kube_pod_container_status_ready",
            "kube_pod_container_status_waiting_reason",
            "kube_pod_init_container_status_waiting_reason",
            "kube_pod_container_status_last_terminated_reason",
            "kube_pod_container_status_last_terminated_exitcode",
        ],
    ),
    pods(
        "kube_pods",
        "pods: readiness, phase, place; requests and limits (cores, bytes)",
        Pass::Cheap,
        &[
            "kube_pod_status_ready",
            "kube_pod_status_phase",
            "kube_pod_status_unschedulable",
            "kube_pod_info",
            "kube_pod_container_resource_limits",
            "kube_pod_container_resource_requests",
        ],
    ),
    Entry {
        subject: Subject::Other,
        ..pods(
            "kube_workloads",
            "workloads: wanted and available replicas, rollouts, scaling, what quotas and disruption budgets leave",
            Pass::Cheap,
            &[
                "kube_deployment_spec_replicas",
                "kube_deployment_status_condition",
                "kube_deployment_status_observed_generation",
                "kube_deployment_status_replicas_available",
                "kube_deployment_status_replicas_updated",
                "kube_replicaset_spec_replicas",
                "kube_replicaset_status_ready_replicas",
                "kube_statefulset_replicas",
                "kube_statefulset_status_replicas_ready",
                "kube_daemonset_status_desired_number_scheduled",
                "kube_daemonset_status_number_ready",
                "kube_horizontalpodautoscaler_spec_max_replicas",
                "kube_horizontalpodautoscaler_status_current_replicas",
                "kube_horizontalpodautoscaler_status_desired_replicas",
                "kube_job_status_failed",
                "kube_job_complete",
                "kube_resourcequota",
                "kube_persistentvolumeclaim_status_phase",
                "kube_poddisruptionbudget_status_current_healthy",
                "kube_endpointslice_endpoints",
            ],
        )
    },
    Entry {
        matchers: &[("container", Match::NoneOf(&["", "POD"]))],
        ..pods(
            "container_resources",
            "containers: CPU (seconds), throttling, memory (bytes), kills for memory",
            Pass::Cheap,
            &[
                "container_cpu_usage_seconds_total",
                "container_cpu_cfs_periods_total",
                "container_cpu_cfs_throttled_periods_total",
                "container_cpu_cfs_throttled_seconds_total",
                "container_memory_working_set_bytes",
                "container_memory_rss",
                "container_oom_events_total",
            ],
        )
    },
    pods(
        "container_network",
        "pods: bytes, errors and drops on their network",
        Pass::Cheap,
        &[
            "container_network_receive_bytes_total",
            "container_network_transmit_bytes_total",
            "container_network_receive_packets_dropped_total",
            "container_network_transmit_packets_dropped_total",
            "container_network_receive_errors_total",
            "container_network_transmit_errors_total",
        ],
    ),
    pods("up", "whether each target of the metrics source answers it", Pass::Cheap, &["up"]),
    pods(
        "runtimes",
        "runtimes: time in collections (s), the heap after them, busy threads, queues, lag of event loops (s), goroutines",
        Pass::Deep,
        &[
            "jvm_gc_pause_seconds_sum",
            "jvm_gc_collection_seconds_sum",
            "jvm_gc_overhead",
            "jvm_gc_overhead_percent",
            "jvm_memory_usage_after_gc",
            "jvm_memory_usage_after_gc_percent",
            "jvm_threads_deadlocked",
            "tomcat_threads_busy_threads",
            "tomcat_threads_config_max_threads",
            "jetty_threads_busy",
            "jetty_threads_config_max",
            "dotnet_thread_pool_queue_length",
            "process_runtime_dotnet_thread_pool_queue_length",
            "nodejs_eventloop_lag_p99_seconds",
            "nodejs_eventloop_lag_seconds",
            "go_goroutines",
            "hikaricp_connections_active",
            "hikaricp_connections_max",
            "hikaricp_connections_pending",
            "hikaricp_active_connections",
            "hikaricp_max_connections",
            "hikaricp_pending_threads",
            "go_sql_in_use_connections",
            "go_sql_max_open_connections",
            "go_sql_wait_count_total",
        ],
    ),
    pods(
        "applications",
        "requests as applications count them, by the conventions of common frameworks, and their duration (s)",
        Pass::Deep,
        &[
            "http_requests_total",
            "http_request_duration_seconds_sum",
            "http_request_duration_seconds_count",
            "http_server_requests_seconds_sum",
            "http_server_requests_seconds_count",
            "http_server_request_duration_seconds_sum",
            "http_server_request_duration_seconds_count",
            "grpc_server_handled_total",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::prometheus::query::Query;
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
        let queries = CATALOGUE.iter().flat_map(|entry| {
            let about = Query::about(entry, namespace, ["a-1", "b.2"]);
            let all =
                [Query::new(entry, namespace)].into_iter().chain(about).chain(Query::split(entry, namespace));
            all.map(move |query| (entry, query))
        });
        queries.collect()
    }

    #[test]
    fn every_query_is_promql_and_carries_its_namespace() {
        for namespace in ["shop", "x\"} or up{a=\"b\\"] {
            for (entry, query) in every_query(namespace) {
                let (name, matchers) = matchers(&query);
                let own = matchers.iter().any(|m| {
                    m.name == entry.namespace_label && m.value == namespace && matches!(m.op, MatchOp::Equal)
                });
                assert!(own, "{}", query.text());
                assert_eq!(name.is_some(), !query.text().contains("__name__"), "{}", query.text());
            }
        }
    }

    #[test]
    fn names_are_unique_and_good_as_files() {
        let names: BTreeSet<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        assert!(names.iter().all(|name| name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')));
        assert!(CATALOGUE.iter().all(|entry| !entry.metrics.is_empty() && !entry.shows.is_empty()));
    }

    #[test]
    fn no_series_is_read_twice_in_a_pass() {
        let mut seen = BTreeSet::new();
        for entry in CATALOGUE {
            for metric in entry.metrics {
                assert!(seen.insert((metric, entry.namespace_label)), "{metric}");
            }
        }
    }

    #[test]
    fn a_query_about_pods_names_these_pods() {
        let entry = CATALOGUE.iter().find(|entry| entry.name == "up").unwrap();
        let query = Query::about(entry, "shop", ["a-1", "b-2"]).unwrap();
        assert_eq!(query.text(), r#"up{namespace="shop",pod=~"a\\-1|b\\-2"}"#);
        let workloads = CATALOGUE.iter().find(|entry| entry.name == "kube_workloads").unwrap();
        assert_eq!(Query::about(workloads, "shop", ["a"]), None);
    }
}
