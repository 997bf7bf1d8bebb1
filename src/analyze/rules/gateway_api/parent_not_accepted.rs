//! GWAPI104.

use super::prelude::*;

crate::rule! {
    /// A route refers to a parent that does not exist or does not take it.
    ///
    /// ## What it detects
    /// A `parentRef` of a route whose Gateway, ListenerSet or Service does not exist, whose `sectionName` or `port` is none of
    /// its listeners, or whose listeners take neither routes of this kind nor of this namespace (`allowedRoutes`); and a
    /// listener that asks for kinds of routes which its protocol does not carry.
    /// ## Why it matters
    /// The route is not attached: the gateway answers its requests with `404`.
    /// ## Evidence
    /// The reference against the listeners, the condition `Accepted` of the route's status, access-log records of the gateway
    /// with the flag `NR`.
    /// ## How to confirm
    /// `kubectl get httproute NAME -o jsonpath='{.status.parents[*].conditions}'`
    /// ## How to fix
    /// Correct the reference, or let the listener admit the route's namespace and kind.
    /// ## False positives
    /// Gateways of namespaces that were not read are not reported as missing; a Namespace whose labels were not read is taken
    /// for admitted.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/concepts/api-overview/#attaching-routes-to-gateways>
    ParentNotAccepted {
        code: "GWAPI104", name: "parent-not-accepted", family: Gateway, severity: Error,
        needs: [Objects, GatewayApi], aliases: ["IST0171", "KIA1401"],
    }
}

/// A parent that does not take a route.
#[derive(Debug)]
pub struct Fact<'a> {
    route: &'a Route,
    parent: &'a Reference,
    result: Attachment<'a>,
    /// Another parent takes the route.
    elsewhere: bool,
    seen: Seen,
}

impl Check for ParentNotAccepted {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let refused = attach::tried(snapshot).into_iter().filter(|tried| {
            !matches!(tried.result, Attachment::Accepted | Attachment::Unknown | Attachment::NoHostname(_))
        });
        let fact = |Tried { route, parent, result, elsewhere }| {
            let seen = if elsewhere { Seen::default() } else { attach::unrouted(snapshot, route) };
            Fact { route, parent, result, elsewhere, seen }
        };
        refused.map(fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.route.reference();
        let parent = attach::called(fact.parent);
        let kind = &reference.kind;
        let (field, why, short) = match &fact.result {
            Attachment::NoParent => {
                ("name", format!("{parent} does not exist"), "which does not exist".to_owned())
            }
            Attachment::NoListener(object) => {
                let names: Vec<String> = attach::listeners(object)
                    .iter()
                    .map(|l| format!("\"{}\" ({})", l.name, l.port))
                    .collect();
                let field = if fact.parent.section.is_empty() { "port" } else { "sectionName" };
                (
                    field,
                    format!("{} has no such listener; it has {}", object.reference, names.join(", ")),
                    "which is not there".to_owned(),
                )
            }
            Attachment::KindNotAllowed(listener) => (
                "sectionName",
                format!(
                    "listener \"{}\" of {} takes no {kind} (allowedRoutes.kinds, protocol {})",
                    listener.name, listener.owner.reference, listener.protocol
                ),
                format!("which takes no {kind}"),
            ),
            Attachment::NamespaceNotAllowed(listener) => (
                "namespace",
                format!(
                    "listener \"{}\" ({}) of {} takes no routes of namespace {}: allowedRoutes.namespaces is {}",
                    listener.name,
                    if listener.hostname.is_empty() { "any hostname" } else { &listener.hostname },
                    listener.owner.reference,
                    reference.namespace,
                    listener
                        .body
                        .at("allowedRoutes.namespaces")
                        .map_or_else(|| "from: Same".to_owned(), Value::to_string)
                ),
                format!("which admits no routes of namespace {}", reference.namespace),
            ),
            _ => ("name", String::new(), String::new()),
        };
        let path = format!("{}.{field}", fact.parent.path);
        let status = attach::parent_condition(fact.route, fact.parent, "Accepted")
            .filter(|c| c.text("status") == Some("False"));
        let since = status.and_then(|s| s.time("lastTransitionTime"));
        let observed = (status.is_some() || fact.seen.any()) && !fact.elsewhere;
        // A controller takes a route for a port that a Service lacks: it is for no request, and breaks none.
        let harmless = matches!(&fact.result, Attachment::NoListener(object) if !matches!(object.reference.kind.as_str(), "Gateway" | "ListenerSet" | "XListenerSet"));
        let severity = match (observed, fact.elsewhere || harmless || snapshot.runs()) {
            (true, _) | (false, false) => Severity::Error,
            (false, true) => Severity::Warning,
        };
        let seen_words = if fact.seen.any() {
            format!(" {} requests were answered with 404 NR route_not_found.", fact.seen.count)
        } else {
            String::new()
        };
        let listener_field = match &fact.result {
            Attachment::NamespaceNotAllowed(l) => {
                Some(l.owner.reference.field(format!("{}.allowedRoutes.namespaces", l.path)))
            }
            Attachment::KindNotAllowed(l) => {
                Some(l.owner.reference.field(format!("{}.allowedRoutes.kinds", l.path)))
            }
            _ => None,
        };
        let mut finding = Finding::new(Self::META, reference.field(&path), &[&fact.parent.path])
            .title(format!("{reference} refers to {parent}, {short}"))
            .message(format!("{why}. The route is not attached there.{seen_words}"))
            .mechanism("parentRef not accepted: the route is not attached to its Gateway (missing parent or listener, allowedRoutes)")
            .severity(severity)
            .role(if fact.elsewhere { Role::Context } else { Role::Cause }, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(attach::service(snapshot, fact.route))
            .evidence(Evidence::object(&reference.field(&path), why))
            .evidences(status.map(|s| {
                Evidence::object(&reference.field("status.parents"), format!("condition Accepted is False: {}", s.string("reason"))).at(since)
            }))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset.or(since))
            .effects(attach::effects(snapshot, fact.route, &["NR", "404"]))
            .maybe_remedy(correct(fact, snapshot))
            .prevention(Prevention::of("Test", "In the pipeline: every parentRef of a route names a listener that admits it (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when a gateway has no route",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",response_code=\"404\",response_flags=\"NR\"}[1m])) > 0",
            ));
        finding.related.extend(listener_field);
        finding
    }
}

/// Correct the name that is wrong, or open the listener.
fn correct(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let parent = fact.parent;
    let set = |field: &str, value: Value| {
        let path = format!("{}.{field}", parent.path);
        let op = if fact.route.object.body.pointer(&pointer(&path)).is_some() { "replace" } else { "add" };
        Remedy::patch(
            &fact.route.object,
            &json!([{"op": op, "path": pointer(&path), "value": value}]),
            format!("Set {field} of the parentRef to {value}"),
        )
    };
    match &fact.result {
        Attachment::NoParent => {
            let before = applied(&fact.route.object, &format!("{}.name", parent.path))
                .and_then(|b| b.as_str().map(str::to_owned))
                .filter(|b| attach::gateway(snapshot, &parent.namespace, b).is_some());
            let all = &snapshot.gateway_api.gateways;
            let beside =
                all.iter().filter(|g| g.object.namespace() == parent.namespace).map(|g| g.object.name());
            if let Some(name) = before.or_else(|| nearest(&parent.name, beside).map(str::to_owned)) {
                return set("name", json!(name));
            }
            let same: Vec<_> = all.iter().filter(|g| g.object.name() == parent.name).collect();
            match same.as_slice() {
                [gateway] => set("namespace", json!(gateway.object.namespace())),
                _ => None,
            }
        }
        Attachment::NoListener(object) => {
            let listeners = attach::listeners(object);
            if parent.section.is_empty() {
                let [listener] = listeners.as_slice() else { return None };
                return set("port", json!(listener.port));
            }
            let near = nearest(&parent.section, listeners.iter().map(|l| l.name.as_str()));
            let only = || listeners.first().filter(|_| listeners.len() == 1).map(|l| l.name.as_str());
            set("sectionName", json!(near.or_else(only)?))
        }
        Attachment::NamespaceNotAllowed(listener) => {
            let path = format!("{}.allowedRoutes", listener.path);
            let namespaces = json!({"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": fact.route.object.namespace()}}});
            let plain = listener.body.text("allowedRoutes.namespaces.from").unwrap_or("Same") == "Same";
            let value = if plain { json!({"from": "All"}) } else { namespaces };
            let (path, value) = match listener.body.at("allowedRoutes") {
                Some(_) => (format!("{path}.namespaces"), value),
                None => (path, json!({"namespaces": value})),
            };
            Remedy::patch(
                listener.owner,
                &json!([{"op": "add", "path": pointer(&path), "value": value}]),
                format!(
                    "Let allowedRoutes of listener \"{}\" admit namespace {}",
                    listener.name,
                    fact.route.object.namespace()
                ),
            )
            .map(|remedy| remedy.risk(crate::analyze::remedy::Risk::Medium))
        }
        _ => None,
    }
}
