//! A probe's figures, what its failures say, and how it is corrected.

use crate::model::json::{Value, json};
use regex::Regex;
use std::sync::LazyLock;

use super::common::{self, Group};
use crate::analyze::remedy::Remedy;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Container;

/// A probe with its defaults filled in: initial delay 0 s, period 10 s, timeout 1 s, three failures.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// `livenessProbe`, `readinessProbe` or `startupProbe`.
    pub name: &'static str,
    /// Seconds before the first attempt.
    pub initial_delay: f64,
    /// Seconds from one attempt to the next.
    pub period: f64,
    /// Seconds that one attempt is given.
    pub timeout: f64,
    /// Failures in a row until it counts.
    pub failure_threshold: f64,
    /// The path of an HTTP probe; empty for others.
    pub path: String,
    /// The port as the template has it; empty for `exec`.
    pub port: String,
    /// The port as a number, where it can be told.
    pub number: Option<i64>,
    /// `httpGet`, `tcpSocket`, `grpc` or `exec`.
    pub kind: &'static str,
    body: Value,
}

/// What a probe can do.
const KINDS: [&str; 4] = ["httpGet", "tcpSocket", "grpc", "exec"];

impl Probe {
    /// Reads one of a container's probes.
    pub(crate) fn read(container: &Container, name: &'static str) -> Option<Self> {
        let body = container.probe(name)?.clone();
        let kind = KINDS.into_iter().find(|kind| body.at(kind).is_some())?;
        let number = |field: &str, default: f64| body.number(field).filter(|n| *n > 0.0).unwrap_or(default);
        let port = match body.at(kind).and_then(|handler| handler.at("port")) {
            Some(Value::String(text)) => text.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let declared = container.ports.iter().find(|p| p.name == port).map(|p| p.number);
        Some(Probe {
            name,
            initial_delay: body.number("initialDelaySeconds").unwrap_or(0.0),
            period: number("periodSeconds", 10.0),
            timeout: number("timeoutSeconds", 1.0),
            failure_threshold: number("failureThreshold", 3.0),
            path: if kind == "httpGet" {
                body.text("httpGet.path").unwrap_or("/").to_owned()
            } else {
                String::new()
            },
            number: port.parse().ok().or(declared),
            port,
            kind,
            body,
        })
    }

    /// Seconds from the start of the container to the failure that counts, as the kubelet's figures have it.
    pub(crate) fn allowed_seconds(&self) -> f64 {
        self.initial_delay + self.period * self.failure_threshold
    }

    /// What it asks, without its figures: the handler alone.
    pub(crate) fn handler(&self) -> Value {
        let handler = self.body.at(self.kind).cloned().unwrap_or(Value::Null);
        json!({ self.kind: handler })
    }

    /// A patch that sets one of its fields.
    pub(crate) fn set<T>(
        &self,
        group: &Group<'_, T>,
        field: &str,
        value: Value,
        summary: impl Into<String>,
    ) -> Option<Remedy> {
        let op = if self.body.at(field).is_some() { "replace" } else { "add" };
        group.patch_container(&[(op, &format!("{}.{field}", self.name), value)], summary)
    }

    /// Puts back what a rollout changed of this probe: its path, port or figures.
    pub(crate) fn former<T>(&self, group: &Group<'_, T>, snapshot: &Snapshot) -> Option<Remedy> {
        let rollout = group.rollout(snapshot)?;
        let at = format!("[name={}].{}.", group.container, self.name);
        let mut operations = vec![];
        let mut said = vec![];
        for difference in &rollout.differences {
            let Some((_, field)) = difference.path.split_once(&at) else { continue };
            // Another kind of probe took its place: its figures alone would not bring it back.
            let kind = field.split('.').next().is_some_and(|first| KINDS.contains(&first));
            if kind && (difference.before.is_empty() || self.body.at(field).is_none()) {
                return None;
            }
            if difference.before.is_empty() || self.body.at(field).is_none() {
                continue;
            }
            let was_number = self.body.at(field).is_some_and(Value::is_number) || field.ends_with(".port");
            let value = match difference.before.parse::<i64>() {
                Ok(number) if was_number => json!(number),
                _ => json!(difference.before),
            };
            said.push(format!("{field} {}", difference.before));
            operations.push((format!("{}.{field}", self.name), value));
        }
        if operations.is_empty() {
            return None;
        }
        let operations: Vec<_> =
            operations.iter().map(|(path, value)| ("replace", path.as_str(), value.clone())).collect();
        group.patch_container(
            &operations,
            format!(
                "Set {} of the {} back, as it was before {}",
                said.join(" and "),
                self.name,
                common::clock(rollout.time)
            ),
        )
    }

    /// The path of another probe of the same container and port, where this one's path is not found and the other one's is.
    pub(crate) fn path_that_works<T>(&self, group: &Group<'_, T>, answer: Answer) -> Option<String> {
        if answer != Answer::NotFound || self.kind != "httpGet" {
            return None;
        }
        let container = group.container()?;
        ["startupProbe", "readinessProbe", "livenessProbe"]
            .into_iter()
            .filter(|name| *name != self.name)
            .filter_map(|name| Probe::read(container, name))
            .find(|other| other.kind == "httpGet" && other.number == self.number && other.path != self.path)
            .map(|other| other.path)
    }

    /// The port that another probe of the same container asks, else the only one that it declares, as the template writes it:
    /// where nothing listens on this one's, which the container does not declare.
    pub(crate) fn port_that_serves<T>(&self, group: &Group<'_, T>, answer: Answer) -> Option<Value> {
        let container = group.container()?;
        let declared = |number: Option<i64>| container.ports.iter().any(|p| Some(p.number) == number);
        if answer != Answer::Refused || self.kind == "exec" || rewritten(container) || declared(self.number) {
            return None;
        }
        let other = ["startupProbe", "readinessProbe", "livenessProbe"]
            .into_iter()
            .filter(|name| *name != self.name)
            .filter_map(|name| Probe::read(container, name))
            .find(|other| other.number != self.number && declared(other.number));
        let by_other = other.and_then(|other| other.body.at(other.kind)?.at("port").cloned());
        by_other.or(match container.ports.as_slice() {
            [only] => Some(json!(only.number)),
            _ => None,
        })
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let target = match self.kind {
            "httpGet" => format!("GET {} on port {}", self.path, self.port),
            "tcpSocket" => format!("connects to port {}", self.port),
            "grpc" => format!("asks gRPC on port {}", self.port),
            _ => "runs a command".to_owned(),
        };
        write!(
            f,
            "{target}; initialDelaySeconds {}, periodSeconds {}, timeoutSeconds {}, failureThreshold {}",
            self.initial_delay, self.period, self.timeout, self.failure_threshold
        )
    }
}

/// Whether the injector made the kubelet ask the mesh's agent in place of the container: then a refused connection is the
/// agent's, and not the application's.
pub(crate) fn rewritten(container: &Container) -> bool {
    ["livenessProbe", "readinessProbe", "startupProbe"]
        .into_iter()
        .filter_map(|name| container.probe(name)?.text("httpGet.path"))
        .any(|path| path.starts_with("/app-health/"))
}

/// How a probe failed, as the kubelet's event says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing listens there.
    Refused,
    /// 404: no such path.
    NotFound,
    /// 401 or 403: the path asks for credentials.
    Denied,
    /// 503 or 429: the application says that it is not ready.
    Unavailable,
    /// Another 5xx.
    ServerError,
    /// Another code that is no success.
    Code,
    /// No answer in time.
    Timeout,
    /// The connection was cut.
    Reset,
    /// HTTP to an HTTPS port or the other way round.
    Tls,
    /// A command that the image does not have.
    NoProgram,
    /// A command that failed.
    Command,
    /// Nothing is known.
    Unknown,
}

impl Answer {
    /// Reads `Readiness probe failed: …`.
    pub(crate) fn of(message: &str) -> Self {
        static CODE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"statuscode: (\d+)").ok());
        let code = CODE
            .as_ref()
            .and_then(|r| r.captures(message))
            .and_then(|c| c.get(1)?.as_str().parse::<u16>().ok());
        let has = |words: &[&str]| words.iter().any(|w| message.contains(w));
        match code {
            Some(404 | 405) => return Answer::NotFound,
            Some(401 | 403) => return Answer::Denied,
            Some(503 | 429) => return Answer::Unavailable,
            Some(500..) => return Answer::ServerError,
            Some(_) => return Answer::Code,
            None => {}
        }
        match () {
            () if has(&[
                "http: server gave HTTP response to HTTPS client",
                "malformed HTTP response",
                "tls:",
                "x509",
            ]) =>
            {
                Answer::Tls
            }
            // The words of the container runtimes; the path of a message holds neither.
            () if has(&["executable file not found", "stat "]) && has(&["exec"]) && !has(&["Get \"http"]) => {
                Answer::NoProgram
            }
            () if has(&["connection refused"]) => Answer::Refused,
            () if has(&["deadline exceeded", "timeout", "timed out"]) => Answer::Timeout,
            () if has(&["connection reset", "EOF", "broken pipe"]) => Answer::Reset,
            () if has(&["probe failed:", "probe errored"]) => Answer::Command,
            () => Answer::Unknown,
        }
    }

    /// Whether the probe itself is what has to be changed, as far as the answer tells.
    pub(crate) fn is_setting(self) -> bool {
        matches!(self, Answer::NotFound | Answer::Denied | Answer::Tls | Answer::NoProgram)
    }

    /// What it means, in a part of a sentence.
    pub(crate) fn meaning(self, probe: Option<&Probe>) -> String {
        let path = probe.map_or("its path", |p| p.path.as_str());
        let port = probe.map_or("its port", |p| p.port.as_str());
        match self {
            Answer::Refused => format!("nothing listens on port {port}"),
            Answer::NotFound => format!("the application answers 404 on {path}"),
            Answer::Denied => format!("{path} asks for credentials, and a probe has none"),
            Answer::Unavailable => format!("the application answers on {path} that it is not ready"),
            Answer::ServerError => format!("the application answers {path} with a server error"),
            Answer::Code => format!("the application answers {path} with a code that is no success"),
            Answer::Timeout => format!(
                "no answer{} within {}",
                if probe.is_some_and(|p| p.kind == "grpc") { " in gRPC" } else { "" },
                probe.map_or("its timeout".to_owned(), |p| format!("{} s", p.timeout))
            ),
            Answer::Reset => "the connection is cut before an answer".to_owned(),
            Answer::Tls => "the probe and the port speak different schemes (HTTP and HTTPS)".to_owned(),
            Answer::NoProgram => "the image does not have the program that it runs".to_owned(),
            Answer::Command => "its command fails".to_owned(),
            Answer::Unknown => "its probe does not succeed".to_owned(),
        }
    }

    /// The same as words of a mechanism, after the name of the failing probe.
    pub(crate) fn mechanism(self, what: &'static str) -> String {
        let how = match self {
            Answer::Refused => "connection refused",
            Answer::NotFound => "wrong path, 404",
            Answer::Denied => "path needs credentials",
            Answer::Unavailable => "the application says it is not ready",
            Answer::ServerError | Answer::Code => "error answer",
            Answer::Timeout => "timeout",
            Answer::Reset => "connection cut",
            Answer::Tls => "wrong scheme",
            Answer::NoProgram => "command not found in the image",
            Answer::Command => "command fails",
            Answer::Unknown => return what.to_owned(),
        };
        format!("{what}: {how}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_probe_is_told_in_its_own_words() {
        let template =
            json!({"spec": {"containers": [{"name": "app", "readinessProbe": {"grpc": {"port": 9000}}}]}});
        let template = crate::model::workload::PodTemplate::read(&std::sync::Arc::new(template));
        let probe = Probe::read(template.containers.first().unwrap(), "readinessProbe").unwrap();
        assert!(probe.to_string().starts_with("asks gRPC on port 9000"), "{probe}");
        assert!(Answer::Timeout.meaning(Some(&probe)).starts_with("no answer in gRPC within"));
    }

    #[test]
    fn failures_are_told_apart() {
        assert_eq!(
            Answer::of("Readiness probe failed: HTTP probe failed with statuscode: 404"),
            Answer::NotFound
        );
        assert_eq!(
            Answer::of(
                "Liveness probe failed: Get \"http://10.0.0.1:80/\": dial tcp 10.0.0.1:80: connect: connection refused"
            ),
            Answer::Refused
        );
        assert_eq!(
            Answer::of(
                "Readiness probe failed: Get \"http://10.0.0.1/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ),
            Answer::Timeout
        );
        assert_eq!(
            Answer::of("Readiness probe failed: HTTP probe failed with statuscode: 503"),
            Answer::Unavailable
        );
        assert_eq!(
            Answer::of(
                "Readiness probe errored and resulted in unknown state: rpc error: code = Unknown desc = failed to exec in container: exec: \"pg_isready\": executable file not found in $PATH"
            ),
            Answer::NoProgram
        );
        assert_eq!(
            Answer::of("Readiness probe failed: cat: /tmp/ready: No such file or directory"),
            Answer::Command
        );
    }
}
