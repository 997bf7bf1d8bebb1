//! ISTIO149.

use crate::model::json::{Value, json};

use super::support::annotate;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, Calls};
use crate::analyze::rules::seen::{self, Seen};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{ServiceEntry, host_matches, visible};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};
use crate::model::workload::Workload;

crate::rule! {
    /// A ServiceEntry's host does not resolve where its callers ask, or its automatic address is called on a port that it lacks.
    ///
    /// ## What it detects
    /// Callers in the mesh whose log says that a host is unknown which a ServiceEntry declares: the name exists only in the mesh, and
    /// the caller's proxy does not answer DNS queries (`ISTIO_META_DNS_CAPTURE`). And failing calls to an automatic address
    /// (240.240.0.0/16, 2001:2::/48) on a port that no ServiceEntry of such an address has.
    /// ## Why it matters
    /// A ServiceEntry makes a route and no DNS record. An invented host resolves only by the proxy's own DNS; without it the
    /// application never sends anything. An automatic address leads nowhere but to the ports that are declared.
    /// ## Evidence
    /// The caller's log line with the host; the ServiceEntry; the proxy's settings of the workload and of MeshConfig; connections to
    /// automatic addresses in access logs.
    /// ## How to confirm
    /// `istioctl proxy-config bootstrap POD | grep DNS_CAPTURE`, and `nslookup HOST` inside of the pod.
    /// ## How to fix
    /// Turn DNS capture on for the workload or the mesh, or give the host a real record. Declare the port that is called.
    /// ## False positives
    /// A host that is spelt wrongly by the caller is no host of a ServiceEntry, and other rules tell it.
    /// ## References
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/>
    NamesNotCaptured {
        code: "ISTIO149", name: "names-not-captured", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// What is missing.
#[derive(Debug)]
enum Missing<'a> {
    /// The proxy of this workload answers no DNS queries.
    Capture(&'a Workload, Calls),
    /// The ServiceEntry does not have this port.
    Port(i64, Seen, ObjectRef),
}

/// A host that its callers do not reach.
#[derive(Debug)]
pub struct Fact<'a> {
    entry: &'a ServiceEntry,
    host: String,
    missing: Missing<'a>,
}

impl Check for NamesNotCaptured {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        if snapshot.istio.service_entries.is_empty() {
            return out;
        }
        let failing = calls::failing(snapshot);
        for calls in failing
            .all
            .iter()
            .filter(|c| c.kind() == Some(Kind::NoSuchHost) && c.severity() >= Severity::Warning)
        {
            let Some(host) =
                calls.main().map(|group| group.host().to_owned()).filter(|host| !host.is_empty())
            else {
                continue;
            };
            let client = &calls.caller.namespace;
            let entry = snapshot.istio.service_entries.iter().find(|entry| {
                entry.hosts.iter().any(|known| host_matches(known, &host))
                    && visible(&entry.export_to, entry.object.namespace(), client)
            });
            let (Some(entry), Some(workload)) = (entry, snapshot.workload(&calls.caller)) else { continue };
            let meshed = snapshot.pods_of(workload.reference()).any(|pod| snapshot.has_istio_proxy(pod));
            if meshed && !captured(snapshot, workload) && snapshot.in_scope(client) {
                out.push(Fact { entry, host, missing: Missing::Capture(workload, calls.clone()) });
            }
        }
        out.extend(undeclared(snapshot));
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let entry = &fact.entry.object.reference;
        let host = text::plain(&fact.host, 80);
        match &fact.missing {
            Missing::Capture(workload, calls) => {
                let own = workload.reference();
                let service = calls::service_of(snapshot, own);
                let subject = own.field(workload.template_path("metadata.annotations"));
                Finding::new(Self::META, subject.clone(), &[&host])
                    .title(format!("{host} is known to the mesh alone, and the proxy of {own} answers no DNS queries"))
                    .message(format!(
                        "{entry} declares {host}, which no name server knows. {own} asks for the name before it sends anything and gets none ({}); its proxy would answer with DNS capture on, which neither its annotations nor MeshConfig set.",
                        calls.amount()
                    ))
                    .mechanism("DNS capture off: ServiceEntry host does not resolve, no such host")
                    .severity(calls.severity())
                    .role(Role::Cause, Confidence::Observed)
                    .service(service)
                    .related(entry.field("spec.hosts"))
                    .onset(calls.first)
                    .evidence(Evidence::object(&entry.field("spec.hosts"), format!("declares {host}")))
                    .evidence(Evidence::object(&subject, "ISTIO_META_DNS_CAPTURE is not set"))
                    .evidences(calls.evidence())
                    .effect(Effect::calls(own))
                    .maybe_remedy(capture(workload))
                    .prevention(Prevention::of("Setting", "meshConfig.defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE \"true\" for the whole mesh"))
            }
            Missing::Port(port, seen, caller) => {
                let ports: Vec<String> = fact.entry.ports.iter().map(|(n, _)| n.to_string()).collect();
                let ports = ports.join(", ");
                let subject = entry.field("spec.ports");
                Finding::new(Self::META, subject.clone(), &[&port.to_string()])
                    .title(format!("{entry} lacks port {port}, on which {} calls its automatic address", caller.name))
                    .message(format!(
                        "The proxy's DNS gives {host} an address of its own that leads to the declared ports alone ({ports}). {caller} calls it on {port}; {} calls failed.",
                        text::number(seen.count)
                    ))
                    .mechanism("ServiceEntry port missing: automatic address called on an undeclared port")
                    .severity(Severity::Error)
                    .role(Role::Cause, Confidence::Observed)
                    .onset(seen.onset)
                    .evidence(Evidence::object(&subject, format!("ports {ports}")))
                    .evidences(seen.evidence.clone())
                    .effect(Effect::calls(caller))
                    .maybe_remedy(declare(fact.entry, *port))
                    .prevention(Prevention::of("Test", "In the pipeline: every outside host and port that a setting names is declared by a ServiceEntry"))
            }
        }
    }
}

/// Whether the proxies of a workload answer DNS queries.
fn captured(snapshot: &Snapshot, workload: &Workload) -> bool {
    const NAME: &str = "ISTIO_META_DNS_CAPTURE";
    let annotation = workload.template.annotations.get("proxy.istio.io/config");
    if annotation.is_some_and(|text| text.contains(NAME)) {
        return true;
    }
    let proxies =
        snapshot.pods_of(workload.reference()).filter_map(|pod| pod.template.container("istio-proxy"));
    let set = |value: Option<&str>| value.is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if proxies
        .flat_map(|c| c.body.list("env"))
        .any(|env| env.text("name") == Some(NAME) && set(env.text("value")))
    {
        return true;
    }
    let metadata = snapshot.istio.mesh_config.at("defaultConfig.proxyMetadata");
    metadata.and_then(|m| m.child(NAME)).is_some_and(|value| match value {
        Value::Bool(on) => *on,
        other => set(other.as_str()),
    })
}

/// Turns it on.
fn capture(workload: &Workload) -> Option<Remedy> {
    const KEY: &str = "proxy.istio.io/config";
    if workload.template.annotations.contains_key(KEY) {
        return Some(Remedy::manual(format!(
            "Add ISTIO_META_DNS_CAPTURE: \"true\" to proxyMetadata in the annotation {KEY} of {}",
            workload.reference()
        )));
    }
    annotate(
        workload,
        KEY,
        "{\"proxyMetadata\":{\"ISTIO_META_DNS_CAPTURE\":\"true\"}}",
        "Let the workload's proxies answer DNS queries (ISTIO_META_DNS_CAPTURE); its pods are replaced",
    )
}

/// Automatic addresses that are called on ports that their ServiceEntry lacks.
fn undeclared(snapshot: &Snapshot) -> Vec<Fact<'_>> {
    let mut out: Vec<Fact<'_>> = vec![];
    for edge in
        snapshot.traffic.iter().filter(|e| e.reporter == Reporter::Source && e.cluster.direction.is_empty())
    {
        let automatic = |called: &str| {
            let (ip, port) = called.rsplit_once(':')?;
            let ip = ip.trim_matches(['[', ']']);
            (ip.starts_with("240.240.") || ip.starts_with("2001:2:")).then(|| port.parse::<i64>().ok())?
        };
        let failing = edge.outcomes.iter().filter(|o| o.failed);
        let Some(port) = failing.flat_map(|o| o.called.keys()).find_map(|called| automatic(called)) else {
            continue;
        };
        let host = edge
            .outcomes
            .iter()
            .flat_map(|o| o.authorities.keys())
            .next()
            .map_or(edge.authority.as_str(), String::as_str);
        let host = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
        let candidates: Vec<&ServiceEntry> = snapshot
            .istio
            .service_entries
            .iter()
            .filter(|e| visible(&e.export_to, e.object.namespace(), &edge.workload.namespace))
            .filter(|e| e.object.body.list("spec.addresses").is_empty())
            .filter(|e| host.is_empty() || e.hosts.iter().any(|known| host_matches(known, host)))
            .collect();
        // A bare connection names no host: only one ServiceEntry leaves no doubt.
        let [entry] = candidates.as_slice() else { continue };
        if entry.ports.iter().any(|(n, _)| *n == port) || !snapshot.in_scope(&edge.workload.namespace) {
            continue;
        }
        let here =
            |_: &EdgeTraffic, o: &Outcome| o.failed && o.called.keys().any(|c| automatic(c) == Some(port));
        let seen = seen::outcomes(std::iter::once(edge), here);
        let host = entry.hosts.first().cloned().unwrap_or_default();
        out.push(Fact { entry, host, missing: Missing::Port(port, seen, edge.workload.clone()) });
    }
    out
}

/// Declares the port.
fn declare(entry: &ServiceEntry, port: i64) -> Option<Remedy> {
    let protocol = entry.ports.first().map_or("TCP", |(_, protocol)| protocol.as_str());
    let name = format!("{}-{port}", protocol.to_ascii_lowercase());
    let target = entry.object.body.list("spec.ports").iter().any(|p| p.at("targetPort").is_some());
    let mut value = json!({"number": port, "name": name, "protocol": protocol});
    if target && let Some(fields) = value.as_object_mut() {
        fields.insert("targetPort".to_owned(), json!(port));
    }
    Remedy::patch(
        &entry.object,
        &json!([{"op": "add", "path": format!("{}/-", pointer("spec.ports")), "value": value}]),
        format!("Add port {port} to {}", entry.object.reference),
    )
}
