//! Recorded incidents, end to end: read the bundle, analyse it, compare with what was wrong.

use meshscope::analyze::diagnosis::{Diagnosis, Options, Verdict, analyze};
use meshscope::analyze::finding::Severity;
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `expected.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Expected {
    /// What was done, in one sentence.
    #[allow(dead_code, reason = "for the reader of the file")]
    pub(crate) what: String,
    /// Nothing is wrong: anything at Warning or above is a false alarm.
    #[serde(default)]
    pub(crate) healthy: bool,
    /// Objects that count as the root cause: `Kind namespace/name`.
    #[serde(default)]
    pub(crate) root_cause: Vec<String>,
    /// A word that the fix must contain.
    #[serde(default)]
    pub(crate) fix: String,
}

/// The folders under `tests/scenarios`.
pub(crate) fn scenarios() -> Vec<(PathBuf, Expected)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut out: Vec<(PathBuf, Expected)> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| {
            let text = std::fs::read_to_string(path.join("expected.json"))
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let expected = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path, expected)
        })
        .collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

fn diagnose(folder: &Path) -> Diagnosis {
    let material = bundle::read(&[folder.join("bundle.tar.zst")])
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    analyze(&assemble(material), &Options::default())
}

/// What is wrong with a diagnosis; `None` where it is right.
fn judge(expected: &Expected, diagnosis: &Diagnosis) -> Option<String> {
    if expected.healthy {
        let loud: Vec<_> = diagnosis
            .findings
            .iter()
            .filter(|f| f.severity >= Severity::Warning)
            .map(|f| format!("{} {}", f.meta.code, f.title))
            .collect();
        let quiet = loud.is_empty() && diagnosis.root_causes.is_empty();
        return (!quiet).then(|| format!("is healthy, and {loud:#?} was said"));
    }
    let Some(first) = diagnosis.root_causes.first() else {
        return Some(format!(
            "no root cause; findings: {:#?}",
            diagnosis.findings.iter().map(|f| &f.title).collect::<Vec<_>>()
        ));
    };
    let named = first.subject.to_string();
    if !expected.root_cause.contains(&named) {
        let all: Vec<_> =
            diagnosis.root_causes.iter().map(|c| format!("{} {}", c.probability, c.subject)).collect();
        return Some(format!("blames {named} and not one of {:?}; ranking {all:#?}", expected.root_cause));
    }
    if diagnosis.verdict != Verdict::RootCauseFound {
        return Some(format!("the verdict is {}", diagnosis.verdict.as_str()));
    }
    let finding = diagnosis.finding_of(first)?;
    let remedies = format!("{:?} {}", finding.remedies, finding.message);
    if !remedies.to_lowercase().contains(&expected.fix.to_lowercase()) {
        return Some(format!("no word of {:?} in its remedies", expected.fix));
    }
    if finding.remedies.iter().any(|remedy| remedy.patch.is_some() && remedy.rollback.is_empty()) {
        return Some("a patch without rollback".to_owned());
    }
    None
}

#[test]
fn every_incident_is_understood() {
    let all = scenarios();
    let healthy = all.iter().filter(|(_, expected)| expected.healthy).count();
    assert!(
        all.len() - healthy >= 20 && healthy >= 5,
        "{} incidents and {healthy} healthy ones",
        all.len() - healthy
    );
    let wrong: Vec<String> = all
        .iter()
        .filter_map(|(path, expected)| {
            Some(format!("{}: {}", path.file_name()?.to_string_lossy(), judge(expected, &diagnose(path))?))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
