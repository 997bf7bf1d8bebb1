//! Statements found again from their lines, on labelled logs of many kinds (`tests/logs`).
//!
//! Each line there is `LABEL<tab>LINE`; a line that continues the one before it has the label `-`. The lines are made up, in the formats
//! of the programs that the files are named after. The figures of `docs/performance.md` come from here:
//! `cargo test --test it templates -- --nocapture`.

use meshscope::analyze::logs::digest::Digest;
use meshscope::model::log::LogStream;
use meshscope::model::snapshot::Builder;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Grouping accuracy (the share of lines in exactly the right group) and its F1 over groups.
fn accuracy(text: &str) -> (f64, f64) {
    let mut log = String::new();
    let mut labels = vec![];
    for (at, line) in text.lines().enumerate() {
        let (label, line) = line.split_once('\t').expect("a label and a line");
        log.push_str(&format!("2026-11-22T12:{:02}:{:02}.0Z {line}\n", at / 60, at % 60));
        if label != "-" {
            labels.push(label);
        }
    }
    let mut builder = Builder::new();
    builder.log(LogStream::read("n", "p", "c", false, log.as_bytes(), false));
    let snapshot = builder.finish();
    let digest = snapshot.derived::<Digest>();
    let found = &digest.events.services.values().next().expect("a service").events;
    assert_eq!(found.len(), labels.len(), "a stack is one entry with the line that it belongs to");
    let mut wanted: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut groups: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
    for (at, (label, event)) in labels.iter().zip(found).enumerate() {
        wanted.entry(label).or_default().insert(at);
        groups.entry(event.template).or_default().insert(at);
    }
    let right: Vec<_> = groups.values().filter(|group| wanted.values().any(|w| w == *group)).collect();
    let lines: usize = right.iter().map(|group| group.len()).sum();
    (lines as f64 / labels.len() as f64, 2.0 * right.len() as f64 / (groups.len() + wanted.len()) as f64)
}

#[test]
fn lines_of_one_statement_are_one_template() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    assert!(files.len() >= 12, "{} kinds of logs", files.len());
    let (mut lines, mut groups) = (0.0, 0.0);
    for path in &files {
        let (ga, fga) = accuracy(&std::fs::read_to_string(path).unwrap());
        println!("{:<16} GA {ga:.3}  FGA {fga:.3}", path.file_stem().unwrap().to_string_lossy());
        assert!(ga >= 0.75 && fga >= 0.65, "{}: GA {ga:.3}, FGA {fga:.3}", path.display());
        lines += ga / files.len() as f64;
        groups += fga / files.len() as f64;
    }
    println!("mean of {:<8} GA {lines:.3}  FGA {groups:.3}", files.len());
    assert!(lines >= 0.95 && groups >= 0.93, "GA {lines:.3}, FGA {groups:.3}");
}
