//! AuthorizationPolicies: CUSTOM is asked first, then DENY, then ALLOW; AUDIT only logs.

#[cfg(test)]
mod tests;

use super::facts::Facts;
use super::rule::{Purpose, Verdict, judge};
use crate::analyze::twin::answer::Step;
use crate::model::fields::Fields;
use crate::model::json::Value;
use crate::model::mesh::istio::{Istio, Policy};

/// What authorization says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorized {
    /// The request passes.
    Yes,
    /// The proxy denies it; Envoy's detail of the denial.
    No(String),
    /// An external authorizer cannot be asked, and the proxy answers with this status; why.
    Unasked(u16, String),
    /// Hangs on something that is not known; the text says on what.
    Unknown(String),
}

/// Who is there to be asked at the address of an external authorizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorizer {
    /// Somebody, or nobody here knows who.
    There,
    /// The mesh knows no such host.
    NoSuchHost,
    /// The host has no pod that takes requests, and why.
    Nobody(String),
}

/// What a policy does with what its rules match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Custom,
    Audit,
    Deny,
    Allow,
}

impl Action {
    fn of(policy: &Policy) -> Option<Self> {
        match policy.object.body.text("spec.action").unwrap_or("ALLOW") {
            "CUSTOM" => Some(Action::Custom),
            "AUDIT" => Some(Action::Audit),
            "DENY" => Some(Action::Deny),
            "ALLOW" => Some(Action::Allow),
            _ => None,
        }
    }
}

/// Whether a policy only says what it would do.
pub fn is_dry_run(policy: &Policy) -> bool {
    let word = policy.object.annotations.get("istio.io/dry-run");
    matches!(word, Some("true" | "True" | "TRUE" | "t" | "T" | "1"))
}

/// What the rules of several policies of one action say together.
#[derive(Default)]
struct Matched<'p> {
    /// The first rule that matches, by policy and place.
    first: Option<(&'p Policy, usize)>,
    /// The first rule that hangs on something unknown: the policy and the field.
    unknown: Option<(&'p Policy, String)>,
    /// Rules that the proxy's configuration leaves out, with the field for which it does.
    left_out: Vec<(&'p Policy, String)>,
}

fn matched<'p>(policies: &[&'p Policy], purpose: Purpose, facts: &Facts) -> Matched<'p> {
    let mut out = Matched::default();
    for policy in policies {
        for (index, rule) in policy.object.body.list("spec.rules").iter().enumerate() {
            match judge(rule, index, policy.object.namespace(), purpose, facts) {
                Verdict::Matches => {
                    out.first = Some((policy, index));
                    return out;
                }
                Verdict::Unknown(field) => {
                    out.unknown = out.unknown.take().or(Some((policy, field)));
                }
                Verdict::Unmet(_, Some(field)) => out.left_out.push((policy, field)),
                Verdict::Unmet(_, None) => {}
            }
        }
    }
    out
}

fn step(policy: &Policy, field: impl Into<String>, said: impl Into<String>) -> Step {
    Step::by(&policy.object.reference.field(field), said)
}

fn rule_at(index: usize) -> String {
    format!("spec.rules[{index}]")
}

fn detail(policy: &Policy, index: usize) -> String {
    format!(
        "rbac_access_denied_matched_policy[ns[{}]-policy[{}]-rule[{index}]]",
        policy.object.namespace(),
        policy.object.name()
    )
}

/// Asks the policies that apply to a destination, those with external authorizers aside.
pub fn authorize(policies: &[&Policy], facts: &Facts, steps: &mut Vec<Step>) -> Authorized {
    let of = |action: Action| in_force(policies, action);
    for policy in policies.iter().filter(|policy| is_dry_run(policy)) {
        steps.push(step(policy, "metadata.annotations", "is a dry run and changes nothing"));
    }
    if let Some(policy) = policies.iter().find(|policy| Action::of(policy).is_none()) {
        return Authorized::Unknown(format!("{} has an action that is not known", policy.object.reference));
    }
    if let Some((policy, index)) = matched(&of(Action::Audit), Purpose::Other, facts).first {
        steps.push(step(policy, rule_at(index), "matches: it is logged"));
    }
    match deny(&of(Action::Deny), facts, steps) {
        Authorized::Yes => allow(&of(Action::Allow), facts, steps),
        refused @ (Authorized::No(_) | Authorized::Unasked(..)) => refused,
        // Where ALLOW denies as well, the caller sees the same.
        Authorized::Unknown(why) => match allow(&of(Action::Allow), facts, steps) {
            Authorized::No(detail) => Authorized::No(detail),
            _ => Authorized::Unknown(why),
        },
    }
}

/// Asks the policies with external authorizers, which come before tokens are looked at: no rule of theirs sees one.
/// `authorizer` says who is at a host (`[namespace/]name`) and port.
pub fn consult(
    istio: &Istio,
    policies: &[&Policy],
    facts: &Facts,
    authorizer: &dyn Fn(&str, u16) -> Authorizer,
    steps: &mut Vec<Step>,
) -> Authorized {
    custom(istio, &in_force(policies, Action::Custom), facts, authorizer, steps)
}

/// The policies with an action that are more than a dry run.
fn in_force<'p>(policies: &[&'p Policy], action: Action) -> Vec<&'p Policy> {
    let wanted = policies.iter().filter(|policy| Action::of(policy) == Some(action));
    wanted.filter(|policy| !is_dry_run(policy)).copied().collect()
}

fn custom(
    istio: &Istio,
    policies: &[&Policy],
    facts: &Facts,
    authorizer: &dyn Fn(&str, u16) -> Authorizer,
    steps: &mut Vec<Step>,
) -> Authorized {
    let found = matched(policies, Purpose::Other, facts);
    let (policy, field) = match (found.first, found.unknown) {
        (Some((policy, index)), _) => (policy, rule_at(index)),
        (None, Some((policy, field))) => {
            steps.push(step(policy, field.clone(), "hangs on something that is not known"));
            return Authorized::Unknown(format!(
                "whether {} asks its authorizer hangs on {field}, which is not known",
                policy.object.reference
            ));
        }
        (None, None) => return Authorized::Yes,
    };
    let name = policy.object.body.string("spec.provider.name");
    let provider = provider(istio, &name);
    let bad = |said: String, steps: &mut Vec<Step>| {
        steps.push(step(policy, "spec.provider.name", said));
        let rule = field.trim_start_matches("spec.rules[").trim_end_matches(']');
        Authorized::No(format!(
            "rbac_access_denied_matched_policy[istio-ext-authz-{name}-ns[{}]-policy[{}]-rule[{rule}]-deny-due-to-bad-CUSTOM-action]",
            policy.object.namespace(),
            policy.object.name()
        ))
    };
    let config = match provider {
        Some(Provider::Missing) => {
            return bad(format!("names {name:?}, which the MeshConfig does not have: denied"), steps);
        }
        Some(Provider::Http(config) | Provider::Grpc(config)) => Some(config),
        None => None,
    };
    if let Some(Provider::Http(_)) = provider
        && !facts.http
    {
        steps.push(step(
            policy,
            "spec.provider.name",
            "names an authorizer for HTTP: a bare connection is not asked about",
        ));
        return Authorized::Yes;
    }
    let there = config.map_or(Authorizer::There, |config| {
        let port = config.int("port").and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
        authorizer(&config.string("service"), port)
    });
    match there {
        Authorizer::There => {}
        Authorizer::NoSuchHost => {
            let host = config.map(|config| config.string("service")).unwrap_or_default();
            return bad(format!("names {name:?}, whose host {host} the mesh does not know: denied"), steps);
        }
        Authorizer::Nobody(why) => {
            let open = config.is_some_and(|config| config.flag("failOpen"));
            let status = config.and_then(|config| config.text("statusOnError")?.parse().ok()).unwrap_or(403);
            let then = if open { "failOpen lets the request pass" } else { "the proxy denies by itself" };
            steps.push(step(
                policy,
                "spec.provider.name",
                format!("the authorizer {name:?} cannot be asked ({why}): {then}"),
            ));
            return if open {
                Authorized::Yes
            } else {
                Authorized::Unasked(
                    status,
                    format!(
                        "the external authorizer {name:?} of {} cannot be asked: {why}",
                        policy.object.reference
                    ),
                )
            };
        }
    }
    steps.push(step(policy, field, format!("matches: the authorizer {name:?} decides")));
    Authorized::Unknown(format!(
        "the external authorizer {name:?} of {} decides, and what it answers is not known",
        policy.object.reference
    ))
}

#[derive(Clone, Copy)]
enum Provider<'a> {
    Missing,
    Http(&'a Value),
    Grpc(&'a Value),
}

/// A provider of the MeshConfig; `None` where the MeshConfig was not seen.
fn provider<'a>(istio: &'a Istio, name: &str) -> Option<Provider<'a>> {
    if istio.mesh_config.as_object().is_none_or(crate::model::json::Map::is_empty) {
        return None;
    }
    let all = istio.mesh_config.list("extensionProviders");
    let Some(own) = all.iter().find(|own| own.text("name") == Some(name)) else {
        return Some(Provider::Missing);
    };
    let of = |kind: &str| own.at(kind).filter(|config| config.is_object());
    Some(match (of("envoyExtAuthzHttp"), of("envoyExtAuthzGrpc")) {
        (_, Some(config)) => Provider::Grpc(config),
        (Some(config), None) => Provider::Http(config),
        (None, None) => Provider::Missing,
    })
}

fn deny(policies: &[&Policy], facts: &Facts, steps: &mut Vec<Step>) -> Authorized {
    let found = matched(policies, Purpose::Other, facts);
    if let Some((policy, index)) = found.first {
        steps.push(step(policy, rule_at(index), "matches: denied"));
        return Authorized::No(detail(policy, index));
    }
    if let Some((policy, field)) = found.unknown {
        steps.push(step(policy, field.clone(), "hangs on something that is not known"));
        return Authorized::Unknown(format!(
            "whether {} denies it hangs on {field}, which is not known",
            policy.object.reference
        ));
    }
    for policy in policies {
        steps.push(step(policy, "spec.rules", "matches in no rule: does not deny"));
    }
    Authorized::Yes
}

fn allow(policies: &[&Policy], facts: &Facts, steps: &mut Vec<Step>) -> Authorized {
    if policies.is_empty() {
        return Authorized::Yes;
    }
    let found = matched(policies, Purpose::Allow, facts);
    if let Some((policy, index)) = found.first {
        steps.push(step(policy, rule_at(index), "matches: allowed"));
        return Authorized::Yes;
    }
    if let Some((policy, field)) = found.unknown {
        steps.push(step(policy, field.clone(), "hangs on something that is not known"));
        return Authorized::Unknown(format!(
            "whether {} allows it hangs on {field}, which is not known",
            policy.object.reference
        ));
    }
    for (policy, field) in found.left_out {
        steps.push(step(policy, field, "cannot be checked on this connection: the rule allows nothing"));
    }
    for policy in policies {
        let (field, said) = closest(policy, facts);
        steps.push(step(policy, field, said));
    }
    Authorized::No("rbac_access_denied_matched_policy[none]".to_owned())
}

/// Why a policy does not allow a request: the field that keeps its closest rule from matching, and what it meets.
fn closest(policy: &Policy, facts: &Facts) -> (String, String) {
    let rules = policy.object.body.list("spec.rules");
    let judged = rules.iter().enumerate().filter_map(|(index, rule)| {
        match judge(rule, index, policy.object.namespace(), Purpose::Allow, facts) {
            Verdict::Unmet(unmet, None) => Some(unmet),
            _ => None,
        }
    });
    let nearest = judged.min_by_key(Vec::len).and_then(|unmet| unmet.into_iter().next());
    match nearest {
        Some(unmet) => (unmet.path, format!("does not allow it: {} does not fit", unmet.presented)),
        None if rules.is_empty() => ("spec.rules".to_owned(), "has no rule: allows nothing".to_owned()),
        None => ("spec.rules".to_owned(), "does not allow it: no rule matches".to_owned()),
    }
}
