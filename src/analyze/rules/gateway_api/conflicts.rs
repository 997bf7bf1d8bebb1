//! Listeners that get in each other's way: the same port with the same hostname, or with protocols that cannot share it.

use std::collections::BTreeMap;

use super::prelude::*;

/// Two listeners of one Gateway that cannot both be served.
#[derive(Debug)]
pub struct Conflict<'a> {
    /// The one that is refused.
    pub listener: Listener<'a>,
    /// The one in its way.
    pub other: Listener<'a>,
    /// `HostnameConflict` or `ProtocolConflict`.
    pub reason: &'static str,
}

/// What can share a port: HTTP with itself; HTTPS and TLS, told apart by server name; TCP with nothing; UDP has ports of
/// its own.
fn layer(protocol: &str) -> &str {
    match protocol {
        "HTTPS" | "TLS" => "TLS",
        other => other,
    }
}

/// The conflicts between the listeners of a Gateway and of its ListenerSets, in order of precedence: the Gateway, then the
/// sets, the oldest first. Within one object neither of two wins; over objects the earlier one does.
pub fn between<'a>(parts: &[&'a Object]) -> Vec<Conflict<'a>> {
    let mut ports: BTreeMap<(i64, bool), Vec<Listener<'a>>> = BTreeMap::new();
    for listener in parts.iter().flat_map(|part| attach::listeners(part)) {
        ports.entry((listener.port, listener.protocol == "UDP")).or_default().push(listener);
    }
    let mut out = vec![];
    for listeners in ports.into_values() {
        let mut refused: Vec<bool> = vec![];
        let mut hosts: BTreeMap<String, usize> = BTreeMap::new();
        let mut layers: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, listener) in listeners.iter().enumerate() {
            let own = layer(&listener.protocol);
            let clash =
                layers.iter().find(|(layer, _)| **layer != own).map(|(_, at)| (*at, "ProtocolConflict"));
            let same = hosts.get(&key(listener)).map(|at| (*at, "HostnameConflict"));
            let found = same
                .filter(|(at, _)| listeners.get(*at).is_some_and(|o| layer(&o.protocol) == own))
                .or(clash);
            refused.push(found.is_some());
            let Some((before, reason)) = found else {
                hosts.insert(key(listener), at);
                layers.entry(own).or_insert(at);
                continue;
            };
            let Some(other) = listeners.get(before) else { continue };
            out.push(Conflict { listener: listener.clone(), other: other.clone(), reason });
            if std::ptr::eq(other.owner, listener.owner) && refused.get(before) == Some(&false) {
                out.push(Conflict { listener: other.clone(), other: listener.clone(), reason });
                if let Some(mark) = refused.get_mut(before) {
                    *mark = true;
                }
            }
        }
    }
    out
}

/// What tells listeners of one port apart: the hostname, where the protocol has one.
fn key(listener: &Listener<'_>) -> String {
    match listener.protocol.as_str() {
        "TCP" | "UDP" => String::new(),
        _ => listener.hostname.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(name: &str, listeners: Value) -> Object {
        Object::read(json!({"kind": "Gateway", "metadata": {"name": name, "namespace": "n"}, "spec": {"listeners": listeners}}))
            .unwrap()
    }

    fn said(parts: &[&Object]) -> Vec<String> {
        between(parts).iter().map(|c| format!("{} {} {}", c.listener.name, c.reason, c.other.name)).collect()
    }

    #[test]
    fn within_one_object_neither_wins_and_over_objects_the_earlier_one() {
        let one = json!([{"name": "a", "port": 80, "protocol": "HTTP", "hostname": "x.y"}, {"name": "b", "port": 80, "protocol": "HTTP", "hostname": "X.Y"}]);
        let first = gateway("g", one);
        assert_eq!(said(&[&first]), ["b HostnameConflict a", "a HostnameConflict b"]);
        let (one, two) = (
            gateway("g", json!([{"name": "a", "port": 80, "protocol": "HTTP"}])),
            gateway("s", json!([{"name": "b", "port": 80, "protocol": "HTTP"}])),
        );
        assert_eq!(said(&[&one, &two]), ["b HostnameConflict a"]);
    }

    #[test]
    fn protocols_that_cannot_share_a_port_conflict() {
        let clash = gateway(
            "g",
            json!([{"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.b"}, {"name": "b", "port": 80, "protocol": "HTTPS", "hostname": "c.d"}]),
        );
        assert_eq!(said(&[&clash]), ["b ProtocolConflict a", "a ProtocolConflict b"]);
        let fine = gateway(
            "g",
            json!([{"name": "a", "port": 443, "protocol": "TLS", "hostname": "a.b"}, {"name": "b", "port": 443, "protocol": "HTTPS", "hostname": "c.d"},
            {"name": "c", "port": 443, "protocol": "UDP"}]),
        );
        assert!(said(&[&fine]).is_empty());
    }
}
