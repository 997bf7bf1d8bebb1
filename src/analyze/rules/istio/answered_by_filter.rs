//! ISTIO165.

use crate::model::json::Value;

use super::support::{Tally, since, take_patch_out};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::blame;
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A filter that an EnvoyFilter puts into the proxy answers requests with an error.
    ///
    /// ## What it detects
    /// Requests that a proxy answers itself with the words of one of Envoy's filters and a status of 400 or above: `lua_response`,
    /// `fault_filter_abort`, `request_payload_too_large`, `csrf_origin_mismatch`, `denied_by_admission_control`, `ext_authz_error`,
    /// `ext_proc_error`, and those of RBAC and tokens where no policy of Istio's applies. Together with the
    /// EnvoyFilter that puts such a filter into that proxy.
    /// ## Why it matters
    /// The application never sees these requests, and nothing in the mesh's own configuration says why.
    /// ## Evidence
    /// The details of the response in access logs, and the filter in the EnvoyFilter.
    /// ## How to confirm
    /// `istioctl proxy-config listener POD -o json` shows the filter; the EnvoyFilter holds its script.
    /// ## How to fix
    /// Correct the filter, or take it out.
    /// ## False positives
    /// A filter that refuses what it is there to refuse: the share of the requests tells.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/http_filters>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    AnsweredByFilter {
        code: "ISTIO165", name: "answered-by-a-filter", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// A filter of Envoy's that answers.
#[derive(Debug)]
struct Kind {
    /// What it says in the details of a response.
    details: &'static str,
    /// Its name there, `envoy.filters.http.NAME`.
    name: &'static str,
    /// What it is, and what it does to requests.
    what: &'static str,
    /// Whether it is there to keep somebody out, and what of Istio's own would put the same filter in.
    guard: Option<Guard>,
}

/// What of Istio's own puts in a filter that keeps somebody out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// AuthorizationPolicies.
    Policies,
    /// RequestAuthentications.
    Tokens,
    /// Nothing of Istio's.
    Alone,
}

/// The filters that answer, and that only an EnvoyFilter brings in: Envoy's documentation of response code details.
const KINDS: [Kind; 9] = [
    Kind { details: "lua_response", name: "lua", what: "a Lua script", guard: None },
    Kind { details: "fault_filter_abort", name: "fault", what: "a fault filter", guard: None },
    Kind {
        details: "request_payload_too_large",
        name: "buffer",
        what: "a limit of request bodies",
        guard: None,
    },
    Kind { details: "csrf_origin_mismatch", name: "csrf", what: "a CSRF filter", guard: Some(Guard::Alone) },
    Kind {
        details: "denied_by_admission_control",
        name: "admission_control",
        what: "admission control",
        guard: None,
    },
    Kind {
        details: "ext_authz_error",
        name: "ext_authz",
        what: "external authorization that it cannot ask",
        guard: Some(Guard::Policies),
    },
    Kind {
        details: "ext_proc_error",
        name: "ext_proc",
        what: "an external processor that it cannot ask",
        guard: Some(Guard::Alone),
    },
    Kind {
        details: "rbac_access_denied",
        name: "rbac",
        what: "an RBAC filter of its own",
        guard: Some(Guard::Policies),
    },
    Kind {
        details: "jwt_authn_access_denied",
        name: "jwt_authn",
        what: "a filter that wants a token",
        guard: Some(Guard::Tokens),
    },
];

/// Fewer answers than this say nothing.
const ENOUGH: u64 = 5;

/// A filter that answers.
#[derive(Debug)]
pub struct Fact<'a> {
    filter: &'a Policy,
    kind: &'static Kind,
    /// The patch that puts it in.
    index: usize,
    service: Option<ServiceName>,
    code: u16,
    tally: Tally,
}

impl Check for AnsweredByFilter {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for (at, edge) in snapshot.traffic.iter().enumerate() {
            for outcome in &edge.outcomes {
                let Some(kind) = KINDS.iter().find(|kind| outcome.details.contains(kind.details)) else {
                    continue;
                };
                if outcome.code < 400 || outcome.count < ENOUGH {
                    continue;
                }
                let Some(workload) = snapshot.workload(&edge.workload) else { continue };
                if kind.guard.is_some_and(|guard| istios_own(snapshot, workload, guard)) {
                    continue;
                }
                let covers = |filter: &&Policy| {
                    patch_of(filter, kind).is_some()
                        && filter.applies_to(
                            &edge.workload.namespace,
                            &workload.template.labels,
                            &snapshot.istio.root_namespace,
                        )
                };
                let covering: Vec<&Policy> = snapshot.istio.envoy_filters.iter().filter(covers).collect();
                let objects: Vec<_> = covering.iter().map(|filter| &filter.object.reference).collect();
                let last = blame::changed_last(snapshot, &objects, outcome.first).unwrap_or(0);
                let Some((filter, index)) =
                    covering.get(last).and_then(|filter| Some((*filter, patch_of(filter, kind)?)))
                else {
                    continue;
                };
                let value = format!("{} of {} requests: {}", outcome.count, edge.requests, outcome.label());
                let evidence = Evidence::new("AccessLog", format!("{} proxy", edge.workload), value);
                let same = |fact: &Fact<'_>| {
                    fact.filter.object.reference == filter.object.reference
                        && fact.index == index
                        && fact.service == edge.service
                };
                let known = out.iter().position(same).unwrap_or_else(|| {
                    let (service, code, tally) = (edge.service.clone(), outcome.code, Tally::default());
                    out.push(Fact { filter, kind, index, service, code, tally });
                    out.len() - 1
                });
                if let Some(fact) = out.get_mut(known) {
                    fact.tally.add((at, edge), outcome, evidence);
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.filter.object;
        let field = format!("spec.configPatches[{}].patch.value", fact.index);
        let subject = object.reference.field(&field);
        let figures = fact.tally.share();
        let name = fact.service.as_ref().map_or("its proxies", |service| service.name.as_str()).to_owned();
        let (risk, open) = match fact.kind.guard {
            Some(_) => (Risk::High, ", also those that it is to keep out"),
            None => (Risk::Medium, ""),
        };
        let class = if fact.code >= 500 { "5xx" } else { "4xx" };
        Finding::new(Self::META, subject.clone(), &[&name])
            .title(format!("{} answers requests to {name} with {} by {}", object.reference, fact.code, fact.kind.what))
            .message(format!(
                "The filter in {field} of {} ({}) answered {figures} to {name} with {}{}: they end in the proxy, and the application does not see them.",
                object.reference,
                fact.kind.what,
                fact.code,
                since(fact.tally.onset)
            ))
            .mechanism(format!("EnvoyFilter: {} answers requests in the proxy ({} filter, {})", fact.kind.what, fact.kind.name, fact.kind.details))
            .severity(fact.tally.severity())
            .role(Role::Cause, Confidence::Observed)
            .service(fact.service.clone())
            .onset(fact.tally.onset)
            .evidence(Evidence::object(&subject, fact.kind.what))
            .evidences(fact.tally.evidence.clone())
            .effects(fact.service.iter().map(|s| Effect::requests(s, &[class, &fact.code.to_string(), "via_upstream", "direct_response", "fault", "FI", "UAEX", "ext_authz", "rbac", "jwt"])))
            .maybe_remedy(take_patch_out(object, fact.index).map(|remedy| remedy.risk(risk)))
            .remedy(Remedy::delete(object, format!("Delete {}: requests reach the application again{open}", object.reference)).risk(risk))
            .prevention(Prevention::of("Policy", "Let EnvoyFilters in through review alone (ValidatingAdmissionPolicy on their namespace or team)"))
            .prevention(Prevention::alert(
                "Alert when a service's errors rise",
                format!("sum(rate(istio_requests_total{{destination_service_name=\"{name}\",response_code=~\"4..|5..\"}}[2m])) / sum(rate(istio_requests_total{{destination_service_name=\"{name}\"}}[2m])) > 0.05"),
            ))
    }
}

/// Whether an object of Istio's own puts the same filter into a workload's proxies: then the answer is its, or cannot be told from it.
fn istios_own(snapshot: &Snapshot, workload: &Workload, guard: Guard) -> bool {
    let (istio, namespace) = (&snapshot.istio, workload.object.namespace());
    let applies =
        |policy: &Policy| policy.applies_to(namespace, &workload.template.labels, &istio.root_namespace);
    match guard {
        Guard::Policies => istio.authorization_policies.iter().any(applies),
        Guard::Tokens => istio.request_authentications.iter().any(applies),
        Guard::Alone => false,
    }
}

/// The first patch of an EnvoyFilter that puts such a filter in, by the type or the name of Envoy's own.
fn patch_of(filter: &Policy, wanted: &Kind) -> Option<usize> {
    filter.object.body.list("spec.configPatches").iter().position(|patch| {
        let Some(value) = patch.at("patch.value") else { return false };
        let kind = value.at("typed_config").or_else(|| value.at("typedConfig")).unwrap_or(value);
        let kind = kind.child("@type").and_then(Value::as_str).unwrap_or_default();
        kind.contains(&format!("filters.http.{}.", wanted.name))
            || value.text("name").and_then(|name| name.strip_prefix("envoy.filters.http."))
                == Some(wanted.name)
    })
}
