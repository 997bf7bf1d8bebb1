//! Where the webhooks of a control plane outside of the cluster point.

use core::net::IpAddr;

use super::context::{Context, MUTATING_WEBHOOK, VALIDATING_WEBHOOK};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

/// IST0163 and IST0164: by what is written alone, as no name is looked up.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for object in context.all(VALIDATING_WEBHOOK) {
        if object.name() == "istiod-default-validator" || object.name().starts_with("istio-validator") {
            check(object, out);
        }
    }
    for object in
        context.all(MUTATING_WEBHOOK).filter(|object| object.name().starts_with("istio-sidecar-injector"))
    {
        check(object, out);
    }
}

fn check(object: &Object, out: &mut Messages) {
    for hook in object.body.list("webhooks") {
        let name = hook.string("name");
        let Some(url) = hook.text("clientConfig.url") else {
            if hook.at("clientConfig.service").is_none() {
                let text = format!("webhook {name} has neither a Service nor a URL");
                out.push("IST0163", object, "", text);
            }
            continue;
        };
        match host(url) {
            Some(host) if host.parse::<IpAddr>().is_ok() => {
                let text =
                    format!("webhook {name} names its control plane by an address, not by a host: {url}");
                out.push("IST0164", object, "", text);
            }
            Some(_) => {}
            None => {
                out.push(
                    "IST0163",
                    object,
                    "",
                    format!("webhook {name} has a URL that cannot be read: {url:?}"),
                );
            }
        }
    }
}

/// The host of a URL, without the port and without the brackets of an IPv6 address; empty where a URL has none, as a path
/// alone has. `None` where it is no URL (RFC 3986, with the liberties that Go takes).
fn host(url: &str) -> Option<&str> {
    if url.chars().any(|c| c.is_ascii_control()) {
        return None;
    }
    let url = url.split(['#', '?']).next().unwrap_or_default();
    let (scheme, rest) = split_scheme(url)?;
    if !rest.starts_with('/') {
        let opaque = scheme || !rest.split('/').next().unwrap_or_default().contains(':');
        return opaque.then_some("");
    }
    let authority = match rest.strip_prefix("//") {
        Some(authority) if scheme || !authority.starts_with('/') => authority,
        _ => return Some(""),
    };
    let authority = authority.split('/').next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(inside) = authority.strip_prefix('[') {
        let (inside, port) = inside.rsplit_once(']')?;
        let good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return good.then_some(inside);
    }
    if authority.contains([' ', '%', '\\', '^', '`', '{', '|', '}']) {
        return None;
    }
    match authority.rsplit_once(':') {
        Some((host, port)) => is_port(port).then_some(host),
        None => Some(authority),
    }
}

/// Whether a URL begins with a scheme, and what follows it. `None` where nothing stands before the colon.
fn split_scheme(url: &str) -> Option<(bool, &str)> {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    match url.split_once(':') {
        Some(("", _)) => None,
        Some((scheme, rest))
            if scheme.chars().all(letters) && scheme.starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            Some((true, rest))
        }
        _ => Some((false, url)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_urls() {
        assert_eq!(host("https://a.example.com:15017/inject"), Some("a.example.com"));
        assert_eq!(host("https://[fd00::1]:443/x"), Some("fd00::1"));
        assert_eq!(host("https://u@10.0.0.1/x"), Some("10.0.0.1"));
        assert_eq!(host("//10.0.0.1/x"), Some("10.0.0.1"));
        for path in ["", "/inject", "not a url", "127.0.0.1", "https://", "https:///x", "a.example:443"] {
            assert_eq!(host(path), Some(""), "{path}");
        }
        for bad in [
            "https://a:b/x",
            "://x",
            "ht tp://x",
            "10.0.0.1:443",
            "1http://x",
            "https://a b/x",
            "https://[::1/",
            "x\ty",
        ] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }
}
