//! The twin against cases whose answers are known: `tests/twin/<suite>/<case>`.

use meshscope::analyze::twin::Twin;
use meshscope::analyze::twin::ask::Ask;
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn json(path: PathBuf) -> Value {
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a case says to each of its requests that is answered otherwise than expected; and how many requests there are.
fn wrong(case: &Path) -> (Vec<String>, usize) {
    let material = bundle::read(&[case.join("bundle")]).unwrap();
    let snapshot = assemble(material);
    let twin = Twin::new(&snapshot);
    let requests: Vec<Ask> =
        serde_json::from_value(json(case.join("requests.json"))["requests"].clone()).unwrap();
    let expected = json(case.join("expect.json"));
    let mut wrong = vec![];
    for ask in &requests {
        let answer = twin.answer(ask);
        let outcome = serde_json::to_value(answer.outcome).unwrap();
        let wanted =
            expected["expect"].as_array().unwrap().iter().find(|want| want["name"] == ask.name.as_str());
        let wanted = &wanted
            .unwrap_or_else(|| panic!("{}: nothing expected of {:?}", case.display(), ask.name))["outcomes"];
        if !wanted.as_array().unwrap().contains(&outcome) {
            let name = case.file_name().unwrap().to_string_lossy();
            wrong.push(format!("{name}: {}: {outcome}, not {wanted}: {}", ask.name, answer.detail));
        }
        assert!(!answer.steps.is_empty(), "{}: {}: no steps", case.display(), ask.name);
    }
    (wrong, requests.len())
}

fn cases(suite: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/twin").join(suite);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

#[test]
fn network_policies_admit_what_they_should() {
    let results: Vec<_> = cases("network-policy").iter().map(|case| wrong(case)).collect();
    let all: usize = results.iter().map(|(_, requests)| requests).sum();
    let wrong: Vec<String> = results.into_iter().flat_map(|(wrong, _)| wrong).collect();
    assert!(all > 500, "only {all} requests were asked");
    assert!(wrong.is_empty(), "{} of {all} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
