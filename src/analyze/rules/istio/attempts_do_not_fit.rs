//! ISTIO159.

use crate::model::json::json;

use super::hops::Hop;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route's time is over before the attempts that it asks for.
    ///
    /// ## What it detects
    /// A route whose `timeout` leaves no room for all attempts of `perTryTimeout` each: 1 + `retries.attempts` of them take
    /// longer than the whole request is given.
    /// ## Why it matters
    /// Attempts that never begin help nobody. Where one attempt has as long as the whole request, a slow pod is never answered for
    /// by another one: the request ends with `504 UT` after its first attempt, and the retries stand there in vain.
    /// ## Evidence
    /// `timeout`, `perTryTimeout` and `attempts` of the route, and how many attempts begin.
    /// ## How to confirm
    /// `timeout` divided by `perTryTimeout`, rounded up, against `attempts` + 1.
    /// ## How to fix
    /// Give each attempt its share of the time, or name as many attempts as fit.
    /// ## False positives
    /// Attempts that fail at once leave room for more. Where two or more fit it is information.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRetry>
    AttemptsDoNotFit {
        code: "ISTIO159", name: "attempts-do-not-fit", family: Mesh, severity: Warning,
        needs: [Istio], aliases: [],
    }
}

/// A route with more attempts than time.
#[derive(Debug)]
pub struct Fact {
    hop: Hop,
    whole: f64,
    each: f64,
    attempts: i64,
    fit: i64,
    service: Option<ServiceName>,
}

impl Check for AttemptsDoNotFit {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            let namespace = virtual_service.object.namespace();
            if !snapshot.in_scope(namespace) {
                continue;
            }
            for route in virtual_service.routes.iter().filter(|route| route.protocol == "http") {
                let hop = Hop::of(virtual_service, route);
                let each = route.body.seconds("retries.perTryTimeout").filter(|seconds| *seconds > 0.0);
                let (Some(whole), Some(each), Some(attempts)) = (hop.timeout(), each, hop.attempts()) else {
                    continue;
                };
                // The last one may be cut short, but it begins. A rounding error is no attempt.
                let fit = (whole / each - 1e-6).ceil().max(1.0) as i64;
                if attempts == 0 || attempts.saturating_add(1) <= fit {
                    continue;
                }
                let host = route.destinations.first().map(|d| full_host(&d.host, namespace));
                let service = host.as_deref().and_then(service_of_host);
                let service = service.map(|(namespace, name)| ServiceName::new(namespace, name));
                out.push(Fact { hop, whole, each, attempts, fit, service });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let ms = |seconds: f64| text::milliseconds((seconds * 1000.0).round() as u64);
        let reference = fact.hop.reference();
        let path = &fact.hop.path;
        let subject = reference.field(format!("{path}.retries.perTryTimeout"));
        let (all, whole, each) = (fact.attempts.saturating_add(1), ms(fact.whole), ms(fact.each));
        let needed = ms(fact.each * all as f64);
        let begin = if fact.fit == 1 {
            "only the first one begins".to_owned()
        } else {
            format!("only {} begin", fact.fit)
        };
        // Each attempt gets its share, in whole milliseconds.
        let share = ((fact.whole * 1000.0) / all as f64).floor().max(1.0) as i64;
        let object = &fact.hop.object;
        let shorter = Remedy::patch(
            object,
            &json!([{"op": "replace", "path": pointer(&format!("{path}.retries.perTryTimeout")), "value": format!("{share}ms")}]),
            format!("Give each of the {all} attempts its share: perTryTimeout {share}ms"),
        );
        let named = fact.hop.body.at("retries.attempts").is_some();
        let fewer = Remedy::patch(
            object,
            &json!([{"op": if named { "replace" } else { "add" }, "path": pointer(&format!("{path}.retries.attempts")), "value": fact.fit - 1}]),
            format!("Name what happens: attempts {}", fact.fit - 1),
        );
        // Where none but the first fits, retries were wanted and never come; where some do, they are only fewer.
        let remedies = if fact.fit == 1 { [shorter, fewer] } else { [fewer, shorter] };
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{all} attempts of {each} take {needed}, and the request has {whole}: {begin}"))
            .message(format!(
                "{subject} allows each attempt {each}, and {path}.timeout ends the request after {whole}. {whole} divided by {each} lets {} of the {all} attempts (retries.attempts {}) begin when each uses up its time.",
                fact.fit, fact.attempts
            ))
            .mechanism("retries without time: attempts do not fit into the timeout")
            .severity(if fact.fit == 1 { Severity::Warning } else { Severity::Info })
            .role(Role::Context, Confidence::Configured)
            .service(fact.service.clone())
            .evidence(Evidence::object(&reference.field(format!("{path}.timeout")), whole))
            .evidence(Evidence::object(&subject, each))
            .evidence(Evidence::object(&reference.field(format!("{path}.retries.attempts")), fact.attempts.to_string()))
            .effects(fact.service.iter().map(|service| Effect::requests(service, &["UT", "timeout"])))
            .remedies(remedies.into_iter().flatten())
            .prevention(Prevention::of("Test", "In the pipeline: (attempts + 1) × perTryTimeout is no more than timeout (meshscope analyze on the manifests)"))
    }
}
