//! What came of trying a fix.

use crate::analyze::finding::Severity;
use crate::analyze::twin::answer::{Answer, Outcome};
use crate::model::object::ObjectRef;

/// What came of trying a fix on the snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Trial {
    /// It was tried, and this is the difference that it makes.
    Verified(Box<Verified>),
    /// It could not be decided; why, as a clause.
    NotTried(String),
}

/// The difference that a fix makes, as far as configuration and objects decide it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// Fingerprints of the findings that are gone with it.
    pub resolves: Vec<String>,
    /// Findings of Warning and above that come with it.
    pub introduces: Vec<Introduced>,
    /// Requests that fare otherwise, and those that were seen to fail and still do.
    pub requests: Vec<Tried>,
    /// How many further requests were asked and fare as before.
    pub alike: usize,
    /// Whether the rollback was found to give the objects back as they were.
    pub restores: bool,
    /// What was taken for granted, such as that new pods become ready.
    pub assumes: Vec<String>,
}

/// A finding that a fix would bring.
#[derive(Debug, Clone, PartialEq)]
pub struct Introduced {
    /// The rule's code.
    pub code: &'static str,
    /// How bad.
    pub severity: Severity,
    /// Whether it is an Error, or would be one as soon as requests meet it: nobody can have seen what is new.
    pub grave: bool,
    /// About what.
    pub subject: ObjectRef,
    /// What it says.
    pub title: String,
}

/// A request before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    /// The request, and from where.
    pub request: String,
    /// As it fares now.
    pub before: Fate,
    /// As it fares with the fix.
    pub after: Fate,
}

/// How a request fares.
#[derive(Debug, Clone, PartialEq)]
pub struct Fate {
    /// What becomes of it.
    pub outcome: Outcome,
    /// The status that the caller sees.
    pub status: Option<u16>,
    /// Envoy's response flag.
    pub flag: String,
    /// In a few words: `503 UH`.
    pub label: String,
    /// What decided.
    pub detail: String,
    /// Whether it fails, in whole or for a share.
    pub fails: bool,
    /// Whether it fails in whole.
    wholly: bool,
    /// Who gets it.
    backends: Vec<(String, String, u16, String)>,
}

impl Fate {
    /// What an answer comes to.
    pub fn of(answer: &Answer) -> Self {
        let backends = answer
            .backends
            .iter()
            .map(|b| (b.namespace.clone(), b.service.clone(), b.port, b.subset.clone()));
        Fate {
            outcome: answer.outcome,
            status: answer.status,
            flag: answer.flag.clone(),
            label: answer.label(),
            detail: answer.detail.clone(),
            fails: answer.fails(),
            wholly: answer.fails() && answer.lost.is_empty(),
            backends: backends.collect(),
        }
    }

    /// Whether it fares worse than before: it fails and did not, or in whole and not for a share alone.
    pub fn worse_than(&self, before: &Fate) -> bool {
        (self.fails && !before.fails) || (self.wholly && !before.wholly)
    }

    /// Whether a caller sees the same, from the same destinations.
    pub fn same_as(&self, other: &Fate) -> bool {
        (self.outcome, &self.label, &self.backends) == (other.outcome, &other.label, &other.backends)
    }
}
