//! Whether a request satisfies a rule of an AuthorizationPolicy, and which clause keeps it from doing so.
//!
//! A rule is an *and* of three parts: one of `from`, one of `to`, all of `when`; a part that is missing holds for every
//! request. Within a source or an operation all fields must hold, of a field's values one.

#[cfg(test)]
mod tests;

use crate::model::json::Value;
use core::net::IpAddr;

use super::facts::{Fact, Facts};
use super::path::template_fits;
use crate::model::cidr::Cidr;
use crate::model::fields::Fields;

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

/// How one rule of a policy stands to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is met.
    Matches,
    /// What is known of it is met; the field that hangs on something unknown.
    Unknown(String),
    /// These clauses are not. None at all: the proxy's configuration leaves the rule out, because of the field that the
    /// text names.
    Unmet(Vec<Mismatch>, Option<String>),
}

/// What the policy is for: of a rule that a proxy cannot check it makes a narrower ALLOW and a wider DENY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A rule with a clause that cannot be checked is left out.
    Allow,
    /// A clause that cannot be checked is left out.
    Other,
}

/// What one clause says to a request.
enum Clause {
    Met,
    Unknown,
    Unmet(String),
    /// The proxy cannot check it: HTTP on a bare connection, or a value that is none.
    Unchecked,
}

/// Exact, `prefix*`, `*suffix`, or `*` for anything that is there.
pub fn text_fits(pattern: &str, value: &str) -> bool {
    if pattern == "*" {
        return !value.is_empty();
    }
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => value.ends_with(suffix),
        (None, Some(prefix)) => value.starts_with(prefix),
        (None, None) => pattern == value,
    }
}

/// The same, whatever the case.
fn host_fits(pattern: &str, host: &str) -> bool {
    text_fits(&pattern.to_ascii_lowercase(), &host.to_ascii_lowercase())
}

/// `*` stands for anything, wherever it is.
fn glob_fits(pattern: &str, value: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| value.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Patterns of paths that hold braces are templates.
fn path_fits(pattern: &str, path: &str) -> bool {
    if pattern.contains("{*}") || pattern.contains("{**}") {
        template_fits(pattern, path)
    } else {
        text_fits(pattern, path)
    }
}

/// A trust domain that is the mesh's own, by any of its names, stands for all of them.
fn principal_fits(pattern: &str, principal: &str, trust_domains: &[String]) -> bool {
    if text_fits(pattern, principal) {
        return true;
    }
    let Some((domain, rest)) = pattern.split_once('/') else { return false };
    let own = |name: &str| name == "cluster.local" || trust_domains.iter().any(|own| own == name);
    let Some((theirs, identity)) = principal.split_once('/') else { return false };
    own(domain) && own(theirs) && text_fits(rest, identity)
}

/// `namespace/name`, or a name in the policy's namespace.
fn account_fits(pattern: &str, policy_namespace: &str, namespace: &str, account: &str) -> bool {
    let (own, name) = pattern.split_once('/').unwrap_or((policy_namespace, pattern));
    own == namespace && name == account
}

struct Judge<'a> {
    facts: &'a Facts,
    namespace: &'a str,
    purpose: Purpose,
}

impl Judge<'_> {
    fn any<T>(&self, fact: &Fact<T>, listed: &[String], fits: impl Fn(&str, &T) -> bool) -> Option<bool> {
        fact.is(|value| listed.iter().any(|own| fits(own, value)))
    }

    /// `None` in the outer option: no listed value is a range.
    fn inside(&self, fact: &Fact<IpAddr>, listed: &[String]) -> Option<Option<bool>> {
        let ranges: Vec<Cidr> = listed.iter().filter_map(|text| Cidr::parse(text)).collect();
        let broken = ranges.len() < listed.len();
        if ranges.is_empty() || (broken && self.purpose == Purpose::Allow) {
            return None;
        }
        Some(fact.is(|ip| ranges.iter().any(|range| range.contains(*ip))))
    }

    /// What a key says to its values. The key is one of a `source`, of an `operation`, or of `when`.
    fn says(&self, key: &str, listed: &[String]) -> Option<(Option<bool>, String)> {
        let facts = self.facts;
        let shown = |what: &str, fact: &Fact<String>| match fact {
            Fact::Is(value) => format!("{what} {value}"),
            Fact::Absent => format!("no {what}"),
            Fact::Unknown => format!("an unseen {what}"),
        };
        let address = |what: &str, fact: &Fact<IpAddr>| match fact {
            Fact::Is(ip) => format!("{what} {ip}"),
            Fact::Absent | Fact::Unknown => format!("an unseen {what}"),
        };
        let text = |own: &str, value: &String| text_fits(own, value);
        let http = |fact: &Fact<String>, fits: fn(&str, &str) -> bool| {
            facts.http.then(|| self.any(fact, listed, |own, value| fits(own, value)))
        };
        Some(match key {
            "principals" | "source.principal" => {
                let fits = |own: &str, value: &String| principal_fits(own, value, &facts.trust_domains);
                let plaintext = facts.principal == Fact::Absent;
                let shown = if plaintext {
                    "no principal (plaintext)".to_owned()
                } else {
                    shown("principal", &facts.principal)
                };
                (self.any(&facts.principal, listed, fits), shown)
            }
            "namespaces" | "source.namespace" => {
                let plaintext = facts.namespace == Fact::Absent;
                let shown = if plaintext {
                    "no namespace (plaintext)".to_owned()
                } else {
                    shown("namespace", &facts.namespace)
                };
                (self.any(&facts.namespace, listed, |own, value| glob_fits(own, value)), shown)
            }
            "serviceAccounts" | "source.serviceAccount" => {
                let met = match (&facts.namespace, &facts.service_account) {
                    (Fact::Is(namespace), account) => self.any(account, listed, |own, value| {
                        account_fits(own, self.namespace, namespace, value)
                    }),
                    (Fact::Absent, _) => Some(false),
                    (Fact::Unknown, _) => None,
                };
                let namespace = match &facts.namespace {
                    Fact::Is(namespace) => namespace.as_str(),
                    Fact::Absent | Fact::Unknown => "",
                };
                let shown = match &facts.service_account {
                    Fact::Is(account) => format!("service account {namespace}/{account}"),
                    Fact::Absent => "no service account (plaintext)".to_owned(),
                    Fact::Unknown => "an unseen service account".to_owned(),
                };
                (met, shown)
            }
            "ipBlocks" | "source.ip" => {
                (self.inside(&facts.source_ip, listed)?, address("address", &facts.source_ip))
            }
            "remoteIpBlocks" | "remote.ip" => {
                (self.inside(&facts.remote_ip, listed)?, address("first address", &facts.remote_ip))
            }
            "destination.ip" => {
                (self.inside(&facts.destination_ip, listed)?, address("destination", &facts.destination_ip))
            }
            "ports" | "destination.port" => {
                let numbers: Vec<i64> = listed.iter().filter_map(|own| own.parse().ok()).collect();
                if numbers.is_empty() || (numbers.len() < listed.len() && self.purpose == Purpose::Allow) {
                    return None;
                }
                let port = match &facts.port {
                    Fact::Is(port) => format!("port {port}"),
                    Fact::Absent | Fact::Unknown => "an unseen port".to_owned(),
                };
                (facts.port.is(|port| numbers.contains(port)), port)
            }
            "connection.sni" => (self.any(&facts.sni, listed, text), shown("server name", &facts.sni)),
            "hosts" => (http(&facts.host, host_fits)?, shown("host", &facts.host)),
            "methods" => (http(&facts.method, text_fits)?, shown("method", &facts.method)),
            "paths" => (http(&facts.path, path_fits)?, shown("path", &facts.path)),
            key if key.starts_with("request.headers[") => {
                let name = key.strip_prefix("request.headers[")?.strip_suffix(']')?.to_ascii_lowercase();
                if !facts.http {
                    return None;
                }
                let fact = match (name.as_str(), &facts.headers) {
                    (":method", _) => facts.method.clone(),
                    (":authority" | "host", _) => facts.host.clone(),
                    (name, _) if facts.undecided.contains(name) => Fact::Unknown,
                    (_, Fact::Is(headers)) => Fact::or_absent(headers.get(&name).cloned()),
                    (_, Fact::Absent | Fact::Unknown) => Fact::Unknown,
                };
                // A header is there even where it is empty.
                let fits = |own: &str, value: &String| own == "*" || text_fits(own, value);
                (self.any(&fact, listed, fits), shown(&format!("header {name}"), &fact))
            }
            "requestPrincipals" => self.claim(facts)?,
            key if key.starts_with("request.auth.") => self.claim(facts)?,
            key if key.starts_with("experimental.envoy.filters.") => (None, String::new()),
            _ => return None,
        })
    }

    /// What a token says is known only where there is none: then it says nothing.
    fn claim(&self, facts: &Facts) -> Option<(Option<bool>, String)> {
        facts.http.then(|| {
            (facts.token.is(|()| false).filter(|_| facts.token == Fact::Absent), "no token".to_owned())
        })
    }

    fn clause(&self, key: &str, negated: bool, listed: &[String]) -> Clause {
        match self.says(key, listed) {
            None => Clause::Unchecked,
            Some((None, _)) => Clause::Unknown,
            Some((Some(met), _)) if met != negated => Clause::Met,
            Some((Some(_), presented)) => Clause::Unmet(presented),
        }
    }
}

/// What is left of some clauses that must all hold.
#[derive(Default)]
struct All {
    unmet: Vec<Mismatch>,
    unknown: Option<String>,
    /// The field for which an ALLOW rule is left out as a whole.
    left_out: Option<String>,
}

impl All {
    fn take(
        &mut self,
        judge: &Judge<'_>,
        key: &str,
        negated: bool,
        listed: Vec<String>,
        path: String,
        name: &str,
    ) {
        if listed.is_empty() {
            return;
        }
        match judge.clause(key, negated, &listed) {
            Clause::Met => {}
            Clause::Unknown => self.unknown = self.unknown.take().or(Some(path)),
            Clause::Unmet(presented) => {
                self.unmet.push(Mismatch { path, clause: name.to_owned(), listed, presented });
            }
            Clause::Unchecked if judge.purpose == Purpose::Allow => {
                self.left_out = self.left_out.take().or(Some(path));
            }
            Clause::Unchecked => {}
        }
    }
}

/// Numbers count as text.
fn values(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items
        .filter_map(|item| item.as_str().map(str::to_owned).or_else(|| item.as_i64().map(|n| n.to_string())))
        .collect()
}

/// One `source` or `operation`.
fn entry(judge: &Judge<'_>, value: &Value, path: &str) -> All {
    let mut all = All::default();
    for (name, listed) in value.as_object().into_iter().flatten() {
        let positive = name.strip_prefix("not").map(|rest| {
            let (first, tail) = rest.split_at_checked(1).unwrap_or_default();
            format!("{}{tail}", first.to_ascii_lowercase())
        });
        let key = positive.as_deref().unwrap_or(name);
        all.take(judge, key, positive.is_some(), values(Some(listed)), format!("{path}.{name}"), name);
    }
    all
}

/// Judges one rule (`spec.rules[index]`) of a policy of `namespace`. Of several alternatives in `from` and in `to` the one
/// with the fewest clauses that are not met counts.
pub fn judge(rule: &Value, index: usize, namespace: &str, purpose: Purpose, facts: &Facts) -> Verdict {
    let judge = Judge { facts, namespace, purpose };
    let mut whole = All::default();
    for (list, inner) in [("from", "source"), ("to", "operation")] {
        let mut best: Option<All> = None;
        for (at, item) in rule.list(list).iter().enumerate() {
            let path = format!("spec.rules[{index}].{list}[{at}].{inner}");
            let found = entry(&judge, item.at(inner).unwrap_or(&Value::Null), &path);
            whole.left_out = whole.left_out.take().or(found.left_out.clone());
            let weight = |all: &All| (all.unmet.len(), all.unknown.is_some());
            if best.as_ref().is_none_or(|best| weight(&found) < weight(best)) {
                best = Some(found);
            }
        }
        if let Some(best) = best {
            whole.unmet.extend(best.unmet);
            whole.unknown = whole.unknown.take().or(best.unknown);
        }
    }
    for (at, condition) in rule.list("when").iter().enumerate() {
        let key = condition.string("key");
        for (field, negated) in [("values", false), ("notValues", true)] {
            let path = format!("spec.rules[{index}].when[{at}].{field}");
            whole.take(&judge, &key, negated, values(condition.at(field)), path, &key);
        }
    }
    match (whole.left_out, whole.unmet.is_empty(), whole.unknown) {
        (Some(field), _, _) => Verdict::Unmet(vec![], Some(field)),
        (None, false, _) => Verdict::Unmet(whole.unmet, None),
        (None, true, Some(field)) => Verdict::Unknown(field),
        (None, true, None) => Verdict::Matches,
    }
}
