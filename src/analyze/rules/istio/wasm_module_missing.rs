//! ISTIO173.

use regex::Regex;
use serde_json::json;
use std::sync::LazyLock;

use super::support::{Said, of_proxy, said};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
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
        let operation = match object.body.text("spec.failStrategy") {
            Some(_) => "replace",
            None => "add",
        };
        let open = fact.closed.then(|| {
            Remedy::patch(
                object,
                &json!([{"op": operation, "path": "/spec/failStrategy", "value": "FAIL_OPEN"}]),
                format!("Let requests pass {} without its module: failStrategy FAIL_OPEN", object.reference),
            )
            .map(|remedy| remedy.risk(Risk::Medium))
        });
        Finding::new(Self::META, subject.clone(), &[&fact.workload.name])
            .title(format!(
                "{}: the module of {} cannot be had, and {}",
                fact.workload,
                object.reference,
                if fact.closed { "requests are refused" } else { "requests pass without it" }
            ))
            .message(format!(
                "The proxies of {} logged {} times that they cannot fetch {url} for {}; {state}.",
                fact.workload,
                text::number(fact.said.count),
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
            .maybe_remedy(open.flatten())
            .remedy(
                Remedy::delete(object, format!("Delete {}: requests pass without it", object.reference))
                    .risk(Risk::Medium),
            )
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
