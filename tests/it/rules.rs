//! Every rule fires on its own fixtures and is silent on those that are alike but healthy.

use meshscope::analyze::diagnosis::{Options, analyze};
use meshscope::analyze::registry::RULES;
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use meshscope::model::snapshot::Builder;
use std::path::{Path, PathBuf};

/// The folder of a rule's fixtures: `tests/rules/ISTIO104-subset-without-pods`.
fn folder(code: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules").join(format!("{code}-{name}"))
}

fn fixtures(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|_| panic!("no fixtures: make {}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found
}

#[test]
fn every_rule_fires_on_its_fixtures_and_is_silent_on_the_near_misses() {
    let mut wrong = vec![];
    for rule in RULES {
        let meta = rule.meta();
        let folder = folder(meta.code, meta.name);
        for (prefix, expected) in [("fires", true), ("silent", false)] {
            let found = fixtures(&folder, prefix);
            if found.is_empty() {
                wrong.push(format!("{} has no {prefix}* fixture in {}", meta.code, folder.display()));
            }
            for path in found {
                let material = bundle::read(std::slice::from_ref(&path))
                    .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let diagnosis = analyze(&assemble(material), &Options::default());
                let findings: Vec<_> =
                    diagnosis.findings.iter().filter(|f| f.meta.code == meta.code).collect();
                if findings.is_empty() == expected {
                    let said: Vec<_> =
                        diagnosis.findings.iter().map(|f| format!("{}: {}", f.meta.code, f.title)).collect();
                    wrong.push(format!(
                        "{} {} on {}; said {said:#?}",
                        meta.code,
                        if expected { "is silent" } else { "fires" },
                        path.display()
                    ));
                }
                for finding in findings {
                    assert!(
                        !finding.title.is_empty() && finding.title.chars().count() <= 120,
                        "{}: title {:?}",
                        meta.code,
                        finding.title
                    );
                    assert!(!finding.message.is_empty(), "{}: no message", meta.code);
                    assert!(!finding.evidence.is_empty(), "{}: no evidence", meta.code);
                    for word in [" may ", " might ", "possibly"] {
                        assert!(
                            !finding.message.contains(word) && !finding.title.contains(word),
                            "{}: {word:?} in {:?}",
                            meta.code,
                            finding.message
                        );
                    }
                    for alert in
                        finding.prevention.iter().filter(|p| p.kind == "Alert" && !p.snippet.is_empty())
                    {
                        if let Err(error) = promql_parser::parser::parse(&alert.snippet) {
                            wrong.push(format!("{}: {}: {error}", meta.code, alert.snippet));
                        }
                    }
                    for remedy in &finding.remedies {
                        let mutates = |command: &String| {
                            ["patch", "scale", "delete", "undo", "replace", "cordon", "annotate", "label"]
                                .iter()
                                .any(|verb| {
                                    command.starts_with("kubectl")
                                        && command.split(' ').any(|word| word == *verb)
                                })
                        };
                        if remedy.commands.iter().any(mutates) && !remedy.changes() {
                            wrong.push(format!(
                                "{}: neither rollback nor why there is none: {}",
                                meta.code, remedy.summary
                            ));
                        }
                        assert!(
                            remedy.patch.is_none() || !remedy.rollback.is_empty(),
                            "{}: a patch without rollback: {}",
                            meta.code,
                            remedy.summary
                        );
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fixtures_belong_to_a_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    for entry in std::fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let known = RULES.iter().any(|rule| name == format!("{}-{}", rule.meta().code, rule.meta().name));
        assert!(known, "tests/rules/{name} belongs to no rule");
    }
}

#[test]
fn no_rule_speaks_of_nothing() {
    let diagnosis = analyze(&Builder::new().finish(), &Options::default());
    assert!(diagnosis.findings.is_empty());
    assert_eq!(diagnosis.verdict.as_str(), "Healthy");
    let failed: Vec<_> =
        diagnosis.not_evaluated.iter().filter(|rule| rule.reason.contains("failed")).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_same_input_gives_the_same_answer_byte_for_byte() {
    let path = folder("ISTIO104", "subset-without-pods").join("fires.yaml");
    let render = || {
        let material = bundle::read(std::slice::from_ref(&path)).unwrap();
        serde_json::to_string(&meshscope::report::json::document(&analyze(
            &assemble(material),
            &Options::default(),
        )))
        .unwrap()
    };
    assert_eq!(render(), render());
}

#[test]
fn a_probe_through_a_sidecar_blames_it_where_it_is_away_and_the_application_where_it_runs() {
    for (name, cause) in [("fires-agent-away.yaml", "ISTIO129"), ("fires-agent-there.yaml", "POD107")] {
        let path = folder("POD107", "liveness-probe-failing").join(name);
        let diagnosis = analyze(&assemble(bundle::read(&[path]).unwrap()), &Options::default());
        let first = diagnosis.findings.get(diagnosis.root_causes[0].finding).unwrap();
        assert_eq!(first.meta.code, cause, "{name}: {}", first.title);
    }
}
