//! What looks like a fault and is none, or like one and is another: each of these has misled somebody before.

use meshscope::analyze::anomaly::{Direction, Kind};
use meshscope::analyze::diagnosis::{Diagnosis, Options, analyze};
use meshscope::analyze::finding::{Role, Severity};
use meshscope::analyze::series::meaning;
use meshscope::analyze::series::prepare::Readings;
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use meshscope::collect::prometheus::catalogue::CATALOGUE;
use meshscope::model::json::json;
use meshscope::model::series::{self, Series};
use meshscope::model::snapshot::Builder;
use std::path::Path;

/// The answer to a fixture of the rules.
fn asked(fixture: &str) -> Diagnosis {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules").join(fixture);
    let material = bundle::read(std::slice::from_ref(&path)).unwrap_or_else(|e| panic!("{fixture}: {e}"));
    analyze(&assemble(material), &Options::default())
}

fn codes(diagnosis: &Diagnosis) -> Vec<&'static str> {
    diagnosis.findings.iter().map(|finding| finding.meta.code).collect()
}

/// Whether anything that was said speaks of this.
fn speaks_of(diagnosis: &Diagnosis, words: &str) -> bool {
    diagnosis.findings.iter().any(|f| f.mechanism.contains(words) || f.title.contains(words))
}

fn read(metric: &str) -> bool {
    CATALOGUE.iter().any(|entry| entry.metrics.contains(&metric))
}

#[test]
fn core_dns_counts_under_two_generations_of_names() {
    for fixture in ["fires-counted", "fires-counted-by-an-older-version"] {
        let diagnosis = asked(&format!("DNS103-name-server-upstream-failing/{fixture}"));
        assert!(codes(&diagnosis).contains(&"DNS103"), "{fixture}: {:?}", codes(&diagnosis));
    }
    // Both are asked for, so that silence of one proves nothing.
    for metric in ["coredns_proxy_request_duration_seconds_count", "coredns_forward_responses_total"] {
        assert!(read(metric), "{metric}");
    }
}

#[test]
fn pools_of_connections_have_two_families_of_names() {
    for fixture in ["fires", "fires-own-tracker", "fires-go"] {
        let diagnosis = asked(&format!("RUN109-connection-pool-full/{fixture}"));
        assert!(codes(&diagnosis).contains(&"RUN109"), "{fixture}: {:?}", codes(&diagnosis));
    }
    for metric in ["hikaricp_connections_pending", "hikaricp_pending_threads", "go_sql_wait_count_total"] {
        assert!(read(metric), "{metric}");
    }
}

#[test]
fn a_limit_of_zero_is_no_limit() {
    for fixture in [
        "RUN109-connection-pool-full/silent-no-limit",
        "RUN110-descriptors-or-threads-run-out/silent-no-limit",
    ] {
        let diagnosis = asked(fixture);
        assert!(diagnosis.root_causes.is_empty(), "{fixture}: {:?}", codes(&diagnosis));
    }
}

#[test]
fn leases_are_read_as_objects_and_not_from_a_metric_that_watches_some_namespaces() {
    assert!(codes(&asked("PLAT118-leader-does-not-renew/fires.yaml")).contains(&"PLAT118"));
    assert!(!read("kube_lease_renew_time"));
}

#[test]
fn exit_code_137_is_no_proof_of_a_lack_of_memory() {
    let diagnosis = asked("POD102-out-of-memory/silent-killed-otherwise.yaml");
    assert!(!speaks_of(&diagnosis, "memory"), "{:?}", codes(&diagnosis));
    // And where the node ran out of it, the container's own limit is not the reason.
    let victim = asked("POD102-out-of-memory/silent-node-out-of-memory.yaml");
    assert!(!codes(&victim).contains(&"POD102"), "{:?}", codes(&victim));
}

#[test]
fn an_autoscaler_at_its_minimum_is_where_it_should_be() {
    for fixture in [
        "PLAT104-autoscaler-cannot-scale/silent-at-minimum.yaml",
        "PLAT105-autoscaler-at-max/silent-at-minimum.yaml",
    ] {
        let diagnosis = asked(fixture);
        let loud = diagnosis
            .findings
            .iter()
            .any(|f| f.severity >= Severity::Warning && f.meta.code.starts_with("PLAT10"));
        assert!(!loud, "{fixture}: {:?}", codes(&diagnosis));
    }
}

#[test]
fn a_claim_that_waits_for_its_first_consumer_is_well() {
    let diagnosis = asked("POD110-volume-not-mounted/silent-first-consumer.yaml");
    assert!(!speaks_of(&diagnosis, "volume"), "{:?}", codes(&diagnosis));
}

#[test]
fn names_that_are_tried_with_search_domains_first_cost_and_do_not_fail() {
    let diagnosis = asked("DNS107-look-ups-multiplied/fires");
    let told = diagnosis.findings.iter().find(|f| f.meta.code == "DNS107").expect("it is told");
    assert!(told.severity <= Severity::Warning);
    assert!(
        !codes(&diagnosis).iter().any(|code| ["APP112", "DNS108"].contains(code)),
        "{:?}",
        codes(&diagnosis)
    );
    assert!(diagnosis.root_causes.iter().all(|cause| diagnosis.findings[cause.finding].role != Role::Cause));
}

#[test]
fn containers_that_their_own_limit_holds_back_do_not_accuse_the_node() {
    let diagnosis = asked("PLAT121-node-without-processor-time/silent-own-limits");
    assert!(
        codes(&diagnosis).contains(&"POD111") && !codes(&diagnosis).contains(&"PLAT121"),
        "{:?}",
        codes(&diagnosis)
    );
}

#[test]
fn probes_that_share_a_dependency_do_not_accuse_the_node() {
    let diagnosis = asked("PLAT121-node-without-processor-time/silent-one-dependency");
    assert!(!codes(&diagnosis).contains(&"PLAT121"), "{:?}", codes(&diagnosis));
}

#[test]
fn a_counter_that_starts_again_has_not_grown_by_what_it_lost() {
    let series = |points: &[f64]| Series {
        name: "restarts".to_owned(),
        labels: Default::default(),
        points: points.iter().enumerate().map(|(at, value)| (at as f64, *value)).collect(),
    };
    assert_eq!(series(&[500.0, 0.0, 2.0]).total_increase(), Some(2.0));
    // One sample is no growth: after a restart of the exporter it takes two.
    assert_eq!(series(&[500.0]).total_increase(), None);
    // A sum over queues that lost one of them has neither started again nor grown by all that is left.
    assert_eq!(series(&[1000.0, 1010.0, 900.0, 905.0]).total_increase(), Some(15.0));
}

/// What a series of this name and these labels is taken for.
fn taken_for(name: &str, labels: &[(&str, &str)]) -> Option<(Kind, Option<Direction>)> {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let series = Series { name: name.to_owned(), labels, points: vec![(0.0, 1.0), (60.0, 2.0)] };
    meaning::of(&series).map(|meaning| (meaning.kind, meaning.bad))
}

#[test]
fn copies_of_a_stream_count_once_by_what_their_leader_says() {
    let pending = "jetstream_consumer_num_pending";
    assert_eq!(taken_for(pending, &[("is_consumer_leader", "false")]), None);
    let waits = Some((Kind::Saturation, Some(Direction::Up)));
    assert_eq!(taken_for(pending, &[("is_consumer_leader", "true"), ("is_meta_leader", "false")]), waits);
}

#[test]
fn a_lag_below_zero_is_no_lag() {
    let lag = json!({"data": {"result": [{"metric": {"__name__": "kafka_consumergroup_lag", "service": "a", "namespace": "n"},
        "values": [[0, "4"], [60, "-7"], [180, "5"]]}]}});
    let mut builder = Builder::new();
    builder.series(series::read(&lag, "lag"));
    let readings = builder.finish().derived::<Readings>();
    assert_eq!(readings.0[0].values, [4.0, 5.0], "nor is a minute without one");
}

#[test]
fn stores_count_under_two_generations_of_names() {
    let (older, newer) =
        ("pg_stat_bgwriter_checkpoint_write_time_total", "pg_stat_checkpointer_write_time_total");
    assert_eq!(taken_for(older, &[]), taken_for(newer, &[]));
    assert!(taken_for(older, &[]).is_some());
    assert_eq!(taken_for("pg_replication_lag_seconds", &[]), Some((Kind::Saturation, Some(Direction::Up))));
    let fails = Some((Kind::Errors, Some(Direction::Up)));
    for name in [
        "etcd_debugging_server_alarms",
        "etcd_server_proposals_failed_total",
        "redis_rejected_connections_total",
    ] {
        assert_eq!(taken_for(name, &[]), fails, "{name}");
    }
    // Its label begins with a capital, unlike any other.
    assert_eq!(taken_for("etcd_network_peer_sent_failures_total", &[("To", "8e9e05c52164694d")]), fails);
    // 0 is no limit there, so that nothing may be divided by it: limits are no readings at all.
    assert_eq!(taken_for("redis_memory_max_bytes", &[]), None);
}

#[test]
fn nothing_is_concluded_from_what_was_not_seen() {
    // The same failing look-ups, without figures of the name server: what is missing is said, and nobody is accused.
    let diagnosis = analyze(
        &assemble(
            bundle::read(&[Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/rules/POD111-cpu-throttled/fires/resources/shop.yaml")])
            .unwrap(),
        ),
        &Options::default(),
    );
    assert!(!codes(&diagnosis).contains(&"POD111"));
    assert!(
        diagnosis.not_evaluated.iter().any(|rule| rule.code == "POD111"),
        "a rule without its signal is not silent"
    );
}
