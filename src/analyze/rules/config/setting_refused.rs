//! CONFIG105.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use super::setting::{self, Case, Telling};
use super::source;
use crate::analyze::finding::Finding;
use crate::analyze::remedy::{Remedy, Risk, patch_command, pointer_segment, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common::{self, Group};
use crate::model::change::{Change, ChangeKind};
use crate::model::fields::Fields;
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
        let groups = common::groups(snapshot, |pod| {
            setting::cases(snapshot, pod, LOOK_BACK, |container, line| {
                refuses(line, || settings(snapshot, pod, container))
            })
        });
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
        let (setting, container, owner) = (&case.setting, &group.container, &group.owner);
        let env = pod.template.container(container).map(|c| &c.env);
        let at = env.and_then(|env| env.iter().position(|var| var.name == *setting));
        let map = fact.map.as_ref().map(|(map, key)| (*map, key.as_str()));
        let place = setting::place(map.map(|(map, _)| map));
        let edited = map.and_then(|(map, _)| snapshot.last_change_before(&map.reference, snapshot.now));
        let corrected = map.and_then(|(map, key)| correct(map, key, case, edited));
        let by_hand = Remedy::manual(format!("Correct {setting} in {place}, and start the pods again"));
        let telling = Telling {
            map,
            env: owner.field(group.container_field(&at.map_or("env".to_owned(), |at| format!("env[{at}]")))),
            words: [
                format!("{owner} ends at each start: it does not accept setting {setting} in {place}"),
                format!("Container {container} of {owner} ends at its start, and its log says that it does not accept the value of {setting}, which stands in {place}."),
                "crash loop: the application refuses the value of a setting (environment variable or ConfigMap key)".to_owned(),
            ],
            says: format!("does not accept the value of {setting}"),
            fixes: corrected.map(|remedy| setting::again(owner, remedy)).into_iter().chain([by_hand]).collect(),
            test: format!("Start the image in the pipeline with the settings of the release, so that {setting} and the others are read once before it is rolled out"),
        };
        setting::tell(Self::META, group, snapshot, telling)
    }
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
fn refuses(line: &str, names: impl FnOnce() -> Vec<String>) -> Option<String> {
    static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"(?i)\binvalid\b|\bnot an? (?:valid |whole )?(?:number|integer|int|bool|boolean|duration|url|uri|port|float|date|time)|\b(?:cannot|can't|could not|couldn't|failed to|unable to|error) pars|\bmalformed\b|\bmust be\b|\bunsupported\b|\bout of range\b|\billegal\b|\bbad value\b|\bunrecogni[sz]ed\b|\bnot one of\b|\bunknown value\b|\bsyntax error\b|NumberFormatException|strconv\.|\band not an? |\bexpected (?:a|an|one of)\b|ValidationError|missing unit",
        )
        .ok()
    });
    if !WORDS.as_ref()?.is_match(line) {
        return None;
    }
    let whole = |name: &String| {
        let edge = |c: Option<char>| c.is_none_or(|c| !(c.is_ascii_alphanumeric() || c == '_'));
        line.match_indices(name.as_str()).any(|(at, _)| {
            edge(line.get(..at).and_then(|head| head.chars().next_back()))
                && edge(line.get(at + name.len()..).and_then(|tail| tail.chars().next()))
        })
    };
    // A short word stands in many sentences that are about something else.
    let mut names = names();
    names.retain(|name| name.len() > 3 && whole(name));
    names.into_iter().max_by_key(String::len)
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
            assert_eq!(refuses(line, || names.to_vec()).as_deref(), Some(name), "{line}");
        }
        for line in
            ["STORE_POOL=8", "invalid request", "MY_STORE_POOL_2 is invalid", "support for MODEL is invalid"]
        {
            assert_eq!(refuses(line, || names.to_vec()), None, "{line}");
        }
        assert_eq!(quoted(r#"setting STORE_POOL is "many", and"#, "STORE_POOL").as_deref(), Some("many"));
        assert_eq!(quoted("setting STORE_POOL is many", "STORE_POOL"), None);
    }
}
