//! RequestAuthentication.

use crate::model::json::Value;

use super::words::{duration, items, shown, word};
use super::{Faults, Fix, attachment, url};

const KEYS: &str = "a JSON Web Key Set (RFC 7517) of public keys";
const URL: &str = "a URL that begins with http:// or https://";

pub(super) fn check(out: &mut Faults, spec: &Value) {
    attachment::check(out, spec);
    for (path, rule) in items(spec, "jwtRules", "spec") {
        jwt_rule(out, rule, &path);
        private_keys(out, word(rule, "jwks"), &path);
    }
}

fn jwt_rule(out: &mut Faults, rule: &Value, path: &str) {
    let mut filled = |key: &str, what: &str, field: &str| {
        for (path, one) in items(rule, key, path) {
            let text = if field.is_empty() { one.as_str().unwrap_or_default() } else { word(one, field) };
            if text.is_empty() {
                out.error(path, format!("{what} is empty"), "a name").fix(Fix::Remove);
            }
        }
    };
    filled("audiences", "an audience", "");
    filled("fromHeaders", "a header for tokens", "name");
    filled("fromParams", "a parameter for tokens", "");
    filled("fromCookies", "a cookie for tokens", "");
    let address = word(rule, "jwksUri");
    if word(rule, "issuer").is_empty() && address.is_empty() {
        out.error(
            format!("{path}.issuer"),
            "a rule has neither issuer nor jwksUri",
            "the issuer of the tokens",
        );
    }
    if !address.is_empty()
        && let Some(what) = web_address(address)
    {
        out.error(format!("{path}.jwksUri"), what, URL);
    }
    if let Err(what) = keys(word(rule, "jwks")) {
        out.error(format!("{path}.jwks"), what, KEYS);
    }
    for (path, one) in items(rule, "outputClaimToHeaders", path) {
        let (claim, header) = (word(one, "claim"), word(one, "header"));
        if claim.is_empty() || header.is_empty() {
            out.error(path, "a claim goes to no header, or a header gets no claim", "claim and header");
        } else if !header.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            let what = format!("{} is no name of a header", shown(header));
            out.error(format!("{path}.header"), what, "letters, digits, hyphens and underscores");
        }
    }
    duration(out, rule, "timeout", path);
}

/// What is wrong with an address of the web.
fn web_address(address: &str) -> Option<String> {
    match url::scheme(address, false) {
        None => Some(format!("{} is no URL", shown(address))),
        Some(scheme) if scheme != "http" && scheme != "https" => {
            Some(format!("{} has scheme \"{}\"", shown(address), shown(&scheme)))
        }
        Some(_) => None,
    }
}

/// The keys of a set, which can be one key alone; what was masked on its way in is not judged.
fn keys(text: &str) -> Result<Vec<Value>, String> {
    if text.is_empty() || text.contains("[redacted:") {
        return Ok(vec![]);
    }
    let set: Value = serde_json::from_str(text).map_err(|_| "jwks is no JSON")?;
    if !set.is_object() {
        return Err("jwks is no object".to_owned());
    }
    let (keys, one) = match set.get("keys") {
        Some(Value::Array(keys)) => (keys.to_vec(), false),
        Some(_) => return Err("jwks has keys that are no list".to_owned()),
        None => (vec![set], true),
    };
    for (at, key) in keys.iter().enumerate() {
        let name = if one { "jwks is a key that".to_owned() } else { format!("jwks has key {at}, which") };
        let has = |field: &&str| key.get(*field).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        let kind = key.get("kty").and_then(Value::as_str).unwrap_or_default();
        let needed: &[&str] = match kind {
            "RSA" => &["n", "e"],
            "EC" => &["crv", "x", "y"],
            "OKP" => &["crv", "x"],
            "oct" => &["k"],
            _ => return Err(format!("{name} is of type \"{}\"", shown(kind))),
        };
        if let Some(field) = needed.iter().find(|field| !has(field)) {
            return Err(format!("{name} has no {field}"));
        }
    }
    Ok(keys)
}

fn private_keys(out: &mut Faults, text: &str, path: &str) {
    for (at, key) in keys(text).unwrap_or_default().iter().enumerate() {
        if key.get("d").is_some() || key.get("kty").and_then(Value::as_str) == Some("oct") {
            out.warn(format!("{path}.jwks"), format!("key {at} of jwks is a private one"), KEYS);
        }
    }
}
