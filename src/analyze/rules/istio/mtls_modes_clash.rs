//! ISTIO120.

use crate::model::json::json;
use std::collections::BTreeSet;

use super::support::take_out_policy;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, all, blame, text};
use crate::analyze::twin::policy::ClientTls;
use crate::analyze::twin::policy::istio::handshake::{Handshake, Server, shake};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, full_host};
use crate::model::network::{Service, ServiceName};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use crate::model::workload::{PodTemplate, Workload};

crate::rule! {
    /// What callers speak and what the callee accepts do not fit: plaintext against strict mutual TLS, or the reverse.
    ///
    /// ## What it detects
    /// A DestinationRule whose `tls.mode` the callee cannot take (DISABLE against STRICT, ISTIO_MUTUAL against pods without a
    /// proxy or against DISABLE, SIMPLE or MUTUAL against the mesh's own certificates), and callers without a proxy that call
    /// a Service whose PeerAuthentication is STRICT.
    /// ## Why it matters
    /// Every connection of these callers fails. A caller without a proxy only sees a reset.
    /// ## Evidence
    /// The mode of the DestinationRule against the effective mode of the PeerAuthentication and the containers of the
    /// callee's pods; `filter_chain_not_found`, TLS errors or closed connections in access logs.
    /// ## How to confirm
    /// `istioctl x describe service NAME` shows both sides.
    /// ## How to fix
    /// Take `tls` out of the DestinationRule: between proxies mutual TLS is automatic. For a caller without a proxy inject it,
    /// or accept both with PERMISSIVE.
    /// ## False positives
    /// A port that serves TLS itself.
    /// ## References
    /// <https://istio.io/latest/docs/ops/common-problems/network-issues/#503-errors-after-setting-destination-rule>
    MtlsModesClash {
        code: "ISTIO120", name: "mtls-modes-clash", family: Mesh, severity: Error,
        needs: [Istio], aliases: ["KIA0207", "KIA0208", "KIA0505", "KIA0506"],
    }
}

/// The two ways in which the sides do not fit.
#[derive(Debug)]
enum Clash<'a> {
    /// A DestinationRule tells callers to speak what the callee does not take.
    Told { rule: &'a DestinationRule, path: String, mode: String },
    /// Callers without a proxy speak plaintext to strict mutual TLS.
    Bare { callers: Vec<&'a Workload>, blame_caller: bool },
}

/// One Service whose callers do not speak what it accepts.
#[derive(Debug)]
pub struct Fact<'a> {
    clash: Clash<'a>,
    service: ServiceName,
    /// Further Services that the same object keeps the same callers from.
    others: Vec<ServiceName>,
    /// `STRICT`, `PERMISSIVE` or `DISABLE`.
    accepts: String,
    /// The PeerAuthentication that says so.
    peer: Option<ObjectRef>,
    /// Whether the callee's pods carry a proxy; `None` where no pod was seen.
    proxied: Option<bool>,
    /// What proxies saw of it.
    seen: Vec<Failures>,
}

impl Check for MtlsModesClash {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let groups = all(snapshot, |way| {
            matches!(
                way,
                Way::NoFilterChain
                    | Way::TlsToPlaintext
                    | Way::Certificate
                    | Way::ConnectionFailed
                    | Way::UpstreamClosed
            )
        });
        let mut out = vec![];
        for service in snapshot
            .services
            .iter()
            .filter(|s| !s.selector.is_empty() && snapshot.in_scope(s.object.namespace()))
        {
            let name = service.service_name();
            let mine: Vec<&Failures> = groups
                .iter()
                .filter(|group| group.callee.service.as_ref() == Some(&name) && group.severity().is_some())
                .collect();
            let Some(template) = template(snapshot, service) else { continue };
            out.extend(told(snapshot, service, template, &mine));
            out.extend(bare(snapshot, service, template, &mine));
        }
        merged(out)
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = &fact.service.name;
        let peer = fact.peer.clone();
        let accepts = match (&peer, fact.proxied) {
            (_, Some(false)) => format!("the pods of {name} carry no proxy"),
            (Some(peer), _) => format!(
                "{} makes {name} {}",
                ObjectRef { field_path: String::new(), ..peer.clone() },
                fact.accepts
            ),
            (None, _) => format!("{name} is {}", fact.accepts),
        };
        let severity = fact.seen.iter().filter_map(Failures::severity).max();
        let top = fact.seen.iter().max_by_key(|group| group.count);
        let figures = top.map_or(String::new(), |group| {
            let short = group.parts.first().map(|part| text::plain(&part.short, 24)).unwrap_or_default();
            let since = group.onset.map(|at| format!(" since {}", text::clock(at))).unwrap_or_default();
            format!(
                " Proxies saw {short} on {}{since}.",
                text::share(group.count, group.requests, "connections and requests")
            )
        });
        let (subject, related, title, why, mechanism) = match &fact.clash {
            Clash::Told { rule, path, mode } => (
                rule.reference().field(path),
                peer.clone(),
                format!("{} tells callers of {name} tls {mode}, and {accepts}", rule.reference()),
                format!("Callers' proxies follow {path} = {mode}; {accepts}. {}", consequence(mode, fact)),
                format!("mTLS modes clash: TLS {mode} against {}", fact.accepts),
            ),
            Clash::Bare { callers, blame_caller } => {
                let names: Vec<&str> = callers.iter().take(3).map(|w| w.object.name()).collect();
                let names = names.join(", ");
                let own = callers.first().map(|w| w.reference().field(w.template_path("metadata.labels")));
                let why = format!(
                    "{names} has no proxy and speaks plaintext; {accepts}, whose proxy closes such connections (filter_chain_not_found)."
                );
                let title = if *blame_caller {
                    format!(
                        "{names} runs without a sidecar and calls {name} in plaintext, which is {}",
                        fact.accepts
                    )
                } else {
                    format!("{accepts}, and its caller {names} has no sidecar: plaintext is refused")
                };
                let (subject, related) = match (own, &peer) {
                    (Some(own), Some(peer)) if *blame_caller => (own, Some(peer.clone())),
                    (own, Some(peer)) => (peer.clone(), own),
                    (Some(own), None) => (own, None),
                    (None, None) => (fact.service.reference(), None),
                };
                (
                    subject,
                    related,
                    title,
                    why,
                    "mTLS STRICT against plaintext: caller without sidecar (injection)".to_owned(),
                )
            }
        };
        let confidence = if fact.seen.is_empty() { Confidence::Configured } else { Confidence::Observed };
        let mut finding = Finding::new(Self::META, subject.clone(), &[name])
            .title(title)
            .message(format!("{why}{figures}"))
            .mechanism(mechanism)
            .severity(severity.unwrap_or(Severity::Warning))
            .role(Role::Cause, confidence)
            .service(Some(fact.service.clone()))
            .onset(fact.seen.iter().filter_map(|group| group.onset).min())
            .evidence(Evidence::object(&subject, accepts))
            .evidences(
                peer.iter()
                    .filter(|peer| !peer.same_object(&subject))
                    .map(|peer| Evidence::object(peer, fact.accepts.clone())),
            )
            .evidences(fact.seen.iter().filter_map(|group| {
                let part = group.parts.first()?;
                let source = if part.counted { "Metric" } else { "AccessLog" };
                Some(
                    Evidence::new(
                        source,
                        format!("istio-proxy of {}", part.workload),
                        format!("{}, {} times", text::plain(&part.short, 24), text::number(group.count)),
                    )
                    .at(part.first)
                    .excerpt(&part.details),
                )
            }))
            .effect(Effect::requests(&fact.service, BROKEN))
            .effects(fact.others.iter().map(|service| Effect::requests(service, BROKEN)));
        if let Clash::Bare { callers, .. } = &fact.clash {
            // A caller without a proxy is seen only by those who call it in turn.
            finding = finding.effects(callers.iter().map(|w| Effect::calls(w.reference())));
        }
        if let Some(related) = related {
            finding = finding.related(related);
        }
        for remedy in remedies(fact, snapshot) {
            finding = finding.remedy(remedy);
        }
        finding
            .prevention(Prevention::alert(
                "Before STRICT: alert while plaintext still arrives",
                format!("sum by (source_workload) (rate(istio_requests_total{{reporter=\"destination\",connection_security_policy=\"none\",destination_service_name=\"{}\"}}[5m])) > 0", text::plain(name, 63)),
            ))
            .prevention(Prevention::of("Policy", "Refuse DestinationRules with tls.mode for hosts of the cluster: mutual TLS between proxies is automatic"))
    }
}

/// How connections that do not fit fail, on either side.
const BROKEN: &[&str] = &["UF", "UC", "NR", "tls", "reset"];

/// One fact for all Services that the same object keeps callers without a proxy from: the one that suffers most stands for
/// the others.
fn merged(facts: Vec<Fact<'_>>) -> Vec<Fact<'_>> {
    let key = |fact: &Fact<'_>| match &fact.clash {
        Clash::Told { .. } => None,
        Clash::Bare { callers, blame_caller: true } => callers.first().map(|w| w.reference().clone()),
        Clash::Bare { .. } => fact.peer.clone(),
    };
    let failing = |fact: &Fact<'_>| fact.seen.iter().map(|group| group.count).sum::<u64>();
    let mut out: Vec<Fact<'_>> = vec![];
    for mut fact in facts {
        let own = key(&fact);
        match out.iter_mut().find(|known| own.is_some() && key(known) == own) {
            None => out.push(fact),
            Some(known) => {
                if failing(known) < failing(&fact) {
                    std::mem::swap(known, &mut fact);
                }
                known.others.push(fact.service);
                known.others.extend(fact.others);
                known.seen.extend(fact.seen);
            }
        }
    }
    out
}

/// What follows from a mode that does not fit.
fn consequence(mode: &str, fact: &Fact<'_>) -> &'static str {
    match (mode, fact.proxied) {
        ("DISABLE", _) => "The callee's proxy closes plaintext connections.",
        (_, Some(false)) => "The TLS handshake meets a server that speaks plaintext (WRONG_VERSION_NUMBER).",
        ("ISTIO_MUTUAL", _) => "The TLS handshake meets plaintext (WRONG_VERSION_NUMBER).",
        _ => {
            "Between proxies only the mesh's own mutual TLS is accepted: SIMPLE shows no certificate and checks the callee's against other authorities (CERTIFICATE_VERIFY_FAILED)."
        }
    }
}

/// What the pods behind a Service are made of: a running pod's where one was seen, else a workload's.
fn template<'a>(snapshot: &'a Snapshot, service: &'a Service) -> Option<&'a PodTemplate> {
    snapshot
        .pods_behind(service)
        .map(|pod| &pod.template)
        .next()
        .or_else(|| snapshot.workloads_behind(service).map(|w| &w.template).next())
}

/// Whether all pods of a Service carry a proxy; `None` where none was seen, or where they differ.
fn proxied(snapshot: &Snapshot, service: &Service) -> Option<bool> {
    let found: BTreeSet<bool> =
        snapshot.pods_behind(service).map(|pod| snapshot.has_istio_proxy(pod)).collect();
    match found.len() {
        1 => found.first().copied(),
        _ => None,
    }
}

/// Whether a client that was told to speak so cannot connect.
fn fails(client: &ClientTls, server: Server) -> bool {
    matches!(shake(client, server, true), Handshake::Failed { .. })
}

/// A DestinationRule that does not fit.
fn told<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    template: &PodTemplate,
    mine: &[&Failures],
) -> Vec<Fact<'a>> {
    let name = service.service_name();
    let host = full_host(&name.name, &name.namespace);
    let proxied = proxied(snapshot, service);
    let clients: BTreeSet<&str> = snapshot
        .graph
        .callers(&name)
        .map(|caller| caller.namespace.as_str())
        .chain([name.namespace.as_str()])
        .collect();
    let mut out: Vec<Fact<'a>> = vec![];
    for client in clients {
        for rule in snapshot.istio.destination_rules_for(&host, client) {
            for port in &service.ports {
                let Some((path, mode)) = rule.policy(Some(port.number), "tls.mode") else { continue };
                let mode = mode.as_str().unwrap_or_default();
                let target = snapshot.pods_behind(service).find_map(|pod| service.pod_port(port, pod));
                let (accepts, peer) = snapshot.istio.peer_mode(&name.namespace, &template.labels, target);
                let tls_failed = |group: &&&Failures| {
                    group.callee.reporter == Reporter::Source
                        && matches!(group.way, Way::TlsToPlaintext | Way::Certificate | Way::ConnectionFailed)
                };
                let failed = mine.iter().any(|group| tls_failed(&group));
                let server = match proxied {
                    Some(false) => Server::Application,
                    _ => Server::of_mode(&accepts),
                };
                let clashes = match mode {
                    "DISABLE" => fails(&ClientTls::Disable, server),
                    "ISTIO_MUTUAL" => fails(&ClientTls::IstioMutual, server),
                    "SIMPLE" if proxied == Some(true) && fails(&ClientTls::Originate, server) => true,
                    // The application may serve TLS itself: only a failure decides.
                    "SIMPLE" | "MUTUAL" => failed,
                    _ => false,
                };
                if !clashes || out.iter().any(|f| matches!(&f.clash, Clash::Told { rule: known, .. } if known.reference() == rule.reference())) {
                    continue;
                }
                out.push(Fact {
                    clash: Clash::Told { rule, path, mode: mode.to_owned() },
                    service: name.clone(),
                    others: vec![],
                    accepts,
                    peer,
                    proxied,
                    seen: mine.iter().map(|group| (*group).clone()).collect(),
                });
            }
        }
    }
    out
}

/// Callers without a proxy that strict mutual TLS turns away.
fn bare<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    template: &PodTemplate,
    mine: &[&Failures],
) -> Option<Fact<'a>> {
    let name = service.service_name();
    let group = mine.iter().find(|group| group.way == Way::NoFilterChain)?;
    let (accepts, peer) = snapshot.istio.peer_mode(&name.namespace, &template.labels, None);
    if accepts != "STRICT" || proxied(snapshot, service) == Some(false) {
        return None;
    }
    let clients = group.clients();
    let owners: BTreeSet<ObjectRef> = clients
        .keys()
        .filter_map(|ip| snapshot.pod_by_ip(ip))
        .filter(|pod| !snapshot.has_istio_proxy(pod))
        .map(|pod| snapshot.owner(pod))
        .collect();
    let callers: Vec<&Workload> = owners.iter().filter_map(|owner| snapshot.workload(owner)).collect();
    let first = callers.first()?;
    let objects: Vec<&ObjectRef> = peer.iter().chain([first.reference()]).collect();
    let blame_caller = match blame::changed_last(snapshot, &objects, group.onset) {
        Some(at) => objects.get(at).is_some_and(|object| object.same_object(first.reference())),
        // Nothing tells who was changed: a client whose plaintext was accepted before has not changed.
        None => !accepted_before(snapshot, &name, &clients.keys().copied().collect()),
    };
    Some(Fact {
        clash: Clash::Bare { callers, blame_caller },
        service: name,
        others: vec![],
        accepts,
        peer,
        proxied: proxied(snapshot, service),
        seen: vec![(*group).clone()],
    })
}

/// Whether one of these addresses was served by the callee's proxy in what was seen.
fn accepted_before(snapshot: &Snapshot, service: &ServiceName, clients: &BTreeSet<&str>) -> bool {
    snapshot
        .traffic_to(service, Reporter::Destination)
        .flat_map(|edge| &edge.outcomes)
        .filter(|outcome| !outcome.failed)
        .any(|outcome| outcome.clients.keys().any(|client| clients.contains(client.as_str())))
}

fn remedies(fact: &Fact<'_>, snapshot: &Snapshot) -> Vec<Remedy> {
    match &fact.clash {
        Clash::Told { rule, path, mode } => {
            let tls = path.strip_suffix(".mode").unwrap_or(path);
            let mut out = vec![];
            let take_out = take_out_policy(
                &rule.object,
                tls,
                format!(
                    "Take tls out of {}: between proxies mutual TLS is automatic, and without one plaintext is",
                    rule.reference()
                ),
            );
            out.extend(take_out);
            if fact.proxied != Some(false) && fact.accepts != "DISABLE" && mode != "ISTIO_MUTUAL" {
                out.extend(Remedy::patch(
                    &rule.object,
                    &json!([{"op": "replace", "path": pointer(path), "value": "ISTIO_MUTUAL"}]),
                    format!("Set {path} to ISTIO_MUTUAL, the mesh's own mutual TLS"),
                ));
            }
            out
        }
        Clash::Bare { callers, blame_caller } => {
            let permissive = permissive(fact, snapshot);
            let inject: Vec<Remedy> = callers.iter().take(3).filter_map(|w| inject(w)).collect();
            if *blame_caller {
                inject.into_iter().chain(permissive).collect()
            } else {
                permissive.into_iter().chain(inject).collect()
            }
        }
    }
}

fn permissive(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let peer = fact.peer.as_ref()?;
    let object: &Object = snapshot.object("PeerAuthentication", &peer.namespace, &peer.name)?;
    let remedy = Remedy::patch(
        object,
        &json!([{"op": "replace", "path": pointer(&peer.field_path), "value": "PERMISSIVE"}]),
        format!(
            "Set {} to PERMISSIVE: plaintext is accepted beside mutual TLS until every caller has a sidecar",
            peer.field_path
        ),
    )?;
    Some(remedy.risk(Risk::High))
}

/// Lets the injector do its work: the label that forbids it goes, or the one that asks for it comes.
fn inject(workload: &Workload) -> Option<Remedy> {
    const LABEL: &str = "sidecar.istio.io/inject";
    let base = workload.template_path("metadata");
    let at = |map: &str| format!("{}/{map}/{}", pointer(&base), pointer_segment(LABEL));
    let own =
        |map: &str| workload.object.body.at(&format!("{base}.{map}")).and_then(|m| m.child(LABEL)).is_some();
    let operations = if own("labels") {
        json!([{"op": "remove", "path": at("labels")}])
    } else if own("annotations") {
        json!([{"op": "remove", "path": at("annotations")}])
    } else if workload.object.body.at(&format!("{base}.labels")).is_some() {
        json!([{"op": "add", "path": at("labels"), "value": "true"}])
    } else {
        return None;
    };
    let remedy = Remedy::patch(
        &workload.object,
        &operations,
        format!("Let the sidecar be injected into {} ({LABEL}); its pods are replaced", workload.reference()),
    )?;
    Some(remedy.risk(Risk::Medium))
}
