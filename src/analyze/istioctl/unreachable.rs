//! Rules of VirtualServices that no request reaches, as Istio's validation finds them: by equal matches, and by prefixes that an
//! earlier prefix covers.

use crate::model::json::{Text, Value};
use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, VIRTUAL_SERVICE};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

/// IST0130 and IST0131.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for service in context.all(VIRTUAL_SERVICE) {
        for protocol in ["http", "tcp", "tls"] {
            rules(service, service.body.list(&format!("spec.{protocol}")), protocol == "http", out);
        }
        prefixes(service, service.body.list("spec.http"), out);
    }
}

/// A rule by its name, which only HTTP has, else by its place.
fn rule_name(rule: &Value, at: usize) -> String {
    match rule.text("name").filter(|name| !name.is_empty()) {
        Some(name) => format!("{name:?}"),
        None => format!("#{at}"),
    }
}

/// A match without its name, which routes nothing; keys in order.
fn conditions(entry: &Value) -> String {
    match entry {
        Value::Object(map) => {
            let all: BTreeMap<&Text, &Value> = map.iter().filter(|(key, _)| *key != "name").collect();
            serde_json::to_string(&all).unwrap_or_default()
        }
        other => other.to_string(),
    }
}

fn rules(service: &Object, rules: &[Value], named: bool, out: &mut Messages) {
    let name_of = |entry: &Value, at: usize| if named { rule_name(entry, at) } else { format!("#{at}") };
    let unreachable = |rule: &str, why: &str, out: &mut Messages| {
        out.push("IST0130", service, "", format!("rule {rule} is never used: {why}"));
    };
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut takes_all = false;
    for (at, rule) in rules.iter().enumerate() {
        let name = name_of(rule, at);
        let matches = rule.list("match");
        if matches.is_empty() {
            if takes_all {
                unreachable(&name, "only the last rule can be without matches", out);
            }
            takes_all = true;
            continue;
        }
        let mut repeated = 0;
        for (place, entry) in matches.iter().enumerate() {
            if takes_all {
                unreachable(&name, "a rule without matches comes before it", out);
                continue;
            }
            let conditions = if named { conditions(entry) } else { entry.to_string() };
            match known.get(&conditions) {
                Some(before) => {
                    let earlier = rules.get(*before).map(|rule| name_of(rule, *before)).unwrap_or_default();
                    let text =
                        format!("match {} of rule {name} is also in rule {earlier}", name_of(entry, place));
                    out.push("IST0131", service, "", text);
                    repeated += 1;
                }
                None => {
                    known.insert(conditions, at);
                }
            }
        }
        if repeated == matches.len() {
            unreachable(&name, "earlier rules have all of its matches", out);
        }
    }
}

/// How a prefix match is compared with others: its text conditions, each `exact…` or `prefix…`.
struct Prefix {
    rule: String,
    entry: String,
    prefix: String,
    port: i64,
    texts: Vec<BTreeMap<String, String>>,
    method: String,
    authority: String,
}

/// A text condition; a regular expression counts as none.
fn text_condition(value: &Value, at: &str) -> String {
    let field = |name: &str| value.at(at).map(|value| value.string(name)).filter(|text| !text.is_empty());
    match (field("exact"), field("prefix")) {
        (Some(exact), _) => format!("exact{exact}"),
        (None, Some(prefix)) => format!("prefix{prefix}"),
        (None, None) => String::new(),
    }
}

impl Prefix {
    fn read(entry: &Value, rule: String, place: usize) -> Option<Self> {
        let prefix = entry.text("uri.prefix").filter(|prefix| !prefix.is_empty())?.to_owned();
        let conditions = |field: &str| {
            let entries = entry.map(field).into_iter().flatten();
            entries
                .map(|(key, value)| {
                    (key.to_string(), text_condition(&crate::model::json::json!({ "v": value }), "v"))
                })
                .collect()
        };
        let method = text_condition(entry, "method");
        Some(Prefix {
            rule,
            entry: rule_name(entry, place),
            prefix,
            port: entry.int("port").unwrap_or_default(),
            texts: ["headers", "queryParams", "withoutHeaders"].map(conditions).into(),
            method: if method.is_empty() { "exactGET".to_owned() } else { method },
            authority: text_condition(entry, "authority"),
        })
    }

    /// Whether every request that `later` matches is taken to have been matched already: the comparison that Istio makes, in
    /// which the earlier one's conditions begin with the later one's.
    fn covers(&self, later: &Prefix) -> bool {
        let texts = self.texts.iter().zip(&later.texts).all(|(own, theirs)| {
            own.len() == theirs.len()
                && own.iter().all(|(key, value)| {
                    theirs.get(key).is_some_and(|other| value.starts_with(other.as_str()))
                })
        });
        later.prefix.starts_with(&self.prefix)
            && later.port == self.port
            && self.method.starts_with(&later.method)
            && self.authority.starts_with(&later.authority)
            && texts
    }
}

fn prefixes(service: &Object, rules: &[Value], out: &mut Messages) {
    let mut known = BTreeSet::new();
    let mut all = vec![];
    for (at, rule) in rules.iter().enumerate() {
        // What stands behind a rule without matches was said to be unreachable; what was met before, to be repeated.
        if rule.list("match").is_empty() {
            break;
        }
        for (place, entry) in rule.list("match").iter().enumerate() {
            if known.insert(conditions(entry)) {
                all.extend(Prefix::read(entry, rule_name(rule, at), place));
            }
        }
    }
    for (at, earlier) in all.iter().enumerate() {
        for later in all.iter().skip(at + 1).filter(|later| later.prefix != earlier.prefix) {
            if earlier.covers(later) {
                let text = format!(
                    "match {} of rule {} (prefix {}) is covered by match {} of rule {} (prefix {})",
                    later.entry, later.rule, later.prefix, earlier.entry, earlier.rule, earlier.prefix
                );
                out.push("IST0131", service, "", text);
            }
        }
    }
}
