//! The twin against what a real mesh did: `tests/twin/observed`.

use meshscope::analyze::twin::Twin;
use meshscope::analyze::twin::answer::{Answer, Outcome};
use meshscope::analyze::twin::ask::Ask;
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use meshscope::model::snapshot::Snapshot;
use serde_json::{Value, json};
use std::path::Path;

/// The mesh with the objects of one configuration.
fn mesh(folder: &Path, objects: &Value) -> Snapshot {
    let own = tempfile::tempdir().unwrap();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let file = own.path().join("objects.json");
    std::fs::write(&file, list.to_string()).unwrap();
    assemble(bundle::read(&[folder.join("mesh.yaml"), file]).unwrap())
}

fn ask(request: &Value, namespace: &str, name: &str) -> Ask {
    let mut headers = json!({"user-agent": "curl/8.0", "accept": "*/*"});
    if request["tier"].is_string() {
        headers["x-tier"] = request["tier"].clone();
    }
    serde_json::from_value(json!({
        "name": "observed",
        "from": {"workload": {"namespace": namespace, "kind": "Deployment", "name": name}},
        "request": {"host": "api.pol-mesh", "method": request["method"], "path": request["path"], "headers": headers},
    }))
    .unwrap()
}

/// `closed`, the status of a proxy's own answer, or `passed`; none where the twin does not say.
fn said(answer: &Answer) -> Option<String> {
    match answer.outcome {
        Outcome::Forwarded => Some("passed".to_owned()),
        Outcome::Refused => Some("closed".to_owned()),
        Outcome::Responded => answer.status.map(|status| status.to_string()),
        Outcome::NotModelled => None,
    }
}

/// What came back, in the same words: the application itself answers 200, 302, 404 and 501.
fn seen(status: &str) -> &str {
    match status {
        "000" => "closed",
        "403" | "503" => status,
        _ => "passed",
    }
}

#[test]
fn the_twin_says_what_a_real_mesh_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/twin/observed");
    let text = std::fs::read(folder.join("observed.json")).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let (mut right, mut open, mut wrong) = (0, 0, vec![]);
    for (index, case) in all.iter().enumerate() {
        let snapshot = mesh(&folder, &case["objects"]);
        let twin = Twin::new(&snapshot);
        for request in case["requests"].as_array().unwrap() {
            for (client, namespace, name) in [("mesh", "pol-mesh", "web"), ("bare", "pol-bare", "bare")] {
                let answer = twin.answer(&ask(request, namespace, name));
                let seen = seen(request[client].as_str().unwrap());
                match said(&answer) {
                    None => {
                        assert!(case["objects"].to_string().contains("connection.sni"), "{}", answer.detail);
                        open += 1;
                    }
                    Some(said) if said == seen => right += 1,
                    Some(said) => wrong.push(format!(
                        "configuration {index}, {client} {} {}: {seen}, and the twin says {said}: {}",
                        request["method"], request["path"], answer.detail
                    )),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(right > 1000 && open < right / 20, "{right} right, {open} open");
}
