//! RequestAuthentication: a request without a token passes, one with a token that is not accepted is answered with 401.
//!
//! A token's parts are read, its signature is not checked: the keys are elsewhere. So a token can be refused for certain, but
//! never accepted for certain.

use crate::model::json::Value;
use std::collections::BTreeMap;

use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;

/// What request authentication says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// No token where any rule looks for one.
    NoToken,
    /// A token that no rule refuses as far as can be seen.
    Unknown(String),
    /// The proxy answers instead of the application.
    Refused {
        /// 401, or 403 for an audience.
        status: u16,
        /// Envoy's detail.
        detail: String,
        /// The policy and the field.
        policy: usize,
        /// The field.
        field: String,
    },
}

/// The parts of a request that can carry a token.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'a> {
    /// The method.
    pub method: &'a str,
    /// The query, without `?`.
    pub query: &'a str,
    /// Headers by name in lower case.
    pub headers: &'a BTreeMap<String, String>,
}

impl Carrier<'_> {
    /// Browsers ask beforehand, without a token, whether they may ask: that is let through.
    fn is_preflight(&self) -> bool {
        self.method == "OPTIONS"
            && self.headers.contains_key("origin")
            && self.headers.contains_key("access-control-request-method")
    }
}

/// More tokens than this in one request are not looked at.
const MAX_TOKENS: usize = 16;

/// Asks all rules that apply, in the order of the policies.
pub fn check(policies: &[&Policy], carrier: Carrier<'_>) -> Checked {
    if carrier.is_preflight() {
        return Checked::NoToken;
    }
    let mut rules: Vec<(usize, usize, &Value)> = vec![];
    for (at, policy) in policies.iter().enumerate() {
        let own = policy.object.body.list("spec.jwtRules").iter().enumerate();
        rules.extend(own.map(|(index, rule)| (at, index, rule)));
    }
    // A token that one rule accepts is enough, whatever the other rules say to it.
    let mut refused = None;
    for (policy, index, rule) in &rules {
        for token in tokens(rule, carrier).into_iter().take(MAX_TOKENS) {
            match judge(&token, rule) {
                Some((status, word, field)) => {
                    refused.get_or_insert((status, word, *policy, format!("spec.jwtRules[{index}]{field}")));
                }
                None => {
                    return Checked::Unknown(
                        "the request carries a token, and whether its signature is good cannot be seen"
                            .to_owned(),
                    );
                }
            }
        }
    }
    match refused {
        None => Checked::NoToken,
        Some((status, word, policy, field)) => {
            Checked::Refused { status, detail: format!("jwt_authn_access_denied{{{word}}}"), policy, field }
        }
    }
}

/// Whether a rule looks for tokens in a header, by its name in lower case.
pub fn reads(policies: &[&Policy], name: &str) -> bool {
    let named = |rule: &Value| {
        rule.list("fromHeaders").iter().any(|own| own.string("name").eq_ignore_ascii_case(name))
    };
    matches!(name, "authorization" | "cookie")
        || policies.iter().any(|policy| policy.object.body.list("spec.jwtRules").iter().any(named))
}

/// The tokens in the places where a rule looks. Without places of its own it looks in `Authorization` and `access_token`.
fn tokens(rule: &Value, carrier: Carrier<'_>) -> Vec<String> {
    let (headers, params, cookies) =
        (rule.list("fromHeaders"), rule.texts("fromParams"), rule.texts("fromCookies"));
    let mut out = vec![];
    let mut header = |name: &str, prefix: &str| {
        if let Some(value) = carrier.headers.get(&name.to_ascii_lowercase()) {
            // The prefix may stand anywhere in the value.
            let rest = value.split_once(prefix).map(|(_, rest)| rest);
            out.extend(rest.map(|rest| rest.trim().to_owned()).filter(|token| !token.is_empty()));
        }
    };
    if headers.is_empty() && params.is_empty() && cookies.is_empty() {
        header("authorization", "Bearer ");
    }
    for entry in headers {
        header(entry.text("name").unwrap_or_default(), entry.text("prefix").unwrap_or_default());
    }
    let params = if headers.is_empty() && params.is_empty() && cookies.is_empty() {
        vec!["access_token".to_owned()]
    } else {
        params
    };
    for pair in carrier.query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if params.iter().any(|own| own == name) && !value.is_empty() {
            out.push(value.to_owned());
        }
    }
    let all = carrier.headers.get("cookie").map(String::as_str).unwrap_or_default();
    for pair in all.split(';') {
        let (name, value) = pair.trim().split_once('=').unwrap_or_default();
        if cookies.iter().any(|own| own == name) && !value.is_empty() {
            out.push(value.to_owned());
        }
    }
    out
}

/// Why a rule refuses a token: status, Envoy's words and the field; `None` where nothing that can be seen speaks against it.
fn judge(token: &str, rule: &Value) -> Option<(u16, &'static str, &'static str)> {
    let mut parts = token.split('.');
    let (Some(head), Some(body), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Some((
            401,
            "Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections",
            "",
        ));
    };
    let Some(_) = decode(head) else { return Some((401, "Jwt_header_is_an_invalid_Base64url_encoded", "")) };
    let Some(claims) = decode(body) else {
        return Some((401, "Jwt_payload_is_an_invalid_Base64url_encoded", ""));
    };
    let issuer = rule.text("issuer").unwrap_or_default();
    if !issuer.is_empty() && claims.text("iss") != Some(issuer) {
        return Some((401, "Jwt_issuer_is_not_configured", ".issuer"));
    }
    let wanted = rule.texts("audiences");
    if !wanted.is_empty() {
        let mut own = claims.texts("aud");
        own.extend(claims.text("aud").map(str::to_owned));
        let plain = |text: &str| {
            let text = text.trim_start_matches("https://").trim_start_matches("http://");
            text.trim_end_matches('/').to_owned()
        };
        if !own.iter().any(|own| wanted.iter().any(|wanted| plain(wanted) == plain(own))) {
            return Some((403, "Audiences_in_Jwt_are_not_allowed", ".audiences"));
        }
    }
    None
}

/// JSON in base64url, without padding.
fn decode(text: &str) -> Option<Value> {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut kept, mut bits) = (0u32, 0u32);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        kept = (kept << 6) | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((kept >> bits) & 0xff).ok()?);
            kept &= (1 << bits) - 1;
        }
    }
    serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::object::Object;

    /// `{"alg":"RS256"}` . `{"iss":"https://a.example.com","aud":["shop"],"sub":"u"}` . a signature.
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZS5jb20iLCJhdWQiOlsic2hvcCJdLCJzdWIiOiJ1In0.c2ln";

    fn checked(rules: Value, method: &str, query: &str, headers: &[(&str, &str)]) -> Checked {
        let object = json!({"kind": "RequestAuthentication", "metadata": {"name": "r", "namespace": "n"}, "spec": {"jwtRules": rules}});
        let policy = Policy::read(Object::read(object).unwrap());
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        check(&[&policy], Carrier { method, query, headers: &headers })
    }

    fn status(checked: &Checked) -> u16 {
        match checked {
            Checked::NoToken => 200,
            Checked::Unknown(_) => 0,
            Checked::Refused { status, .. } => *status,
        }
    }

    #[test]
    fn tokens_are_refused_for_what_can_be_seen() {
        let bearer = format!("Bearer {TOKEN}");
        let own = json!([{"issuer": "https://a.example.com"}]);
        let other = json!([{"issuer": "https://b.example.com"}]);
        let with =
            |rules: &Value, value: &str| checked(rules.clone(), "GET", "", &[("authorization", value)]);
        assert_eq!(status(&checked(own.clone(), "GET", "", &[])), 200);
        assert_eq!(status(&with(&own, &bearer)), 0);
        assert_eq!(status(&with(&own, "Bearer rubbish")), 401);
        assert_eq!(status(&with(&own, "Bearer a.b.c")), 401);
        assert_eq!(status(&with(&own, "Basic dTpw")), 200);
        let Checked::Refused { detail, field, .. } = with(&other, &bearer) else { panic!() };
        assert_eq!(detail, "jwt_authn_access_denied{Jwt_issuer_is_not_configured}");
        assert_eq!(field, "spec.jwtRules[0].issuer");
        let audience = |name: &str| json!([{"issuer": "https://a.example.com", "audiences": [name]}]);
        assert_eq!(status(&with(&audience("shop"), &bearer)), 0);
        assert_eq!(status(&with(&audience("bank"), &bearer)), 403);
        // One rule that takes it is enough.
        let both = json!([{"issuer": "https://b.example.com"}, {"issuer": "https://a.example.com"}]);
        assert_eq!(status(&with(&both, &bearer)), 0);
    }

    #[test]
    fn tokens_are_looked_for_where_rules_say() {
        let rule = |extra: Value| {
            let mut rule = json!({"issuer": "https://b.example.com"});
            rule.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!([rule])
        };
        let query = format!("a=b&access_token={TOKEN}");
        assert_eq!(status(&checked(rule(json!({})), "GET", &query, &[])), 401);
        let named =
            rule(json!({"fromHeaders": [{"name": "X-Token"}], "fromParams": ["t"], "fromCookies": ["c"]}));
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(status(&checked(named.clone(), "GET", &query, &[("authorization", &bearer)])), 200);
        assert_eq!(status(&checked(named.clone(), "GET", &format!("t={TOKEN}"), &[])), 401);
        assert_eq!(status(&checked(named.clone(), "GET", "", &[("x-token", TOKEN)])), 401);
        let cookie = format!("a=b; c={TOKEN}");
        assert_eq!(status(&checked(named, "GET", "", &[("cookie", &cookie)])), 401);
        let preflight = [
            ("origin", "https://x"),
            ("access-control-request-method", "PUT"),
            ("authorization", "Bearer x"),
        ];
        assert_eq!(status(&checked(rule(json!({})), "OPTIONS", "", &preflight)), 200);
    }
}
