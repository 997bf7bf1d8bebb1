//! Hosts, and who may see them.

use std::collections::BTreeMap;

use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;

use super::context::{Context, SERVICE, SERVICE_ENTRY};

/// The scope of what every namespace sees.
pub(super) const EVERYWHERE: &str = "*";

const DOMAIN: &str = "svc.cluster.local";

/// A host in full: a name without a dot is a Service beside the object that names it.
pub(super) fn full(namespace: &str, host: &str) -> String {
    if host.starts_with('*') || host.contains('.') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.{DOMAIN}")
    }
}

/// Namespace and name that a host stands for. One that is not a full name of the cluster stands for itself beside the object.
pub(super) fn resource(namespace: &str, host: &str) -> (String, String) {
    let named = host.strip_suffix(&format!(".{DOMAIN}")).and_then(|host| host.rsplit_once('.'));
    match named {
        Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() => {
            (namespace.to_owned(), name.to_owned())
        }
        _ => (namespace.to_owned(), host.to_owned()),
    }
}

/// Whether two hosts have one in common; either can begin with a wildcard. Case counts.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(x), Some(y)) => x.ends_with(y) || y.ends_with(x),
        (Some(x), None) => b.ends_with(x),
        (None, Some(y)) => a.ends_with(y),
        (None, None) => a == b,
    }
}

/// Whether a list of namespaces means all of them. An empty one does.
pub(super) fn exported_everywhere(export_to: &[String]) -> bool {
    export_to.is_empty() || export_to.iter().any(|scope| scope == EVERYWHERE)
}

/// The namespaces that an object with this `exportTo` is seen in.
pub(super) fn scopes(export_to: &[String], namespace: &str) -> Vec<String> {
    if exported_everywhere(export_to) {
        return vec![EVERYWHERE.to_owned()];
    }
    let mut out: Vec<String> = export_to
        .iter()
        .map(|scope| if scope == "." { namespace.to_owned() } else { scope.clone() })
        .collect();
    out.sort();
    out.dedup();
    out
}

/// What a host leads to.
#[derive(Debug, Clone)]
pub(super) struct Destination<'a> {
    /// The Service or ServiceEntry.
    pub(super) object: &'a Object,
    /// Its ports.
    pub(super) ports: Vec<i64>,
}

impl Destination<'_> {
    /// The labels that a ServiceEntry itself selects its pods with. Selectors of Services are not looked at.
    pub(super) fn workload_labels(&self) -> Labels {
        if self.object.reference.kind == "ServiceEntry" {
            self.object.body.text_map("spec.workloadSelector.labels")
        } else {
            Labels::new()
        }
    }
}

/// All hosts of Services and ServiceEntries by the scope in which they are seen.
#[derive(Debug, Default)]
pub(super) struct Registry<'a> {
    /// Scope and full host.
    hosts: BTreeMap<(String, String), Destination<'a>>,
    /// Those with a wildcard.
    wildcards: Vec<(String, String)>,
}

impl<'a> Registry<'a> {
    /// Reads them. Where two claim one host in one scope a Service wins.
    pub(super) fn read(context: &Context<'a>) -> Self {
        let mut registry = Registry::default();
        let ports_of = |object: &Object, field: &str| {
            object.body.list("spec.ports").iter().filter_map(|port| port.int(field)).collect::<Vec<_>>()
        };
        for entry in context.all(SERVICE_ENTRY) {
            let destination = Destination { object: entry, ports: ports_of(entry, "number") };
            // From the first host on for which a `*` was met, all of the entry's hosts are seen everywhere.
            let export_to = entry.body.texts("spec.exportTo");
            let mut everywhere = export_to.is_empty();
            for host in entry.body.texts("spec.hosts") {
                let host = full(entry.namespace(), &host);
                if everywhere {
                    registry.add(EVERYWHERE, host, destination.clone());
                    continue;
                }
                for scope in &export_to {
                    let scope = if scope == "." { entry.namespace() } else { scope };
                    everywhere |= scope == EVERYWHERE;
                    registry.add(scope, host.clone(), destination.clone());
                }
            }
        }
        for service in context.all(SERVICE) {
            let destination = Destination { object: service, ports: ports_of(service, "port") };
            let host = full(service.namespace(), service.name());
            match service.annotations.get("networking.istio.io/exportTo").filter(|list| !list.is_empty()) {
                None => registry.add(EVERYWHERE, host, destination),
                Some(list) => {
                    for scope in list.split(',').map(str::trim) {
                        let scope = if scope == "." { service.namespace() } else { scope };
                        registry.add(scope, host.clone(), destination.clone());
                    }
                }
            }
        }
        registry
    }

    fn add(&mut self, scope: &str, host: String, destination: Destination<'a>) {
        let key = (scope.to_owned(), host);
        if key.1.starts_with('*') && !self.hosts.contains_key(&key) {
            self.wildcards.push(key.clone());
        }
        self.hosts.insert(key, destination);
    }

    /// What a host leads to, named in an object of `namespace` that is exported to `export_to`.
    pub(super) fn find(&self, namespace: &str, export_to: &[String], host: &str) -> Option<&Destination<'a>> {
        let host_in_full = full(namespace, host);
        let at = |scope: &str| self.hosts.get(&(scope.to_owned(), host_in_full.clone()));
        if let Some(found) = at(EVERYWHERE) {
            return Some(found);
        }
        let found = if export_to.is_empty() {
            at(namespace)
        } else {
            export_to.iter().find_map(|scope| at(if scope == "." { namespace } else { scope }))
        };
        if found.is_some() {
            return found;
        }
        let bare = host.strip_prefix('*').unwrap_or(host);
        let covering = self.wildcards.iter().find(|(scope, pattern)| {
            (scope == EVERYWHERE || scope == namespace) && bare.ends_with(pattern.trim_start_matches('*'))
        });
        covering.and_then(|key| self.hosts.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_stand_for_objects() {
        assert_eq!(full("n", "a"), "a.n.svc.cluster.local");
        assert_eq!(full("n", "a.n"), "a.n");
        assert_eq!(resource("n", "a.b.m.svc.cluster.local"), ("m".into(), "a.b".into()));
        assert_eq!(resource("n", "api.example.com"), ("n".into(), "api.example.com".into()));
    }

    #[test]
    fn wildcards_overlap_both_ways() {
        assert!(overlap("*.com", "*.shop.com") && overlap("*.shop.com", "*.com") && overlap("*", "a"));
        assert!(!overlap("*.shop.com", "shop.com") && !overlap("a", "A"));
    }
}
