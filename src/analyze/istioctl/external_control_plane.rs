//! Where the webhooks of a control plane outside of the cluster point.

use core::net::IpAddr;

use super::context::{Context, MUTATING_WEBHOOK, VALIDATING_WEBHOOK};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

/// IST0163 and IST0164. That a name cannot be resolved is only said of names that can never be: nothing is looked up here.
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
            Some(host) if resolvable(host) => {}
            _ => {
                let text = format!("webhook {name} has a URL that leads nowhere: {url:?}");
                out.push("IST0163", object, "", text);
            }
        }
    }
}

/// The host of a URL, without the port and without the brackets of an IPv6 address. `None` where the URL cannot be read.
fn host(url: &str) -> Option<&str> {
    if url.chars().any(|c| c.is_control() || c == ' ') {
        return None;
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !scheme.chars().all(letters) {
        return None;
    }
    if scheme.is_empty() {
        return Some("");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Some(inside) = authority.strip_prefix('[') {
        return inside.split_once(']').map(|(host, _)| host);
    }
    match authority.split_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(host),
        Some(_) => None,
        None => Some(authority),
    }
}

/// Whether a name can be resolved at all: RFC 6761 keeps `invalid` for names that never are.
fn resolvable(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    name.split('.').all(label) && name.rsplit('.').next() != Some("invalid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_urls() {
        assert_eq!(host("https://a.example.com:15017/inject"), Some("a.example.com"));
        assert_eq!(host("https://[fd00::1]:443/x"), Some("fd00::1"));
        assert_eq!(host("https://u@10.0.0.1/x"), Some("10.0.0.1"));
        assert_eq!(host("https://a:b/x"), None);
        assert_eq!(host("not a url"), None);
        assert!(
            resolvable("a.example.com") && !resolvable("") && !resolvable("a..b") && !resolvable("x.invalid")
        );
    }
}
