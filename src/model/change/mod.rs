//! What somebody did: edits, rollouts, scalings, creations, releases; and what nodes went through.

mod diff;
mod edit;
mod node;
pub mod path;
mod release;
mod rollout;

use jiff::Timestamp;

use super::event::Event;
use super::object::ObjectRef;
use super::workload::Workload;
use crate::model::objects::Objects;

pub use diff::diff;
pub use edit::applied;
pub use release::{Release, Tool};

/// What sort of change it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// The object was made.
    Created,
    /// Fields of it were written.
    Edited,
    /// A new template of pods was rolled out.
    Rollout,
    /// The number of replicas was changed.
    Scaled,
    /// A tool that deploys brought in another version: the subject is its own object.
    Released,
    /// Somebody asked for its deletion.
    Deleted,
    /// A node went through something: nobody needs to have done it.
    NodeState,
}

impl ChangeKind {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Created => "Created",
            ChangeKind::Edited => "Edited",
            ChangeKind::Rollout => "Rollout",
            ChangeKind::Scaled => "Scaled",
            ChangeKind::Released => "Released",
            ChangeKind::Deleted => "Deleted",
            ChangeKind::NodeState => "NodeState",
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// When.
    pub time: Timestamp,
    /// To what.
    pub subject: ObjectRef,
    /// What sort.
    pub kind: ChangeKind,
    /// The field manager that did it; empty where unknown.
    pub by: String,
    /// The fields that it wrote or that differ. For an edit these are all that the manager owns, the changed among them; for
    /// [`ChangeKind::NodeState`] what the node went through, in words.
    pub fields: Vec<String>,
    /// Old and new values, where both are known: path, before, after.
    pub differences: Vec<Difference>,
    /// The release of a deploying tool that the subject belongs to, where its labels or annotations say so.
    pub release: Option<Release>,
}

impl Change {
    /// A change of which nothing more is known.
    pub(super) fn new(time: Timestamp, subject: &ObjectRef, kind: ChangeKind) -> Self {
        let (subject, none) = (subject.clone(), vec![]);
        Change { time, subject, kind, by: String::new(), fields: none, differences: vec![], release: None }
    }
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `spec.template.spec.containers[name=app].image`.
    pub path: String,
    /// Before; empty where it was absent.
    pub before: String,
    /// After; empty where it is absent.
    pub after: String,
}

/// The changes that objects carry in themselves, in order of time.
pub fn changes(objects: &Objects, workloads: &[Workload], events: &[Event]) -> Vec<Change> {
    let mut out = edit::edits(objects, events);
    out.extend(rollout::rollouts(objects, workloads, events));
    out.extend(edit::scalings(objects, workloads, events, &out));
    out.extend(release::releases(objects));
    out.extend(node::events(events));
    for change in &mut out {
        let r = &change.subject;
        let object = objects.get(&r.kind, &r.namespace, &r.name);
        let object = object.filter(|_| change.kind != ChangeKind::Released);
        change.release = object.and_then(Release::of);
    }
    out.sort_by(|a, b| (a.time, &a.subject, a.kind).cmp(&(b.time, &b.subject, b.kind)));
    out.dedup_by(|a, b| a == b);
    out
}
