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
    "connect to ",
    "MySQL server on '",
    "(tried: ",
    "tried for query failed (tried: ",
    "Redis at ",
    "connecting to ",
    "Connect to ",
    "for host ",
    "Could not resolve host: ",
    "Connection refused (",
    "name resolution (",
];

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
}
