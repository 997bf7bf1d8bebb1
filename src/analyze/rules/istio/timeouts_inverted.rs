//! ISTIO153.

use super::hops::{Calls, Hop, Hops};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An inner call is allowed more time than the outer one that waits for it.
    ///
    /// ## What it detects
    /// Two routes (of VirtualServices, or of HTTPRoutes that are attached to Services) on one way through the service graph, of
    /// which the inner one allows longer (its `timeout`, or its attempts times `perTryTimeout`) than the outer one in whose service
    /// it is called.
    /// ## Why it matters
    /// The outer caller gives up first. The inner request goes on for nobody, its retries never help anyone, and the error that
    /// arrives names the service in the middle and not the slow one behind it.
    /// ## Evidence
    /// Both routes with their numbers; requests to the outer service that timed out.
    /// ## How to confirm
    /// `timeout` and `retries` (of an HTTPRoute `timeouts` and `retry`) of both routes, from the outside in.
    /// ## How to fix
    /// Give the inner route less than the outer one, all attempts included.
    /// ## False positives
    /// An inner call that the outer request does not wait for. Where no request times out it is information.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRoute>
    TimeoutsInverted {
        code: "ISTIO153", name: "timeouts-inverted", family: Mesh, severity: Warning,
        needs: [Istio], aliases: [],
    }
}

/// The inner route gets this share of what the outer one has.
const SHARE: f64 = 0.8;

/// Two time-outs that do not nest.
#[derive(Debug)]
pub struct Fact {
    outer: (ServiceName, Hop, f64),
    inner: (ServiceName, Hop, f64),
    seen: Option<Failures>,
}

impl Check for TimeoutsInverted {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let (hops, calls) = (snapshot.derived::<Hops>(), snapshot.derived::<Calls>());
        let timed_out = failures(snapshot, Way::Timeout);
        let mut out = vec![];
        for (outer, hop) in hops.0.iter().filter(|(service, _)| snapshot.in_scope(&service.namespace)) {
            let Some(allowed) = hop.timeout() else { continue };
            for inner in calls.0.get(outer).into_iter().flatten() {
                let Some(below) = hops.0.get(inner) else { continue };
                let Some(longest) = below.longest().filter(|longest| *longest > allowed) else { continue };
                let seen = timed_out.iter().find(|group| group.callee.service.as_ref() == Some(outer));
                out.push(Fact {
                    outer: (outer.clone(), hop.clone(), allowed),
                    inner: (inner.clone(), below.clone(), longest),
                    seen: seen.cloned(),
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let (outer, above, allowed) = &fact.outer;
        let (inner, below, longest) = &fact.inner;
        let ms = |seconds: f64| text::milliseconds((seconds * 1000.0).round() as u64);
        let (subject, over) = (below.timeout_field(), above.timeout_field());
        let tries = below.attempts().unwrap_or(0) + 1;
        let seen = match &fact.seen {
            Some(group) => format!(
                " {} to {} timed out.",
                text::share(group.count, group.requests, "requests"),
                outer.name
            ),
            None => " No request timed out for it here yet.".to_owned(),
        };
        Finding::new(Self::META, subject.clone(), &[&outer.to_string(), &inner.to_string()])
            .title(format!("{} gets up to {} inside calls to {} that end after {}", inner.name, ms(*longest), outer.name, ms(*allowed)))
            .message(format!(
                "Calls to {outer} end after {} ({over} {}); while they wait, {} calls {inner}, which is allowed {} in {} ({subject}). From {} on the inner call works for nobody.{seen}",
                ms(*allowed),
                over.field_path,
                outer.name,
                ms(*longest),
                text::several(tries.max(1) as u64, "attempt"),
                ms(*allowed),
            ))
            .mechanism("timeouts inverted across hops: inner timeout longer than the outer")
            .severity(if fact.seen.is_some() { Severity::Warning } else { Severity::Info })
            .role(Role::Context, Confidence::Configured)
            .service(Some(outer.clone()))
            .related(over.clone())
            .evidence(Evidence::object(&over, ms(*allowed)))
            .evidence(Evidence::object(&subject, format!("{} with all attempts", ms(*longest))))
            .effect(Effect::requests(outer, &["UT", "timeout"]))
            .maybe_remedy(shorten(below, *allowed))
            .prevention(Prevention::of("Test", "In the pipeline: along each way through the service graph time-outs, with all attempts, only shrink"))
            .prevention(Prevention::alert(
                "Alert when callers give up first",
                format!("sum(rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UT.*\",destination_service_name=\"{}\"}}[5m])) > 0", text::plain(&outer.name, 63)),
            ))
    }
}

/// Less than the outer one, all attempts included.
fn shorten(inner: &Hop, allowed: f64) -> Option<Remedy> {
    let value = format!("{}ms", (allowed * SHARE * 1000.0).round() as i64);
    Remedy::patch(
        &inner.object,
        &inner.with_timeout(&value),
        format!("Set the time-out of the inner route to {value}, four fifths of what the outer one has"),
    )
}
