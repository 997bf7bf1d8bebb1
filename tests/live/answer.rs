//! A `DebugSession` and its answer, through kubectl.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fault::Cause;
use crate::kubectl::Kubectl;

/// What a session said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// From `kubectl apply` until its end.
    pub(crate) took: Duration,
    pub(crate) status: Value,
}

/// Asks why the namespace fails, or the part of it that `target` names.
pub(crate) fn ask(kubectl: &Kubectl, namespace: &str, name: &str, target: &Value) -> Result<Answer, String> {
    let target = if target.is_null() { json!({}) } else { target.clone() };
    let spec = json!({ "target": target, "window": { "since": "15m" }, "timeout": "3m" });
    let session = json!({ "apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession",
        "metadata": { "name": name, "namespace": namespace }, "spec": spec });
    let start = Instant::now();
    kubectl.with_input(&["apply", "-f", "-"], &session.to_string())?;
    let object = format!("debugsessions.meshscope.dev/{name}");
    kubectl.run(&["-n", namespace, "wait", &object, "--for=condition=Finished", "--timeout=240s"])?;
    let took = start.elapsed();
    let status = kubectl.json(&["-n", namespace, "get", &object])?["status"].take();
    if status["phase"] != "Completed" {
        return Err(format!("the session ended as {}: {}", status["phase"], status["conditions"]));
    }
    Ok(Answer { took, status })
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Whether one of the words stands in the text. No words at all ask for nothing.
fn says(text: &str, words: &[String]) -> bool {
    let text = text.to_lowercase();
    words.is_empty() || words.iter().any(|word| text.contains(&word.to_lowercase()))
}

/// `Kind name`
fn object(subject: &Value) -> String {
    format!("{} {}", text(subject, "kind"), text(subject, "name"))
}

impl Answer {
    /// What the run cost: requests to the API server, and milliseconds of processor time.
    pub(crate) fn cost(&self) -> (Option<i64>, Option<i64>) {
        let cost = &self.status["run"]["cost"];
        (cost["apiRequests"].as_i64(), cost["cpuMillis"].as_i64())
    }

    /// What came out: `RootCauseFound`, `Inconclusive`, …
    pub(crate) fn verdict(&self) -> &str {
        text(&self.status["summary"], "verdict")
    }

    /// Candidates for the root cause, the most probable first.
    pub(crate) fn root_causes(&self) -> &[Value] {
        self.status["rootCauses"].as_array().map_or(&[], Vec::as_slice)
    }

    /// At which rank a cause stands, and what is wrong with how it is told; `None` where it is not among them.
    pub(crate) fn find(&self, cause: &Cause) -> Option<(usize, Result<(), String>)> {
        let at = self
            .root_causes()
            .iter()
            .position(|candidate| cause.objects.contains(&object(&candidate["subject"])))?;
        let candidate = &self.root_causes()[at];
        let field = text(&candidate["subject"], "fieldPath");
        let words = format!("{} {}", text(candidate, "mechanism"), text(candidate, "title"));
        let told = if !says(field, &cause.field) {
            Err(format!("its field is {field:?}, and not one of {:?}", cause.field))
        } else if !says(&words, &cause.mechanism) {
            Err(format!("its mechanism is {words:?}, and not one of {:?}", cause.mechanism))
        } else {
            Ok(())
        };
        Some((at + 1, told))
    }

    /// That one of the causes which stands first.
    pub(crate) fn first<'a>(&self, causes: &'a [Cause]) -> Option<&'a Cause> {
        causes.iter().find(|cause| self.find(cause).is_some_and(|(rank, _)| rank == 1))
    }

    /// The finding behind a candidate.
    fn finding(&self, candidate: &Value) -> Option<&Value> {
        let findings = self.status["findings"].as_array()?;
        findings.iter().find(|finding| {
            finding["code"] == candidate["cause"]
                && object(&finding["subject"]) == object(&candidate["subject"])
        })
    }

    /// The first fix of the candidate at a rank that somebody can carry out.
    pub(crate) fn fix(&self, rank: usize) -> Result<Fix, String> {
        let candidate = &self.root_causes()[rank - 1];
        let finding = self.finding(candidate).ok_or("its finding is not in the status")?;
        let remedies = finding["remediation"].as_array().map_or(&[] as &[Value], Vec::as_slice);
        let lines = |value: &Value| -> Vec<String> {
            let all = value.as_array().cloned().unwrap_or_default();
            all.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect()
        };
        // What changes something has a rollback, or says why there is none; other commands only look.
        let remedy = remedies
            .iter()
            .find(|remedy| !lines(&remedy["rollback"]).is_empty() || remedy["noRollback"].is_string())
            .ok_or_else(|| format!("no remedy of it changes anything: {}", finding["remediation"]))?;
        Ok(Fix {
            summary: text(remedy, "summary").to_owned(),
            commands: lines(&remedy["commands"]),
            rollback: lines(&remedy["rollback"]),
            subject: candidate["subject"].clone(),
        })
    }

    /// What it said, for who has to find out why that is wrong.
    pub(crate) fn short(&self) -> String {
        let causes: Vec<_> = self
            .root_causes()
            .iter()
            .map(|cause| {
                let subject = &cause["subject"];
                format!(
                    "{} {} {} {} ({})",
                    cause["probability"],
                    text(cause, "cause"),
                    object(subject),
                    text(subject, "fieldPath"),
                    text(cause, "title")
                )
            })
            .collect();
        if causes.is_empty() {
            let findings = self.status["findings"].as_array().cloned().unwrap_or_default();
            let titles: Vec<_> = findings.iter().map(|finding| text(finding, "title")).collect();
            return format!("no root cause; findings {titles:?}");
        }
        causes.join(" | ")
    }
}

/// What somebody is told to do.
#[derive(Debug)]
pub(crate) struct Fix {
    pub(crate) summary: String,
    pub(crate) commands: Vec<String>,
    pub(crate) rollback: Vec<String>,
    /// The object that it is for.
    subject: Value,
}

impl Fix {
    /// The first of the words that it holds.
    pub(crate) fn word<'a>(&self, words: &'a [String]) -> Option<&'a String> {
        let text = format!("{} {}", self.summary, self.commands.join(" "));
        words.iter().find(|word| says(&text, std::slice::from_ref(word)))
    }

    /// The object that it is for as it is now; null where it does not exist.
    pub(crate) fn state(&self, kubectl: &Kubectl) -> Value {
        let (group, version) = text(&self.subject, "apiVersion").split_once('/').unwrap_or_default();
        let kind = text(&self.subject, "kind");
        let resource = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{version}.{group}") };
        let namespace = text(&self.subject, "namespace");
        let Ok(mut found) = kubectl.json(&["-n", namespace, "get", &resource, text(&self.subject, "name")])
        else {
            return Value::Null;
        };
        // A restart leaves its time behind, and nobody takes that back.
        if let Some(notes) =
            found.pointer_mut("/spec/template/metadata/annotations").and_then(Value::as_object_mut)
        {
            notes.remove("kubectl.kubernetes.io/restartedAt");
        }
        json!({ "spec": found["spec"], "data": found["data"] })
    }
}
