//! ISTIO121.

use crate::model::json::{Value, json};
use std::collections::BTreeMap;

use super::policy_match::Request;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::{Signs, Way};
use crate::analyze::traffic::{Failures, blame, failures, text};
use crate::analyze::twin::policy::istio::authorization::is_dry_run;
use crate::analyze::twin::policy::istio::rule::{Mismatch, Purpose, Verdict, judge};
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{Outcome, Reporter};
use crate::model::workload::Workload;

crate::rule! {
    /// An AuthorizationPolicy denies requests that a caller really makes.
    ///
    /// ## What it detects
    /// Requests that the callee's proxy denied, judged against the AuthorizationPolicies that cover the callee: a policy
    /// without rules that denies everything, a policy that allows others (by principal, namespace, method, path, port, host
    /// or address), or a policy that denies exactly these.
    /// ## Why it matters
    /// Callers get `403 RBAC: access denied`, and the callee's application never hears of them.
    /// ## Evidence
    /// `rbac_access_denied_matched_policy[…]` in the callee's access log with the caller, method and path, and the clause of
    /// the policy that does not fit what the caller presents.
    /// ## How to confirm
    /// `istioctl x authz check POD` lists the policies of a pod; the caller's principal is its pod's service account.
    /// ## How to fix
    /// Add what the caller presents to the clause, take out the policy that denies everything, or give the caller its
    /// service account back.
    /// ## False positives
    /// Requests that must be denied: an attacker, or a caller that was never meant to have access.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/security/authorization-policy/>
    AuthorizationDenies {
        code: "ISTIO121", name: "authorization-denies", family: Mesh, severity: Error,
        needs: [Istio, Requests], aliases: [],
    }
}

/// Why a policy denies.
#[derive(Debug)]
enum Reason {
    /// It has no rules and denies everything; no other policy that allows covers the callee.
    DenyAll,
    /// Its closest rule does not fit because of this clause.
    Clause(Mismatch),
    /// It has the action DENY, and its rule matches.
    Denied(usize),
    /// The caller shows no certificate, and a rule asks for one.
    Plaintext(Mismatch),
}

/// A policy that denies requests of one caller to one Service.
#[derive(Debug)]
pub struct Fact<'a> {
    group: Failures,
    service: ServiceName,
    policy: &'a Policy,
    reason: Reason,
    /// The caller, where it is known.
    caller: Option<ObjectRef>,
    caller_workload: Option<&'a Workload>,
    request: Request,
    /// Whether the caller and not the policy is the odd one out.
    blame_caller: bool,
}

impl Check for AuthorizationDenies {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        failures(snapshot, Way::Rbac)
            .into_iter()
            .filter(|group| !group.parts.iter().all(|part| part.details.contains("bad-CUSTOM-action")))
            .flat_map(|group| denied(snapshot, &group))
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let policy = &fact.policy.object.reference;
        let caller = fact.caller.as_ref().map_or("its callers".to_owned(), |c| text::plain(&c.name, 40));
        let callee = &fact.service.name;
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        let since = fact.group.onset.map(|at| format!(" since {}", text::clock(at))).unwrap_or_default();
        let account =
            fact.caller_workload.map(|w| w.reference().field(w.template_path("spec.serviceAccountName")));
        let (field, title, why, mechanism) = match &fact.reason {
            Reason::DenyAll => (
                "spec".to_owned(),
                format!("{policy} has no rules and denies every request to {callee}"),
                format!(
                    "{policy} covers {callee} and has no rules: it allows nothing, and no other policy allows anything."
                ),
                "authorization denied: deny-all policy, RBAC access denied".to_owned(),
            ),
            Reason::Clause(mismatch) | Reason::Plaintext(mismatch) => (
                mismatch.path.clone(),
                format!("{policy} does not allow {caller} to call {callee}: {}", apart(mismatch)),
                format!(
                    "Policies that allow cover {callee}, so what none of their rules matches is denied. The closest rule lists {} {}; {caller} comes with {}.",
                    mismatch.clause,
                    text::plain(&mismatch.listed.join(", "), 160),
                    text::plain(&mismatch.presented, 120)
                ),
                format!("authorization denied by {}: RBAC access denied", what(&mismatch.clause)),
            ),
            Reason::Denied(index) => (
                format!("spec.rules[{index}]"),
                format!("{policy} denies what {caller} asks of {callee}"),
                format!("{policy} has the action DENY, and its rule {index} matches these requests."),
                "authorization denied: DENY policy, RBAC access denied".to_owned(),
            ),
        };
        let policy_ref = policy.field(field);
        let (subject, title) = match (&account, fact.blame_caller) {
            (Some(account), true) => (
                account.clone(),
                format!(
                    "{} runs as \"{}\", which no policy allows to call {callee}",
                    ObjectRef { field_path: String::new(), ..account.clone() },
                    text::plain(&fact.request.service_account, 40)
                ),
            ),
            _ => (policy_ref.clone(), title),
        };
        let by_principal = matches!(&fact.reason, Reason::Clause(m) if is_identity(&m.clause));
        let mut finding = Finding::new(Self::META, subject.clone(), &[callee, &caller])
            .title(title)
            .message(format!(
                "{why} The callee's proxy denied {figures} to {callee}{since} with 403 RBAC: access denied."
            ))
            .mechanism(mechanism)
            .severity(fact.group.severity().unwrap_or(Self::META.severity))
            .role(Role::Cause, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .onset(fact.group.onset)
            .evidence(seen(fact))
            .evidence(Evidence::object(&policy_ref, clause_value(fact.policy, &policy_ref.field_path)))
            .effect(Effect::requests(&fact.service, &["rbac"]));
        if subject.same_object(policy) {
            if let Some(account) = account.filter(|_| by_principal) {
                finding = finding.related(account);
            }
        } else {
            finding = finding.related(policy_ref);
        }
        let fixes: Vec<Remedy> = if fact.blame_caller {
            own_account(fact, snapshot).into_iter().chain(widen(fact)).collect()
        } else {
            widen(fact).into_iter().chain(own_account(fact, snapshot).filter(|_| by_principal)).collect()
        };
        for fix in fixes {
            finding = finding.remedy(fix);
        }
        finding.prevention(Prevention::alert(
            "Alert on denials: they carry no flag, so the code at the callee decides",
            format!("sum by (destination_service_name, source_workload) (rate(istio_requests_total{{reporter=\"destination\",response_code=\"403\",destination_service_name=\"{}\"}}[2m])) > 0", text::plain(callee, 63)),
        ))
        .prevention(Prevention::of("Policy", "Try a new policy with the annotation istio.io/dry-run: \"true\" before it counts"))
    }
}

/// What a request carries of which logs do not tell.
const UNTOLD: &str = "what these requests carry";

/// What a request has and a clause does not take.
fn apart(mismatch: &Mismatch) -> String {
    let (clause, presented) = (&mismatch.clause, text::plain(&mismatch.presented, 60));
    if mismatch.presented == UNTOLD {
        format!("it wants {clause} {}", text::plain(&mismatch.listed.join(", "), 60))
    } else if clause.starts_with("not") && !is_token(clause) {
        format!("{presented} is in its {clause}")
    } else {
        format!("{presented} is not in its {clause}")
    }
}

/// Clauses that ask for a token.
fn is_token(clause: &str) -> bool {
    matches!(clause, "requestPrincipals" | "notRequestPrincipals") || clause.starts_with("request.auth.")
}

/// Clauses that ask who calls.
fn is_identity(clause: &str) -> bool {
    matches!(clause, "principals" | "serviceAccounts" | "namespaces")
}

/// What a clause is about, in the field's words.
fn what(clause: &str) -> &'static str {
    match clause {
        "principals" | "serviceAccounts" => "principal (ServiceAccount)",
        "namespaces" => "namespace",
        "paths" | "notPaths" => "path",
        "methods" | "notMethods" => "method",
        "ports" | "notPorts" => "port",
        "hosts" | "notHosts" => "host",
        clause if is_token(clause) => "token (requestPrincipals, request.auth)",
        _ => "source",
    }
}

fn seen(fact: &Fact<'_>) -> Evidence {
    let part = fact.group.parts.iter().find(|part| part.peer == fact.caller).or(fact.group.parts.first());
    let count = part.map_or(0, |part| part.count);
    let r = &fact.request;
    Evidence::new(
        "AccessLog",
        format!("istio-proxy of {}", part.map(|p| p.workload.to_string()).unwrap_or_default()),
        format!(
            "{} requests denied, such as {} {} from {} with {}",
            text::number(count),
            text::plain(&r.method, 16),
            text::plain(&r.path, 80),
            text::plain(&r.ip, 48),
            match r.principal.as_deref() {
                None => "no principal".to_owned(),
                Some("") => "a principal that was not seen".to_owned(),
                Some(principal) => format!("principal {}", text::plain(principal, 120)),
            }
        ),
    )
    .at(part.and_then(|p| p.first))
    .excerpt(part.map(|p| p.details.as_str()).unwrap_or_default())
}

/// The value of the clause, in one line.
fn clause_value(policy: &Policy, path: &str) -> String {
    match policy.object.body.pointer(&pointer(path)) {
        Some(value) if !value.is_null() => {
            format!("{} = {}", path, text::plain(&value.to_string().replace('"', ""), 200))
        }
        _ => "the policy has no rules".to_owned(),
    }
}

/// The denials of one Service by caller.
fn denied<'a>(snapshot: &'a Snapshot, group: &Failures) -> Vec<Fact<'a>> {
    let Some(service) = group.callee.service.clone() else { return vec![] };
    // One request of each caller stands for its others: the most frequent of them.
    let mut by_caller: BTreeMap<Option<ObjectRef>, (u64, Request, String, ObjectRef)> = BTreeMap::new();
    for edge in snapshot.traffic_to(&service, Reporter::Destination) {
        for outcome in &edge.outcomes {
            if Signs::of(outcome, &edge.cluster).way() != Some(Way::Rbac) {
                continue;
            }
            let request = request(snapshot, outcome, edge.peer.as_ref(), edge.cluster.port);
            let entry = (outcome.count, request, outcome.details.clone(), edge.workload.clone());
            let known = by_caller.entry(edge.peer.clone()).or_insert_with(|| entry.clone());
            if known.0 < outcome.count {
                *known = entry;
            }
        }
    }
    by_caller
        .into_iter()
        .filter_map(|(caller, (_, request, details, callee))| {
            let labels = callee_labels(snapshot, &service, &callee)?;
            let (policy, reason) = if let Some((namespace, name, index)) = named(&details) {
                let policy =
                    snapshot.istio.authorization_policies.iter().find(|policy| {
                        policy.object.namespace() == namespace && policy.object.name() == name
                    })?;
                (policy, Reason::Denied(index))
            } else {
                closest(snapshot, &service.namespace, labels, &request)?
            };
            let caller_workload = caller.as_ref().and_then(|caller| snapshot.workload(caller));
            let mut fact = Fact {
                group: group.clone(),
                service: service.clone(),
                policy,
                reason,
                caller,
                caller_workload,
                request,
                blame_caller: false,
            };
            fact.blame_caller = caller_is_odd(snapshot, &fact);
            Some(fact)
        })
        .collect()
}

/// `…[ns[shop]-policy[deny]-rule[0]]`: the policy that denied.
fn named(details: &str) -> Option<(&str, &str, usize)> {
    let (_, rest) = details.split_once("ns[")?;
    let (namespace, rest) = rest.split_once(']')?;
    let (name, rest) = rest.strip_prefix("-policy[")?.split_once(']')?;
    let rule = rest.strip_prefix("-rule[")?.split(']').next()?.parse().ok()?;
    Some((namespace, name, rule))
}

fn request(snapshot: &Snapshot, outcome: &Outcome, peer: Option<&ObjectRef>, port: Option<i64>) -> Request {
    let top = |map: &BTreeMap<String, u64>| {
        map.iter().max_by_key(|(_, count)| **count).map(|(key, _)| key.clone()).unwrap_or_default()
    };
    let ip = top(&outcome.clients);
    let pod = snapshot.pod_by_ip(&ip);
    let workload = peer.and_then(|peer| snapshot.workload(peer));
    let template = pod.map(|pod| &pod.template).or(workload.map(|w| &w.template));
    let namespace =
        pod.map(|pod| pod.object.namespace()).or(peer.map(|p| p.namespace.as_str())).unwrap_or_default();
    let domain =
        snapshot.istio.mesh_config.text("trustDomain").filter(|d| !d.is_empty()).unwrap_or("cluster.local");
    let account = template.map(|t| t.service_account.clone()).unwrap_or_default();
    let principal = match (pod, template) {
        (Some(pod), _) if !snapshot.has_istio_proxy(pod) => None,
        (_, Some(_)) => Some(format!("{domain}/ns/{namespace}/sa/{account}")),
        _ => Some(String::new()),
    };
    Request {
        principal,
        namespace: namespace.to_owned(),
        service_account: account,
        ip,
        method: top(&outcome.methods),
        path: top(&outcome.paths),
        host: top(&outcome.authorities),
        port,
    }
}

fn callee_labels<'a>(
    snapshot: &'a Snapshot,
    service: &ServiceName,
    callee: &ObjectRef,
) -> Option<&'a Labels> {
    snapshot
        .workload(callee)
        .map(|w| &w.template.labels)
        .or_else(|| snapshot.pods_behind(snapshot.service(service)?).next().map(|pod| &pod.template.labels))
}

/// The policy whose rule is closest to letting the request in, with the clause that does not fit. A policy without rules
/// decides only where it is the only one: beside others it changes nothing.
fn closest<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    labels: &Labels,
    request: &Request,
) -> Option<(&'a Policy, Reason)> {
    let covering: Vec<&'a Policy> = {
        let root = &snapshot.istio.root_namespace;
        let all = snapshot.istio.authorization_policies.iter();
        all.filter(|p| {
            let allows = p.object.body.text("spec.action").unwrap_or("ALLOW") == "ALLOW";
            allows && !is_dry_run(p) && p.applies_to(namespace, labels, root)
        })
        .collect()
    };
    let facts = request.facts();
    let mut best: Option<(usize, &'a Policy, Mismatch)> = None;
    for policy in &covering {
        for (index, rule) in policy.object.body.list("spec.rules").iter().enumerate() {
            let own = policy.object.namespace();
            let (distance, chosen) = match judge(rule, index, own, Purpose::Allow, &facts) {
                Verdict::Unmet(unmet, _) => {
                    // Who calls says more than what for.
                    let chosen = unmet.iter().find(|m| is_identity(&m.clause)).or(unmet.first());
                    (unmet.len(), chosen.cloned())
                }
                // All that logs tell is met, and the proxy denied: what they do not tell is not.
                Verdict::Unknown(path) => (1, Some(untold(policy, path))),
                Verdict::Matches => continue,
            };
            let Some(chosen) = chosen else { continue };
            if best.as_ref().is_none_or(|(least, _, _)| distance < *least) {
                best = Some((distance, policy, chosen));
            }
        }
    }
    if let Some((_, policy, mismatch)) = best {
        let plaintext = is_identity(&mismatch.clause) && request.principal.is_none();
        let reason = if plaintext { Reason::Plaintext(mismatch) } else { Reason::Clause(mismatch) };
        return Some((policy, reason));
    }
    let all = covering.into_iter().find(|policy| policy.object.body.list("spec.rules").is_empty())?;
    Some((all, Reason::DenyAll))
}

/// A clause about something that access logs do not tell, such as a token.
fn untold(policy: &Policy, path: String) -> Mismatch {
    let value = policy.object.body.pointer(&pointer(&path));
    let listed = value.and_then(Value::as_array).into_iter().flatten();
    let key = path.rsplit_once('.').and_then(|(condition, _)| {
        policy.object.body.pointer(&pointer(&format!("{condition}.key")))?.as_str().map(str::to_owned)
    });
    let clause = key.unwrap_or_else(|| path.rsplit('.').next().unwrap_or_default().to_owned());
    let presented = if is_token(&clause) { "a request without an accepted token" } else { UNTOLD };
    Mismatch {
        listed: listed.filter_map(Value::as_str).map(str::to_owned).collect(),
        presented: presented.to_owned(),
        path,
        clause,
    }
}

/// Whether the caller is the odd one out: it was changed last, or nothing tells and the policy lists the identity that its
/// siblings behind the same Services have.
fn caller_is_odd(snapshot: &Snapshot, fact: &Fact<'_>) -> bool {
    let Reason::Clause(mismatch) = &fact.reason else { return false };
    let Some(workload) = fact.caller_workload else { return false };
    if !matches!(mismatch.clause.as_str(), "principals" | "serviceAccounts") {
        return false;
    }
    let objects = [&fact.policy.object.reference, workload.reference()];
    match blame::changed_last(snapshot, &objects, fact.group.onset) {
        Some(at) => at == 1,
        None => usual_account(snapshot, fact).is_some(),
    }
}

/// The service account that the policy allows and that the caller's siblings have: other workloads behind the same
/// Services, or one that is named after the caller or its Service.
fn usual_account(snapshot: &Snapshot, fact: &Fact<'_>) -> Option<String> {
    let Reason::Clause(mismatch) = &fact.reason else { return None };
    let workload = fact.caller_workload?;
    let own = workload.object.namespace();
    let listed: Vec<&str> = mismatch
        .listed
        .iter()
        .filter_map(|principal| {
            let (head, account) = principal.rsplit_once('/').unwrap_or(("", principal));
            (head.is_empty() || head == own || head.ends_with(&format!("/ns/{own}/sa"))).then_some(account)
        })
        .collect();
    let services: Vec<_> = snapshot.services_before(workload).collect();
    let siblings = snapshot.workloads.iter().filter(|other| {
        other.object.owners.is_empty()
            && other.reference() != workload.reference()
            && services.iter().any(|s| s.selects_labels(other.object.namespace(), &other.template.labels))
    });
    let mut names: Vec<String> = siblings.map(|other| other.template.service_account.clone()).collect();
    names.push(workload.object.name().to_owned());
    names.extend(services.iter().map(|s| s.object.name().to_owned()));
    names.into_iter().find(|name| *name != fact.request.service_account && listed.contains(&name.as_str()))
}

/// Gives the caller the service account back that the policy allows.
fn own_account(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let workload = fact.caller_workload?;
    let account = usual_account(snapshot, fact)?;
    let path = pointer(&workload.template_path("spec.serviceAccountName"));
    let op = if workload.object.body.pointer(&path).is_some() { "replace" } else { "add" };
    let remedy = Remedy::patch(
        &workload.object,
        &json!([{"op": op, "path": path, "value": account}]),
        format!(
            "Set serviceAccountName of {} back to \"{account}\", which the policy allows",
            workload.reference()
        ),
    )?;
    Some(remedy.risk(Risk::Medium))
}

/// Lets in what is denied: the narrowest change of the policy that does.
fn widen(fact: &Fact<'_>) -> Option<Remedy> {
    let object = &fact.policy.object;
    match &fact.reason {
        Reason::DenyAll => Some(
            Remedy::delete(
                object,
                format!(
                    "Delete AuthorizationPolicy {}/{}: it allows nothing to anybody",
                    object.namespace(),
                    object.name()
                ),
            )
            .risk(Risk::High),
        ),
        Reason::Denied(index) => Remedy::patch(
            object,
            &json!([{"op": "remove", "path": format!("/spec/rules/{index}")}]),
            format!("Take rule {index} out of AuthorizationPolicy {}/{}", object.namespace(), object.name()),
        )
        .filter(|_| object.body.list("spec.rules").len() > 1)
        .or_else(|| {
            Some(Remedy::delete(
                object,
                format!(
                    "Delete AuthorizationPolicy {}/{}: its only rule denies these requests",
                    object.namespace(),
                    object.name()
                ),
            ))
        })
        .map(|remedy| remedy.risk(Risk::High)),
        // Nobody without a certificate can be named by a principal.
        Reason::Plaintext(_) => Some(Remedy::manual(
            "Inject the proxy into the caller's pods, so that they show a certificate (label sidecar.istio.io/inject, then a restart)",
        )),
        Reason::Clause(mismatch) => {
            let Some(value) = presented(&mismatch.clause, &fact.request) else {
                return by_certificate(fact, mismatch);
            };
            Remedy::patch(
                object,
                &json!([{"op": "add", "path": format!("{}/-", pointer(&mismatch.path)), "value": value}]),
                format!("Add {value} to {} ({})", mismatch.clause, mismatch.path),
            )
            .map(|remedy| remedy.risk(Risk::High))
        }
    }
}

/// A rule of its own for a caller that shows a certificate and does not have what the policy wants besides.
fn by_certificate(fact: &Fact<'_>, mismatch: &Mismatch) -> Option<Remedy> {
    let principal = fact.request.principal.as_deref().filter(|principal| !principal.is_empty())?;
    let object = &fact.policy.object;
    let rule = json!({"from": [{"source": {"principals": [principal]}}]});
    Remedy::patch(
        object,
        &json!([{"op": "add", "path": "/spec/rules/-", "value": rule}]),
        format!(
            "Let {principal} in by its certificate: a rule beside the one with {}{}",
            mismatch.clause,
            if is_token(&mismatch.clause) { ". Or let the caller pass its user's token on" } else { "" }
        ),
    )
    .map(|remedy| remedy.risk(Risk::High))
}

/// What has to stand in a clause to let the request in.
fn presented(clause: &str, request: &Request) -> Option<Value> {
    let text = match clause {
        "principals" => request.principal.clone()?,
        "serviceAccounts" => format!("{}/{}", request.namespace, request.service_account),
        "namespaces" => request.namespace.clone(),
        "methods" => request.method.clone(),
        "paths" => request.path.clone(),
        "hosts" => request.host.clone(),
        "ports" => request.port?.to_string(),
        "ipBlocks" => request.ip.clone(),
        _ => return None,
    };
    (!text.is_empty()).then_some(Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_that_denied_is_read_from_the_details() {
        let details = "rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[2]]";
        assert_eq!(named(details), Some(("shop", "no-admin", 2)));
        assert_eq!(named("rbac_access_denied_matched_policy[none]"), None);
    }
}
