//! PLAT102.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use super::refused::{Refused, refused};
use crate::analyze::finding::{Evidence, Finding};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Workload, quantity};

crate::rule! {
    /// Pods are refused because their containers lie outside a LimitRange of the namespace.
    ///
    /// ## What it detects
    /// A workload that lacks pods because a container asks for more than the maximum, or less than the minimum, that a LimitRange of
    /// the namespace sets.
    /// ## Why it matters
    /// No pod is made, and nothing but an event of the ReplicaSet says why.
    /// ## Evidence
    /// The API server's refusal, and the LimitRange that sets the bound.
    /// ## How to confirm
    /// `kubectl describe limitrange` in the namespace, and `kubectl describe replicaset` for the refusal.
    /// ## How to fix
    /// Bring the container's requests and limits within the bounds, or change the LimitRange.
    /// ## False positives
    /// A refusal that a later attempt made good is not reported: the workload has its pods.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/policy/limit-range/>
    LimitRangeViolated {
        code: "PLAT102", name: "limit-range-violated", family: Platform, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// What a LimitRange forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// `maximum` or `minimum`.
    end: String,
    /// `cpu` or `memory`.
    resource: String,
    /// `Container` or `Pod`.
    per: String,
    /// The bound.
    bound: String,
    /// `limit` or `request`, and what it is.
    which: String,
    value: String,
}

/// A workload whose pods a LimitRange refuses.
#[derive(Debug)]
pub struct Fact<'a> {
    refused: Refused<'a>,
    bound: Bound,
    range: Option<&'a Object>,
}

impl Check for LimitRangeViolated {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for refused in refused(snapshot) {
            let Some(bound) = parse(refused.message) else { continue };
            if out.iter().any(|f| f.refused.owner.same_object(&refused.owner) && f.bound == bound) {
                continue;
            }
            let field = if bound.end == "maximum" { "max" } else { "min" };
            let sets = |range: &&Object| {
                range.namespace() == refused.owner.namespace
                    && range.body.list("spec.limits").iter().any(|limit| {
                        let value = limit.at(field).and_then(|f| f.child(&bound.resource)?.as_str());
                        value.and_then(quantity).is_some_and(|v| Some(v) == quantity(&bound.bound))
                    })
            };
            let range = snapshot.objects_of("LimitRange").find(sets);
            out.push(Fact { refused, bound, range });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (refused, bound) = (&fact.refused, &fact.bound);
        let owner = &refused.owner;
        let place = refused.workload.and_then(|w| violator(w, bound));
        let subject = owner.field(place.as_ref().map_or_else(
            || refused.workload.map_or_else(String::new, |w| w.template_path("spec.containers[0].resources")),
            |(path, _)| path.clone(),
        ));
        let range = fact
            .range
            .map_or_else(|| "a LimitRange of the namespace".to_owned(), |r| r.reference.to_string());
        let what = format!(
            "{} {} per {} is {}, and its {} is {}",
            bound.end, bound.resource, bound.per, bound.bound, bound.which, bound.value
        );
        let mut finding = refused
            .finding(Self::META, subject.clone(), &[&bound.end, &bound.resource], snapshot)
            .title(format!("{owner}: pods refused by a LimitRange: {what}"))
            .message(format!(
                "The API server refuses to make pods of {owner}: {range} says that the {what}. {}",
                refused.serves()
            ))
            .mechanism(
                "limit range violated: a container lies outside the bounds of the namespace's LimitRange",
            )
            .evidence(Evidence::object(&subject, format!("{} {}", bound.which, bound.value)));
        let reference: Option<&ObjectRef> = fact.range.map(|r| &r.reference);
        if let Some(reference) = reference {
            finding = finding.related(reference.field("spec.limits"));
        }
        finding
            .maybe_remedy(place.and_then(|(path, workload)| {
                Remedy::patch(
                    &workload.object,
                    &json!([{"op": "replace", "path": pointer(&path), "value": bound.bound}]),
                    format!("Set the {} of {} in the template to {}, which the LimitRange allows", bound.which, bound.resource, bound.bound),
                )
            }))
            .remedy(Remedy::commands(
                format!("Or change the {} of {} in the LimitRange", bound.end, bound.resource),
                vec![format!("kubectl -n {} describe limitrange", crate::analyze::remedy::quote(&owner.namespace))],
                vec![],
            ))
            .prevention(Prevention::of("Test", "Apply the manifests with --dry-run=server in a namespace with the same LimitRange, as a bare Pod too: a Deployment alone is not checked"))
    }
}

/// Reads `maximum cpu usage per Container is 1, but limit is 2`.
fn parse(message: &str) -> Option<Bound> {
    static SENTENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(maximum|minimum) ([a-z\-]+) usage per (Container|Pod) is ([0-9.a-zA-Z]+), but (limit|request) is ([0-9.a-zA-Z]+)").ok()
    });
    let found = SENTENCE.as_ref()?.captures(message)?;
    let text =
        |at| found.get(at).map_or("", |m: regex::Match<'_>| m.as_str()).trim_end_matches('.').to_owned();
    Some(Bound {
        end: text(1),
        resource: text(2),
        per: text(3),
        bound: text(4),
        which: text(5),
        value: text(6),
    })
}

/// The field of the template that holds the value which is refused.
fn violator<'a>(workload: &'a Workload, bound: &Bound) -> Option<(String, &'a Workload)> {
    let which = format!("{}s", bound.which);
    let value = quantity(&bound.value);
    workload.template.containers.iter().find_map(|container| {
        let own = container.body.at(&format!("resources.{which}"))?.child(&bound.resource)?.as_str();
        (own.and_then(quantity) == value).then(|| {
            (
                workload.template_path(&format!(
                    "spec.{}.resources.{which}.{}",
                    container.path(),
                    bound.resource
                )),
                workload,
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_sentence() {
        let bound =
            parse("pods \"a\" is forbidden: maximum cpu usage per Container is 1, but limit is 2").unwrap();
        assert_eq!(
            (
                bound.end.as_str(),
                bound.resource.as_str(),
                bound.bound.as_str(),
                bound.which.as_str(),
                bound.value.as_str()
            ),
            ("maximum", "cpu", "1", "limit", "2")
        );
        assert_eq!(parse("exceeded quota: a"), None);
    }
}
