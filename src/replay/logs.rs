//! `pods/log`: recorded logs as the kubelet would hand them out.

use crate::model::json::Value;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

use super::query::Parameters;
use super::status::Refusal;
use crate::collect::material::LogFile;
use crate::model::fields::Fields;
use crate::model::time;

/// All logs, by namespace, pod, container, and whether it is the previous instance's.
#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<(String, String, String, bool), Vec<u8>>);

impl Logs {
    pub(super) fn of(files: Vec<LogFile>) -> Self {
        let files = files.into_iter();
        Logs(
            files
                .map(|file| ((file.namespace, file.pod, file.container, file.previous), file.bytes))
                .collect(),
        )
    }

    /// The log of one container. `pod` is the object, where the recording has it; `now` is the time of the recording.
    pub(super) fn read(
        &self,
        namespace: &str,
        name: &str,
        pod: Option<&Value>,
        parameters: &Parameters,
        now: Timestamp,
    ) -> Result<Vec<u8>, Refusal> {
        let container = self.container(namespace, name, pod, parameters.text("container"))?;
        let previous = parameters.flag("previous");
        let key = (namespace.to_owned(), name.to_owned(), container.clone(), previous);
        match self.0.get(&key) {
            Some(bytes) => cut(bytes, parameters, now),
            None => Err(absent(name, pod, &container, previous)),
        }
    }

    /// Which container is meant.
    fn container(
        &self,
        namespace: &str,
        name: &str,
        pod: Option<&Value>,
        asked: &str,
    ) -> Result<String, Refusal> {
        let of_spec = |path: &str| {
            let containers = pod.map_or(&[][..], |pod| pod.list(path));
            containers.iter().map(|container| container.string("name")).collect::<Vec<_>>()
        };
        let main = of_spec("spec.containers");
        let mut all =
            [of_spec("spec.initContainers"), main.clone(), of_spec("spec.ephemeralContainers")].concat();
        if all.is_empty() {
            let recorded = self.0.keys().filter(|(ns, pod, _, _)| ns == namespace && pod == name);
            all = recorded.map(|(_, _, container, _)| container.clone()).collect();
            all.dedup();
        }
        if all.is_empty() {
            return Err(Refusal::missing(format!("pods \"{name}\" not found")));
        }
        if !asked.is_empty() {
            let known = all.iter().any(|container| container == asked);
            let message = || format!("container {asked} is not valid for pod {name}");
            return if known { Ok(asked.to_owned()) } else { Err(Refusal::bad(message())) };
        }
        let candidates = if main.is_empty() { &all } else { &main };
        match candidates.as_slice() {
            [one] => Ok(one.clone()),
            several => Err(Refusal::bad(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                several.join(" ")
            ))),
        }
    }
}

/// Why there is no log, in the kubelet's words where the pod's status tells.
fn absent(name: &str, pod: Option<&Value>, container: &str, previous: bool) -> Refusal {
    let status = pod.and_then(|pod| {
        let lists =
            ["status.containerStatuses", "status.initContainerStatuses", "status.ephemeralContainerStatuses"];
        let mut statuses = lists.into_iter().flat_map(|path| pod.list(path));
        statuses.find(|status| status.text("name") == Some(container))
    });
    let restarted = status.is_some_and(|status| status.at("lastState.terminated").is_some());
    if previous && !restarted {
        return Refusal::bad(format!(
            "previous terminated container \"{container}\" in pod \"{name}\" not found"
        ));
    }
    if let Some(reason) = status.and_then(|status| status.text("state.waiting.reason")).filter(|_| !previous)
    {
        let message = match reason {
            "ImagePullBackOff" | "ErrImagePull" => "trying and failing to pull image".to_owned(),
            other => other.to_owned(),
        };
        let message = format!("container \"{container}\" in pod \"{name}\" is waiting to start: {message}");
        return Refusal::bad(message);
    }
    Refusal::missing(format!(
        "the log of container \"{container}\" in pod \"{name}\" is not part of the recording"
    ))
}

/// Applies `sinceTime`, `sinceSeconds`, `tailLines`, `timestamps` and `limitBytes`.
fn cut(bytes: &[u8], parameters: &Parameters, now: Timestamp) -> Result<Vec<u8>, Refusal> {
    let since = match (parameters.text("sinceTime"), parameters.number("sinceSeconds")?) {
        ("", None) => None,
        ("", Some(seconds)) => {
            let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.saturating_sub(seconds).unwrap_or(Timestamp::MIN))
        }
        (text, _) => {
            let wrong = || Refusal::bad(format!("sinceTime: \"{text}\" is no RFC 3339 time"));
            Some(time::parse(text).ok_or_else(wrong)?)
        }
    };
    let timestamps = parameters.flag("timestamps");
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    if let Some(since) = since {
        // A line without a time belongs to the one before it.
        let first = lines.iter().position(|line| stamp(line).is_some_and(|(at, _)| at >= since));
        lines = lines.split_off(first.unwrap_or(lines.len()));
    }
    if let Some(tail) = parameters.number("tailLines")? {
        let tail = usize::try_from(tail).unwrap_or(usize::MAX);
        lines = lines.split_off(lines.len().saturating_sub(tail));
    }
    let limit =
        parameters.number("limitBytes")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut out = Vec::with_capacity(bytes.len().min(limit));
    for line in lines {
        let line = match stamp(line) {
            Some((_, rest)) if !timestamps => rest,
            _ => line,
        };
        let room = limit.saturating_sub(out.len());
        out.extend_from_slice(line.get(..room.min(line.len())).unwrap_or_default());
        if out.len() >= limit {
            break;
        }
    }
    Ok(out)
}

/// The time at the beginning of a line, and what follows.
fn stamp(line: &[u8]) -> Option<(Timestamp, &[u8])> {
    // `2026-11-21T10:00:00Z` has 20 characters, with nanoseconds and an offset 35.
    let end = line.iter().take(36).position(|byte| *byte == b' ').filter(|end| *end >= 20)?;
    let text = std::str::from_utf8(line.get(..end)?).ok()?;
    Some((time::parse(text)?, line.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    const TEXT: &str =
        "2026-11-21T09:58:00.5Z one\n2026-11-21T09:59:00Z two\n\tat x\n2026-11-21T10:00:00Z three\n";

    fn read(pod: &Value, parameters: &[(&str, &str)]) -> Result<String, Refusal> {
        let file = |container: &str, previous: bool, bytes: &str| LogFile {
            namespace: "n".to_owned(),
            pod: "p".to_owned(),
            container: container.to_owned(),
            previous,
            bytes: bytes.as_bytes().to_vec(),
            truncated: false,
        };
        let logs = Logs::of(vec![file("a", false, TEXT), file("a", true, "old\n")]);
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let now = "2026-11-21T10:00:30Z".parse().unwrap();
        let parameters = Parameters::new(parameters.collect());
        logs.read("n", "p", Some(pod), &parameters, now).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]},
               "status": {"initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}})
    }

    #[test]
    fn the_parameters_of_the_kubelet() {
        assert_eq!(read(&pod(), &[]).unwrap(), "one\ntwo\n\tat x\nthree\n");
        assert_eq!(read(&pod(), &[("timestamps", "true")]).unwrap(), TEXT);
        assert_eq!(read(&pod(), &[("tailLines", "2")]).unwrap(), "\tat x\nthree\n");
        assert_eq!(read(&pod(), &[("tailLines", "0")]).unwrap(), "");
        assert_eq!(read(&pod(), &[("sinceSeconds", "95")]).unwrap(), "two\n\tat x\nthree\n");
        assert_eq!(read(&pod(), &[("sinceTime", "2026-11-21T09:59:30Z")]).unwrap(), "three\n");
        assert_eq!(read(&pod(), &[("sinceTime", "2027-01-01T00:00:00Z")]).unwrap(), "");
        assert_eq!(read(&pod(), &[("limitBytes", "6")]).unwrap(), "one\ntw");
        assert_eq!(read(&pod(), &[("previous", "true"), ("container", "a")]).unwrap(), "old\n");
        assert!(read(&pod(), &[("tailLines", "x")]).is_err());
        assert!(read(&pod(), &[("sinceTime", "x")]).is_err());
    }

    #[test]
    fn what_is_absent_is_said_in_the_kubelets_words() {
        let message = |parameters: &[(&str, &str)]| read(&pod(), parameters).unwrap_err().message;
        assert_eq!(message(&[("container", "z")]), "container z is not valid for pod p");
        assert!(
            message(&[("container", "i")]).ends_with("is waiting to start: trying and failing to pull image")
        );
        assert!(
            message(&[("container", "i"), ("previous", "1")])
                .starts_with("previous terminated container \"i\"")
        );
        let several = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let message = read(&several, &[]).unwrap_err().message;
        assert!(message.ends_with("choose one of: [a b]"), "{message}");
        let message = read(&several, &[("container", "b")]).unwrap_err().message;
        assert!(message.contains("not part of the recording"), "{message}");
    }
}
