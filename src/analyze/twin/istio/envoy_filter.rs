//! EnvoyFilters, which change Envoy's configuration in ways that are not looked into, but for those of which it is known that
//! they decide nothing: what is logged and measured, how long connections live, how much is buffered.

use crate::model::json::Value;

use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::{Mode, ProxyNode};
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::object::ObjectRef;

/// What of Envoy's configuration decides where a request goes and whether it gets there.
const DECIDING: &[&str] = &[
    "LISTENER",
    "FILTER_CHAIN",
    "NETWORK_FILTER",
    "HTTP_FILTER",
    "ROUTE_CONFIGURATION",
    "VIRTUAL_HOST",
    "HTTP_ROUTE",
    "CLUSTER",
    "LISTENER_FILTER",
];

/// HTTP filters, by how their names end, that pass every request on as it is: they measure, mirror to a file, or compress. The
/// one for local limits answers only requests beyond its limit.
const PASSING: &[&str] = &[
    ".compressor",
    ".decompressor",
    ".gzip",
    ".grpc_stats",
    ".header_to_metadata",
    ".local_ratelimit",
    ".set_metadata",
    ".tap",
    "istio.stats",
    "istio.metadata_exchange",
    "istio.alpn",
];

/// Fields, by what they are merged into, that decide nothing about a single request of ordinary size.
const IDLE: &[(&str, &[&str])] = &[
    (
        "NETWORK_FILTER",
        &[
            "@type",
            "access_log",
            "access_log_options",
            "always_set_request_id_in_response",
            "delayed_close_timeout",
            "drain_timeout",
            "forward_client_cert_details",
            "generate_request_id",
            "http2_protocol_options",
            "max_request_headers_kb",
            "preserve_external_request_id",
            "request_headers_timeout",
            "server_header_transformation",
            "server_name",
            "set_current_client_cert_details",
            "stat_prefix",
            "stream_idle_timeout",
            "tracing",
            "upgrade_configs",
            "via",
        ],
    ),
    (
        "LISTENER",
        &[
            "access_log",
            "enable_reuse_port",
            "per_connection_buffer_limit_bytes",
            "socket_options",
            "tcp_backlog_size",
        ],
    ),
    (
        "CLUSTER",
        &[
            "alt_stat_name",
            "circuit_breakers",
            "connect_timeout",
            "dns_refresh_rate",
            "http2_protocol_options",
            "max_requests_per_connection",
            "outlier_detection",
            "per_connection_buffer_limit_bytes",
            "respect_dns_ttl",
            "track_cluster_stats",
            "upstream_connection_options",
        ],
    ),
];

/// The first EnvoyFilter, and the patch in it, that changes what a proxy does with requests that enter it in this way at a port.
pub fn changing(twin: &Twin<'_>, node: &ProxyNode, mode: Mode, port: u16) -> Option<ObjectRef> {
    let root = &twin.snapshot.istio.root_namespace;
    let own =
        twin.envoy_filters.iter().filter(|filter| filter.applies_to(&node.namespace, &node.labels, root));
    own.filter_map(|filter| patch(filter, mode, port)).next()
}

/// The same at a waypoint, where those count alone that name its Gateway, its class or what stands behind it.
pub fn changing_waypoint<'a>(
    all: impl Iterator<Item = &'a Policy>,
    names: impl Fn(&Policy, &Value) -> bool,
) -> Option<ObjectRef> {
    let mut own = all.filter(|filter| filter.targets.iter().any(|target| names(filter, target)));
    own.find_map(|filter| {
        let mut patches = filter.object.body.list("spec.configPatches").iter();
        let at = patches.position(decides)?;
        Some(filter.object.reference.field(format!("spec.configPatches[{at}]")))
    })
}

fn patch(filter: &Policy, mode: Mode, port: u16) -> Option<ObjectRef> {
    let context = match mode {
        Mode::Gateway => "GATEWAY",
        Mode::Outbound => "SIDECAR_OUTBOUND",
        Mode::Inbound => "SIDECAR_INBOUND",
    };
    let mut patches = filter.object.body.list("spec.configPatches").iter();
    let at = patches.position(|patch| {
        let place = patch.text("match.context").unwrap_or("ANY");
        let elsewhere = patch.int("match.listener.portNumber").is_some_and(|own| own != i64::from(port));
        (place == "ANY" || place == context) && !elsewhere && decides(patch)
    })?;
    Some(filter.object.reference.field(format!("spec.configPatches[{at}]")))
}

/// Whether a patch changes what decides on requests.
fn decides(patch: &Value) -> bool {
    let what = patch.text("applyTo").unwrap_or_default();
    DECIDING.contains(&what) && !is_idle(what, patch)
}

/// Whether a patch is known to decide nothing.
fn is_idle(what: &str, patch: &Value) -> bool {
    let operation = patch.text("patch.operation").unwrap_or_default();
    let passing = |name: Option<&str>| name.is_some_and(|name| PASSING.iter().any(|own| name.ends_with(own)));
    match (what, operation) {
        // A cluster that is added gets nothing as long as no route leads to it.
        ("CLUSTER", "ADD") => true,
        ("HTTP_FILTER", "REMOVE") => passing(patch.text("match.listener.filterChain.filter.subFilter.name")),
        ("HTTP_FILTER", "ADD" | "INSERT_FIRST" | "INSERT_BEFORE" | "INSERT_AFTER") => {
            passing(patch.text("patch.value.name")) && !limits_everything(patch)
        }
        ("NETWORK_FILTER" | "LISTENER" | "CLUSTER", "MERGE") => {
            let of_http = "match.listener.filterChain.filter.name";
            let manager = patch.text(of_http).is_some_and(|name| name.ends_with("http_connection_manager"));
            let value = if what == "NETWORK_FILTER" { "patch.value.typed_config" } else { "patch.value" };
            let idle = IDLE.iter().find(|(own, _)| *own == what).map_or(&[][..], |(_, fields)| *fields);
            let fields = patch.map(value);
            (what != "NETWORK_FILTER" || manager)
                && fields.is_some_and(|fields| fields.keys().all(|field| idle.contains(&field.as_str())))
        }
        _ => false,
    }
}

/// Whether a limit leaves no request at all.
fn limits_everything(patch: &Value) -> bool {
    let config = patch.at("patch.value.typed_config");
    let bucket = config.and_then(|c| c.at("token_bucket").or_else(|| c.at("value.token_bucket")));
    bucket.is_some_and(|bucket| bucket.int("max_tokens") == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::ask::ProxyType;
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    fn found(patch: Value, port: u16) -> bool {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "f", "namespace": "n"},
            "spec": {"configPatches": [patch]}}));
        let node = ProxyNode {
            namespace: "n".into(),
            kind: ProxyType::Sidecar,
            labels: crate::model::selector::Labels::new(),
            ips: vec![],
        };
        changing(&Twin::new(&builder.finish()), &node, Mode::Outbound, port).is_some()
    }

    fn merged(what: &str, value: &Value) -> Value {
        json!({"applyTo": what, "match": {"context": "SIDECAR_OUTBOUND", "listener": {"filterChain": {"filter":
            {"name": "envoy.filters.network.http_connection_manager"}}}}, "patch": {"operation": "MERGE", "value": value}})
    }

    #[test]
    fn logs_limits_of_size_and_life_times_decide_nothing() {
        for (what, value) in [
            (
                "NETWORK_FILTER",
                json!({"typed_config": {"@type": "t", "access_log": [], "stream_idle_timeout": "1s"}}),
            ),
            ("LISTENER", json!({"per_connection_buffer_limit_bytes": 1})),
            ("CLUSTER", json!({"connect_timeout": "1s", "upstream_connection_options": {}})),
        ] {
            assert!(!found(merged(what, &value), 80), "{what} {value}");
        }
        for (what, value) in [
            ("NETWORK_FILTER", json!({"typed_config": {"access_log": [], "local_reply_config": {}}})),
            ("NETWORK_FILTER", json!({"name": "other"})),
            ("LISTENER", json!({"address": {}})),
            ("CLUSTER", json!({"type": "STATIC"})),
            ("HTTP_ROUTE", json!({"route": {"timeout": "1s"}})),
        ] {
            assert!(found(merged(what, &value), 80), "{what} {value}");
        }
    }

    #[test]
    fn filters_that_only_watch_decide_nothing_and_those_that_may_answer_do() {
        let insert = |name: &str, config: Value| {
            json!({"applyTo": "HTTP_FILTER", "match": {"listener": {"portNumber": 80}},
                "patch": {"operation": "INSERT_BEFORE", "value": {"name": name, "typed_config": config}}})
        };
        assert!(!found(insert("envoy.filters.http.compressor", json!({})), 80));
        assert!(found(insert("envoy.filters.http.lua", json!({})), 80));
        assert!(!found(insert("envoy.filters.http.lua", json!({})), 81), "another port");
        let bucket = |tokens: i64| json!({"value": {"token_bucket": {"max_tokens": tokens}}});
        assert!(!found(insert("envoy.filters.http.local_ratelimit", bucket(10)), 80));
        assert!(found(insert("envoy.filters.http.local_ratelimit", bucket(0)), 80));
    }
}
