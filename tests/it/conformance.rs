//! Suites of other projects' test data: `tests/conformance`, with their licence beside them.

use meshscope::analyze::diagnosis::{Diagnosis, Options, StrictAliases, analyze};
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn cases(suite: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(suite);
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn run(case: &Path, options: &Options) -> Diagnosis {
    let material = bundle::read(&[case.join("bundle")]).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
    analyze(&assemble(material), options)
}

fn expectation(case: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(case.join("expect.json")).unwrap()).unwrap()
}

/// Kinds that have no namespace, whatever their file says.
const CLUSTER_SCOPED: &[&str] = &[
    "Namespace",
    "Node",
    "GatewayClass",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

/// Code, kind, namespace and name.
type Key = [String; 4];

fn key(code: &str, kind: &str, namespace: &str, name: &str) -> Key {
    let namespace = if CLUSTER_SCOPED.contains(&kind) { "" } else { namespace };
    [code, kind, namespace, name].map(str::to_owned)
}

/// `istio` is Istio's own test data. `istioctl` holds clusters made up at random, with what a real istioctl said of them: all
/// of its codes but those that are left to the API server.
///
/// With `--strict-aliases istioctl` the aliases are those of a run of all of istioctl's analyzers: on the same objects, as often.
#[test]
fn istioctls_messages_are_given_exactly() {
    let strict = Options { strict_aliases: Some(StrictAliases::Istioctl), ..Options::default() };
    let mut wrong = vec![];
    for case in cases("istio").into_iter().chain(cases("istioctl")) {
        let expectation = expectation(&case);
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let of = |value: &Value| {
            key(&text(value, "code"), &text(value, "kind"), &text(value, "namespace"), &text(value, "name"))
        };
        let codes: Vec<&str> =
            expectation["codes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let mut balance: BTreeMap<Key, i64> = BTreeMap::new();
        let mut instead: BTreeMap<Key, Key> = BTreeMap::new();
        for list in ["expected", "tolerated"] {
            for entry in expectation[list].as_array().unwrap() {
                *balance.entry(of(entry)).or_default() -= 1;
                for other in entry["orSubject"].as_array().into_iter().flatten() {
                    let mut other = other.clone();
                    other["code"] = entry["code"].clone();
                    instead.insert(of(&other), of(entry));
                }
            }
        }
        for finding in run(&case, &strict).findings {
            for alias in finding.aliases.iter().filter(|alias| codes.contains(alias)) {
                let subject = &finding.subject;
                let found = key(alias, &subject.kind, &subject.namespace, &subject.name);
                let found = instead.get(&found).cloned().unwrap_or(found);
                *balance.entry(found).or_default() += 1;
            }
        }
        balance.retain(|_, count| *count != 0);
        if !balance.is_empty() {
            wrong.push(format!("{}: {balance:?} (below 0: missing)", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Without the flag nothing of istioctl's own is among the findings, and each rule names its codes.
#[test]
fn without_the_flag_meshscope_judges_alone() {
    for case in cases("istio") {
        for finding in run(&case, &Options::default()).findings {
            assert!(!finding.meta.code.starts_with("IST0"), "{}: {}", case.display(), finding.title);
            assert_eq!(finding.aliases, finding.meta.aliases);
        }
    }
}
