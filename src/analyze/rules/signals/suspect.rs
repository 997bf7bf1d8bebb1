//! What the rules of this family share: each words suspects of one nature.

use crate::analyze::anomaly::{Anomaly, object_of};
use crate::analyze::causal::suspects::{Nature, Suspect, Suspects};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::rule::Meta;
use crate::model::snapshot::Snapshot;

/// A suspect below this probability is not worth a finding.
const WORTH_A_FINDING: f64 = 0.02;
/// From this probability on the finding is an error and no warning.
const LIKELY: f64 = 0.25;
/// Anomalies told of each suspect.
const TOLD: usize = 4;

/// A suspect with its anomalies.
#[derive(Debug)]
pub struct Fact {
    /// The suspect.
    pub suspect: Suspect,
    /// Its anomalies, the strongest first.
    pub anomalies: Vec<Anomaly>,
}

/// The suspects of one nature.
pub(super) fn of_nature(snapshot: &Snapshot, nature: Nature) -> Vec<Fact> {
    let suspects = snapshot.derived::<Suspects>();
    let wanted = suspects.all.iter().filter(|s| s.nature == nature && s.probability >= WORTH_A_FINDING);
    wanted
        .map(|suspect| {
            let own = suspect.anomalies.iter().filter_map(|at| suspects.anomalies.get(*at)).cloned();
            Fact { suspect: suspect.clone(), anomalies: own.collect() }
        })
        .collect()
}

/// The strongest anomaly in words: `CPU rose from 5 to 98 %`; of what is not measured itself, where it shows.
pub(super) fn leading(fact: &Fact) -> String {
    if fact.suspect.unseen {
        let callers: std::collections::BTreeSet<String> =
            fact.anomalies.iter().filter_map(|one| Some(one.about()?.to_string())).collect();
        return format!(
            "what {} show together has no other explanation",
            callers.into_iter().collect::<Vec<_>>().join(" and ")
        );
    }
    fact.anomalies.first().map_or_else(|| "it deviates".to_owned(), Anomaly::told)
}

/// The finding about a suspect; the rule adds its remedies.
pub(super) fn finding(meta: &'static Meta, snapshot: &Snapshot, fact: &Fact, title: String) -> Finding {
    let service = &fact.suspect.service;
    let evidence: Vec<Evidence> = fact
        .anomalies
        .iter()
        .take(TOLD)
        .flat_map(|anomaly| anomaly.evidence.iter().take(1).cloned())
        .collect();
    let told: Vec<String> = fact.anomalies.iter().take(TOLD).map(Anomaly::told).collect();
    let severity = if fact.suspect.probability >= LIKELY { Severity::Error } else { Severity::Warning };
    let told = if fact.suspect.unseen {
        let felt: Vec<String> =
            fact.anomalies.iter().take(TOLD).map(|one| format!("at {}: {}", one.place, one.told())).collect();
        let reason = "they call it, and nothing that was seen accounts for what they show together";
        format!("Nothing is measured at {service}; {reason}: {}. Among", felt.join("; "))
    } else {
        format!("At {service}: {}. Among", told.join("; "))
    };
    let message = format!(
        "{told} all services that deviate it is the one at fault with a probability of {:.0} %, \
         what its dependencies account for left out.",
        100.0 * fact.suspect.probability
    );
    Finding::new(meta, object_of(snapshot, service), &[&service.to_string()])
        .title(title)
        .message(message)
        .role(Role::Cause, if fact.suspect.unseen { Confidence::Possible } else { Confidence::Observed })
        .severity(severity)
        .service(Some(service.clone()))
        .effect(Effect::requests(service, &[]))
        .evidences(evidence)
        .onset(fact.suspect.onset)
}
