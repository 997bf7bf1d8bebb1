//! ISTIO133.

use crate::model::json::{Value, json};

use super::support::{parts, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Policy, full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The external authorizer that a policy asks cannot be asked.
    ///
    /// ## What it detects
    /// Requests denied with `403 UAEX ext_authz_error`, followed from the AuthorizationPolicy with the action CUSTOM over its
    /// provider in MeshConfig to the Service of the authorizer: it does not exist, lacks the port, or has no ready endpoint.
    /// ## Why it matters
    /// An authorizer that is away denies every request of every workload that asks it.
    /// ## Evidence
    /// `ext_authz_error` in access logs, the provider in `extensionProviders`, the authorizer's Service and endpoints.
    /// ## How to confirm
    /// Endpoints and log of the authorizer, and whether the failing proxies reach it.
    /// ## How to fix
    /// Bring the authorizer back or correct service and port of the provider; `failOpen` lets requests pass while it is away.
    /// ## False positives
    /// `ext_authz_denied` is an answer of the authorizer, and none of this rule's.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/security/authorization/authz-custom/>
    AuthorizerUnavailable {
        code: "ISTIO133", name: "authorizer-unavailable", family: Mesh, severity: Error,
        needs: [Istio, Requests], aliases: [],
    }
}

/// Why it cannot be asked.
#[derive(Debug)]
enum Why {
    NoService,
    NoPort,
    NoEndpoint(usize),
    /// It is there: too slow for the provider's time-out, or cut off.
    Unanswered,
}

/// An authorizer that does not answer.
#[derive(Debug)]
pub struct Fact<'a> {
    policy: &'a Policy,
    provider: String,
    service: ServiceName,
    port: i64,
    timeout: Option<String>,
    why: Why,
    group: Failures,
    workloads: Vec<ObjectRef>,
}

impl Check for AuthorizerUnavailable {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        failures(snapshot, Way::ExternalAuthorization)
            .into_iter()
            .filter(|group| group.parts.iter().any(|part| part.details.contains("ext_authz_error")))
            .filter_map(|group| unavailable(snapshot, group))
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let mesh = ObjectRef {
            api_version: "v1".to_owned(),
            ..ObjectRef::new("ConfigMap", &snapshot.istio.root_namespace, "istio")
        };
        let provider = text::plain(&fact.provider, 60);
        let name = fact.group.name();
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        let (subject, why) = match fact.why {
            Why::NoService => (mesh.field("data.mesh"), format!("there is no Service {}", fact.service)),
            Why::NoPort => {
                (mesh.field("data.mesh"), format!("Service {} has no port {}", fact.service, fact.port))
            }
            Why::NoEndpoint(pods) => (
                fact.workloads.first().cloned().unwrap_or_else(|| fact.service.reference()),
                format!("Service {} has no ready endpoint among {pods} pods", fact.service),
            ),
            Why::Unanswered => (
                fact.service.reference(),
                match &fact.timeout {
                    Some(timeout) => format!(
                        "Service {} has ready endpoints and does not answer within the provider's timeout of {}",
                        fact.service,
                        text::plain(timeout, 16)
                    ),
                    None => format!(
                        "Service {} has ready endpoints, and the proxies' calls to it fail",
                        fact.service
                    ),
                },
            ),
        };
        let decided = !matches!(fact.why, Why::Unanswered);
        let look = vec![
            format!(
                "kubectl -n {} get endpointslices -l kubernetes.io/service-name={} -o wide",
                quote(&fact.service.namespace),
                quote(&fact.service.name)
            ),
            format!("kubectl -n {} get configmap istio -o yaml", quote(&snapshot.istio.root_namespace)),
        ];
        let mut finding = Finding::new(Self::META, subject.clone(), &[&name, &provider])
            .title(format!("The authorizer {provider} of {name} cannot be asked: {why}"))
            .message(format!(
                "{} asks the provider {provider} about requests to {name}, and {why}. {figures} were denied with 403{}.",
                fact.policy.object.reference,
                since(fact.group.onset)
            ))
            .mechanism("external authorization unavailable: ext_authz error")
            .severity(fact.group.severity().unwrap_or(Severity::Warning))
            .role(Role::Cause, if decided { Confidence::Observed } else { Confidence::Configured })
            .service(Some(fact.service.clone()))
            .onset(fact.group.onset)
            .evidence(Evidence::object(&fact.policy.object.reference.field("spec.provider.name"), format!("provider {provider}")))
            .evidence(Evidence::object(&subject, why))
            .evidences(parts(&fact.group))
            .effects(fact.group.callee.service.iter().map(|s| Effect::requests(s, &["UAEX", "ext_authz", "4xx", "5xx"])))
            .related(fact.policy.object.reference.clone())
            .maybe_remedy(bring_back(fact, snapshot))
            .maybe_remedy(correct(fact, snapshot))
            .remedy(Remedy::commands("Bring the authorizer back, or correct service and port of the provider", look, vec![]))
            .prevention(Prevention::alert(
                "Alert when proxies cannot ask their authorizer",
                "sum(rate(istio_requests_total{response_flags=~\".*UAEX.*\"}[5m])) / sum(rate(istio_requests_total[5m])) > 0.01",
            ))
            .prevention(Prevention::of("Setting", "Two replicas and a disruption budget for the authorizer; failOpen where availability counts for more"));
        if fact.group.callee.service.is_none() {
            finding =
                finding.effects(fact.group.parts.iter().take(1).map(|part| Effect::calls(&part.workload)));
        }
        finding
    }
}

/// Starts the authorizer again, where it is scaled to zero.
fn bring_back(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let stopped =
        |reference: &&ObjectRef| snapshot.workload(reference).is_some_and(|w| w.replicas == Some(0));
    let own = fact.workloads.iter().find(stopped).filter(|_| matches!(fact.why, Why::NoEndpoint(_)))?;
    Some(Remedy::scale(own, 0, 2, format!("Scale the authorizer {own} to 2 replicas")))
}

/// Corrects the provider in the mesh's configuration, where one Service or port is what was meant: the text of the
/// configuration stays as it is but for this.
fn correct(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let map = snapshot.object("ConfigMap", &snapshot.istio.root_namespace, "istio")?;
    let text = map.body.at("data")?.child("mesh")?.as_str()?;
    let (from, to) = match fact.why {
        Why::NoPort => match snapshot.service(&fact.service)?.ports.as_slice() {
            [only] => (format!("port: {}", fact.port), format!("port: {}", only.number)),
            _ => return None,
        },
        Why::NoService => {
            let beside = snapshot.services.iter().filter(|s| s.object.namespace() == fact.service.namespace);
            let meant = nearest(&fact.service.name, beside.map(|s| s.object.name()))?;
            (fact.service.name.clone(), meant.to_owned())
        }
        _ => return None,
    };
    let corrected = within_entry(text, &fact.provider, &from, &to)?;
    let remedy = Remedy::patch(
        map,
        &json!([{"op": "replace", "path": "/data/mesh", "value": corrected}]),
        format!(
            "Write \"{}\" instead of \"{}\" into the provider",
            text::plain(&to, 80),
            text::plain(&from, 80)
        ),
    )?;
    Some(remedy.risk(Risk::Medium))
}

/// Replaces a text in the entry of a YAML list that has this name. `None` where the entry, or the text in it, is not there
/// exactly once.
fn within_entry(yaml: &str, name: &str, from: &str, to: &str) -> Option<String> {
    let bare = |line: &str| line.trim().trim_start_matches("- ").replace(['"', '\''], "");
    let lines: Vec<&str> = yaml.lines().collect();
    let wanted = format!("name: {name}");
    let mut named = lines.iter().enumerate().filter(|(_, line)| bare(line) == wanted).map(|(at, _)| at);
    let at = named.next().filter(|_| named.next().is_none())?;
    let indent = |line: &str| line.len() - line.trim_start().len();
    let starts = |line: &str| line.trim_start().starts_with("- ");
    // The entry begins at its dash and ends before the next one that stands as far left, or before anything further left.
    let begin = (0..=at).rev().find(|i| lines.get(*i).is_some_and(|line| starts(line)))?;
    let left = indent(lines.get(begin)?);
    let end = (begin + 1..lines.len())
        .find(|i| lines.get(*i).is_some_and(|line| !line.trim().is_empty() && indent(line) <= left))
        .unwrap_or(lines.len());
    let hits: Vec<usize> =
        (begin..end).filter(|i| lines.get(*i).is_some_and(|line| line.matches(from).count() == 1)).collect();
    let [hit] = hits.as_slice() else { return None };
    let mut out: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let line = out.get_mut(*hit)?;
    *line = line.replacen(from, to, 1);
    let mut joined = out.join("\n");
    if yaml.ends_with('\n') {
        joined.push('\n');
    }
    Some(joined)
}

fn unavailable<'a>(snapshot: &'a Snapshot, group: Failures) -> Option<Fact<'a>> {
    let part = group.parts.first()?;
    let workload = snapshot.workload(&part.workload)?;
    let root = &snapshot.istio.root_namespace;
    let policy = snapshot.istio.authorization_policies.iter().find(|policy| {
        policy.object.body.text("spec.action") == Some("CUSTOM")
            && policy.applies_to(&part.workload.namespace, &workload.template.labels, root)
    })?;
    let provider = policy.object.body.text("spec.provider.name")?.to_owned();
    let known = snapshot.istio.mesh_config.list("extensionProviders");
    let entry = known.iter().find(|entry| entry.text("name") == Some(&provider))?;
    let body = ["envoyExtAuthzHttp", "envoyExtAuthzGrpc"].iter().find_map(|kind| entry.child(kind))?;
    let (service, port) = target(body, root)?;
    let why = match snapshot.service(&service) {
        None if snapshot.services.iter().any(|s| s.object.namespace() == service.namespace) => Why::NoService,
        // Its namespace was not read: nothing is known of it.
        None => return None,
        Some(known) if known.port(port).is_none() => Why::NoPort,
        Some(known) => match snapshot.endpoints(known) {
            Some((0, pods)) => Why::NoEndpoint(pods),
            _ => Why::Unanswered,
        },
    };
    let workloads = snapshot.graph.backing.get(&service).into_iter().flatten().cloned().collect();
    Some(Fact {
        policy,
        provider,
        port,
        timeout: body.text("timeout").map(str::to_owned),
        why,
        workloads,
        service,
        group,
    })
}

/// `ns/host` or a host, and its port.
fn target(body: &Value, root: &str) -> Option<(ServiceName, i64)> {
    let written = body.text("service")?;
    let (namespace, host) = written.split_once('/').unwrap_or((root, written));
    let (namespace, name) = service_of_host(&full_host(host, namespace))?;
    Some((ServiceName::new(namespace, name), body.int("port")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_entry_of_that_name_is_changed() {
        let yaml = "extensionProviders:\n- name: other\n  envoyExtAuthzGrpc:\n    port: 9000\n- envoyExtAuthzGrpc:\n    service: auth.shop.svc.cluster.local\n    port: 9000\n  name: \"auth\"\nrootNamespace: istio-system\n";
        let corrected = within_entry(yaml, "auth", "port: 9000", "port: 9001").unwrap();
        assert_eq!(corrected.matches("port: 9001").count(), 1);
        assert!(
            corrected.find("port: 9001") > corrected.find("auth.shop")
                && corrected.ends_with("istio-system\n")
        );
        assert_eq!(within_entry(yaml, "absent", "port", "p"), None);
    }
}
