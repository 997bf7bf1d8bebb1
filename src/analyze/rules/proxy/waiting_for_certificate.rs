//! PROXY109.

use std::collections::BTreeMap;

use super::{MAX_PROXIES, ask, evidence};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text::plain;
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;
use crate::model::proxy::Proxy;
use crate::model::proxy::config::ResourceState;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A listener or cluster of a proxy waits for a certificate that does not come.
    ///
    /// ## What it detects
    /// A certificate among the `dynamic_warming_secrets` of a proxy, or a listener that has been warming for more than half
    /// a minute and needs certificates that the proxy does not have.
    /// ## Why it matters
    /// Until it has its certificate a listener is not opened: a gateway refuses connections to that port, or goes on with
    /// what it had before.
    /// ## Evidence
    /// The certificate's name, what waits for it, and the Gateway that names it.
    /// ## How to confirm
    /// `istioctl proxy-config secret POD` shows it as WARMING.
    /// ## How to fix
    /// Create the Secret of that name, of type `kubernetes.io/tls`, in the namespace of the gateway's pods, or correct
    /// `credentialName`. A workload's own certificate (`default`, `ROOTCA`) comes from istiod: see whether the agent reaches
    /// port 15012.
    /// ## False positives
    /// A proxy that has just started waits for a second or two; it is left out for half a minute.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/ingress/secure-ingress/>
    WaitingForCertificate {
        code: "PROXY109", name: "waiting-for-certificate", family: Mesh, severity: Error,
        needs: [Proxies], aliases: ["IST0101"],
    }
}

/// A certificate usually comes within a second.
const PATIENCE_SECONDS: f64 = 30.0;

/// A proxy, and what waits in it.
type Waiting<'a> = (&'a Proxy, Vec<&'a str>);

/// A certificate that proxies of a workload wait for.
#[derive(Debug)]
pub struct Fact<'a> {
    secret: &'a str,
    workload: ObjectRef,
    /// The proxies, and what waits in them.
    waiting: Vec<Waiting<'a>>,
}

impl Check for WaitingForCertificate {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<(ObjectRef, &'a str), Vec<Waiting<'a>>> = BTreeMap::new();
        for proxy in snapshot.proxies.iter().filter(|proxy| snapshot.in_scope(&proxy.namespace)) {
            let young = proxy.server.as_ref().and_then(|s| s.uptime).is_some_and(|up| up < PATIENCE_SECONDS);
            if young {
                continue;
            }
            for (secret, users) in waiting(proxy, snapshot) {
                let owner = snapshot.owner_by_name(&proxy.namespace, &proxy.pod);
                found.entry((owner, secret)).or_default().push((proxy, users));
            }
        }
        found.into_iter().map(|((workload, secret), waiting)| Fact { secret, workload, waiting }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let secret = plain(fact.secret, 80);
        let gateway = gateway(fact, snapshot);
        let (first, users) = fact.waiting.first().map(|(proxy, users)| (*proxy, users.clone())).unzip();
        let users = users.unwrap_or_default();
        let users = users.iter().take(MAX_PROXIES).map(|name| plain(name, 60)).collect::<Vec<_>>().join(", ");
        let waits =
            if users.is_empty() { "What needs it".to_owned() } else { format!("What needs it ({users})") };
        let subject = gateway.clone().unwrap_or_else(|| fact.workload.clone());
        let named = gateway.is_some();
        let mut finding = Finding::new(Self::META, subject, &[fact.secret])
            .title(format!("{}: its proxy waits for the certificate {secret}", fact.workload))
            .message(format!("The proxy asked for {secret} and got nothing. {waits} is not opened until it comes: connections there are refused, or end with what was configured before."))
            .mechanism("certificate secret missing: SDS secret not delivered, listener warming")
            .severity(Severity::Error)
            .role(if named { Role::Cause } else { Role::Symptom }, Confidence::Observed)
            .evidences(fact.waiting.iter().take(MAX_PROXIES).map(|(proxy, _)| {
                evidence(&proxy.namespace, &proxy.pod, "config_dump", format!("certificate {secret} is warming"))
            }))
            .related(fact.workload.clone())
            .effect(Effect::pods(&fact.workload));
        if let Some(gateway) = &gateway {
            finding = finding.evidence(Evidence::object(gateway, format!("names the certificate {secret}")));
        }
        if let Some(name) = secret_name(fact.secret) {
            let pod = fact
                .waiting
                .first()
                .map(|(proxy, _)| ObjectRef::new("Secret", &proxy.namespace, name))
                .unwrap_or_default();
            finding = finding.remedy(Remedy::commands(
                format!("Create the Secret {name} in namespace {}", pod.namespace),
                vec![
                    format!("kubectl {}get secret {}", scope(&pod), quote(name)),
                    format!(
                        "kubectl {}create secret tls {} --cert=tls.crt --key=tls.key",
                        scope(&pod),
                        quote(name)
                    ),
                ],
                vec![format!("kubectl {}delete secret {}", scope(&pod), quote(name))],
            ));
        }
        let look = first.map(|proxy| ask(&proxy.namespace, &proxy.pod, "config_dump")).into_iter().collect();
        finding.remedy(Remedy::commands("See which certificates the proxy has", look, vec![])).prevention(
            Prevention::alert(
                "Alert when a listener waits",
                "max by (namespace, pod) (envoy_listener_manager_total_listeners_warming) > 0",
            ),
        )
    }
}

/// Certificates that do not come, each with what waits for it.
fn waiting<'a>(proxy: &'a Proxy, snapshot: &Snapshot) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut out: BTreeMap<&'a str, Vec<&'a str>> = BTreeMap::new();
    let Some(config) = &proxy.config else { return out };
    let old = |updated: Option<jiff::Timestamp>| {
        updated.is_none_or(|at| (snapshot.now.as_second() - at.as_second()) as f64 > PATIENCE_SECONDS)
    };
    for secret in config.secrets.iter().filter(|s| s.state == ResourceState::Warming && old(s.updated)) {
        out.entry(&secret.name).or_default();
    }
    let has = |name: &str| config.secrets.iter().any(|s| s.name == name && s.state == ResourceState::Active);
    // Without the section about secrets nothing can be said of those that are not in it.
    let known = !config.secrets.is_empty();
    for listener in config.listeners.iter().filter(|l| l.resource.state == ResourceState::Warming) {
        for name in &listener.secrets {
            let missing = known && !has(name) && old(listener.resource.updated);
            if missing || out.contains_key(name.as_str()) {
                out.entry(name).or_default().push(&listener.resource.name);
            }
        }
    }
    out
}

/// The Secret behind `kubernetes://NAME`, `kubernetes-gateway://NAMESPACE/NAME` and a plain name; none for what istiod issues.
fn secret_name(secret: &str) -> Option<&str> {
    let name = secret.split_once("://").map_or(secret, |(_, name)| name);
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    let name = name.strip_suffix("-cacert").unwrap_or(name);
    (!matches!(name, "" | "default" | "ROOTCA") && !name.starts_with("file-")).then_some(name)
}

/// The server of an Istio Gateway that names the certificate and is served by these pods.
fn gateway(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<ObjectRef> {
    let name = secret_name(fact.secret)?;
    let (proxy, _) = fact.waiting.first()?;
    let pod = snapshot.pod(&proxy.namespace, &proxy.pod)?;
    snapshot.istio.gateways.iter().find_map(|gateway| {
        let serves = gateway.selector.iter().all(|(key, value)| pod.object.labels.get(key) == Some(value));
        let server =
            gateway.servers.iter().find(|server| server.body.text("tls.credentialName") == Some(name));
        let server = server.filter(|_| serves)?;
        Some(gateway.object.reference.field(format!("{}.tls.credentialName", server.path)))
    })
}
