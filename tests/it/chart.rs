//! What the chart carries is what its sources say: roles and the table of values. With `UPDATE=1`
//! the files are written instead of compared. What helm makes of it is tested in `tests/cluster`.

use std::collections::BTreeSet;

use meshscope::collect::permissions::{RoleKind, rules_yaml};
use serde_json::Value;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/meshscope");

fn read(file: &str) -> String {
    std::fs::read_to_string(format!("{CHART}/{file}")).unwrap_or_default()
}

fn is_current(file: &str, wanted: &str) {
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(format!("{CHART}/{file}"), wanted).unwrap();
    }
    assert!(read(file) == wanted, "{CHART}/{file} is not current: run UPDATE=1 cargo test --test it chart::");
}

#[test]
fn the_rules_of_its_roles_are_current() {
    for role in RoleKind::ALL {
        let text = format!("# Generated from src/collect/permissions.rs.\n{}", rules_yaml(role));
        is_current(&format!("files/rules/{}.yaml", role.name()), &text);
    }
}

#[test]
fn the_table_of_its_values_is_current() {
    const BEGIN: &str = "<!-- values: generated from values.yaml -->\n";
    const END: &str = "<!-- /values -->";
    let readme = read("README.md");
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut table = "| value | default | what it is |\n| --- | --- | --- |\n".to_owned();
    for value in values() {
        let default = value.default.map_or(String::new(), |default| format!("`{default}`"));
        table.push_str(&format!("| `{}` | {default} | {} |\n", value.path, value.about.replace('|', "\\|")));
    }
    is_current("README.md", &format!("{before}{BEGIN}\n{table}\n{END}{after}"));
}

#[test]
fn every_value_has_a_comment_and_a_place_in_the_schema() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut places = BTreeSet::new();
    leaves(&schema, "", &mut places);
    let values: BTreeSet<String> = values().into_iter().map(|value| value.path).collect();
    assert_eq!(values, places, "values.yaml with a comment each, and values.schema.json");
}

/// The paths of everything in a schema of which the parts are not named.
fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, child) in schema["properties"].as_object().unwrap() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if child.get("properties").is_some() {
            leaves(child, &path, found);
        } else {
            found.insert(path);
        }
    }
}

struct DocumentedValue {
    path: String,
    /// As JSON; absent where it takes more than a cell of a table.
    default: Option<String>,
    about: String,
}

/// The values that have a comment above them, in the order of the file.
fn values() -> Vec<DocumentedValue> {
    let text = read("values.yaml");
    let parsed: Value = serde_saphyr::from_str(&text).unwrap();
    let (mut found, mut about, mut parents) = (vec![], String::new(), Vec::<(usize, String)>::new());
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if let Some(comment) = line.trim_start().strip_prefix("# ") {
            about = format!("{about} {comment}").trim().to_owned();
        } else if let Some((key, _)) =
            line.trim_start().split_once(':').filter(|(key, _)| !key.starts_with('-'))
        {
            parents.retain(|(column, _)| *column < indent);
            parents.push((indent, key.to_owned()));
            let names: Vec<&str> = parents.iter().map(|(_, name)| name.as_str()).collect();
            let about = std::mem::take(&mut about);
            if !about.is_empty() {
                let value = parsed.pointer(&format!("/{}", names.join("/"))).unwrap();
                let default = Some(value.to_string()).filter(|text| text.len() <= 40);
                found.push(DocumentedValue { path: names.join("."), default, about });
            }
        } else {
            about.clear();
        }
    }
    found
}
