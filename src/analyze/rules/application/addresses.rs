//! Addresses that settings name: URLs and `host:port`.

use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;

/// At most this many addresses of one value are read.
const MAX_ADDRESSES: usize = 16;

/// The Service that a host in a setting of `namespace` names, where it has an address and ports of its own.
pub fn named_service<'a>(snapshot: &'a Snapshot, host: &str, namespace: &str) -> Option<&'a Service> {
    let (namespace, name) = service_of_host(&full_host(host, namespace))?;
    let service = snapshot.service(&ServiceName::new(namespace, name))?;
    (!service.headless() && service.external_name.is_empty() && !service.ports.is_empty()).then_some(service)
}

/// An address in a setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    /// The scheme of a URL; empty for `host:port`.
    pub scheme: String,
    /// The host.
    pub host: String,
    /// As written, or the scheme's own; `None` where nothing says.
    pub port: Option<i64>,
}

/// The addresses in a value, each a URL or `host:port`, several joined by commas.
pub fn addresses(value: &str) -> Vec<Address> {
    let mut out = vec![];
    for part in value.split([',', ' ', ';', '\n']).filter(|part| !part.is_empty()).take(MAX_ADDRESSES) {
        let (scheme, rest) = part.split_once("://").unwrap_or(("", part));
        let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':')))
            .unwrap_or(rest.len());
        let address = rest.get(..end).unwrap_or_default();
        let (host, port) = match address.split_once(':') {
            Some((host, port)) => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => continue,
            },
            None => (address, None),
        };
        let port = port.or(match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        });
        // A bare word is a name of anything.
        if port.is_some() && host.starts_with(|c: char| c.is_ascii_alphabetic()) {
            out.push(Address { scheme: scheme.to_owned(), host: host.to_owned(), port });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_values() {
        let read = |value: &str| addresses(value).into_iter().map(|a| (a.host, a.port)).collect::<Vec<_>>();
        assert_eq!(read("http://pay:8081/x?y"), [("pay".to_owned(), Some(8081))]);
        assert_eq!(read("http://pay"), [("pay".to_owned(), Some(80))]);
        assert_eq!(read("postgres://u:p@db:5432/x"), [("db".to_owned(), Some(5432))]);
        assert_eq!(read("a:1,b:2").len(), 2);
        assert!(
            read("pay").is_empty()
                && read("/pay:x,y").is_empty()
                && read("10:20").is_empty()
                && read("").is_empty()
        );
    }
}
