//! Where the data decides, a fix is a patch with the exact value, and can be taken back.

use meshscope::analyze::diagnosis::{Options, analyze};
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use std::path::Path;

/// A rule's fixture, and what the patch of its first fix must hold.
const PATCHES: &[(&str, &str, &str)] = &[
    (
        "APP111-pool-exhausted",
        "fires-value-not-read",
        r#"[{"op":"replace","path":"/data/STORE_POOL","value":"10"}]"#,
    ),
    (
        "SVC113-service-port-missing",
        "fires-answered-before",
        r#"{"op":"add","path":"/spec/ports/-","value":{"name":"http-80","port":80,"protocol":"TCP","targetPort":8080}}"#,
    ),
    ("ISTIO127-outlier-ejection-empties-service", "fires-after-a-rollout", r#""maxEjectionPercent":50"#),
    ("ISTIO133-authorizer-unavailable", "fires-other-port", "port: 9000"),
    ("ISTIO136-injection-webhook-fails", "fires-service-gone.yaml", r#""value":"istiod""#),
    (
        "ISTIO144-connections-pin-to-one-pod",
        "fires-declared-tcp",
        r#""path":"/spec/ports/0/appProtocol","value":"grpc""#,
    ),
    ("ISTIO146-streams-end-at-one-age", "fires-filter", r#"max_stream_duration","value":"0s""#),
    ("ISTIO149-names-not-captured", "fires-port-of-an-automatic-address", r#""number":5433"#),
    ("ISTIO152-session-affinity-imbalance", "fires-header", r#""simple":"LEAST_REQUEST""#),
    ("ISTIO153-timeouts-inverted", "fires", r#""path":"/spec/http/0/timeout","value":"800ms""#),
    ("ISTIO154-retries-multiply-over-hops", "fires", r#""attempts":0"#),
    ("ISTIO155-proxy-cpu-throttled", "fires", r#""sidecar.istio.io/proxyCPULimit":"#),
    (
        "ISTIO156-connection-pool-nearly-full",
        "fires",
        r#""path":"/spec/trafficPolicy/connectionPool/tcp/maxConnections""#,
    ),
    (
        "ISTIO157-failover-without-outlier-detection",
        "fires",
        r#""path":"/spec/trafficPolicy/outlierDetection""#,
    ),
    ("LINKERD102-linkerd-policy-denies", "fires-others-admitted", r#""path":"/spec/identities/-""#),
    (
        "LINKERD103-linkerd-protocol-not-detected",
        "fires-caller",
        r#""config.linkerd.io/opaque-ports":"3306""#,
    ),
    (
        "CONSUL101-config-entry-not-synced",
        "fires-weights.yaml",
        r#""path":"/spec/splits/1/weight","value":10"#,
    ),
    (
        "CONSUL102-consul-intention-denies",
        "fires-denied",
        r#""path":"/spec/sources/0/action","value":"allow""#,
    ),
];

/// The same where the fix is a command, because something is made or started.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("ISTIO136-injection-webhook-fails", "fires-scaled-to-zero.yaml", "scale deployment/istiod --replicas=1"),
    ("LINKERD102-linkerd-policy-denies", "fires-nobody-admitted", "checkout.shop.serviceaccount.identity"),
    ("CONSUL101-config-entry-not-synced", "fires.yaml", r#""kind":"ServiceDefaults""#),
];

#[test]
fn the_first_fix_holds_the_exact_value_and_its_inverse() {
    let all = PATCHES.iter().map(|case| (case, true)).chain(COMMANDS.iter().map(|case| (case, false)));
    for ((rule, fixture, wanted), patched) in all {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules").join(rule).join(fixture);
        let material = bundle::read(&[path]).unwrap();
        let diagnosis = analyze(&assemble(material), &Options::default());
        let code = rule.split('-').next().unwrap();
        let finding = diagnosis.findings.iter().find(|f| f.meta.code == code).unwrap();
        let first = finding.remedies.first().unwrap_or_else(|| panic!("{rule}/{fixture}: no remedy"));
        let said = match (&first.patch, patched) {
            (Some(patch), true) => patch.operations.to_string(),
            (None, false) => first.commands.join("\n"),
            _ => panic!("{rule}/{fixture}: {first:?}"),
        };
        assert!(said.contains(wanted), "{rule}/{fixture}: {said}");
        assert!(!first.rollback.is_empty(), "{rule}/{fixture}: no way back");
    }
}
