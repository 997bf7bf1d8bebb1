//! Whom a text speaks of: the host that a call was meant for.

use super::record::Record;

/// Whom a call was meant for, as the text names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// A name or an address.
    pub host: String,
    /// Its port, where the text says it.
    pub port: Option<u16>,
    /// `http`, `https`, `postgres`, …; empty where the text names none.
    pub scheme: String,
}

/// Fields by which loggers name whom they called.
const TARGET_FIELDS: &[&str] = &[
    "url",
    "uri",
    "url.full",
    "http.url",
    "upstream",
    "upstream_url",
    "target",
    "endpoint",
    "peer.service",
    "peer",
    "server.address",
    "net.peer.name",
    "remote",
    "callee",
    "addr",
    "address",
    "dependency",
];

pub(super) fn target_of_fields(record: &Record<'_>) -> Option<Target> {
    TARGET_FIELDS.iter().find_map(|name| {
        let value = record.field(&[name])?;
        match value.split_once("://") {
            Some(_) => target_in_text(value),
            None if value.starts_with('/') || value.contains(' ') => None,
            None => target_at(value, ""),
        }
    })
}

/// Words right before a host.
const BEFORE_HOST: &[&str] = &[
    "ipv4:",
    "dial tcp: lookup ",
    "lookup ",
    "dial tcp ",
    "dial udp ",
    "host='",
    "host name \"",
    "server at \"",
    "Failed to resolve '",
    "ENOTFOUND ",
    "EAI_AGAIN ",
    "ECONNREFUSED ",
    "ETIMEDOUT ",
    "UnknownHostException: ",
    "Connection to ",
    "connect to host ",
    "connect to ",
    "MySQL server on '",
    "(tried: ",
    "tried for query failed (tried: ",
    "Redis at ",
    "connecting to ",
    "Failed to connect to ",
    "Connect to ",
    "for host ",
    "Could not resolve host: ",
    "Connection refused (",
    "name resolution (",
    "not known (",
    "is known. (",
    "refused: ",
    "timed out: ",
    "TCP connection to ",
    "getaddrinfo for ",
    "resolution failed for ",
    "address: '",
    "hostname: '",
    "host not found in upstream \"",
    "upstream: \"",
];
/// From this port on the peer of a connection is a client and serves nothing: the first of Linux' ephemeral ports.
const EPHEMERAL: u16 = 32768;

/// Finds whom a text speaks of: a URL first, then what stands behind words that precede a host.
pub fn target_in_text(text: &str) -> Option<Target> {
    if let Some(at) = text.find("://") {
        let scheme = text
            .get(..at)?
            .rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '+'))
            .next()
            .unwrap_or_default();
        let rest = text.get(at + 3..)?;
        // Credentials before the host are nobody's business.
        let rest = match rest.split_once('@') {
            Some((user, host)) if !user.contains(['/', ' ', '"', '\'']) => host,
            _ => rest,
        };
        return target_at(rest, scheme);
    }
    // `read tcp 10.0.0.1:4444->10.0.0.2:80`: the peer stands behind the arrow. A server whose client went away says the same.
    if let Some((before, peer)) = text.split_once("->")
        && (before.contains("read tcp ") || before.contains("write tcp "))
    {
        return target_at(peer, "").filter(|target| target.port.is_none_or(|port| port < EPHEMERAL));
    }
    BEFORE_HOST.iter().find_map(|words| {
        let at = text.find(words)?;
        target_at(text.get(at + words.len()..)?, "")
    })
}

fn target_at(text: &str, scheme: &str) -> Option<Target> {
    let (host, port) = host_at(text);
    let plausible = host.len() > 1 && host.len() < 254 && host.contains(|c: char| c.is_ascii_alphanumeric());
    // `port=80` and `, port 5432` follow a host in quotes.
    let port = port.or_else(|| {
        let rest = text.get(host.len()..)?;
        let rest = rest.get(..rest.len().min(48)).unwrap_or_default();
        let digits = rest.split_once("port")?.1.trim_start_matches(['=', ' ', ':']);
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    plausible.then(|| Target { host: host.to_ascii_lowercase(), port, scheme: scheme.to_ascii_lowercase() })
}

/// The host that a text begins with, and its port.
pub(super) fn host_at(text: &str) -> (&str, Option<u16>) {
    if let Some((host, tail)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, port_at(tail));
    }
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')))
        .unwrap_or(text.len());
    let (host, tail) = text.split_at_checked(end).unwrap_or((text, ""));
    (host.trim_end_matches('.'), port_at(tail))
}

fn port_at(tail: &str) -> Option<u16> {
    let digits = tail.strip_prefix(':')?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_part_of_a_host() {
        assert_eq!(
            target_in_text("postgres://user:secret@db:5432/x").unwrap(),
            Target { host: "db".into(), port: Some(5432), scheme: "postgres".into() }
        );
        assert_eq!(target_in_text("http://[fd00::1]:80/").unwrap().host, "fd00::1");
        assert_eq!(target_in_text("nothing here"), None);
    }

    #[test]
    fn hosts_stand_at_many_places() {
        for (text, host, port) in [
            ("read tcp 10.0.0.1:44444->10.0.0.2:80: read: connection reset by peer", "10.0.0.2", Some(80)),
            (
                "Cannot connect to host pay:80 ssl:default [Connect call failed ('10.0.0.1', 80)]",
                "pay",
                Some(80),
            ),
            (
                "Failed to open TCP connection to pay:80 (Connection refused - connect(2) for \"pay\" port 80)",
                "pay",
                Some(80),
            ),
            ("php_network_getaddresses: getaddrinfo for pay failed: Name or service not known", "pay", None),
            ("Failed to connect to pay port 80 after 1 ms: Couldn't connect to server", "pay", Some(80)),
            ("Name or service not known (pay:80)", "pay", Some(80)),
            ("DNS resolution failed for pay:50051: C-ares status is not ARES_SUCCESS", "pay", Some(50051)),
            (
                "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:50051: Connection refused",
                "10.0.0.1",
                Some(50051),
            ),
            (
                "io.netty.channel.AbstractChannel$AnnotatedConnectException: Connection refused: pay/10.0.0.1:8080",
                "pay",
                None,
            ),
            ("ECONNREFUSED 10.0.0.9:6379", "10.0.0.9", Some(6379)),
        ] {
            let target = target_in_text(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((target.host.as_str(), target.port), (host, port), "{text}");
        }
        // A client that went away is nobody who was called.
        assert_eq!(target_in_text("write tcp 10.0.0.1:8080->10.0.0.2:50123: write: broken pipe"), None);
    }
}
