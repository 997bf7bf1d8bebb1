//! CONFIG105.

use jiff::Timestamp;
use regex::Regex;
use serde_json::json;
use std::sync::LazyLock;

use super::source;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, patch_command, pointer_segment, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common::{self, Group};
use crate::analyze::rules::pods::crash_loop;
use crate::model::change::{Change, ChangeKind};
use crate::model::fields::Fields;
use crate::model::log::LogStream;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{EnvSource, Pod};

crate::rule! {
    /// An application does not start because it does not accept the value of a setting.
    ///
    /// ## What it detects
    /// A container that ends at its start and whose last words name one of its own environment variables and say that its value is
    /// invalid, cannot be read or is not what it has to be.
    /// ## Why it matters
    /// The container ends at every start. Where the value stands in a ConfigMap, pods that were started before the edit run on, so it
    /// shows only at the next restart, long after the edit.
    /// ## Evidence
    /// The line of the log, and the place where the value stands.
    /// ## How to confirm
    /// `kubectl logs POD -c CONTAINER --previous` names the setting and says what is wrong with it.
    /// ## How to fix
    /// Correct the value where it stands, and restart the workload.
    /// ## False positives
    /// A line that names a setting only to say what it has read is none: the container has to end after it.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-container/>
    SettingRefused {
        code: "CONFIG105", name: "setting-refused-by-application", family: Config, severity: Error,
        needs: [Status, Logs], aliases: [],
    }
}

/// The lines before the end in which an application says why it does not start.
const LOOK_BACK: usize = 50;

/// A setting whose value an application refuses.
#[derive(Debug)]
pub struct Case<'a> {
    setting: String,
    stream: &'a LogStream,
    line: &'a str,
    time: Option<Timestamp>,
    since: Option<Timestamp>,
}

/// A container of a workload that refuses a setting.
#[derive(Debug)]
pub struct Fact<'a> {
    group: Group<'a, Case<'a>>,
    /// The ConfigMap in which the value stands, and its key.
    map: Option<(&'a Object, String)>,
}

impl Check for SettingRefused {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let groups = common::groups(snapshot, |pod| refused(snapshot, pod));
        groups
            .into_iter()
            .filter_map(|group| {
                let (pod, case) = group.first()?;
                let map = holder(snapshot, pod, &group.container, &case.setting);
                Some(Fact { map, group })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.group;
        let Some((pod, case)) = group.first() else {
            return Finding::new(Self::META, group.owner.clone(), &[]);
        };
        let (setting, container) = (&case.setting, &group.container);
        let at =
            pod.template.container(container).and_then(|c| c.env.iter().position(|var| var.name == *setting));
        let env =
            group.owner.field(group.container_field(&at.map_or("env".to_owned(), |at| format!("env[{at}]"))));
        let subject = fact
            .map
            .as_ref()
            .map_or_else(|| env.clone(), |(map, key)| map.reference.field(format!("data.{key}")));
        let place = fact
            .map
            .as_ref()
            .map_or_else(|| "its environment".to_owned(), |(map, _)| map.reference.to_string());
        let edited =
            fact.map.as_ref().and_then(|(map, _)| snapshot.last_change_before(&map.reference, snapshot.now));
        let mut message = format!(
            "Container {container} of {} ends at its start, and its log says that it does not accept the value of {setting}, which stands in {place}.",
            group.owner
        );
        if let Some(change) = edited {
            message += &format!(" That was last edited at {}.", common::clock(change.time));
        }
        message += if group.all_down() {
            " No pod of the workload serves."
        } else {
            " Pods that started before still serve."
        };
        let mut finding = Finding::new(
            Self::META,
            subject.clone(),
            &[&group.owner.kind, &group.owner.name, container],
        )
        .title(format!("{} ends at each start: it does not accept setting {setting} in {place}", group.owner))
        .message(message)
        .mechanism("crash loop: the application refuses the value of a setting (environment variable or ConfigMap key)")
        .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
        .role(Role::Cause, Confidence::Observed)
        .evidence(
            Evidence::new(
                "Log",
                format!("Pod {}/{}, container {container}", case.stream.namespace, case.stream.pod),
                format!("does not accept the value of {setting}"),
            )
            .excerpt(case.line)
            .at(case.time),
        )
        .evidences(pod.status(container).map(|status| common::container_evidence(pod, status)))
        .onset(group.cases.iter().filter_map(|(_, case)| case.since).min());
        if fact.map.is_some() {
            finding = finding.related(env);
        }
        let restart = common::restart_command(&group.owner);
        let restarts = matches!(group.owner.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet");
        let again = |remedy: Remedy| if restarts { remedy.then(restart.clone()) } else { remedy };
        let in_map = fact.map.as_ref().and_then(|(map, key)| correct(map, key, case, edited));
        finding = finding
            .maybe_remedy(group.undo_rollout(snapshot, setting))
            .maybe_remedy(in_map.map(again))
            .remedy(Remedy::manual(format!("Correct {setting} in {place}, and start the pods again")))
            .prevention(Prevention::of("Test", format!("Start the image in the pipeline with the settings of the release, so that {setting} and the others are read once before it is rolled out")))
            .prevention(Prevention::alert(
                "Alert when a container restarts again and again",
                format!("increase(kube_pod_container_status_restarts_total{{{},container=\"{container}\"}}[10m]) > 2", common::pod_matcher(&group.owner)),
            ))
            .effect(Effect::calls(&group.owner));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// The settings that the crashing containers of a pod refuse.
fn refused<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Vec<(String, Case<'a>)> {
    let mut out = vec![];
    for (container, status) in crash_loop::crashing(snapshot, pod) {
        let names = settings(snapshot, pod, &container);
        let find = |previous: bool| {
            let stream = snapshot.log(pod.object.namespace(), pod.object.name(), &container, previous)?;
            let lines = stream.lines.get(stream.lines.len().saturating_sub(LOOK_BACK)..)?;
            lines.iter().rev().find_map(|line| Some((stream, line, refuses(&line.text, &names)?)))
        };
        let Some((stream, line, setting)) = find(true).or_else(|| find(false)) else { continue };
        let since = common::first_restart(snapshot, pod, status);
        out.push((container, Case { setting, stream, line: &line.text, time: line.time, since }));
    }
    out
}

/// The environment variables of a container, as far as objects name them.
fn settings(snapshot: &Snapshot, pod: &Pod, container: &str) -> Vec<String> {
    let Some(container) = pod.template.container(container) else { return vec![] };
    let mut out: Vec<String> = container.env.iter().map(|var| var.name.clone()).collect();
    for entry in container.body.list("envFrom") {
        let prefix = entry.text("prefix").unwrap_or_default();
        let map = entry
            .text("configMapRef.name")
            .and_then(|name| snapshot.object("ConfigMap", pod.object.namespace(), name));
        out.extend(map.into_iter().flat_map(source::keys).map(|key| format!("{prefix}{key}")));
    }
    out
}

/// The one of these settings that a line says it does not accept.
fn refuses(line: &str, names: &[String]) -> Option<String> {
    static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"(?i)\binvalid\b|\bnot an? (?:valid |whole )?(?:number|integer|int|bool|boolean|duration|url|uri|port|float|date|time)|\b(?:cannot|can't|could not|couldn't|failed to|unable to|error) pars|\bmalformed\b|\bmust be\b|\bunsupported\b|\bout of range\b|\billegal\b|\bbad value\b|\bunrecogni[sz]ed\b|\bnot one of\b|\bunknown value\b|\bsyntax error\b|NumberFormatException|strconv\.|\band not an? |\bexpected (?:a|an|one of)\b|ValidationError|missing unit",
        )
        .ok()
    });
    if !WORDS.as_ref()?.is_match(line) {
        return None;
    }
    let whole = |name: &&String| {
        let edge = |c: Option<char>| c.is_none_or(|c| !(c.is_ascii_alphanumeric() || c == '_'));
        line.match_indices(name.as_str()).any(|(at, _)| {
            edge(line.get(..at).and_then(|head| head.chars().next_back()))
                && edge(line.get(at + name.len()..).and_then(|tail| tail.chars().next()))
        })
    };
    // A short word stands in many sentences that are about something else.
    names.iter().filter(|name| name.len() > 3).filter(whole).max_by_key(|name| name.len()).cloned()
}

/// The ConfigMap, and the key in it, from which a container takes a setting.
fn holder<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    container: &str,
    setting: &str,
) -> Option<(&'a Object, String)> {
    let container = pod.template.container(container)?;
    let map = |name: &str| snapshot.object("ConfigMap", pod.object.namespace(), name);
    if let Some(var) = container.env.iter().find(|var| var.name == setting) {
        let EnvSource::ConfigMapKey { name, key, .. } = &var.source else { return None };
        return Some((map(name)?, key.clone()));
    }
    container.body.list("envFrom").iter().rev().find_map(|entry| {
        let key = setting.strip_prefix(entry.text("prefix").unwrap_or_default())?;
        let map = map(entry.text("configMapRef.name")?)?;
        source::keys(map).any(|own| own == key).then(|| (map, key.to_owned()))
    })
}

/// The value from before: as it was applied last, where that is known, or from the cluster where it was edited since.
fn correct(map: &Object, key: &str, case: &Case<'_>, edited: Option<&Change>) -> Option<Remedy> {
    let path = format!("/data/{}", pointer_segment(key));
    let now = map.body.at("data").and_then(|data| data.child(key)).and_then(|value| value.as_str());
    let applied = source::applied_value(map, key).filter(|value| now != Some(value));
    if let (Some(value), Some(_)) = (applied, now) {
        return Remedy::patch(
            map,
            &json!([{"op": "replace", "path": path, "value": value}]),
            format!("Set {key} of {} back to the value that was last applied", map.reference),
        );
    }
    // Collected ConfigMaps have lost their values. The log tells the one that is refused, which is the way back.
    const APPLY: &str = "kubectl-client-side-apply";
    let change = edited.filter(|change| change.kind == ChangeKind::Edited && change.by != APPLY)?;
    let own = format!("data.{key}");
    let alone = !change.fields.is_empty() && change.fields.iter().all(|field| *field == own);
    let was_applied = map.edits.iter().any(|edit| edit.manager == APPLY && edit.time < Some(change.time));
    let value = quoted(case.line, &case.setting)?;
    if !alone || !was_applied {
        return None;
    }
    let (ns, name) = (scope(&map.reference), quote(map.name()));
    Some(
        Remedy::commands(
            format!("Set {key} of {} back: what kubectl apply wrote before the edit of {} stands again", map.reference, common::clock(change.time)),
            vec![format!(
                "kubectl {ns}apply view-last-applied configmap/{name} -o yaml | kubectl {ns}replace --save-config -f -"
            )],
            vec![patch_command(&map.reference, &json!([{"op": "replace", "path": path, "value": value}]))],
        )
        .risk(Risk::Medium),
    )
}

/// The value that a line quotes after a setting's name.
fn quoted(line: &str, setting: &str) -> Option<String> {
    let rest = line.get(line.find(setting)? + setting.len()..)?;
    let open = rest.find(['"', '\''])?;
    let mark = rest.get(open..)?.chars().next()?;
    let inner = rest.get(open + 1..)?;
    let value = inner.get(..inner.find(mark)?)?.trim_end_matches('\\');
    (!value.is_empty() && value.len() <= 200 && !value.contains("\\")).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_refuse_in_many_words() {
        let names = ["STORE_POOL", "CALL_TIMEOUT", "MODE", "PORT"].map(str::to_owned);
        for (line, name) in [
            (r#"RuntimeError: setting STORE_POOL is "many", and not a number"#, "STORE_POOL"),
            (
                r#"level=fatal msg="invalid CALL_TIMEOUT: time: missing unit in duration \"2\"""#,
                "CALL_TIMEOUT",
            ),
            (r#"strconv.Atoi: parsing "x": invalid syntax (STORE_POOL)"#, "STORE_POOL"),
            ("ValueError: MODE must be one of live, test", "MODE"),
            ("Error: PORT should be >= 0 and < 65536; expected a port, unsupported", "PORT"),
        ] {
            assert_eq!(refuses(line, &names).as_deref(), Some(name), "{line}");
        }
        for line in
            ["STORE_POOL=8", "invalid request", "MY_STORE_POOL_2 is invalid", "support for MODEL is invalid"]
        {
            assert_eq!(refuses(line, &names), None, "{line}");
        }
        assert_eq!(quoted(r#"setting STORE_POOL is "many", and"#, "STORE_POOL").as_deref(), Some("many"));
        assert_eq!(quoted("setting STORE_POOL is many", "STORE_POOL"), None);
    }
}
