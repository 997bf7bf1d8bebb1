//! What nodes went through, from events about them.

use super::{Change, ChangeKind};
use crate::model::event::Event;

/// What an event's reason says that happened to a node; `None` for what is no news.
fn words(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "NodeNotReady" => "became not ready",
        "NodeReady" => "became ready",
        "Rebooted" => "rebooted",
        "NodeNotSchedulable" => "was cordoned",
        "NodeSchedulable" => "was uncordoned",
        "RemovingNode" | "DeletingNode" => "was removed from the cluster",
        "NodeShutdown" | "Shutdown" => "shut down",
        "NodeHasDiskPressure" => "came under disk pressure",
        "NodeHasInsufficientMemory" => "came under memory pressure",
        "NodeHasInsufficientPID" => "ran short of process numbers",
        "SystemOOM" | "OOMKilling" => "ran out of memory",
        "KernelOops" | "TaskHung" => "had trouble in its kernel",
        _ => return None,
    })
}

/// The events about nodes that tell of a change of theirs.
pub(super) fn events(events: &[Event]) -> Vec<Change> {
    let about = events.iter().filter(|event| event.about.kind == "Node");
    about
        .filter_map(|event| {
            let what = words(&event.reason)?.to_owned();
            let change = Change::new(event.last?, &event.about, ChangeKind::NodeState);
            // Nodes live in no namespace; their events stand in `default`, and name it in old versions.
            let mut subject = change.subject.clone();
            subject.namespace.clear();
            Some(Change { subject, by: event.reporter.clone(), fields: vec![what], ..change })
        })
        .collect()
}
