//! Generated files are current. `UPDATE=1 cargo test --test it generated` rewrites them.

use meshscope::analyze::registry::RULES;
use meshscope::report::{json, rule_docs};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The generated files and what they must hold.
fn generated() -> BTreeMap<PathBuf, String> {
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    files.insert(
        "docs/report.schema.json".into(),
        format!("{}\n", serde_json::to_string_pretty(&json::schema()).unwrap()),
    );
    files.insert("docs/debugsession.md".into(), meshscope::api::reference::debug_session().unwrap());
    files.insert("docs/rules/README.md".into(), rule_docs::index());
    for rule in RULES {
        files.insert(format!("docs/rules/{}.md", rule.meta().code).into(), rule_docs::page(rule.meta()));
    }
    files
}

#[test]
fn generated_files_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let update = std::env::var_os("UPDATE").is_some();
    let files = generated();
    let mut stale = vec![];
    for (path, content) in &files {
        let full = root.join(path);
        if std::fs::read_to_string(&full).ok().as_ref() != Some(content) {
            if update {
                std::fs::create_dir_all(full.parent().unwrap()).unwrap();
                std::fs::write(&full, content).unwrap();
            } else {
                stale.push(path.display().to_string());
            }
        }
    }
    for entry in std::fs::read_dir(root.join("docs/rules")).unwrap() {
        let path = entry.unwrap().path();
        if !files.contains_key(path.strip_prefix(root).unwrap()) {
            if update {
                std::fs::remove_file(&path).unwrap();
            } else {
                stale.push(format!("{} (no rule makes it)", path.display()));
            }
        }
    }
    assert!(stale.is_empty(), "stale: {}\nrun: UPDATE=1 cargo test --test it generated", stale.join(", "));
}

#[test]
fn a_report_is_valid_against_its_schema() {
    use meshscope::analyze::diagnosis::{Options, analyze};
    let validator = jsonschema::validator_for(&json::schema()).unwrap();
    let fires = root_fixture();
    let material = meshscope::collect::bundle::read(&[fires]).unwrap();
    let diagnosis = analyze(&meshscope::collect::assemble::assemble(material), &Options::default());
    let document = serde_json::to_value(json::document(&diagnosis)).unwrap();
    let errors: Vec<_> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let mut broken = document;
    broken["rootCauses"] = serde_json::json!("none");
    assert!(!validator.is_valid(&broken), "a schema that accepts anything proves nothing");
}

fn root_fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules/ISTIO104-subset-without-pods/fires.yaml")
}
