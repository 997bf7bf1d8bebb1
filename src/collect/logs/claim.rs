//! Which lines of a shared gateway's access log are about the target: those of requests for its hosts and to its Services.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::tail::Tail;
use crate::collect::kubernetes::reader::LineSink;
use crate::model::access_format::AccessFormat;
use crate::model::access_log::{self, AccessRecord};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{host_matches, service_of_host};

/// What a namespace may see of a gateway's access log.
#[derive(Debug, Clone, Default)]
pub struct Claim {
    namespace: String,
    /// Hosts that its own objects name; never `*`, which would be everybody's.
    hosts: BTreeSet<String>,
    format: Option<AccessFormat>,
}

impl Claim {
    /// The claim of a namespace by its own objects: hosts of its VirtualServices, Gateways and routes. `mesh_config` says how
    /// access logs are written.
    pub fn of<'a>(
        namespace: &str,
        objects: impl Iterator<Item = &'a Value>,
        mesh_config: Option<&Value>,
    ) -> Self {
        let own = objects.filter(|object| object.text("metadata.namespace") == Some(namespace));
        let hosts = own.flat_map(hosts).filter(|host| !host.is_empty() && host != "*").collect();
        let format = mesh_config.and_then(AccessFormat::of_mesh_config);
        Claim { namespace: namespace.to_owned(), hosts, format }
    }

    /// Whether a line is about the namespace: the request went to a Service of it, or to nobody and named a host of it. What
    /// is no access record is not.
    pub fn concerns(&self, line: &[u8]) -> bool {
        let text = String::from_utf8_lossy(line);
        // In front stands the runtime's time, as `timestamps=true` has it.
        let text = text.split_once(' ').map_or("", |(_, text)| text);
        let own = self.format.as_ref().and_then(|format| format.parse(text, None));
        own.or_else(|| access_log::parse(text, None)).is_some_and(|record| self.owns(&record))
    }

    fn owns(&self, record: &AccessRecord) -> bool {
        match record.cluster.rsplit_once('|') {
            Some((_, host)) => {
                service_of_host(host).is_some_and(|(namespace, _)| namespace == self.namespace)
            }
            None => [&record.authority, &record.server_name].into_iter().any(|asked| {
                let asked = asked.split(':').next().unwrap_or_default();
                !asked.is_empty() && self.hosts.iter().any(|host| host_matches(host, asked))
            }),
        }
    }
}

/// The hosts that an object claims.
fn hosts(object: &Value) -> Vec<String> {
    let of = |lists: &[Value], field: &str| -> Vec<String> {
        lists.iter().flat_map(|item| item.texts(field)).collect()
    };
    let version = object.text("apiVersion").unwrap_or_default();
    match object.text("kind").unwrap_or_default() {
        "VirtualService" => object.texts("spec.hosts"),
        "Gateway" if version.starts_with("networking.istio.io/") => of(object.list("spec.servers"), "hosts")
            .into_iter()
            .map(|host| host.rsplit_once('/').map_or(host.clone(), |(_, host)| host.to_owned()))
            .collect(),
        "Gateway" | "ListenerSet" => {
            let listeners = object.list("spec.listeners").iter();
            listeners.filter_map(|listener| listener.text("hostname")).map(str::to_owned).collect()
        }
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" => object.texts("spec.hostnames"),
        _ => vec![],
    }
}

/// Hands on to a tail only the lines that a claim covers. Without a claim it hands on all.
pub(super) struct Claimed<'a> {
    pub(super) tail: Tail,
    claim: Option<&'a Claim>,
    line: Vec<u8>,
    cap: usize,
    /// Lines that came, handed on or not.
    pub(super) seen: u64,
}

impl<'a> Claimed<'a> {
    /// `line_bytes`: a line that is longer is nobody's.
    pub(super) fn new(tail: Tail, claim: Option<&'a Claim>, line_bytes: usize) -> Self {
        Claimed { tail, claim, line: vec![], cap: line_bytes, seen: 0 }
    }

    fn end_line(&mut self, claim: &Claim) {
        self.seen += 1;
        self.line.push(b'\n');
        if self.line.len() <= self.cap && claim.concerns(&self.line) {
            self.tail.push(&self.line);
        }
        self.line.clear();
    }
}

impl LineSink for Claimed<'_> {
    fn push(&mut self, bytes: &[u8]) {
        let Some(claim) = self.claim else {
            self.tail.push(bytes);
            self.seen = self.tail.lines_seen();
            return;
        };
        let mut rest = bytes;
        loop {
            let (part, tail) = match memchr::memchr(b'\n', rest) {
                Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
                None => (rest, None),
            };
            let room = self.cap.saturating_sub(self.line.len());
            // One byte more than there is room for marks it as too long.
            self.line.extend_from_slice(part.get(..=room).unwrap_or(part));
            let Some(tail) = tail else { return };
            self.end_line(claim);
            rest = tail;
        }
    }

    fn cut(&mut self) {
        self.tail.cut();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn claim() -> Claim {
        let objects = [
            json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"namespace": "shop", "name": "v"},
                "spec": {"hosts": ["shop.example.com", "*"]}}),
            json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"namespace": "shop", "name": "g"},
                "spec": {"servers": [{"hosts": ["shop/*.shop.example"]}]}}),
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": "bank", "name": "r"},
                "spec": {"hostnames": ["bank.example.com"]}}),
        ];
        Claim::of("shop", objects.iter(), None)
    }

    fn line(authority: &str, cluster: &str) -> String {
        format!(
            "2026-11-22T09:00:00Z {}",
            json!({"response_code": 404, "response_flags": "NR", "authority": authority, "upstream_cluster": cluster})
        )
    }

    #[test]
    fn a_line_belongs_to_whom_it_went_to_or_else_to_whose_host_it_named() {
        let claim = claim();
        let own = |authority: &str, cluster: &str| claim.concerns(line(authority, cluster).as_bytes());
        assert!(own("shop.example.com:8080", "-"));
        assert!(own("www.shop.example", "-"));
        assert!(own("other.example.com", "outbound|80|v1|cart.shop.svc.cluster.local"));
        assert!(own("shop.example.com", "BlackHoleCluster"));
        assert!(!own("bank.example.com", "-"), "another namespace's host");
        assert!(!own("shop.example.com", "outbound|80||till.bank.svc.cluster.local"), "another's Service");
        assert!(!own("", "-"));
        assert!(!claim.concerns(b"2026-11-22T09:00:00Z warning envoy shop.example.com"));
        assert!(!claim.concerns(b""));
    }

    #[test]
    fn only_claimed_lines_reach_the_tail_however_they_are_cut() {
        let claim = claim();
        let text = format!(
            "{}\n{}\n{}x{}\n",
            line("shop.example.com", "-"),
            line("bank.example.com", "-"),
            line("shop.example.com", "-"),
            "y".repeat(2_000)
        );
        for size in [1, 7, 5_000] {
            let mut sink = Claimed::new(Tail::new(10_000, 1_000), Some(&claim), 1_000);
            text.as_bytes().chunks(size).for_each(|chunk| sink.push(chunk));
            assert_eq!(sink.seen, 3);
            let (kept, _) = sink.tail.finish();
            assert_eq!(String::from_utf8(kept).unwrap().trim_end(), line("shop.example.com", "-"));
        }
        let mut all = Claimed::new(Tail::new(10_000, 1_000), None, 1_000);
        all.push(text.as_bytes());
        assert_eq!((all.seen, all.tail.lines_seen()), (3, 3));
    }
}
