//! ISTIO132.

use crate::model::json::{Value, json};

use super::support::{Said, of_control_plane, parts, said, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near;
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, blame, failures, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Policy, full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A RequestAuthentication rejects the tokens that clients really send.
    ///
    /// ## What it detects
    /// Requests answered with `401` and `jwt_authn_access_denied{…}` whose details name what does not fit: the issuer, the
    /// audience, or the keys, which could not be fetched or do not fit; with the rule of the RequestAuthentication that decides.
    /// ## Why it matters
    /// No request with a token reaches the application, whatever the token says otherwise.
    /// ## Evidence
    /// The details in access logs of the proxy; istiod's `Failed to fetch public key`; the rule's `issuer`, `audiences`, `jwksUri`.
    /// ## How to confirm
    /// `iss`, `aud` and `kid` of a client's token against the rule, and the answer of `jwksUri` from istiod's pod.
    /// ## How to fix
    /// Set the field that does not fit to what the tokens carry; make `jwksUri` reachable for istiod, or write the keys into `jwks`.
    /// ## False positives
    /// Tokens that have expired or are missing are the clients' own matter: this rule is silent about them.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/security/request_authentication/>
    TokensRejected {
        code: "ISTIO132", name: "tokens-rejected", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Issuer,
    Audience,
    Keys,
    Fetch,
}

impl Wrong {
    /// What details of a denial say; words are joined by `_` or blanks, and differ in case between versions.
    fn of(details: &str) -> Option<Self> {
        let text = details.to_ascii_lowercase();
        let says = |word: &str| text.contains(word);
        if says("remote_fetch") || says("remote fetch") {
            Some(Wrong::Fetch)
        } else if says("issuer") {
            Some(Wrong::Issuer)
        } else if says("audience") {
            Some(Wrong::Audience)
        } else if says("jwks") || says("kid") || says("verification") {
            Some(Wrong::Keys)
        } else {
            None
        }
    }

    fn field(self) -> &'static str {
        match self {
            Wrong::Issuer => "issuer",
            Wrong::Audience => "audiences",
            Wrong::Keys | Wrong::Fetch => "jwksUri",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Wrong::Issuer => "names another issuer than the tokens carry",
            Wrong::Audience => "asks for an audience that the tokens do not carry",
            Wrong::Keys => "holds keys that do not fit the tokens",
            Wrong::Fetch => "takes its keys from an address that does not give them",
        }
    }
}

/// A rule of a RequestAuthentication that tokens fail at.
#[derive(Debug)]
pub struct Fact<'a> {
    policy: &'a Policy,
    rule: usize,
    wrong: Wrong,
    group: Option<Failures>,
    fetch: Option<Said>,
    /// Why the address of the keys cannot answer, where the cluster itself says so.
    unreachable: Option<String>,
}

impl Check for TokensRejected {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for group in failures(snapshot, Way::Jwt) {
            let Some(part) = group.parts.first() else { continue };
            let Some(wrong) = Wrong::of(&part.details) else { continue };
            let Some(workload) = snapshot.workload(&part.workload) else { continue };
            let root = &snapshot.istio.root_namespace;
            let covering: Vec<&Policy> = snapshot
                .istio
                .request_authentications
                .iter()
                .filter(|p| p.applies_to(&part.workload.namespace, &workload.template.labels, root))
                .filter(|p| !p.object.body.list("spec.jwtRules").is_empty())
                .collect();
            let objects: Vec<_> = covering.iter().map(|p| &p.object.reference).collect();
            let at = blame::changed_last(snapshot, &objects, group.onset).unwrap_or(0);
            let Some(policy) = covering.get(at).copied() else { continue };
            let rules = policy.object.body.list("spec.jwtRules");
            let has = |rule: &Value| rule.at(wrong.field()).is_some();
            let rule = rules.iter().position(has).unwrap_or(0);
            out.push(fact(snapshot, policy, rule, wrong, Some(group)));
        }
        for policy in &snapshot.istio.request_authentications {
            if !snapshot.in_scope(policy.object.namespace()) || out.iter().any(|f| same(f.policy, policy)) {
                continue;
            }
            for (rule, body) in policy.object.body.list("spec.jwtRules").iter().enumerate() {
                let failed = body.text("jwksUri").is_some_and(|uri| fetch_errors(snapshot, uri).is_some());
                if failed {
                    out.push(fact(snapshot, policy, rule, Wrong::Fetch, None));
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.policy.object;
        let path = format!("spec.jwtRules[{}].{}", fact.rule, fact.wrong.field());
        let subject = object.reference.field(&path);
        let value = object.body.pointer(&pointer(&path)).cloned().unwrap_or(Value::Null);
        let shown = text::plain(&value.to_string().replace('"', ""), 120);
        let name = fact.group.as_ref().map(Failures::name);
        let figures = fact.group.as_ref().map(|group| {
            format!(
                " Proxies answered {} to {} with 401{}.",
                text::share(group.count, group.requests, "requests"),
                group.name(),
                since(group.onset)
            )
        });
        let severity = fact.group.as_ref().and_then(Failures::severity).unwrap_or(Severity::Warning);
        let service = fact.group.as_ref().and_then(|group| group.callee.service.clone());
        let unreachable = fact.unreachable.as_ref().map(|why| format!(" {why}.")).unwrap_or_default();
        Finding::new(Self::META, subject.clone(), &[name.as_deref().unwrap_or_default()])
            .title(format!("{} {}", object.reference, fact.wrong.words()))
            .message(format!(
                "{path} of {} is {shown}: it {}.{unreachable}{}",
                object.reference,
                fact.wrong.words(),
                figures.unwrap_or_default()
            ))
            .mechanism(match fact.wrong {
                Wrong::Issuer => "JWT rejected: issuer not configured",
                Wrong::Audience => "JWT rejected: audience not allowed",
                Wrong::Keys => "JWT rejected: no key of the JWKS fits",
                Wrong::Fetch => "JWT rejected: JWKS fetch failed",
            })
            .severity(severity)
            .role(Role::Cause, Confidence::Observed)
            .onset(fact.group.as_ref().and_then(|g| g.onset).or(fact.fetch.as_ref().and_then(|s| s.first)))
            .evidence(Evidence::object(&subject, shown))
            .evidences(fact.fetch.iter().map(|said| said.evidence("istiod")))
            .evidences(fact.group.iter().flat_map(parts))
            .effects(service.iter().map(|s| Effect::requests(s, &["jwt", "401", "4xx"])))
            .service(service)
            .maybe_remedy(before(fact, &path))
            .remedy(
                Remedy::delete(object, format!("Delete {} until its {} is known: tokens are then not looked at, and policies that ask for a principal of a token deny", object.reference, fact.wrong.field()))
                    .risk(Risk::High),
            )
            .prevention(Prevention::alert(
                "Alert when more than 5 % of the requests get 401",
                "sum by (destination_service_name) (rate(istio_requests_total{reporter=\"destination\",response_code=\"401\"}[5m])) / sum by (destination_service_name) (rate(istio_requests_total{reporter=\"destination\"}[5m])) > 0.05",
            ))
            .prevention(Prevention::of("Test", "Try one token of each client against a changed RequestAuthentication before it goes live"))
    }
}

fn same(a: &Policy, b: &Policy) -> bool {
    a.object.reference == b.object.reference
}

fn fact<'a>(
    snapshot: &Snapshot,
    policy: &'a Policy,
    rule: usize,
    wrong: Wrong,
    group: Option<Failures>,
) -> Fact<'a> {
    let uri = policy.object.body.list("spec.jwtRules").get(rule).and_then(|r| r.text("jwksUri"));
    let uri = uri.filter(|_| matches!(wrong, Wrong::Keys | Wrong::Fetch));
    let fetch = uri.and_then(|uri| fetch_errors(snapshot, uri));
    // Where keys could not be fetched, istiod puts one in place that fits no token.
    let wrong = if fetch.is_some() && wrong == Wrong::Keys { Wrong::Fetch } else { wrong };
    let unreachable = uri.and_then(|uri| unreachable(snapshot, policy.object.namespace(), uri));
    Fact { policy, rule, wrong, group, fetch, unreachable }
}

/// What istiod says of an address that it could not fetch keys from.
fn fetch_errors(snapshot: &Snapshot, uri: &str) -> Option<Said> {
    let words =
        ["ailed to fetch public key", "ailed to fetch JWT public key", "ailed to refresh JWT public key"];
    let all = said(snapshot, of_control_plane, &words);
    all.into_values().find(|said| said.text.contains(uri))
}

/// A Service of the cluster that the address names and that is not there.
fn unreachable(snapshot: &Snapshot, namespace: &str, uri: &str) -> Option<String> {
    let host = uri.split_once("://")?.1.split(['/', ':']).next()?;
    let full = full_host(host, namespace);
    let inside = !host.contains('.') || host.contains(".svc");
    let (namespace, name) = service_of_host(&full).filter(|_| inside)?;
    let service = ServiceName::new(namespace, name);
    let seen = snapshot.services.iter().any(|s| s.object.namespace() == service.namespace);
    match snapshot.service(&service) {
        None if seen => Some(format!("There is no Service {service}")),
        None => None,
        Some(known) => match snapshot.endpoints(known) {
            Some((0, _)) => Some(format!("Service {service} has no ready endpoint")),
            _ => None,
        },
    }
}

/// The value that was applied before somebody edited it.
fn before(fact: &Fact<'_>, path: &str) -> Option<Remedy> {
    let object = &fact.policy.object;
    let at = pointer(path);
    let old = near::applied(object, path)?;
    let now = object.body.pointer(&at)?;
    (old != *now).then_some(())?;
    let shown = text::plain(&old.to_string().replace('"', ""), 80);
    Remedy::patch(
        object,
        &json!([{"op": "replace", "path": at, "value": old}]),
        format!("Set {} back to {shown}, as it was applied", fact.wrong.field()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_of_old_and_new_versions() {
        assert_eq!(Wrong::of("jwt_authn_access_denied{Jwt_issuer_is_not_configured}"), Some(Wrong::Issuer));
        assert_eq!(
            Wrong::of("jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}"),
            Some(Wrong::Audience)
        );
        assert_eq!(Wrong::of("jwt_authn_access_denied{Jwks_remote_fetch_is_failed}"), Some(Wrong::Fetch));
        assert_eq!(
            Wrong::of("jwt_authn_access_denied{Jwks_doesn't_have_key_to_match_kid_or_alg_from_Jwt}"),
            Some(Wrong::Keys)
        );
        assert_eq!(Wrong::of("jwt_authn_access_denied{Jwt_is_expired}"), None);
        assert_eq!(Wrong::of("jwt_authn_access_denied{Jwt_is_missing}"), None);
    }
}
