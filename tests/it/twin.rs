//! What the twin answers to every request of `tests/twin`: our own walks, and suites of other projects with their licences
//! beside them.

use meshscope::analyze::twin::Twin;
use meshscope::analyze::twin::answer::Answer;
use meshscope::analyze::twin::ask::Ask;
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut out: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    out.sort();
    out
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The trailing domain of a cluster's name does not count.
fn cluster(name: &str) -> &str {
    name.strip_suffix(".svc.cluster.local").unwrap_or(name)
}

/// Shares by Service; without weights each counts alike.
fn shares(backends: &Value, weighted: bool) -> BTreeMap<String, String> {
    let list = backends.as_array().cloned().unwrap_or_default();
    let weight = |backend: &Value| backend["weight"].as_f64().unwrap_or(1.0);
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for backend in &list {
        let text = |field: &str| backend[field].as_str().unwrap_or_default().to_owned();
        *sums.entry(format!("{}/{}", text("namespace"), text("service"))).or_default() += weight(backend);
    }
    let whole: f64 = sums.values().sum();
    let share = |sum: f64| if weighted { format!("{:.3}", sum / whole) } else { "yes".to_owned() };
    sums.into_iter().filter(|(_, sum)| *sum > 0.0).map(|(name, sum)| (name, share(sum))).collect()
}

/// What of an answer is not as expected. A field that is not there is not judged.
fn differences(want: &Value, answer: &Answer) -> Vec<String> {
    let got = serde_json::to_value(answer).unwrap();
    let mut out = vec![];
    let mut differ = |field: &str, want: &Value, got: &Value| {
        out.push(format!("{field}: expected {want}, answered {got}"))
    };
    let listed = |list: &Value, value: &Value| list.as_array().unwrap().contains(value);
    if !listed(&want["outcomes"], &got["outcome"]) {
        differ(
            "outcome",
            &want["outcomes"],
            &Value::String(format!("{} ({})", got["outcome"], answer.detail)),
        );
        return out;
    }
    if let Some(statuses) = want.get("statuses") {
        let taken = (got["outcome"] == "Forwarded").then_some(200);
        let status = answer.status.or(taken).map_or(Value::Null, Value::from);
        if !listed(statuses, &status) {
            differ("status", statuses, &status);
        }
    }
    if let Some(error) = want.get("error")
        && error != got.get("error").unwrap_or(&Value::Null)
    {
        differ("error", error, &got["error"]);
    }
    for field in ["listener", "filterChain", "routeConfig", "virtualHost", "route", "cluster", "flag"] {
        let strict = want["strict"] == true && field != "flag";
        if want.get(field).is_none() && !strict {
            continue;
        }
        let text = |value: &Value| value[field].as_str().unwrap_or_default().to_owned();
        let (expected, answered) = (text(want), text(&got));
        let same =
            if field == "cluster" { cluster(&expected) == cluster(&answered) } else { expected == answered };
        if !same {
            differ(field, &Value::String(expected), &Value::String(answered));
        }
    }
    for field in ["backends", "mirrors"] {
        let Some(expected) = want.get(field) else { continue };
        let weighted = expected.as_array().unwrap().iter().any(|backend| backend.get("weight").is_some());
        if shares(expected, weighted) != shares(&got[field], weighted) {
            differ(field, expected, &got[field]);
        }
        for (want, got) in
            expected.as_array().unwrap().iter().zip(got[field].as_array().into_iter().flatten())
        {
            if want.get("pods").is_some_and(|pods| *pods != got["pods"]) {
                differ("pods", &want["pods"], &got["pods"]);
            }
        }
    }
    for (pointer, name) in
        [("/sent/host", "sent.host"), ("/sent/path", "sent.path"), ("/location", "location")]
    {
        if let Some(expected) = want.pointer(pointer)
            && Some(expected) != got.pointer(pointer)
        {
            differ(name, expected, got.pointer(pointer).unwrap_or(&Value::Null));
        }
    }
    for (list, have) in [("/sent/headers", "/sent/headers"), ("/responseHeaders", "/responseHeaders")] {
        for (name, value) in want.pointer(list).and_then(Value::as_object).into_iter().flatten() {
            let answered = got.pointer(have).and_then(|headers| headers.get(name)).unwrap_or(&Value::Null);
            if answered != value {
                differ(name, value, answered);
            }
        }
    }
    for wanted in want["steps"].as_array().into_iter().flatten() {
        let has = answer.steps.iter().any(|step| {
            let object = step.object.as_ref().map(ToString::to_string).unwrap_or_default();
            wanted["object"] == object.as_str()
                && wanted["fieldPath"].as_str().unwrap_or_default() == step.field_path
        });
        if !has {
            differ("steps", wanted, &got["steps"]);
        }
    }
    if let Some(words) = want["detail"].as_str()
        && !answer.detail.contains(words)
    {
        differ("detail", &want["detail"], &got["detail"]);
    }
    out
}

/// Asks every request of a suite; at least so many there must be.
fn suite(name: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/twin").join(name);
    let (mut wrong, mut asked) = (vec![], 0);
    for case in folders(&root) {
        let material =
            bundle::read(&[case.join("bundle")]).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
        let snapshot = assemble(material);
        let twin = Twin::new(&snapshot);
        let requests: Vec<Ask> =
            serde_json::from_value(read(&case.join("requests.json"))["requests"].take()).unwrap();
        let expected = read(&case.join("expect.json"));
        let name = case.strip_prefix(&root).unwrap().display().to_string();
        for want in expected["expect"].as_array().unwrap() {
            asked += 1;
            let ask = requests.iter().find(|ask| want["name"] == ask.name.as_str());
            let ask = ask.unwrap_or_else(|| panic!("{name} asks nothing named {}", want["name"]));
            let answer = twin.answer(ask);
            let bad = differences(want, &answer);
            wrong.extend(bad.into_iter().map(|difference| format!("{name}: {}: {difference}", ask.name)));
            if answer.steps.is_empty() && answer.detail.is_empty() {
                wrong.push(format!("{name}: {}: neither steps nor a detail", ask.name));
            }
        }
    }
    assert!(asked >= least, "only {asked} requests were found");
    assert!(wrong.is_empty(), "{} of {asked} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn network_policies_admit_what_they_should() {
    suite("network-policy", 500);
}

#[test]
fn proxies_of_istio_choose_what_they_should() {
    suite("istio", 390);
}

#[test]
fn requests_find_their_way_from_pod_to_pod() {
    suite("walk", 40);
}

#[test]
fn the_same_question_has_the_same_answer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/twin");
    for case in folders(&root.join("walk")) {
        let snapshot = assemble(bundle::read(&[case.join("bundle")]).unwrap());
        let twin = Twin::new(&snapshot);
        let requests: Vec<Ask> =
            serde_json::from_value(read(&case.join("requests.json"))["requests"].take()).unwrap();
        for ask in &requests {
            assert_eq!(twin.answer(ask), twin.answer(ask), "{}", ask.name);
            assert_eq!(twin.answer(ask), Twin::new(&snapshot).answer(ask), "{}", ask.name);
        }
    }
}
