//! The fixes that findings offer, tried on the objects that the findings are about.

use meshscope::analyze::diagnosis::{Diagnosis, Options, analyze};
use meshscope::analyze::registry::RULES;
use meshscope::analyze::trial::Trial;
use meshscope::collect::assemble::assemble;
use meshscope::collect::bundle;
use std::path::Path;

/// Every fixture on which a rule fires, with its diagnosis.
fn fixtures() -> impl Iterator<Item = (String, Diagnosis)> {
    RULES.iter().flat_map(|rule| {
        let meta = rule.meta();
        let folder = format!("tests/rules/{}-{}", meta.code, meta.name);
        let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let firing = paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("fires"));
        firing.map(|path| {
            let material = bundle::read(std::slice::from_ref(&path)).unwrap();
            (path.display().to_string(), analyze(&assemble(material), &Options::default()))
        })
    })
}

#[test]
fn no_first_choice_brings_an_error_and_every_way_back_leads_back() {
    let (mut tried, mut own, mut requests) = (0, 0, 0);
    let mut wrong = vec![];
    for (path, diagnosis) in fixtures() {
        for finding in &diagnosis.findings {
            for (at, remedy) in finding.remedies.iter().enumerate() {
                let Some(Trial::Verified(verified)) = &remedy.trial else { continue };
                tried += 1;
                own += usize::from(verified.resolves.contains(&finding.id));
                requests += verified.requests.len();
                if at == 0 && verified.harms() {
                    wrong.push(format!("{path}: {}: {}: {verified:#?}", finding.meta.code, remedy.summary));
                }
                if !verified.restores {
                    wrong.push(format!("{path}: {}: {}: no way back", finding.meta.code, remedy.summary));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        tried > 40 && own > 30 && requests > 20,
        "{tried} tried, {own} end their finding, {requests} requests"
    );
}
