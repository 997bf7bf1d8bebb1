//! Requests through a system, one by one: their spans, and what services write about them.

use meshscope::model::log::LogStream;
use meshscope::model::span::{Spans, SpansBuilder, read};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::dice::Dice;
use super::system::{Fault, State, System};

/// What is kept of requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kept {
    pub(crate) spans: bool,
    pub(crate) lines: bool,
    /// Lines bear the request's id.
    pub(crate) ids: bool,
    /// Callers have spans of their calls.
    pub(crate) client_spans: bool,
}

/// What a system records of its requests.
pub(crate) struct Recorded {
    pub(crate) spans: Spans,
    pub(crate) logs: Vec<LogStream>,
}

struct Recorder<'a> {
    dice: &'a mut Dice,
    system: &'a System,
    states: Vec<State>,
    kept: Kept,
    trace: u64,
    next: u64,
    spans: Vec<Value>,
    lines: BTreeMap<usize, Vec<(f64, String)>>,
}

/// Spans and lines of so many requests between two instants.
pub(crate) fn record(
    dice: &mut Dice,
    system: &System,
    kept: Kept,
    (from, to): (f64, f64),
    requests: usize,
) -> Recorded {
    let mut recorder = Recorder {
        dice,
        system,
        states: vec![],
        kept,
        trace: 0,
        next: 1,
        spans: vec![],
        lines: BTreeMap::new(),
    };
    for n in 0..requests {
        let at = from + (to - from) * (n as f64 + recorder.dice.share()) / requests as f64;
        recorder.trace = n as u64 + 1;
        recorder.states = system.states(at);
        recorder.serve(0, None, at, 0);
    }
    let Recorder { spans, mut lines, .. } = recorder;
    let mut read_spans = SpansBuilder::default();
    if kept.spans {
        assert!(read("spans.json", Value::Array(spans).to_string().as_bytes(), &mut read_spans).is_empty());
    }
    let logs = lines.iter_mut().map(|(service, lines)| {
        lines.sort_by(|a, b| a.0.total_cmp(&b.0));
        let text: String = lines.iter().map(|(at, text)| format!("{} {text}\n", stamp(*at))).collect();
        let pod = format!("{}-0", system.services[*service].name);
        LogStream::read("n", &pod, "app", false, text.as_bytes(), false)
    });
    Recorded { logs: logs.collect(), spans: read_spans.finish() }
}

fn stamp(at: f64) -> String {
    meshscope::model::time::from_unix(at).map(|at| at.to_string()).unwrap_or_default()
}

impl Recorder<'_> {
    fn write(&mut self, service: usize, at: f64, level: &str, text: &str) {
        if self.kept.lines {
            let id = if self.kept.ids { format!(" trace_id={:016x}", self.trace) } else { String::new() };
            self.lines.entry(service).or_default().push((at, format!("{level} {text}{id}")));
        }
    }

    fn span(
        &mut self,
        service: usize,
        kind: &str,
        name: &str,
        to: Option<usize>,
        of: (u64, Option<u64>),
        (at, took, fails): (f64, f64, bool),
    ) {
        if self.kept.spans {
            let tags = if fails { json!({"error": "true"}) } else { json!({}) };
            let mut span = json!({"traceId": format!("{:x}", self.trace), "id": format!("{:x}", of.0), "name": name, "kind": kind,
                "timestamp": (at * 1e6) as i64, "duration": ((took * 1e6) as i64).max(1),
                "localEndpoint": {"serviceName": self.system.services[service].name}, "tags": tags});
            if let Some(parent) = of.1 {
                span["parentId"] = json!(format!("{parent:x}"));
            }
            if let Some(to) = to {
                span["remoteEndpoint"] = json!({"serviceName": self.system.services[to].name});
            }
            self.spans.push(span);
        }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// One request at one service: how long it took, in seconds, and whether it failed.
    fn serve(&mut self, service: usize, parent: Option<u64>, at: f64, depth: usize) -> (f64, bool) {
        let state = self.states[service];
        let system = self.system;
        let id = self.id();
        let noise = (0.3 * self.dice.normal()).exp() * if self.dice.chance(0.02) { state.tail } else { 1.0 };
        let own = state.own * noise / 1e3;
        let struck = service == system.culprit && state.goes_on < 1.0 || state.own_errors > 0.0;
        let mut failed = self.dice.chance(state.own_errors);
        let early = struck && (failed || self.dice.chance(1.0 - state.goes_on));
        self.write(service, at, "INFO", "request received");
        let mut now = at + own / 2.0;
        if failed {
            let text = match system.fault {
                Some(Fault::Exception) => {
                    "unhandled exception java.lang.IllegalStateException: no element present"
                }
                Some(Fault::Memory) => "java.lang.OutOfMemoryError: heap space",
                Some(Fault::Pool) => "could not get a connection from the pool within 1000 ms",
                _ => "request could not be handled",
            };
            if self.dice.chance(0.9) {
                self.write(service, now, "ERROR", text);
            }
        }
        let callees = if early || depth > 8 { vec![] } else { system.services[service].callees.clone() };
        for (callee, calls, passed_on) in callees {
            let often = calls.floor() as usize + usize::from(self.dice.chance(calls.fract()));
            for _ in 0..often {
                let call = self.kept.client_spans.then(|| self.id());
                let network = self.dice.magnitude(0.2, 1.0) / 1e3;
                let (mut took, mut fails) = (0.0, true);
                if !self.states[callee].gone {
                    (took, fails) = self.serve(callee, call.or(Some(id)), now + network, depth + 1);
                }
                if let Some(call) = call {
                    let name = format!("call {}", system.services[callee].name);
                    self.span(
                        service,
                        "CLIENT",
                        &name,
                        Some(callee),
                        (call, Some(id)),
                        (now, took + 2.0 * network, fails),
                    );
                }
                now += took + 2.0 * network;
                if fails {
                    let name = &system.services[callee].name;
                    if self.dice.chance(0.8) {
                        let text = if self.states[callee].gone {
                            format!("call to http://{name}:8080/do failed: connection refused")
                        } else {
                            format!("call to http://{name}:8080/do failed: status 500")
                        };
                        self.write(service, now, "ERROR", &text);
                    }
                    failed |= self.dice.chance(passed_on);
                } else if took > 1.0 && self.dice.chance(0.5) {
                    let name = &system.services[callee].name;
                    self.write(
                        service,
                        now,
                        "WARN",
                        &format!("slow call to http://{name}:8080/do: {took:.2} s"),
                    );
                }
            }
        }
        let took = now + own / 2.0 - at;
        if !early {
            self.write(service, now, "INFO", "work done");
        }
        if self.dice.chance(0.002) {
            self.write(service, now, "WARN", "cache entry expired while it was read");
        }
        self.write(service, at + took, "INFO", "request answered");
        self.span(service, "SERVER", "handle", None, (id, parent), (at, took, failed));
        (took, failed)
    }
}
