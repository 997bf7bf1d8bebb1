//! CONFIG104.

use regex::Regex;
use std::sync::LazyLock;

use super::setting::{self, Case, Telling};
use super::source::{self, User};
use crate::analyze::finding::{Evidence, Finding};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::pods::common::{self, Group};
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{EnvSource, Pod};

crate::rule! {
    /// An application does not start because a setting that it needs is missing, and its configuration shows where it should be.
    ///
    /// ## What it detects
    /// A container that crashes and whose log says that a setting, an environment variable or a configuration key is missing or
    /// required, in the words of the usual languages and libraries, where the environment and the ConfigMaps that the container
    /// takes in do not hold it.
    /// ## Why it matters
    /// The container ends at every start. Pods that were started before the edit run on, so it often shows only at the next
    /// restart.
    /// ## Evidence
    /// The line of the log, the keys of the ConfigMap, and a key of nearly that name where there is one.
    /// ## How to confirm
    /// `kubectl logs POD -c CONTAINER --previous` names the setting; `kubectl get configmap NAME -o yaml` shows that it is not there.
    /// ## How to fix
    /// Put the key back into the ConfigMap (rename the key that took its place, or use the value that was last applied) and restart
    /// the workload.
    /// ## False positives
    /// A setting that the container does have, with a value, is not reported, whatever its log says.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-container/>
    SettingMissing {
        code: "CONFIG104", name: "setting-missing-for-application", family: Config, severity: Error,
        needs: [Status, Logs], aliases: [],
    }
}

/// A container of a workload that misses a setting.
#[derive(Debug)]
pub struct Fact<'a> {
    group: Group<'a, Case<'a>>,
    /// The ConfigMap in which it should be, where the container takes one in whole or by key.
    map: Option<&'a Object>,
}

impl Check for SettingMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let groups = common::groups(snapshot, |pod| {
            let mut cases = setting::cases(snapshot, pod, LOOK_BACK, |_, line| setting_in(line));
            cases.retain(|(container, case)| !has_value(snapshot, pod, container, &case.setting));
            cases
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
        let user = group.workload.map_or(User::Pod(pod), User::Workload);
        let near = fact.map.and_then(|map| source::near_key(map, setting, user));
        let empty = fact.map.is_some_and(|map| source::keys(map).any(|key| key == setting));
        let place = setting::place(fact.map);
        let lacks = if empty {
            format!("{place} holds it without a value")
        } else {
            format!("{place} does not hold it")
        };
        let near = near
            .map(|near| format!(" The ConfigMap has a key {near} that looks like it under another name."));
        let message = format!(
            "Container {container} of {owner} ends at its start and its log says that setting {setting} is missing; {lacks}.{}",
            near.unwrap_or_default()
        );
        let restored = fact.map.into_iter().flat_map(|map| source::restore_key(map, setting, user));
        let telling = Telling {
            map: fact.map.map(|map| (map, setting.as_str())),
            env: owner.field(group.container_field("env")),
            words: [
                format!("{owner} ends at each start: setting {setting} is missing in {place}"),
                message,
                "crash loop: missing setting in the configuration (environment variable or ConfigMap key)"
                    .to_owned(),
            ],
            says: format!("says that setting {setting} is missing"),
            fixes: restored
                .map(|remedy| setting::again(owner, remedy))
                .chain(set_env(fact, setting))
                .collect(),
            test: format!(
                "Check at start-up in the pipeline, with the ConfigMap of the release, that {setting} and the other settings are there"
            ),
        };
        setting::tell(Self::META, group, snapshot, telling).evidences(fact.map.map(|map| {
            let keys: Vec<&str> = source::keys(map).take(12).collect();
            Evidence::object(
                &map.reference.field(format!("data.{setting}")),
                format!("{}; its keys are {}", if empty { "empty" } else { "absent" }, keys.join(", ")),
            )
        }))
    }
}

/// The lines before the end in which an application says why it does not start.
const LOOK_BACK: usize = 200;

/// The setting that a line says is missing.
pub(crate) fn setting_in(line: &str) -> Option<String> {
    static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
        const NAME: &str = r#"["'`\[{(<]*(?P<name>[A-Za-z_][A-Za-z0-9_.\-]{1,80})["'`\]})>]*"#;
        const UPPER: &str = r#"["'`]?\b(?P<name>[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[A-Z][A-Z0-9]{3,})["'`]?"#;
        const THING: &str = r"(?:settings?|env(?:ironment)?(?:[ -]?var(?:iable)?)?s?|config(?:uration)?(?: (?:key|value|property|option|setting|parameter|entry|field|variable))?s?|variables?|propert(?:y|ies)|parameters?|options?|keys?)";
        const LACKS: &str = r#"(?:is |was |are |must be |has |have )?(?:not (?:been )?(?:set|found|defined|specified|provided|configured|present)|missing|required|undefined|unset|mandatory|(?:must be )?(?:set|defined|provided|specified) *(?:$|[.,;!)"'\\]|before|to )|empty|absent|no value)"#;
        [
            // "environment variable not found: REGION", "required setting not set: REGION"
            format!(r"(?i){THING} (?:is |was )?(?:not (?:set|found|defined|specified|provided|present)|missing|required) *[:=] *{NAME}"),
            // "missing required setting REGION", "Missing environment variable: REGION"
            format!(r"(?i)missing (?:a |the )?(?:required |mandatory |necessary )?(?:{THING} ?)+(?:named |called )?[:=]? *{NAME}"),
            // "required key REGION missing value", "environment variable REGION is not set", "setting 'region' is required"
            format!(r"(?i)(?:{THING}|required(?: {THING})?) *[:=]? +{NAME} +{LACKS}"),
            // "REGION is not set", "REGION must be set", "REGION environment variable is required"
            format!(r"{UPPER}(?: {THING})? +(?:{LACKS})"),
            // "set the REGION environment variable"
            format!(r"(?:please )?(?:set|provide|define|specify) (?:the )?{UPPER}(?: {THING})"),
            // The exceptions of common languages and libraries.
            format!(r"KeyError: {UPPER}"),
            format!(r"(?i)could not resolve placeholder {NAME}"),
            format!(r"(?i)no configuration setting found for key {NAME}"),
            format!(r"(?i)key not found: {NAME} *\(KeyError\)"),
            format!(r#"(?i)config(?:uration)? validation error: {NAME} is required"#),
            format!(r"(?i)missing (?:configuration )?field {NAME}"),
        ]
        .iter()
        .filter_map(|pattern| Regex::new(pattern).ok())
        .collect()
    });
    // Words that stand where a name would, in sentences that name none.
    const NO_NAMES: &[&str] = &[
        "is",
        "are",
        "was",
        "not",
        "in",
        "for",
        "the",
        "a",
        "an",
        "to",
        "of",
        "file",
        "value",
        "values",
        "must",
        "error",
        "from",
        "found",
        "at",
        "on",
        "or",
        "and",
        "argument",
        "arguments",
        "parameter",
        "required",
        "variable",
        "setting",
        "key",
        "property",
        "option",
        "environment",
        "missing",
        "ERROR",
        "FATAL",
        "WARN",
        "WARNING",
        "HTTP",
        "HTTPS",
        "INFO",
        "DEBUG",
        "NULL",
        "TRUE",
        "FALSE",
        "JSON",
        "YAML",
        "THIS",
    ];
    PATTERNS.iter().find_map(|pattern| {
        let name = pattern.captures(line)?.name("name")?.as_str().trim_end_matches(['.', '-']);
        (name.len() > 1
            && !NO_NAMES.contains(&name)
            && !NO_NAMES.contains(&name.to_ascii_lowercase().as_str()))
        .then(|| name.to_owned())
    })
}

/// Whether a container has an environment variable of this name with something in it.
fn has_value(snapshot: &Snapshot, pod: &Pod, container: &str, setting: &str) -> bool {
    let Some(container) = pod.template.container(container) else { return false };
    let namespace = pod.object.namespace();
    let in_map = |name: &str, key: &str| {
        let value = snapshot
            .object("ConfigMap", namespace, name)
            .and_then(|map| map.body.at("data")?.child(key)?.as_str());
        value.is_some_and(|value| !value.is_empty())
    };
    if let Some(var) = container.env.iter().find(|var| var.name == setting) {
        return match &var.source {
            EnvSource::Literal(value) => !value.is_empty(),
            EnvSource::ConfigMapKey { name, key, .. } => in_map(name, key),
            // Its value is nobody's to see: it is there.
            EnvSource::SecretKey { optional, .. } => !optional,
            EnvSource::Other => true,
        };
    }
    container.body.list("envFrom").iter().any(|entry| {
        let Some(key) = setting.strip_prefix(entry.text("prefix").unwrap_or_default()) else { return false };
        entry.text("configMapRef.name").is_some_and(|name| in_map(name, key))
    })
}

/// The ConfigMap in which a setting should be: one with a key of nearly that name, else the one that was edited last, else the
/// first that the container takes in.
fn holder<'a>(snapshot: &'a Snapshot, pod: &Pod, container: &str, setting: &str) -> Option<&'a Object> {
    let container = pod.template.container(container)?;
    let whole = container.body.list("envFrom").iter().filter_map(|entry| entry.text("configMapRef.name"));
    let by_key = container.env.iter().filter_map(|var| match &var.source {
        EnvSource::ConfigMapKey { name, .. } => Some(name.as_str()),
        _ => None,
    });
    // Not what is mounted for others in the pod: every sidecar of a mesh brings a ConfigMap of its own.
    let mounts = container.body.list("volumeMounts");
    let mine = |volume: &&crate::model::json::Value| {
        mounts.iter().any(|mount| mount.text("name") == volume.text("name"))
    };
    let volumes = pod.template.spec.list("volumes").iter().filter(mine);
    let mounted = volumes.filter_map(|volume| volume.text("configMap.name"));
    let mut names: Vec<&str> = whole.chain(by_key).chain(mounted).collect();
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let maps: Vec<&Object> =
        names.iter().filter_map(|name| snapshot.object("ConfigMap", pod.object.namespace(), name)).collect();
    let near = maps.iter().find(|map| nearest(setting, source::keys(map)).is_some());
    let edited = || {
        let time = |map: &&&Object| snapshot.last_change_before(&map.reference, snapshot.now).map(|c| c.time);
        maps.iter().filter(|map| time(map).is_some()).max_by_key(|map| time(map))
    };
    near.or_else(edited).or_else(|| maps.first()).copied()
}

/// Write the setting into the template, where no ConfigMap is there to hold it.
fn set_env(fact: &Fact<'_>, setting: &str) -> Option<crate::analyze::remedy::Remedy> {
    use crate::model::json::json;
    if fact.map.is_some() {
        return None;
    }
    let container = fact.group.container()?;
    let summary =
        format!("Set {setting} in the environment of container {}: replace VALUE", fact.group.container);
    let variable = json!({"name": setting, "value": "VALUE"});
    if let Some(at) = container.env.iter().position(|var| var.name == setting) {
        return fact.group.patch_container(&[("replace", &format!("env[{at}]"), variable)], summary);
    }
    if container.env.is_empty() {
        fact.group.patch_container(&[("add", "env", json!([variable]))], summary)
    } else {
        fact.group.patch_container(&[("add", "env.-", variable)], summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wordings_name_the_setting() {
        for (line, name) in [
            ("[7] [FATAL] missing required setting REGION", "REGION"),
            ("RuntimeError: missing required setting REGION", "REGION"),
            ("panic: required key DB_HOST missing value", "DB_HOST"),
            ("env: required environment variable \"API_KEY\" is not set", "API_KEY"),
            ("Error: Missing required environment variable: API_KEY", "API_KEY"),
            ("KeyError: 'DATABASE_URL'", "DATABASE_URL"),
            (
                "java.lang.IllegalArgumentException: Could not resolve placeholder 'shop.region' in value \"${shop.region}\"",
                "shop.region",
            ),
            ("thread 'main' panicked: environment variable not found: QUEUE_URL", "QUEUE_URL"),
            ("level=error msg=\"DB_PASSWORD must be set\"", "DB_PASSWORD"),
            ("Error: Config validation error: \"JWT_ISSUER\" is required", "JWT_ISSUER"),
            ("time=x level=fatal msg=\"configuration key region not found\"", "region"),
            (
                "2026 ERROR main: Property 'payment.merchant-id' is required but was not configured",
                "payment.merchant-id",
            ),
            ("Please set the MERCHANT_ID environment variable", "MERCHANT_ID"),
            ("{\"level\":\"fatal\",\"msg\":\"missing required setting POOL_SIZE\"}", "POOL_SIZE"),
        ] {
            assert_eq!(setting_in(line).as_deref(), Some(name), "{line}");
        }
    }

    #[test]
    fn other_errors_name_none() {
        for line in [
            "dial tcp 10.0.0.1:5432: connect: connection refused",
            "HTTP 404 not found",
            "panic: assignment to entry in nil map",
            "listening on 0.0.0.0:8080",
            "no module named flask",
            "KeyError: 'items'",
            "ERROR is not set",
        ] {
            assert_eq!(setting_in(line), None, "{line}");
        }
    }
}
