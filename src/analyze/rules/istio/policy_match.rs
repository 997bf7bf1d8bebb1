//! Whether a request satisfies an AuthorizationPolicy, and which clause keeps it from doing so.

use core::net::IpAddr;
use serde_json::Value;

use crate::model::fields::Fields;

/// What a caller presents and asks for. An empty text is something that was not seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// `cluster.local/ns/shop/sa/checkout`; `None` where the caller shows no certificate, empty where that was not seen.
    pub principal: Option<String>,
    /// The namespace of the principal.
    pub namespace: String,
    /// The service account of the principal.
    pub service_account: String,
    /// The address of the client.
    pub ip: String,
    /// The method.
    pub method: String,
    /// The path without query.
    pub path: String,
    /// The Host header.
    pub host: String,
    /// The port of the pod.
    pub port: Option<i64>,
}

/// A clause that the request does not satisfy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mismatch {
    /// `spec.rules[0].from[0].source.principals`.
    pub path: String,
    /// `principals`, `paths`, `methods`, …
    pub clause: String,
    /// The values that it lists.
    pub listed: Vec<String>,
    /// What the request has instead, as a reader says it.
    pub presented: String,
}

/// What one clause says to a request.
enum Clause {
    Met,
    Unknown,
    Unmet(Mismatch),
}

/// Exact, `prefix*`, `*suffix`, or `*` for anything that is there.
fn text_matches(pattern: &str, value: &str) -> bool {
    if pattern == "*" {
        return !value.is_empty();
    }
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(prefix), _) => value.starts_with(prefix),
        (None, Some(suffix)) => value.ends_with(suffix),
        (None, None) => pattern == value,
    }
}

/// The same for paths, whose patterns can also hold `{*}` for one segment and `{**}` for any number.
fn path_matches(pattern: &str, path: &str) -> bool {
    if !pattern.contains("{*") {
        return text_matches(pattern, path);
    }
    fn segments(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((&"{**}", rest)), Some((_, tail))) => segments(rest, path) || segments(pattern, tail),
            (Some((&"{**}", rest)), None) => segments(rest, path),
            (Some((&"{*}", rest)), Some((first, tail))) => !first.is_empty() && segments(rest, tail),
            (Some((own, rest)), Some((first, tail))) => own == first && segments(rest, tail),
            _ => false,
        }
    }
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    // A template with many `{**}` over a long path takes time that no policy is worth.
    if path.len() > 64 || pattern.iter().filter(|p| **p == "{**}").count() > 2 {
        return false;
    }
    segments(&pattern, &path)
}

/// Whether an address lies in `10.0.0.0/8` or is `10.0.0.1`. `None` where either cannot be read.
fn in_block(block: &str, ip: &str) -> Option<bool> {
    let ip: IpAddr = ip.parse().ok()?;
    let (net, bits) = match block.split_once('/') {
        Some((net, bits)) => (net.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?),
        None => {
            let net = block.parse::<IpAddr>().ok()?;
            (net, if net.is_ipv4() { 32 } else { 128 })
        }
    };
    let shifted = |a: u128, width: u32| if bits == 0 { 0 } else { a >> (width.saturating_sub(bits)) };
    match (net, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            Some(shifted(u32::from(a).into(), 32) == shifted(u32::from(b).into(), 32))
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => Some(shifted(a.into(), 128) == shifted(b.into(), 128)),
        _ => Some(false),
    }
}

/// A clause of a `source` or an `operation`, by its key.
fn clause(key: &str, listed: &[String], request: &Request, path: String) -> Clause {
    let (negated, plain) = match key.strip_prefix("not") {
        Some(rest) => (
            true,
            format!(
                "{}{}",
                rest.get(..1).unwrap_or_default().to_lowercase(),
                rest.get(1..).unwrap_or_default()
            ),
        ),
        None => (false, key.to_owned()),
    };
    let any = |value: &str, matches: fn(&str, &str) -> bool| {
        if value.is_empty() { None } else { Some(listed.iter().any(|own| matches(own, value))) }
    };
    let (met, presented) = match plain.as_str() {
        "principals" => match &request.principal {
            None => (Some(false), "no principal (plaintext)".to_owned()),
            Some(principal) => (any(principal, text_matches), format!("principal {principal}")),
        },
        "namespaces" if request.principal.is_none() => (Some(false), "no namespace (plaintext)".to_owned()),
        "namespaces" => (any(&request.namespace, text_matches), format!("namespace {}", request.namespace)),
        "serviceAccounts" => {
            let full = format!("{}/{}", request.namespace, request.service_account);
            let own = |listed: &String| *listed == full || *listed == request.service_account;
            let known = !request.service_account.is_empty();
            (known.then(|| listed.iter().any(own)), format!("service account {full}"))
        }
        "ipBlocks" => {
            let inside: Vec<Option<bool>> = listed.iter().map(|block| in_block(block, &request.ip)).collect();
            let met = if inside.contains(&Some(true)) {
                Some(true)
            } else if inside.iter().all(|i| *i == Some(false)) {
                Some(false)
            } else {
                None
            };
            (met, format!("address {}", request.ip))
        }
        "methods" => (any(&request.method, text_matches), format!("method {}", request.method)),
        "paths" => (any(&request.path, path_matches), format!("path {}", request.path)),
        "hosts" => (
            any(&request.host, |own, host| text_matches(&own.to_lowercase(), &host.to_lowercase())),
            format!("host {}", request.host),
        ),
        "ports" => (
            request.port.map(|port| listed.iter().any(|own| *own == port.to_string())),
            format!("port {}", request.port.unwrap_or(0)),
        ),
        // Tokens and forwarded addresses are not in the evidence.
        _ => (None, String::new()),
    };
    match met {
        None => Clause::Unknown,
        Some(met) if met != negated => Clause::Met,
        Some(_) => {
            Clause::Unmet(Mismatch { path, clause: key.to_owned(), listed: listed.to_vec(), presented })
        }
    }
}

/// The clauses of one `source` or `operation` that the request does not meet, and whether some could not be judged.
fn entry(value: &Value, request: &Request, path: &str) -> (Vec<Mismatch>, bool) {
    let (mut unmet, mut unknown) = (vec![], false);
    for (key, listed) in value.as_object().into_iter().flatten() {
        let listed: Vec<String> = listed
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| {
                item.as_str().map(str::to_owned).or_else(|| item.as_i64().map(|n| n.to_string()))
            })
            .collect();
        if listed.is_empty() {
            continue;
        }
        match clause(key, &listed, request, format!("{path}.{key}")) {
            Clause::Met => {}
            Clause::Unknown => unknown = true,
            Clause::Unmet(mismatch) => unmet.push(mismatch),
        }
    }
    (unmet, unknown)
}

/// How one rule of a policy stands to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is met.
    Matches,
    /// What is known of it is met.
    Unknown,
    /// These clauses are not.
    Unmet(Vec<Mismatch>),
}

/// Judges one rule (`spec.rules[index]`). Of several alternatives in `from` and in `to` the one with the fewest clauses that
/// are not met counts.
pub fn judge(rule: &Value, index: usize, request: &Request) -> Verdict {
    let (mut unmet, mut unknown) = (vec![], !rule.list("when").is_empty());
    for (list, inner) in [("from", "source"), ("to", "operation")] {
        let empty = Value::Null;
        let best = rule
            .list(list)
            .iter()
            .enumerate()
            .map(|(at, item)| {
                let path = format!("spec.rules[{index}].{list}[{at}].{inner}");
                entry(item.at(inner).unwrap_or(&empty), request, &path)
            })
            .min_by_key(|(unmet, unknown)| (unmet.len(), *unknown));
        if let Some((missing, open)) = best {
            unmet.extend(missing);
            unknown |= open;
        }
    }
    match (unmet.is_empty(), unknown) {
        (true, false) => Verdict::Matches,
        (true, true) => Verdict::Unknown,
        (false, _) => Verdict::Unmet(unmet),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request() -> Request {
        Request {
            principal: Some("cluster.local/ns/shop/sa/cart".into()),
            namespace: "shop".into(),
            service_account: "cart".into(),
            ip: "10.1.2.3".into(),
            method: "GET".into(),
            path: "/pay/7".into(),
            host: "Payment".into(),
            port: Some(8080),
        }
    }

    #[test]
    fn the_clause_that_is_not_met_is_named() {
        let rule = json!({"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/cart"]}}], "to": [{"operation": {"methods": ["GET"], "paths": ["/v2/*"]}}]});
        let Verdict::Unmet(found) = judge(&rule, 3, &request()) else { panic!() };
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "spec.rules[3].to[0].operation.paths");
        assert_eq!(found[0].presented, "path /pay/7");
    }

    #[test]
    fn alternatives_and_negations() {
        let rule = json!({"from": [{"source": {"namespaces": ["other"]}}, {"source": {"ipBlocks": ["10.1.0.0/16"]}}], "to": [{"operation": {"notPaths": ["/admin*"], "ports": ["8080"], "hosts": ["payment"]}}]});
        assert_eq!(judge(&rule, 0, &request()), Verdict::Matches);
        assert_eq!(judge(&json!({}), 0, &request()), Verdict::Matches);
        let token = json!({"from": [{"source": {"requestPrincipals": ["*"]}}]});
        assert_eq!(judge(&token, 0, &request()), Verdict::Unknown);
        let plaintext = Request { principal: None, ..request() };
        assert!(matches!(
            judge(&json!({"from": [{"source": {"principals": ["*"]}}]}), 0, &plaintext),
            Verdict::Unmet(_)
        ));
    }

    #[test]
    fn path_templates() {
        assert!(path_matches("/pay/{*}", "/pay/7"));
        assert!(!path_matches("/pay/{*}", "/pay/7/x"));
        assert!(path_matches("/pay/{**}/x", "/pay/7/8/x"));
        assert!(!path_matches("/a/*", "/b"));
    }
}
