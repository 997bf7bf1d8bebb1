//! What an application is told by its environment, its arguments and its ConfigMaps, and where that stands.

use crate::model::json::{Value, json};
use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::remedy::{Remedy, pointer, pointer_segment, quote, resource, scope};
use crate::model::change::{Change, ChangeKind};
use crate::model::fields::Fields;
use crate::model::memo::Derived;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{EnvSource, Workload};

/// A file in a ConfigMap larger than this is data and no settings, in bytes.
const MAX_FILE: usize = 64 * 1024;
/// A longer name in a file is none.
const MAX_NAME: usize = 80;
/// Settings read of one workload.
const MAX_SETTINGS: usize = 2000;

/// One setting of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name: that of the variable, the key, the property or the argument.
    pub name: String,
    /// Its value; `None` where it was not read or is masked.
    pub value: Option<String>,
    /// The value before, where history tells a different one.
    pub previous: Option<String>,
    /// When it was last written after its object was made, where history tells.
    pub changed: Option<Timestamp>,
    /// The object and field that hold it.
    pub subject: ObjectRef,
    /// The workload that reads it.
    pub workload: ObjectRef,
    /// The place of the value in the object, as a JSON pointer.
    pub(super) pointer: String,
}

/// A value, unless it was dropped or masked on its way in. An empty one says nothing either way.
fn known(value: &str) -> Option<String> {
    (!value.is_empty() && !value.contains("[redacted")).then(|| value.to_owned())
}

/// The changes of each object, by their place in the snapshot's list.
struct History(BTreeMap<(String, String, String), Vec<usize>>);

impl Derived for History {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut index: BTreeMap<(String, String, String), Vec<usize>> = BTreeMap::new();
        for (at, change) in snapshot.changes.iter().enumerate() {
            let subject = &change.subject;
            let key = (subject.kind.clone(), subject.namespace.clone(), subject.name.clone());
            index.entry(key).or_default().push(at);
        }
        History(index)
    }
}

/// The changes of an object, oldest first.
fn changes_of<'a>(snapshot: &'a Snapshot, object: &ObjectRef) -> Vec<&'a Change> {
    let history = snapshot.derived::<History>();
    let key = (object.kind.clone(), object.namespace.clone(), object.name.clone());
    history.0.get(&key).into_iter().flatten().filter_map(|at| snapshot.changes.get(*at)).collect()
}

/// A ConfigMap, with what tells of its history: read once for all of its keys.
struct Map<'a> {
    object: &'a Object,
    changes: Vec<&'a Change>,
    /// What `kubectl apply` last wrote.
    applied: Value,
}

impl<'a> Map<'a> {
    fn read(snapshot: &'a Snapshot, namespace: &str, name: &str) -> Option<Self> {
        let object = snapshot.object("ConfigMap", namespace, name)?;
        let annotations = object.body.at("metadata.annotations");
        let text =
            annotations.and_then(|a| a.child("kubectl.kubernetes.io/last-applied-configuration")?.as_str());
        let applied = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Some(Map { changes: changes_of(snapshot, &object.reference), object, applied })
    }

    fn key(&self, workload: &Workload, key: &str, name: &str) -> Option<Setting> {
        let value = known(self.object.body.at("data")?.child(key)?.as_str()?);
        let field = format!("data.{key}");
        let edits = self.changes.iter().filter(|c| c.kind == ChangeKind::Edited && c.fields.contains(&field));
        let applied = self.applied.at("data").and_then(|data| known(data.child(key)?.as_str()?));
        Some(Setting {
            name: name.to_owned(),
            previous: applied.filter(|before| value.as_ref().is_some_and(|now| now != before)),
            value,
            changed: edits.map(|change| change.time).max(),
            pointer: format!("/data/{}", pointer_segment(key)),
            subject: self.object.reference.field(field),
            workload: workload.reference().clone(),
        })
    }
}

/// All settings of a workload, in the order of its template.
pub fn settings(snapshot: &Snapshot, workload: &Workload) -> Vec<Setting> {
    let mut out = vec![];
    let namespace = workload.object.namespace();
    let rollouts = changes_of(snapshot, workload.reference());
    let mut maps: BTreeMap<&str, Option<Map<'_>>> = BTreeMap::new();
    for container in workload.template.application_containers() {
        for (index, var) in container.env.iter().enumerate() {
            match &var.source {
                EnvSource::Literal(value) => {
                    let path =
                        workload.template_path(&format!("spec.{}.env[{index}].value", container.path()));
                    let history = format!(
                        "spec.template.spec.containers[name={}].env[name={}]",
                        container.name, var.name
                    );
                    out.push(own(&rollouts, workload, &var.name, value, path, &history));
                }
                EnvSource::ConfigMapKey { name, key, .. } => {
                    let map = maps.entry(name).or_insert_with(|| Map::read(snapshot, namespace, name));
                    out.extend(map.as_ref().and_then(|map| map.key(workload, key, &var.name)));
                }
                EnvSource::SecretKey { .. } | EnvSource::Other => {}
            }
        }
        for list in ["command", "args"] {
            for (index, arg) in container.body.list(list).iter().enumerate() {
                let Some((name, value)) = arg.as_str().and_then(|arg| arg.strip_prefix('-')?.split_once('='))
                else {
                    continue;
                };
                let path = workload.template_path(&format!("spec.{}.{list}[{index}]", container.path()));
                out.push(Setting {
                    pointer: String::new(),
                    ..own(&rollouts, workload, name.trim_start_matches('-'), value, path, "")
                });
            }
        }
    }
    for reference in workload.template.config_references() {
        if reference.kind != "ConfigMap" {
            continue;
        }
        let Some(map) = Map::read(snapshot, namespace, &reference.name) else { continue };
        let mounted = reference.path.contains("volumes[");
        if !mounted && !reference.path.contains("envFrom") {
            continue;
        }
        for key in map.object.body.map("data").into_iter().flatten().map(|(key, _)| key) {
            if reference.keys.is_empty() || reference.keys.iter().any(|own| own == key) {
                let setting = map.key(workload, key, key);
                match setting.as_ref().and_then(|s| s.value.as_deref()).filter(|_| mounted) {
                    Some(file) if file.contains(['\n', '=', ':']) => {
                        out.extend(lines(setting.as_ref(), file))
                    }
                    _ => out.extend(setting),
                }
            }
        }
    }
    out.truncate(MAX_SETTINGS);
    out
}

/// A setting in the template of the workload itself.
fn own(
    rollouts: &[&Change],
    workload: &Workload,
    name: &str,
    value: &str,
    path: String,
    history: &str,
) -> Setting {
    let mut setting = Setting {
        name: name.to_owned(),
        value: known(value),
        previous: None,
        changed: None,
        pointer: pointer(&path),
        subject: workload.reference().field(path),
        workload: workload.reference().clone(),
    };
    for change in rollouts.iter().filter(|change| change.kind == ChangeKind::Rollout) {
        let written = change
            .differences
            .iter()
            .find(|d| !history.is_empty() && d.path.starts_with(history) && !d.path.ends_with(".name"));
        if let Some(difference) = written {
            setting.changed = Some(change.time);
            setting.previous =
                known(&difference.before).filter(|before| Some(before) != setting.value.as_ref());
        }
    }
    setting
}

/// The settings in a mounted file: `key=value` and `key: value`, one to a line.
fn lines<'a>(file: Option<&'a Setting>, text: &'a str) -> impl Iterator<Item = Setting> + 'a {
    let lines = text.lines().take_while(|_| text.len() <= MAX_FILE);
    file.into_iter().flat_map(move |file| {
        lines.clone().filter_map(move |line| {
            let line = line.trim();
            let (name, value) =
                line.split_once(['=', ':']).filter(|_| !line.starts_with(['#', '/', ';', '!']))?;
            let name = name.trim().trim_matches('"');
            let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/');
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(harmless) {
                return None;
            }
            let value = known(value.trim().trim_matches(['"', '\'', ',']))?;
            Some(Setting {
                name: name.to_owned(),
                value: Some(value),
                previous: None,
                pointer: String::new(),
                ..file.clone()
            })
        })
    })
}

impl Setting {
    /// Whether a ConfigMap holds it.
    pub fn in_config_map(&self) -> bool {
        self.subject.kind == "ConfigMap"
    }

    /// The name in parts, in lower case: `CLIENT_TIMEOUT_MS`, `clientTimeoutMs` and `client.timeout-ms` are the same.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![];
        let mut word = String::new();
        let mut lower = false;
        for c in self.name.chars() {
            let hump = lower && c.is_ascii_uppercase();
            if (!c.is_alphanumeric() || hump) && !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            if c.is_alphanumeric() {
                word.extend(c.to_lowercase());
            }
            lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        }
        if !word.is_empty() {
            words.push(word);
        }
        words
    }

    /// Its value as a time in milliseconds, in each way in which it can be read: with the unit that it or its name carries, or else
    /// as milliseconds and as seconds.
    pub fn millis(&self) -> Vec<f64> {
        let Some(value) = self.value.as_deref() else { return vec![] };
        millis_of(value, &self.words())
    }

    /// A value for a time in milliseconds, written as this one is.
    pub fn write_millis(&self, millis: f64) -> String {
        let value = self.value.as_deref().unwrap_or_default().trim();
        let words = self.words();
        let seconds = words.last().is_some_and(|unit| is_seconds(unit));
        if value.ends_with("ms") {
            format!("{millis:.0}ms")
        } else if value.ends_with('s') {
            format!("{:.0}s", (millis / 1000.0).ceil())
        } else if seconds
            || (value.parse::<f64>().is_ok_and(|n| n < 100.0)
                && !words.last().is_some_and(|unit| is_millis(unit)))
        {
            format!("{:.0}", (millis / 1000.0).ceil())
        } else {
            format!("{millis:.0}")
        }
    }

    /// The values of settings of the same name elsewhere in the namespace: of workloads behind the same Services first, then of all
    /// others, each with whose it is. Their majority says what is usual.
    pub fn siblings(&self, snapshot: &Snapshot) -> Vec<(String, ObjectRef)> {
        let services: Vec<&ServiceName> = snapshot.graph.services_of(&self.workload).collect();
        let mut near = vec![];
        let mut far = vec![];
        for workload in snapshot.workloads.iter().filter(|w| {
            w.object.owners.is_empty()
                && w.object.namespace() == self.workload.namespace
                && !w.reference().same_object(&self.workload)
        }) {
            let beside = snapshot.graph.services_of(workload.reference()).any(|s| services.contains(&s));
            for other in settings(snapshot, workload)
                .into_iter()
                .filter(|s| s.name == self.name && s.subject != self.subject)
            {
                if let Some(value) = other.value.filter(|v| Some(v) != self.value.as_ref()) {
                    if beside { &mut near } else { &mut far }.push((value, other.workload));
                }
            }
        }
        near.extend(far);
        near
    }

    /// The value that others of the same name agree on: that of a workload behind the same Service, else the most frequent one.
    pub fn usual(&self, snapshot: &Snapshot) -> Option<(String, ObjectRef)> {
        let siblings = self.siblings(snapshot);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (value, _) in &siblings {
            *counts.entry(value).or_default() += 1;
        }
        let services: Vec<&ServiceName> = snapshot.graph.services_of(&self.workload).collect();
        let beside =
            siblings.iter().find(|(_, w)| snapshot.graph.services_of(w).any(|s| services.contains(&s)));
        let most = || siblings.iter().max_by_key(|(value, _)| counts.get(value.as_str()).copied());
        beside.or_else(most).cloned()
    }

    /// Writes another value, and restarts the workload where it reads the value only when it starts. `None` where the value cannot be
    /// replaced by itself (a line of a file, an argument).
    pub fn set(&self, snapshot: &Snapshot, value: &str, summary: impl Into<String>) -> Option<Remedy> {
        if self.pointer.is_empty() {
            return None;
        }
        let subject = &self.subject;
        let mut object = snapshot.object(&subject.kind, &subject.namespace, &subject.name)?.clone();
        // A value that was dropped on its way in, but is known from elsewhere, is what the rollback brings back.
        if let Some(now) = &self.value {
            let mut body = (*object.body).clone();
            *body.pointer_mut(&self.pointer)? = json!(now);
            object.body = body.into();
        }
        let remedy = Remedy::patch(
            &object,
            &json!([{"op": "replace", "path": self.pointer, "value": value}]),
            summary,
        )?;
        Some(if self.in_config_map() { remedy.then(restart(&self.workload)) } else { remedy })
    }
}

/// Whether a value names a host: as a whole word, whatever stands around it.
pub fn names_host(value: &str, host: &str) -> bool {
    !host.is_empty()
        && value
            .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')))
            .any(|word| word.eq_ignore_ascii_case(host))
}

/// The command that restarts a workload.
pub fn restart(workload: &ObjectRef) -> String {
    format!("kubectl {}rollout restart {}/{}", scope(workload), resource(workload), quote(&workload.name))
}

fn is_millis(unit: &str) -> bool {
    matches!(unit, "ms" | "millis" | "msec" | "milliseconds" | "msecs")
}

fn is_seconds(unit: &str) -> bool {
    matches!(unit, "s" | "sec" | "secs" | "seconds" | "second")
}

fn millis_of(value: &str, words: &[String]) -> Vec<f64> {
    let value = value.trim();
    if let Some(seconds) = crate::model::time::duration_seconds(value) {
        return vec![seconds * 1000.0];
    }
    let Ok(number) = value.parse::<f64>() else { return vec![] };
    if !number.is_finite() || number <= 0.0 {
        return vec![];
    }
    match words.last().map(String::as_str) {
        Some(unit) if is_millis(unit) => vec![number],
        Some(unit) if is_seconds(unit) => vec![number * 1000.0],
        _ => vec![number, number * 1000.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Builder;

    fn snapshot() -> Snapshot {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n",
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"CLIENT_TIMEOUT_MS\":\"4000\"}}"}},
            "data": {"CLIENT_TIMEOUT_MS": "200", "EMPTY": "", "SECRETISH": "[redacted:password]"}}));
        builder.object(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "f", "namespace": "n"},
            "data": {"application.properties": "# x\nhikari.maximum-pool-size=1\nname: shop\n"}}),
        );
        builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"},
            "spec": {"template": {"spec": {"containers": [{"name": "app", "args": ["--timeout=2s", "serve"], "env": [{"name": "URL", "value": "http://b"}],
                "envFrom": [{"configMapRef": {"name": "c"}}]}], "volumes": [{"name": "f", "configMap": {"name": "f"}}]}}}}));
        builder.finish()
    }

    #[test]
    fn settings_come_from_everywhere_with_their_place() {
        let snapshot = snapshot();
        let all = settings(&snapshot, &snapshot.workloads[0]);
        let find = |name: &str| all.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(find("URL").subject.field_path, "spec.template.spec.containers[0].env[0].value");
        let timeout = find("CLIENT_TIMEOUT_MS");
        assert_eq!((timeout.value.as_deref(), timeout.previous.as_deref()), (Some("200"), Some("4000")));
        assert_eq!(timeout.subject.field_path, "data.CLIENT_TIMEOUT_MS");
        assert_eq!((find("EMPTY").value.as_ref(), find("SECRETISH").value.as_ref()), (None, None));
        assert_eq!(find("hikari.maximum-pool-size").value.as_deref(), Some("1"));
        assert_eq!(find("timeout").millis(), [2000.0]);
    }

    #[test]
    fn a_new_value_restarts_what_reads_it() {
        let snapshot = snapshot();
        let all = settings(&snapshot, &snapshot.workloads[0]);
        let timeout = all.iter().find(|s| s.name == "CLIENT_TIMEOUT_MS").unwrap();
        let remedy = timeout.set(&snapshot, "4000", "raise it").unwrap();
        assert!(
            remedy.commands[0].contains("/data/CLIENT_TIMEOUT_MS")
                && remedy.commands[1].contains("rollout restart deployment/a")
        );
        assert!(remedy.rollback[0].contains("200"));
        assert!(all.iter().find(|s| s.name == "timeout").unwrap().set(&snapshot, "1", "x").is_none());
    }

    #[test]
    fn names_and_units() {
        let setting = |name: &str, value: &str| {
            let snapshot = snapshot();
            let all = settings(&snapshot, &snapshot.workloads[0]);
            Setting { name: name.into(), value: Some(value.into()), ..all[0].clone() }
        };
        assert_eq!(setting("clientTimeoutMs", "").words(), ["client", "timeout", "ms"]);
        assert_eq!(setting("POOL_SIZE", "").words(), ["pool", "size"]);
        assert_eq!(setting("TIMEOUT", "2").millis(), [2.0, 2000.0]);
        assert_eq!(setting("TIMEOUT_SECONDS", "2").millis(), [2000.0]);
        assert_eq!(setting("TIMEOUT", "250ms").write_millis(4000.0), "4000ms");
        assert_eq!(setting("TIMEOUT_SECONDS", "2").write_millis(4100.0), "5");
        assert_eq!(setting("TIMEOUT_MS", "20").write_millis(4100.0), "4100");
    }
}
