//! ISTIO173.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use super::support::{Said, of_proxy, said};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common::seconds_between;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy cannot get the module of a WasmPlugin, and refuses requests in its place.
    ///
    /// ## What it detects
    /// Proxies whose agent logs that it cannot fetch a Wasm module, and the WasmPlugin with that URL which applies to them.
    /// ## Why it matters
    /// With `failStrategy: FAIL_CLOSE`, which is what counts where nothing is written, the proxy denies every request (403, or 500) until
    /// the module is there. With FAIL_OPEN requests pass without the plugin.
    /// ## Evidence
    /// The agent's line, and the WasmPlugin's URL and strategy.
    /// ## How to confirm
    /// `kubectl logs POD -c istio-proxy | grep -i wasm`.
    /// ## How to fix
    /// Correct the URL or the pull secret; meanwhile set `failStrategy: FAIL_OPEN`, or take the plugin away.
    /// ## False positives
    /// A failed attempt that a later one made good is not told apart where the log ends between the two.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/proxy_extensions/wasm-plugin/>
    WasmModuleMissing {
        code: "ISTIO173", name: "wasm-module-missing", family: Mesh, severity: Error,
        needs: [Istio, Logs], aliases: [],
    }
}

/// A plugin whose module is not to be had.
#[derive(Debug)]
pub struct Fact {
    plugin: Policy,
    workload: ObjectRef,
    services: Vec<ServiceName>,
    said: Said,
    /// Whether requests are refused meanwhile.
    closed: bool,
}

impl Check for WasmModuleMissing {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let plugins: Vec<Policy> = snapshot
            .objects_of("WasmPlugin")
            .filter(|object| object.reference.group() == "extensions.istio.io")
            .map(|object| Policy::read(object.clone()))
            .collect();
        if plugins.is_empty() {
            return vec![];
        }
        let root = &snapshot.istio.root_namespace;
        let mut out = vec![];
        for (workload, said) in said(snapshot, of_proxy, &["cannot fetch Wasm module"]) {
            let Some(pod) = snapshot.pods_of(&workload).next() else { continue };
            let url = url(&said.text);
            let fits = |plugin: &&Policy| {
                plugin.applies_to(pod.object.namespace(), &pod.template.labels, root)
                    && url
                        .is_none_or(|url| same(plugin.object.body.text("spec.url").unwrap_or_default(), url))
            };
            let Some(plugin) = plugins.iter().find(fits) else { continue };
            let services = snapshot.services_before_pod(pod).map(Service::service_name).collect();
            let closed = plugin.object.body.text("spec.failStrategy") != Some("FAIL_OPEN");
            out.push(Fact { plugin: plugin.clone(), workload, services, said, closed });
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let object = &fact.plugin.object;
        let subject = object.reference.field("spec.url");
        let url = text::plain(object.body.text("spec.url").unwrap_or_default(), 90);
        let (state, severity) = if fact.closed {
            ("the proxies deny every request in its place (FAIL_CLOSE)", Severity::Error)
        } else {
            ("requests pass without it (FAIL_OPEN)", Severity::Warning)
        };
        Finding::new(Self::META, subject.clone(), &[&fact.workload.name])
            .title(format!(
                "{}: the module of {} cannot be had, and {}",
                fact.workload,
                object.reference,
                if fact.closed { "requests are refused" } else { "requests pass without it" }
            ))
            .message(format!(
                "The proxies of {} logged {} that they cannot fetch {url} for {}; {state}.",
                fact.workload,
                text::times(fact.said.count),
                object.reference
            ))
            .mechanism("WasmPlugin: module cannot be fetched (Wasm), FAIL_CLOSE denies requests")
            .severity(severity)
            .role(if fact.closed { Role::Cause } else { Role::Context }, Confidence::Observed)
            .service(fact.services.first().cloned())
            .onset(fact.said.first)
            .evidence(fact.said.evidence(format!("istio-proxy of {}", fact.workload)))
            .evidence(Evidence::object(&subject, url))
            .effects(
                fact.services
                    .iter()
                    .filter(|_| fact.closed)
                    .map(|s| Effect::requests(s, &["rbac", "4xx", "403", "500", "5xx"])),
            )
            .remedies(remedies(fact))
            .prevention(Prevention::alert(
                "Alert when a proxy cannot fetch a module",
                "sum by (pod) (increase(istio_agent_wasm_remote_fetch_count{result!=\"success\"}[5m])) > 0",
            ))
            .prevention(Prevention::of(
                "Test",
                "In the pipeline: the module of every WasmPlugin can be pulled, by digest",
            ))
    }
}

/// What lets requests through, for the time being or for good. A plugin that checks who asks is put back before anybody is let past
/// it, unless it never worked: without it things are then as they were before somebody made it.
fn remedies(fact: &Fact) -> Vec<Remedy> {
    let object = &fact.plugin.object;
    let plugin = &object.reference;
    let guard = matches!(object.body.text("spec.phase"), Some("AUTHN" | "AUTHZ"));
    let (risk, without) = if guard {
        (Risk::High, "requests that it is to keep out pass as well")
    } else {
        (Risk::Medium, "requests pass without it")
    };
    let delete = Remedy::delete(object, format!("Delete {plugin}: {without}")).risk(risk);
    let operation = if object.body.text("spec.failStrategy").is_some() { "replace" } else { "add" };
    let open = fact.closed.then(|| {
        let operation = json!([{"op": operation, "path": "/spec/failStrategy", "value": "FAIL_OPEN"}]);
        let summary =
            format!("Set failStrategy of {plugin} to FAIL_OPEN until its module is there: {without}");
        Remedy::patch(object, &operation, summary).map(|remedy| remedy.risk(risk))
    });
    let open = open.flatten();
    let restore = Remedy::manual(format!(
        "Put the module back where {plugin} says, or correct its spec.url or imagePullSecret"
    ));
    if never_worked(fact) {
        std::iter::once(delete).chain(open).chain([restore]).collect()
    } else if guard || !fact.closed {
        std::iter::once(restore).chain(open).chain([delete]).collect()
    } else {
        open.into_iter().chain([delete, restore]).collect()
    }
}

/// The agent gives up after five attempts of at most 15 s each, with pauses of up to some seconds in between (Istio's `pkg/wasm`), and
/// then logs it for the first time: so long after a plugin was made nobody had its module yet.
const FIRST_FAILURE_SECONDS: f64 = 120.0;

/// Whether the plugin's module was missing from the time when the plugin was made.
fn never_worked(fact: &Fact) -> bool {
    let made = fact.plugin.object.created.zip(fact.said.first);
    made.is_some_and(|(made, failed)| (0.0..FIRST_FAILURE_SECONDS).contains(&seconds_between(made, failed)))
}

/// The module that a line says cannot be fetched.
fn url(line: &str) -> Option<&str> {
    static URL: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"cannot fetch Wasm module ([^\s:]+(?::[^\s:]+)*)").ok());
    Some(URL.as_ref()?.captures(line)?.get(1)?.as_str())
}

/// Whether a WasmPlugin's URL is the one that the agent names: without a scheme it is an image, with or without a tag.
fn same(written: &str, fetched: &str) -> bool {
    let bare = |url: &str| url.trim_start_matches("oci://").trim_end_matches(":latest").to_owned();
    bare(written) == bare(fetched)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is offered for a plugin of a phase that was made so many seconds before its module was missed first.
    fn offered(phase: &str, seconds: i64) -> Vec<(String, Risk)> {
        let first: jiff::Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let made = first - jiff::SignedDuration::from_secs(seconds);
        let body = json!({"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin",
            "metadata": {"name": "p", "namespace": "a", "creationTimestamp": made.to_string()},
            "spec": {"url": "oci://x/y", "phase": phase}});
        let fact = Fact {
            plugin: Policy::read(crate::model::object::Object::read(body).unwrap()),
            workload: ObjectRef::new("Deployment", "a", "w"),
            services: vec![],
            said: Said { count: 3, first: Some(first), ..Said::default() },
            closed: true,
        };
        let word = |remedy: &Remedy| remedy.summary.split(' ').next().unwrap_or_default().to_owned();
        remedies(&fact).iter().map(|remedy| (word(remedy), remedy.risk)).collect()
    }

    #[test]
    fn nobody_is_let_past_a_guard_first_unless_it_never_worked() {
        let of =
            |phase, seconds| offered(phase, seconds).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
        assert_eq!(of("AUTHN", 7200), ["Put", "Set", "Delete"]);
        assert_eq!(of("AUTHZ", 20), ["Delete", "Set", "Put"]);
        assert_eq!(of("STATS", 7200), ["Set", "Delete", "Put"]);
        assert!(offered("AUTHN", 7200).iter().skip(1).all(|(_, risk)| *risk == Risk::High));
    }

    #[test]
    fn the_url_ends_before_the_reason() {
        let line = "error converting: cannot fetch Wasm module http://store:6400/a.wasm: wasm module download failed: EOF";
        assert_eq!(url(line), Some("http://store:6400/a.wasm"));
        let image =
            "cannot fetch Wasm module oci://registry.example.com/auth:1.2: could not fetch Wasm OCI image";
        assert!(same("registry.example.com/auth:1.2", url(image).unwrap()));
        assert!(!same("registry.example.com/auth:1.3", url(image).unwrap()));
    }
}
