//! Which of Istio's objects speak for a host, so that no question walks all of them.

use std::borrow::Cow;
use std::collections::HashMap;

use super::istio::{Istio, full_host};

/// Positions in a list of objects that speak for hosts.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts {
    /// By namespace and host in lower case.
    exact: HashMap<String, HashMap<String, Vec<usize>>>,
    /// With a wildcard among their hosts, by namespace.
    wild: HashMap<String, Vec<usize>>,
}

fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(host.to_ascii_lowercase());
    }
    Cow::Borrowed(host)
}

impl Hosts {
    fn add(&mut self, namespace: &str, host: &str, at: usize) {
        let places = if host.starts_with('*') {
            self.wild.entry(namespace.to_owned()).or_default()
        } else {
            let own = self.exact.entry(namespace.to_owned()).or_default();
            own.entry(host.to_ascii_lowercase()).or_default()
        };
        if places.last() != Some(&at) {
            places.push(at);
        }
    }

    /// Whether nothing speaks for any host.
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wild.is_empty()
    }

    /// Those that can cover the host, in order.
    pub(super) fn candidates(&self, namespace: &str, full: &str) -> Vec<usize> {
        if self.is_empty() {
            return vec![];
        }
        let exact = self.exact.get(namespace).and_then(|own| own.get(&*lower(full)));
        let wild = self.wild.get(namespace);
        let mut out: Vec<usize> = exact.into_iter().chain(wild).flatten().copied().collect();
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// Which objects speak for a host, so that no question walks all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct ByHost {
    /// Of whatever namespace, under the empty one.
    pub virtual_services: Hosts,
    /// By the rule's own namespace.
    pub destination_rules: Hosts,
    /// Of whatever namespace, under the empty one.
    pub service_entries: Hosts,
}

impl ByHost {
    pub(super) fn new(istio: &Istio) -> Self {
        let Istio { virtual_services, destination_rules, service_entries, .. } = istio;
        let mut out = ByHost::default();
        for (at, entry) in service_entries.iter().enumerate() {
            for host in &entry.hosts {
                out.service_entries.add("", host, at);
            }
        }
        for (at, vs) in virtual_services.iter().enumerate() {
            for host in &vs.hosts {
                out.virtual_services.add("", &full_host(host, vs.object.namespace()), at);
            }
        }
        for (at, rule) in destination_rules.iter().enumerate() {
            out.destination_rules.add(rule.object.namespace(), &rule.full_host(), at);
        }
        out
    }
}
