//! The twin against the Gateway API's own conformance tests: `tests/twin/gateway-api`.

use meshscope::analyze::twin::Twin;
use meshscope::analyze::twin::ask::Ask;
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

/// Shares of backends by namespace and name, in thousandths; all alike where weights are not judged.
fn shares(list: &Value, weighted: bool) -> BTreeMap<String, u64> {
    let list = list.as_array().cloned().unwrap_or_default();
    let weight = |b: &Value| b["weight"].as_f64().unwrap_or(1.0);
    let whole: f64 = list.iter().map(weight).sum();
    let mut out = BTreeMap::new();
    for backend in &list {
        let share = if weighted { (weight(backend) / whole * 1000.0).round() as u64 } else { 0 };
        *out.entry(format!("{}/{}", backend["namespace"], backend["service"])).or_default() += share;
    }
    out
}

/// Headers with names in lower case and no blanks around commas.
fn headers(value: &Value) -> BTreeMap<String, String> {
    let plain = |text: &str| text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    let all = value.as_object().cloned().unwrap_or_default();
    all.iter().map(|(k, v)| (k.to_lowercase(), plain(v.as_str().unwrap_or_default()))).collect()
}

/// What differs between an answer and what is expected.
fn differs(want: &Value, request: &Value, got: &Value) -> Vec<String> {
    let mut out = vec![];
    let mut check = |what: &str, fine: bool, want: &Value, got: &Value| {
        if !fine {
            out.push(format!("{what}: expected {want}, answered {got}"));
        }
    };
    let has = |list: &Value, one: &Value| list.as_array().unwrap().contains(one);
    if !has(&want["outcomes"], &got["outcome"]) {
        check("outcome", false, &want["outcomes"], &json!([got["outcome"], got["detail"]]));
        return out;
    }
    if want.get("statuses").is_some() {
        let status = if got["status"].is_null() { json!(200) } else { got["status"].clone() };
        check("status", has(&want["statuses"], &status), &want["statuses"], &status);
    }
    for field in ["backends", "mirrors"] {
        let Some(list) = want.get(field) else { continue };
        let weighted = list.as_array().unwrap().iter().any(|b| b.get("weight").is_some());
        check(field, shares(list, weighted) == shares(&got[field], weighted), list, &got[field]);
    }
    for field in ["host", "path"] {
        let Some(wanted) = want["sent"].get(field) else { continue };
        let sent = if got["sent"][field].is_null() { &request[field] } else { &got["sent"][field] };
        check(&format!("sent.{field}"), sent == wanted, wanted, sent);
    }
    let arrives =
        if got["sent"]["headers"].is_null() { &request["headers"] } else { &got["sent"]["headers"] };
    for (present, absent, have) in [
        (&want["sent"]["headers"], &want["sent"]["absentHeaders"], headers(arrives)),
        (&want["responseHeaders"], &want["absentResponseHeaders"], headers(&got["responseHeaders"])),
    ] {
        for (name, value) in headers(present) {
            let fine = have.get(&name) == Some(&value);
            check(&format!("header {name}"), fine, &json!(value), &json!(have.get(&name)));
        }
        for name in absent.as_array().into_iter().flatten() {
            let gone = !have.contains_key(&name.as_str().unwrap().to_lowercase());
            check("absent header", gone, name, &json!("there"));
        }
    }
    if let Some(wanted) = want.get("location") {
        let location = got["location"].as_str().unwrap_or_default();
        let (scheme, rest) = location.split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        let have = json!({"scheme": scheme, "host": host, "path": path, "port": port.parse::<u16>().ok()});
        let fine = wanted.as_object().unwrap().iter().all(|(field, value)| have[field] == *value)
            && (port.is_empty() || wanted.get("port").is_some());
        check("location", fine && !location.is_empty(), wanted, &got["location"]);
    }
    out
}

#[test]
fn requests_end_where_the_specification_sends_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/twin/gateway-api");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let (mut wrong, mut all) = (vec![], 0);
    for case in cases {
        let snapshot = assemble(bundle::read(&[case.join("bundle")]).unwrap());
        let twin = Twin::new(&snapshot);
        let requests = read(case.join("requests.json"))["requests"].clone();
        let expected = read(case.join("expect.json"));
        for want in expected["expect"].as_array().unwrap() {
            let request = requests.as_array().unwrap().iter().find(|r| r["name"] == want["name"]).unwrap();
            let ask: Ask = serde_json::from_value(request.clone()).unwrap();
            let got = serde_json::to_value(twin.answer(&ask)).unwrap();
            let name = case.file_name().unwrap().to_string_lossy();
            let bad = differs(want, &request["request"], &got);
            wrong.extend(bad.iter().map(|text| format!("{name}: {}: {text}", want["name"])));
            all += 1;
        }
    }
    assert!(all > 120, "only {all} requests were asked");
    assert!(wrong.is_empty(), "of {all} requests:\n{}", wrong.join("\n"));
}
