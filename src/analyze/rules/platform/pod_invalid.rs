//! PLAT125.

use regex::Regex;
use std::sync::LazyLock;

use super::refused::{Refused, TRY_AS_POD, refused, without_pods};
use crate::analyze::finding::{Evidence, Finding};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// What a webhook or a default makes of a pod is not valid, so the API server refuses it.
    ///
    /// ## What it detects
    /// A workload that lacks pods because the API server answers that the pod is invalid. The workload's own template was accepted, so
    /// something between the two made it so: an injector that reads annotations of the template, a webhook, a default.
    /// ## Why it matters
    /// There is no pod, no log and no crash to look at, and the field that is named stands in no manifest.
    /// ## Evidence
    /// The `FailedCreate` event with the fields, and the annotation of the template that holds the value which is refused.
    /// ## How to confirm
    /// Apply the template as a bare Pod with `--dry-run=server`.
    /// ## How to fix
    /// Correct the annotation or the setting from which the value comes.
    /// ## False positives
    /// None known: a refusal that a later attempt made good is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>
    PodInvalid {
        code: "PLAT125", name: "pod-invalid-after-admission", family: Platform, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// A workload whose pods are invalid.
#[derive(Debug)]
pub struct Fact<'a> {
    refused: Refused<'a>,
    /// The pod's field: `spec.initContainers[0].resources.requests`.
    field: String,
    /// The value that is refused; empty where none is said.
    value: String,
}

impl Check for PodInvalid {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for refused in refused(snapshot) {
            let Some((field, value)) = invalid(refused.message) else { continue };
            if !out.iter().any(|f| f.refused.owner.same_object(&refused.owner)) {
                out.push(Fact { refused, field, value });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let refused = &fact.refused;
        let owner = &refused.owner;
        let annotation = refused.workload.and_then(|workload| {
            let holds = |(_, value): &(&str, &str)| !fact.value.is_empty() && *value == fact.value;
            workload.template.annotations.iter().find(holds).map(|(key, _)| key.to_owned())
        });
        let own = |workload: &crate::model::workload::Workload| {
            let rest = fact.field.strip_prefix("spec.")?;
            workload.template.spec.at(rest).map(|_| workload.template_path(&fact.field))
        };
        let path = match (&annotation, refused.workload) {
            (Some(key), Some(workload)) => workload.template_path(&format!("metadata.annotations.{key}")),
            (None, Some(workload)) => own(workload).unwrap_or_else(|| workload.template_path("spec")),
            (_, None) => "spec.template".to_owned(),
        };
        let (field, value) = (text::plain(&fact.field, 90), text::plain(&fact.value, 40));
        let from = match &annotation {
            Some(key) => format!(" The value is that of annotation {}.", text::plain(key, 90)),
            None => String::new(),
        };
        refused
            .finding(Self::META, owner.field(&path), &[&fact.field], snapshot)
            .title(match &annotation {
                Some(key) => format!("{owner}: its pods are invalid by annotation {}: {value}", text::plain(key, 60)),
                None => format!("{owner}: the API server refuses its pods as invalid: {field}"),
            })
            .message(format!(
                "{}: the API server refuses them as invalid at {field}{}.{from} What admission makes of the template is not valid. {}",
                refused.lacks(),
                if value.is_empty() { String::new() } else { format!(" ({value})") },
                refused.serves()
            ))
            .mechanism("pod invalid after admission: an annotation, a webhook or a default sets a value that is not valid (limit, request)")
            .evidence(Evidence::object(&owner.field(&path), if annotation.is_some() { value.clone() } else { "the template".to_owned() }))
            .maybe_remedy(common::undo_last_rollout(snapshot, owner, annotation.as_deref().unwrap_or("")))
            .remedy(Remedy::commands(
                "Read what is refused, and correct the annotation or setting that it comes from",
                vec![common::describe_command(owner)],
                vec![],
            ))
            .prevention(Prevention::alert("Alert when a workload cannot make its pods", without_pods(owner)))
            .prevention(Prevention::of("Test", TRY_AS_POD))
    }
}

/// The first field that a message says is invalid, and its value.
fn invalid(message: &str) -> Option<(String, String)> {
    static INVALID: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"[Pp]ods? "[^"]*" is invalid: \[?([A-Za-z0-9_.\[\]"/-]+): (?:[A-Z][a-z]+ value|Forbidden|Too long|Too many|Not found)(?:: "([^"]*)"|: ([^:\s]+))?"#).ok()
    });
    let found = INVALID.as_ref()?.captures(message)?;
    let value = found.get(2).or_else(|| found.get(3)).map(|value| value.as_str().to_owned());
    Some((found.get(1)?.as_str().to_owned(), value.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_and_its_value() {
        let of = |text: &str| invalid(text).unwrap();
        let (field, value) = of(
            "Error creating: Pod \"a-1\" is invalid: [spec.initContainers[0].resources.requests: Invalid value: \"256Mi\": must be less than or equal to memory limit of 128Mi, spec.x: Required value]",
        );
        assert_eq!((field.as_str(), value.as_str()), ("spec.initContainers[0].resources.requests", "256Mi"));
        let (field, value) = of("Pod \"a\" is invalid: spec.containers[1].name: Duplicate value: \"app\"");
        assert_eq!((field.as_str(), value.as_str()), ("spec.containers[1].name", "app"));
        assert_eq!(invalid("pods \"a\" is forbidden: exceeded quota"), None);
    }
}
