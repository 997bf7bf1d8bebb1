//! What a control plane refuses of the Gateway API's objects is found from their configuration alone:
//! `tests/conformance/gateway-api`.

use meshscope::analyze::diagnosis::{Options, analyze};
use meshscope::analyze::finding::{Finding, Severity};
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use serde_json::Value;
use std::path::Path;

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_lowercase).collect()
}

/// Whether a finding is about the object that an expectation names.
fn is_about(finding: &Finding, expected: &Value) -> bool {
    let kind = expected["kind"].as_str().unwrap();
    let namespace = expected["namespace"].as_str().unwrap_or_default();
    finding.subject.kind == kind
        && finding.subject.name == expected["name"].as_str().unwrap()
        && (kind == "GatewayClass" || finding.subject.namespace == namespace)
}

/// All that findings say, and the fields that they point at.
fn said(findings: &[&Finding]) -> (String, String) {
    let mut text = String::new();
    let mut paths = String::new();
    for finding in findings {
        text.push_str(&format!("{} {} {:?} ", finding.title, finding.message, finding.evidence));
        paths.push_str(&format!("{} ", finding.subject.field_path));
    }
    (text.to_lowercase(), paths.to_lowercase())
}

#[test]
fn what_is_refused_is_found_with_its_reason_and_what_is_fine_is_no_error() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/gateway-api");
    let mut wrong = vec![];
    let mut cases: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 30);
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let expected: Value =
            serde_json::from_str(&std::fs::read_to_string(case.join("expect.json")).unwrap()).unwrap();
        let diagnosis =
            analyze(&assemble(bundle::read(&[case.join("bundle")]).unwrap()), &Options::default());
        for negative in expected["negative"].as_array().unwrap() {
            let about = |f: &&Finding| is_about(f, negative) && f.severity >= Severity::Warning;
            let found: Vec<&Finding> = diagnosis.findings.iter().filter(about).collect();
            let (text, paths) = said(&found);
            let names = texts(&negative["names"]);
            let named = names.is_empty() || names.iter().any(|n| text.contains(n) || paths.contains(n));
            let pointed = texts(&negative["fields"]).iter().any(|field| paths.contains(field));
            if found.is_empty() || !(named || pointed) {
                let (kind, object, why) = (&negative["kind"], &negative["name"], &negative["reason"]);
                wrong.push(format!("{name}: {why} of {kind} {object} is not found: {text}"));
            }
        }
        for fine in expected["fine"].as_array().unwrap() {
            let bad =
                diagnosis.findings.iter().filter(|f| is_about(f, fine) && f.severity >= Severity::Error);
            wrong.extend(
                bad.map(|f| {
                    format!("{name}: {} is fine, and {} says: {}", fine["name"], f.meta.code, f.title)
                }),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
