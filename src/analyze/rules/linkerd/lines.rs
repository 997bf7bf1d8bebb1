//! What Linkerd's proxies log of a call: who speaks, and which Service it is about.

use jiff::Timestamp;

use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// One line of a proxy about a call.
#[derive(Debug)]
pub struct Call<'a> {
    /// The workload whose proxy speaks.
    pub workload: ObjectRef,
    /// Its pod.
    pub pod: &'a str,
    /// The Service that was called, where the line names it.
    pub service: Option<ServiceName>,
    /// When.
    pub at: Option<Timestamp>,
    /// All of it.
    pub line: &'a str,
    /// Whether it is about calls that the workload makes, and not about those that it takes.
    pub outbound: bool,
}

/// The lines of Linkerd's proxies that hold one of these words.
pub fn calls<'a>(snapshot: &'a Snapshot, words: &[&str]) -> Vec<Call<'a>> {
    let mut out = vec![];
    for log in snapshot
        .logs
        .iter()
        .filter(|log| log.container == "linkerd-proxy" && snapshot.in_scope(&log.namespace))
    {
        for line in log.lines.iter().filter(|line| words.iter().any(|word| line.text.contains(word))) {
            out.push(Call {
                workload: snapshot.owner_by_name(&log.namespace, &log.pod),
                pod: &log.pod,
                service: service(snapshot, &line.text),
                at: line.time,
                line: &line.text,
                outbound: line.text.contains("outbound"),
            });
        }
    }
    out
}

/// `service{ns=shop name=payment port=80}`, or the address `payment.shop.svc.cluster.local:80` of older versions.
fn service(snapshot: &Snapshot, line: &str) -> Option<ServiceName> {
    let value = |key: &str| {
        let (_, rest) = line.split_once(key)?;
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(rest.len());
        rest.get(..end).filter(|value| !value.is_empty())
    };
    let span = line.find("service{").and_then(|at| line.get(at..));
    let named =
        span.and(value("ns=")).zip(value("name=")).map(|(namespace, name)| ServiceName::new(namespace, name));
    let addressed = || {
        let (before, _) = line.split_once(".svc.")?;
        let host = before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))).next()?;
        let (name, namespace) = host.rsplit_once('.')?;
        Some(ServiceName::new(namespace, name))
    };
    named.or_else(addressed).filter(|service| snapshot.service(service).is_some())
}
