//! ISTIO108.

use crate::model::json::{Value, json};
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts;
use crate::analyze::rules::near::applied;
use crate::analyze::rules::seen;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Route, VirtualService};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};

crate::rule! {
    /// An HTTP route is never used, because an earlier one takes all of its requests.
    ///
    /// ## What it detects
    /// A route of a VirtualService each of whose matches is covered by a route before it: a catch-all, an equal match, a
    /// shorter prefix with no further condition.
    /// ## Why it matters
    /// Routes are tried in order and the first that matches is taken. What the later route was written for, such as a canary
    /// or another backend, goes where the earlier one says.
    /// ## Evidence
    /// Both routes; access-log records that name the earlier route and never the later one.
    /// ## How to confirm
    /// `istioctl proxy-config routes POD -o json` lists the routes in order; send a request that only the later one should
    /// take.
    /// ## How to fix
    /// Put the more specific route first, or narrow the match of the earlier one.
    /// ## False positives
    /// Two routes with the same destinations: the later one is superfluous and nothing fails. Routes are compared as they
    /// are written; regular expressions only where they are equal.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/analysis/ist0130/>
    RouteShadowed {
        code: "ISTIO108", name: "route-shadowed", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: ["IST0130", "IST0131"],
    }
}

/// Two routes, of which the later one is never used.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    earlier: &'a Route,
    later: &'a Route,
    /// Whether both do the same with a request.
    same: bool,
    /// Requests that took the earlier route, where its name tells; 0 where nothing does.
    taken: u64,
    /// Requests that took the later one.
    used: u64,
    failing: seen::Seen,
}

impl Check for RouteShadowed {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            if !seen::configured(virtual_service.object.namespace()) {
                continue;
            }
            let http: Vec<&Route> = virtual_service.routes.iter().filter(|r| r.protocol == "http").collect();
            for (index, later) in http.iter().enumerate() {
                let before = http.get(..index).unwrap_or_default();
                let Some(earlier) = before.iter().find(|earlier| covers_route(earlier, later)) else {
                    continue;
                };
                let own: Vec<&EdgeTraffic> = snapshot
                    .traffic
                    .iter()
                    .filter(|e| e.reporter == Reporter::Source)
                    .filter(|e| {
                        e.service.as_ref().is_some_and(|s| virtual_service.covers(&hosts::host_of(s)))
                    })
                    .collect();
                let count = |name: &str| -> u64 {
                    let outcomes = own.iter().flat_map(|e| &e.outcomes);
                    outcomes.filter(|o| !name.is_empty() && o.route == name).map(|o| o.count).sum()
                };
                let hurts = |_: &EdgeTraffic, o: &Outcome| {
                    !earlier.name.is_empty()
                        && o.route == earlier.name
                        && o.code >= 400
                        && o.code != 401
                        && o.code != 403
                };
                out.push(Fact {
                    virtual_service,
                    earlier,
                    later,
                    same: effect_of(earlier) == effect_of(later),
                    taken: count(&earlier.name),
                    used: count(&later.name),
                    failing: seen::outcomes(own.iter().copied(), hurts),
                });
            }
        }
        // Behind one catch-all all later routes are shadowed: the first of them with another effect tells it.
        let mut told: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
        out.sort_by_key(|fact| fact.same);
        out.retain(|f| {
            told.insert((
                f.virtual_service.object.namespace(),
                f.virtual_service.object.name(),
                f.earlier.path.as_str(),
            ))
        });
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.virtual_service.reference();
        let service = hosts::service_of(snapshot, fact.virtual_service);
        let path = format!("{}.match", fact.earlier.path);
        let (earlier, later) = (called(fact.earlier), called(fact.later));
        let why = if fact.earlier.matches().is_empty() || fact.earlier.matches().iter().any(is_catch_all) {
            "matches every request"
        } else {
            "matches all that it matches"
        };
        // A route that requests took is no shadow, whatever its matches look like from here.
        let starved = fact.taken > 0 && fact.used == 0;
        let hurts = starved && fact.failing.any() && !fact.same;
        let severity = match (hurts, fact.same) {
            (true, _) => Severity::Error,
            (false, true) => Severity::Info,
            (false, false) => Severity::Warning,
        };
        let (role, confidence) = match (hurts, fact.same) {
            (true, _) => (Role::Cause, Confidence::Observed),
            (false, true) => (Role::Context, Confidence::Configured),
            (false, false) => (Role::Cause, Confidence::Configured),
        };
        let traffic = if starved {
            format!(" {} requests took route {earlier}, none took {later}.", fact.taken)
        } else {
            String::new()
        };
        let mut finding = Finding::new(Self::META, reference.field(&path), &[&fact.later.path])
            .title(format!("{reference}: route {} is unreachable behind {}, which {why}", short(fact.later), short(fact.earlier)))
            .message(format!(
                "Routes are tried in order. {} {why} and stands before {}, whose requests go where the earlier route says.{traffic}",
                fact.earlier.path, fact.later.path
            ))
            .mechanism("shadowed route: unreachable behind an earlier catch-all or equal match")
            .severity(severity)
            .role(role, confidence)
            .service(service.clone())
            .evidence(Evidence::object(&reference.field(&fact.earlier.path), format!("route {earlier} {why}")))
            .evidence(Evidence::object(&reference.field(&fact.later.path), format!("route {later} stands after it")))
            .prevention(Prevention::of("Test", "In the pipeline: no route of a VirtualService stands behind one that covers it (meshscope analyze on the manifests)"));
        if starved {
            finding = finding.evidences(fact.failing.evidence.clone()).onset(fact.failing.onset);
        }
        if !fact.same {
            finding = finding.effects(service.iter().map(|s| Effect::requests(s, &["404", "5xx"])));
        }
        finding.maybe_remedy(restore(fact, &path)).maybe_remedy(reorder(fact)).maybe_remedy(Remedy::patch(
            &fact.virtual_service.object,
            &json!([{"op": "remove", "path": pointer(&fact.earlier.path)}]),
            format!("Remove route {earlier}, whose match takes all requests"),
        ))
    }
}

/// The name of a route in a sentence.
fn called(route: &Route) -> String {
    if route.name.is_empty() { route.path.clone() } else { format!("\"{}\" ({})", route.name, route.path) }
}

/// Its name alone, or where it stands.
fn short(route: &Route) -> String {
    if route.name.is_empty() { route.path.clone() } else { format!("\"{}\"", route.name) }
}

/// What a route does with a request, its name and its conditions apart.
fn effect_of(route: &Route) -> Value {
    let mut body = crate::model::json::Value::clone(&route.body);
    if let Some(map) = body.as_object_mut() {
        map.remove("name");
        map.remove("match");
    }
    body
}

fn covers_route(earlier: &Route, later: &Route) -> bool {
    if earlier.matches().is_empty() {
        return true;
    }
    if later.matches().is_empty() {
        return earlier.matches().iter().any(is_catch_all);
    }
    later.matches().iter().all(|match_| earlier.matches().iter().any(|wide| covers(wide, match_)))
}

fn is_catch_all(wide: &Value) -> bool {
    covers(wide, &json!({}))
}

/// Whether everything that `narrow` matches is matched by `wide` too: each condition of `wide` follows from `narrow`.
fn covers(wide: &Value, narrow: &Value) -> bool {
    let Some(conditions) = wide.as_object() else { return false };
    conditions.iter().filter(|(key, _)| key.as_str() != "name" && key.as_str() != "statPrefix").all(
        |(key, value)| {
            let other = narrow.child(key);
            match key.as_str() {
                "uri" => text_covers(value, other, wide.flag("ignoreUriCase"), narrow.flag("ignoreUriCase")),
                "ignoreUriCase" => true,
                "headers" | "queryParams" | "sourceLabels" => value.as_object().is_some_and(|wanted| {
                    wanted.iter().all(|(name, condition)| {
                        other
                            .and_then(|o| o.child(name))
                            .is_some_and(|o| o == condition || is_presence(condition))
                    })
                }),
                // Nothing is asked of an empty list or map.
                _ if value.as_array().is_some_and(|list| list.is_empty())
                    || value.as_object().is_some_and(|m| m.is_empty()) =>
                {
                    true
                }
                "method" | "authority" | "scheme" => text_covers(value, other, false, false),
                _ => other == Some(value),
            }
        },
    )
}

/// An empty condition asks only that the header is there.
fn is_presence(condition: &Value) -> bool {
    condition.as_object().is_some_and(|m| m.is_empty())
}

fn text_covers(wide: &Value, narrow: Option<&Value>, wide_ignores: bool, narrow_ignores: bool) -> bool {
    let fold = |text: &str| if wide_ignores { text.to_ascii_lowercase() } else { text.to_owned() };
    if let Some(prefix) = wide.text("prefix") {
        // Every path begins with a slash.
        if prefix == "/" || prefix.is_empty() {
            return true;
        }
        let Some(narrow) = narrow.filter(|_| wide_ignores || !narrow_ignores) else { return false };
        let other = narrow.text("prefix").or_else(|| narrow.text("exact"));
        return other.is_some_and(|other| fold(other).starts_with(&fold(prefix)));
    }
    if let Some(exact) = wide.text("exact") {
        let same = |narrow: &Value| narrow.text("exact").is_some_and(|o| fold(o) == fold(exact));
        return narrow.is_some_and(same) && (wide_ignores || !narrow_ignores);
    }
    if wide.text("regex").is_some_and(|regex| matches!(regex, ".*" | "/.*" | "^/.*$" | "^.*$")) {
        return true;
    }
    narrow == Some(wide)
}

/// The match that stood there before the last edit.
fn restore(fact: &Fact<'_>, path: &str) -> Option<Remedy> {
    let before = applied(&fact.virtual_service.object, path)?;
    let name = applied(&fact.virtual_service.object, &format!("{}.name", fact.earlier.path));
    let same_route = name.as_ref().and_then(Value::as_str).unwrap_or_default() == fact.earlier.name;
    if !same_route || fact.earlier.body.at("match") == Some(&before) {
        return None;
    }
    let op = if fact.earlier.body.at("match").is_some() { "replace" } else { "add" };
    Remedy::patch(
        &fact.virtual_service.object,
        &json!([{"op": op, "path": pointer(path), "value": before}]),
        format!("Restore the match of route {} as it was before the last edit", called(fact.earlier)),
    )
}

/// The earlier route moved behind all others.
fn reorder(fact: &Fact<'_>) -> Option<Remedy> {
    let mut routes = fact.virtual_service.object.body.list("spec.http").to_vec();
    let at: usize = fact.earlier.path.strip_prefix("spec.http[")?.strip_suffix(']')?.parse().ok()?;
    if at >= routes.len() {
        return None;
    }
    let route = routes.remove(at);
    // Behind the last one that it covers; a catch-all that shadows another catch-all stays before it.
    let last: usize = fact.later.path.strip_prefix("spec.http[")?.strip_suffix(']')?.parse().ok()?;
    if fact.later.matches().is_empty() {
        return None;
    }
    routes.insert(last.min(routes.len()), route);
    Remedy::patch(
        &fact.virtual_service.object,
        &json!([{"op": "replace", "path": "/spec/http", "value": routes}]),
        format!(
            "Put route {} before {}, so that its match is tried first",
            called(fact.later),
            called(fact.earlier)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_covers_what_follows_from_it() {
        let yes = [
            (json!({"uri": {"prefix": "/"}}), json!({"headers": {"x": {"exact": "1"}}})),
            (json!({"uri": {"prefix": "/a"}}), json!({"uri": {"exact": "/a/b"}, "method": {"exact": "GET"}})),
            (json!({}), json!({"uri": {"regex": ".*"}})),
        ];
        for (wide, narrow) in yes {
            assert!(covers(&wide, &narrow), "{wide} {narrow}");
        }
        let no = [
            (json!({"uri": {"prefix": "/a"}}), json!({"uri": {"prefix": "/"}})),
            (
                json!({"uri": {"prefix": "/"}, "headers": {"x": {"exact": "1"}}}),
                json!({"uri": {"prefix": "/a"}}),
            ),
            (json!({"uri": {"exact": "/a"}}), json!({"uri": {"prefix": "/a"}})),
            (json!({"port": 80}), json!({})),
            (json!({"withoutHeaders": {"x": {}}}), json!({})),
        ];
        for (wide, narrow) in no {
            assert!(!covers(&wide, &narrow), "{wide} {narrow}");
        }
    }
}
