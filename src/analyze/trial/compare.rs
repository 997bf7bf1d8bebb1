//! Which findings went and which came between two readings of almost the same objects.

use std::collections::BTreeMap;

use super::outcome::Introduced;
use crate::analyze::finding::{Finding, Role, Severity};

/// What went and what came.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Fingerprints of the findings that are gone.
    pub resolves: Vec<String>,
    /// New ones of Warning and above that are more than context.
    pub introduces: Vec<Introduced>,
}

/// Compares. A patch that takes an item out of a list moves those behind it, and a number in a title may change: a finding of
/// the same rule about the same object in the same place, positions in lists aside, is the same one.
pub(super) fn compare(before: &[Finding], after: &[Finding]) -> Compared {
    let mut old: Vec<&Finding> = before.iter().collect();
    let mut new: Vec<&Finding> = after.iter().collect();
    for titled in [true, false] {
        pair_off(&mut old, &mut new, titled);
    }
    let counts = |finding: &&Finding| finding.severity >= Severity::Warning && finding.role != Role::Context;
    Compared {
        resolves: old.iter().map(|finding| finding.id.clone()).collect(),
        introduces: new
            .into_iter()
            .filter(counts)
            .map(|finding| Introduced {
                code: finding.meta.code,
                severity: finding.severity,
                grave: finding.severity.max(finding.meta.severity) >= Severity::Error
                    && finding.role == Role::Cause
                    || finding.severity >= Severity::Error,
                subject: finding.subject.clone(),
                title: finding.title.clone(),
            })
            .collect(),
    }
}

/// Takes out of both lists what is the same finding in both, and no worse in the new one.
fn pair_off(old: &mut Vec<&Finding>, new: &mut Vec<&Finding>, titled: bool) {
    let key = |finding: &Finding| {
        let title = if titled { finding.title.clone() } else { String::new() };
        let place: String = finding.subject.field_path.chars().filter(|c| !c.is_ascii_digit()).collect();
        (finding.meta.code, finding.subject.to_string(), place, title)
    };
    let mut known: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (at, finding) in old.iter().enumerate().rev() {
        known.entry(key(finding)).or_default().push(at);
    }
    let mut paired = vec![];
    new.retain(|finding| {
        let Some(places) = known.get_mut(&key(finding)) else { return true };
        let worse = |at: &usize| old.get(*at).is_some_and(|old| old.severity < finding.severity);
        match places.pop_if(|at| !worse(at)) {
            Some(at) => {
                paired.push(at);
                false
            }
            None => true,
        }
    });
    let mut at = 0;
    old.retain(|_| {
        at += 1;
        !paired.contains(&(at - 1))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::registry::RULES;
    use crate::model::object::ObjectRef;

    fn finding(path: &str, title: &str, severity: Severity) -> Finding {
        let subject = ObjectRef::new("VirtualService", "n", "a").field(path);
        Finding::new(RULES[0].meta(), subject, &[title]).title(title).severity(severity)
    }

    #[test]
    fn a_finding_that_moves_up_a_list_is_the_same() {
        let before = [
            finding("spec.http[0]", "x is gone", Severity::Error),
            finding("spec.http[1]", "y is gone", Severity::Error),
        ];
        let after = [finding("spec.http[0]", "y is gone", Severity::Error)];
        let compared = compare(&before, &after);
        assert_eq!(compared.resolves, [before[0].id.clone()]);
        assert!(compared.introduces.is_empty());
    }

    #[test]
    fn another_number_is_no_other_finding_and_a_worse_one_is_new() {
        let before = [finding("spec.http[0]", "1 of 3", Severity::Warning)];
        let same = compare(&before, &[finding("spec.http[0]", "1 of 2", Severity::Warning)]);
        assert!(same.resolves.is_empty() && same.introduces.is_empty());
        let worse = compare(&before, &[finding("spec.http[0]", "1 of 2", Severity::Error)]);
        assert_eq!(worse.introduces.len(), 1);
    }
}
