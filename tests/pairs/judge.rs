//! Whether the twin's answer is what was seen.

use meshscope::analyze::twin::answer::{Answer, Outcome};
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use meshscope::model::snapshot::Snapshot;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What comes of a comparison.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Both say the same.
    Agree,
    /// The twin says that it does not know, and why.
    Open(String),
    /// They differ.
    Disagree(String),
}

/// A snapshot of the world with a configuration.
pub(crate) fn mesh(world: &[Value], objects: &[Value]) -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    let files = [("world.json", world), ("objects.json", objects)].map(|(name, items)| {
        let file = folder.path().join(name);
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        std::fs::write(&file, list.to_string()).unwrap();
        file
    });
    assemble(bundle::read(&files).unwrap())
}

/// Compares an answer with what was seen of the request.
pub(crate) fn judge(ask: &Value, answer: &Answer, seen: &Value) -> Verdict {
    let status =
        seen["status"].as_u64().and_then(|status| u16::try_from(status).ok()).filter(|status| *status > 0);
    let received = &seen["received"];
    // Whatever is no HTTP a proxy that expects some answers with 400: nobody was reached.
    let pod = received["pod"].as_str().filter(|pod| !pod.starts_with("HTTP/"));
    let bytes = ask["request"]["protocol"] == "tcp";
    let flags = seen["flags"].as_str().map(|flags| if flags == "-" { "" } else { flags });
    let told = || {
        format!(
            "the twin says {:?} {} {} ({}); seen {}",
            answer.outcome,
            answer.status.map(|status| status.to_string()).unwrap_or_default(),
            answer.flag,
            answer.detail,
            brief(seen)
        )
    };
    let differ = |what: String| Verdict::Disagree(format!("{what}: {}", told()));
    match answer.outcome {
        Outcome::NotModelled => Verdict::Open(general(&answer.detail)),
        Outcome::Refused if status.is_none() && pod.is_none() => Verdict::Agree,
        Outcome::Refused => differ("an answer".to_owned()),
        Outcome::Responded => {
            // Of several destinations that fail in different ways the request went to another one.
            let other = status.is_some_and(|status| {
                answer
                    .steps
                    .iter()
                    .any(|step| step.decision.contains(&format!("requests are answered {status}")))
            });
            if pod.is_none() && other {
                return Verdict::Agree;
            }
            if pod.is_some() || status != answer.status {
                return differ("another status".to_owned());
            }
            // Retries that were in vain add a flag of their own.
            if let Some(flags) = flags
                && !answer.flag.is_empty()
                && !flags.split(',').any(|flag| flag == answer.flag)
            {
                return differ(format!("another flag, {flags:?}"));
            }
            let location = seen["headers"]["location"].as_str().unwrap_or_default();
            if !answer.location.is_empty() && location != answer.location {
                return differ(format!("another location, {location:?} and not {:?}", answer.location));
            }
            let open = &answer.undecided_response_headers;
            headers((&answer.response_headers, open), &seen["headers"], true).map_or(Verdict::Agree, differ)
        }
        Outcome::Forwarded => {
            let Some(pod) = pod else {
                let address = |host: &str| host.parse::<core::net::IpAddr>().is_ok();
                if answer.backends.iter().all(|to| to.namespace.is_empty() && address(&to.service)) {
                    return Verdict::Open("whether something answers at an address outside".to_owned());
                }
                if !bytes && answer.backends.iter().all(|to| matches!(to.port, 9000 | 9090)) {
                    return Verdict::Open("what an application for bytes says to HTTP or TLS".to_owned());
                }
                // Some of several destinations fail, and the request went to one of them.
                let share = |status: u16| format!("requests are answered {status}");
                let partly = status.is_some_and(|status| {
                    answer.steps.iter().any(|step| step.decision.contains(&share(status)))
                });
                let some = |status: Option<u16>| {
                    matches!(status, None | Some(403 | 503))
                        && answer.steps.iter().any(|step| step.decision.contains("pods refuse it"))
                };
                let partly = partly || some(status);
                let closed = status.is_none()
                    && answer.steps.iter().any(|step| step.decision.contains("requests fail"));
                return if partly || closed { Verdict::Agree } else { differ("no backend".to_owned()) };
            };
            let mut known = answer.backends.iter().flat_map(|backend| &backend.pods).peekable();
            if known.peek().is_some() && !known.any(|known| known == pod) {
                return differ(format!("another pod, {pod}"));
            }
            if bytes {
                return Verdict::Agree;
            }
            let cluster = seen["cluster"].as_str().unwrap_or_default();
            let others = answer.backends.len() > 1
                || answer.steps.iter().any(|step| step.decision.contains("requests are answered"));
            if !others && !cluster.is_empty() && !answer.cluster.is_empty() && cluster != answer.cluster {
                return differ(format!("another cluster, {cluster:?} and not {:?}", answer.cluster));
            }
            if status != answer.status {
                return differ("another status".to_owned());
            }
            let request = &ask["request"];
            let path = answer.sent.path.as_deref().or(request["path"].as_str()).unwrap_or_default();
            if received["path"] != path {
                return differ(format!("the backend got path {}, and not {path}", received["path"]));
            }
            let host = answer.sent.host.as_deref().or(request["host"].as_str()).unwrap_or_default();
            if !received["host"].as_str().unwrap_or_default().eq_ignore_ascii_case(host) {
                return differ(format!("the backend got host {}, and not {host}", received["host"]));
            }
            // Of several destinations that change it differently only what the first one receives is told.
            if answer.steps.iter().any(|step| step.decision.contains("change the request differently")) {
                return Verdict::Agree;
            }
            let plain = serde_json::from_value(request["headers"].clone()).unwrap_or_default();
            let sent = answer.sent.headers.as_ref().unwrap_or(&plain);
            let open = &answer.sent.undecided_headers;
            if let Some(what) = headers((sent, open), &received["headers"], false) {
                return differ(format!("the backend got {what}"));
            }
            // What proxies pass on as bytes they change nothing of.
            if answer.route.is_empty() && answer.response_headers.is_empty() {
                return Verdict::Agree;
            }
            let open = &answer.undecided_response_headers;
            headers((&answer.response_headers, open), &seen["headers"], true).map_or(Verdict::Agree, differ)
        }
    }
}

/// In which header two sides differ; of those alone that configurations speak of. Of an `open` one it is said that it is there.
fn headers(
    (said, open): (&BTreeMap<String, String>, &BTreeSet<String>),
    seen: &Value,
    answered: bool,
) -> Option<String> {
    let ours = |name: &str| {
        name.starts_with("x-add")
            || name.starts_with("x-set")
            || matches!(name, "x-tier" | "x-user")
            || (answered && (name == "x-from" || name.starts_with("access-control-")))
    };
    let seen: BTreeMap<String, String> = serde_json::from_value(seen.clone()).unwrap_or_default();
    let told = |name: &str| {
        said.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.replace(", ", ","))
    };
    let lower: Vec<String> = said.keys().map(|name| name.to_ascii_lowercase()).collect();
    let all: BTreeSet<&String> =
        seen.keys().chain(&lower).filter(|name| ours(name) && !open.contains(*name)).collect();
    for name in all {
        let value = seen.get(name).map(|value| value.replace(", ", ","));
        if told(name) != value {
            return Some(format!("header {name}: {value:?}, and not {:?}", told(name)));
        }
    }
    None
}

/// What was seen, in short.
fn brief(seen: &Value) -> String {
    format!(
        "{} {} {} {} {}",
        seen["status"],
        seen["cluster"].as_str().unwrap_or_default(),
        seen["flags"].as_str().unwrap_or("?"),
        seen["received"]["pod"].as_str().unwrap_or("no pod"),
        seen["error"].as_str().unwrap_or_default()
    )
}

/// A reason without names, so that reasons can be counted.
fn general(why: &str) -> String {
    let words = why.split_whitespace().map(|word| if word.contains(['/', '.']) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}
