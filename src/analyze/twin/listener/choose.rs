//! The filter chain of a connection, by Envoy's rules: the port, the most specific address, the server name, the wrapping,
//! then the application protocol. Each step keeps the best matches alone; what fails a later step is not tried elsewhere.

use super::{Chain, Connection, Listener, PLAIN_HTTP, Transport};
use crate::analyze::twin::ask::{Protocol, Tls};

/// What was chosen.
#[derive(Debug, Clone, Copy)]
pub enum Chosen<'l> {
    /// This filter chain.
    Chain(&'l Chain),
    /// None.
    Nothing,
    /// Two that have the same conditions: Envoy rejects such a listener.
    Several,
}

/// Which filter chain takes a connection.
pub fn choose<'l>(listener: &'l Listener, connection: &Connection) -> Chosen<'l> {
    let reads_tls = listener.tls_inspector.at(connection.port);
    // Without a look at the handshake everything is bytes.
    let wrapped = connection.tls != Tls::Plaintext && reads_tls;
    let transport = if wrapped { Transport::Tls } else { Transport::Raw };
    let sni = connection.sni.as_deref().filter(|_| wrapped).unwrap_or_default().to_ascii_lowercase();
    let alpn: Vec<&str> = if connection.tls == Tls::Plaintext && listener.http_inspector.at(connection.port) {
        match connection.protocol {
            Protocol::Http => PLAIN_HTTP.iter().take(1).copied().collect(),
            Protocol::Http2 | Protocol::Grpc => vec!["h2c"],
            _ => vec![],
        }
    } else if wrapped {
        connection.alpn.iter().map(String::as_str).collect()
    } else {
        vec![]
    };
    let mut chains: Vec<&Chain> = listener.chains.iter().collect();
    best(&mut chains, |chain| match chain.matching.port {
        None => Some(0),
        Some(port) => (port == connection.port).then_some(1),
    });
    best(&mut chains, |chain| {
        if chain.matching.blocks.is_empty() {
            return Some(0);
        }
        let ip = connection.ip?;
        chain
            .matching
            .blocks
            .iter()
            .filter(|block| block.contains(ip))
            .map(|block| block.bits() as usize + 1)
            .max()
    });
    best(&mut chains, |chain| {
        if chain.matching.sni.is_empty() {
            return Some(0);
        }
        chain.matching.sni.iter().filter_map(|wanted| server_name(wanted, &sni)).max()
    });
    best(&mut chains, |chain| match chain.matching.transport {
        None => Some(0),
        Some(wanted) => (wanted == transport).then_some(1),
    });
    best(&mut chains, |chain| {
        if chain.matching.alpn.is_empty() {
            return Some(0);
        }
        // The client's first choice that any chain knows decides.
        let place = alpn.iter().position(|offered| chain.matching.alpn.contains(offered))?;
        Some(usize::MAX - place)
    });
    match (chains.as_slice(), &listener.default) {
        ([chain], _) => Chosen::Chain(chain),
        ([], Some(default)) => Chosen::Chain(default),
        ([], None) => Chosen::Nothing,
        _ => Chosen::Several,
    }
}

/// How specifically a chain's server name fits: the name itself, else the longest suffix.
fn server_name(wanted: &str, sni: &str) -> Option<usize> {
    if wanted.eq_ignore_ascii_case(sni) && !sni.is_empty() {
        return Some(usize::MAX);
    }
    let suffix = wanted.strip_prefix('*')?.to_ascii_lowercase();
    (sni.len() > suffix.len() && sni.ends_with(&suffix)).then_some(suffix.len().max(1))
}

/// Keeps the chains of the highest rank.
fn best(chains: &mut Vec<&Chain>, rank: impl Fn(&Chain) -> Option<usize>) {
    let highest = chains.iter().filter_map(|chain| rank(chain)).max();
    chains.retain(|chain| highest.is_some() && rank(chain) == highest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::address::Block;
    use crate::analyze::twin::ask::Request;
    use crate::analyze::twin::listener::{ChainMatch, Filter, Inspect};

    fn chain(name: &str, matching: ChainMatch) -> Chain {
        Chain { name: name.into(), matching, tls: None, filter: Filter::Tcp(vec![]), source: None }
    }

    fn listener(chains: Vec<Chain>) -> Listener {
        Listener {
            name: "l".into(),
            chains,
            default: Some(chain("default", ChainMatch::default())),
            tls_inspector: Inspect::all(true),
            http_inspector: Inspect::all(true),
        }
    }

    fn name(listener: &Listener, request: &Request, ip: &str) -> String {
        match choose(listener, &Connection::of(request, ip.parse().ok(), 443)) {
            Chosen::Chain(chain) => chain.name.clone(),
            other => format!("{other:?}"),
        }
    }

    fn tls(sni: &str) -> Request {
        Request { tls: Tls::Tls, sni: Some(sni.into()), ..Request::default() }
    }

    #[test]
    fn the_longest_server_name_wins_and_the_address_comes_first() {
        let sni = |names: &[&str]| ChainMatch {
            sni: names.iter().map(|n| (*n).to_owned()).collect(),
            ..ChainMatch::default()
        };
        let own = listener(vec![
            chain("any", sni(&["*.com"])),
            chain("a", sni(&["*.a.com"])),
            chain("x", sni(&["x.a.com"])),
        ]);
        assert_eq!(name(&own, &tls("X.a.com"), "1.1.1.1"), "x");
        assert_eq!(name(&own, &tls("y.a.com"), "1.1.1.1"), "a");
        assert_eq!(name(&own, &tls("a.com"), "1.1.1.1"), "any");
        assert_eq!(name(&own, &tls("a.org"), "1.1.1.1"), "default");
        let mut near = chain("near", sni(&["x.com"]));
        near.matching.blocks = Block::parse("1.1.1.0/24").into_iter().collect();
        let mut far = chain("far", sni(&["y.com"]));
        far.matching.blocks = Block::parse("1.0.0.0/8").into_iter().collect();
        let own = listener(vec![near, far]);
        assert_eq!(name(&own, &tls("y.com"), "1.1.1.1"), "default");
        assert_eq!(name(&own, &tls("y.com"), "1.2.1.1"), "far");
    }

    #[test]
    fn chains_alike_are_told() {
        let own = listener(vec![chain("a", ChainMatch::default()), chain("b", ChainMatch::default())]);
        assert_eq!(name(&own, &tls("a"), "1.1.1.1"), "Several");
    }

    #[test]
    fn plaintext_http_is_found_by_its_first_bytes() {
        let http = ChainMatch {
            transport: Some(Transport::Raw),
            alpn: PLAIN_HTTP.to_vec(),
            ..ChainMatch::default()
        };
        let own = listener(vec![chain("http", http)]);
        assert_eq!(name(&own, &Request::default(), "1.1.1.1"), "http");
        assert_eq!(
            name(&own, &Request { protocol: Protocol::Tcp, ..Request::default() }, "1.1.1.1"),
            "default"
        );
        assert_eq!(name(&own, &tls("a"), "1.1.1.1"), "default");
    }
}
