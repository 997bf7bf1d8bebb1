//! PLAT112.

use jiff::Timestamp;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::service::ingress::backends;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Condition, conditions};

crate::rule! {
    /// A certificate that cert-manager keeps has expired, or cannot be issued or renewed.
    ///
    /// ## What it detects
    /// A `Certificate` whose `status.notAfter` has passed, whose renewal fails, or that was never issued; and which Ingresses and
    /// Gateways use its Secret.
    /// ## Why it matters
    /// Clients refuse a server whose certificate has expired, and a server without one does not start or serves a default one.
    /// ## Evidence
    /// The Certificate's conditions `Ready` and `Issuing`, `status.notAfter`, `status.failedIssuanceAttempts`. The Secret is never read.
    /// ## How to confirm
    /// `kubectl describe certificate NAME`; `cmctl status certificate NAME` follows its requests, orders and challenges.
    /// ## How to fix
    /// Heal what the condition names: the issuer, the solver of the challenge, the DNS name; then renew.
    /// ## False positives
    /// A certificate that is being issued for the first time within the last quarter of an hour, and one that is renewed while it is
    /// still valid, as long as no attempt failed.
    /// ## References
    /// <https://cert-manager.io/docs/troubleshooting/>
    CertificateNotReady {
        code: "PLAT112", name: "certificate-not-ready", family: Platform, severity: Error,
        needs: [Objects], aliases: ["K8S-CERT"],
    }
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Expired,
    /// It still holds, and its renewal fails.
    NotRenewed,
    /// There never was one.
    NeverIssued,
}

/// A certificate that does not do its work.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    state: State,
    until: Option<Timestamp>,
    /// The condition that says why.
    condition: Option<Condition>,
    users: Vec<&'a Object>,
    services: BTreeSet<ServiceName>,
}

/// Challenges take minutes; what takes longer than this does not come by itself.
const PATIENCE_SECONDS: f64 = 900.0;

impl Check for CertificateNotReady {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let own = |o: &&Object| o.reference.group() == "cert-manager.io" && snapshot.in_scope(o.namespace());
        snapshot.objects_of("Certificate").filter(own).filter_map(|object| look(snapshot, object)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let r = &fact.object.reference;
        let body = &fact.object.body;
        let secret = body.string("spec.secretName");
        let issuer = format!(
            "{} {}",
            body.text("spec.issuerRef.kind").unwrap_or("Issuer"),
            body.string("spec.issuerRef.name")
        );
        let until = fact.until.map(common::clock).unwrap_or_default();
        let reason = fact.condition.as_ref().map(|c| c.reason.clone()).unwrap_or_default();
        let what = match fact.state {
            State::Expired => format!("expired at {until}"),
            State::NotRenewed => format!("is not renewed and ends at {until}"),
            State::NeverIssued => "was never issued".to_owned(),
        };
        let users: Vec<String> = fact.users.iter().map(|o| o.reference.to_string()).collect();
        let used = if users.is_empty() { String::new() } else { format!(" It serves {}.", users.join(", ")) };
        let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        let since = match fact.state {
            State::Expired => fact.until,
            _ => fact.condition.as_ref().and_then(|c| c.since),
        };
        let name = quote(&r.name);
        let ns = quote(&r.namespace);
        let mut finding = Finding::new(Self::META, r.field("spec.issuerRef"), &[])
            .title(format!("{r} {what}"))
            .message(format!("{r}, which {issuer} issues into Secret {secret}, {what}{because}.{used}"))
            .mechanism(match fact.state {
                State::Expired => "certificate has expired",
                State::NotRenewed => "certificate is not renewed",
                State::NeverIssued => "certificate was not issued",
            })
            .severity(match fact.state {
                State::NotRenewed => Severity::Warning,
                _ if users.is_empty() => Severity::Warning,
                _ => Severity::Error,
            })
            .role(Role::Cause, Confidence::Observed)
            .service(fact.services.first().cloned())
            .evidence(Evidence::object(
                &r.field("status.notAfter"),
                if until.is_empty() { "not set".to_owned() } else { until },
            ))
            .evidences(fact.condition.as_ref().map(|c| {
                Evidence::object(
                    &r.field(format!("status.conditions[{}]", c.kind)),
                    format!("{}: {}", c.status, c.reason),
                )
                .excerpt(&c.message)
                .at(c.since)
            }))
            .onset(since)
            .effects(
                fact.services
                    .iter()
                    .filter(|_| fact.state != State::NotRenewed)
                    .map(|s| Effect::requests(s, &["tls", "UF", "5xx"])),
            );
        for user in fact.users.iter().take(3) {
            finding = finding.related(user.reference.clone());
        }
        finding
            .remedy(Remedy::commands(
                format!("Heal what keeps {issuer} from issuing it, as the condition and its requests name it, then renew"),
                vec![
                    common::describe_command(r),
                    format!("kubectl -n {ns} get certificaterequests,orders.acme.cert-manager.io,challenges.acme.cert-manager.io"),
                    format!("cmctl renew {name} -n {ns}"),
                ],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert a week before a certificate ends",
                format!("certmanager_certificate_expiration_timestamp_seconds{{namespace=\"{}\",name=\"{}\"}} - time() < 7 * 24 * 3600", r.namespace, r.name),
            ))
            .prevention(Prevention::of("Setting", "Set spec.renewBefore to a third of the duration, and have pods read a renewed certificate without a restart"))
    }
}

fn look<'a>(snapshot: &'a Snapshot, object: &'a Object) -> Option<Fact<'a>> {
    let body = &object.body;
    let until = body.time("status.notAfter");
    let all = conditions(body.list("status.conditions"));
    let find = |kind: &str| all.iter().find(|c| c.kind == kind);
    let issuing = find("Issuing").filter(|c| c.status == "False" && c.reason == "Failed");
    let failed = issuing.is_some() || body.int("status.failedIssuanceAttempts").unwrap_or(0) > 0;
    let not_ready = find("Ready").filter(|c| c.status == "False");
    let age = object.created.map_or(0.0, |at| common::seconds_between(at, snapshot.now));
    let state = match until {
        Some(at) if at <= snapshot.now => State::Expired,
        Some(_) if failed => State::NotRenewed,
        Some(_) => return None,
        None if not_ready.is_some() && (failed || age > PATIENCE_SECONDS) => State::NeverIssued,
        None => return None,
    };
    let secret = body.text("spec.secretName").filter(|s| !s.is_empty())?;
    let namespace = object.namespace();
    let mut users: Vec<&Object> = vec![];
    let mut services = BTreeSet::new();
    for ingress in snapshot.objects_of("Ingress").filter(|i| i.namespace() == namespace) {
        if ingress.body.list("spec.tls").iter().any(|tls| tls.text("secretName") == Some(secret)) {
            users.push(ingress);
            services.extend(backends(ingress).into_iter().map(|b| ServiceName::new(namespace, b.service)));
        }
    }
    let gateways = ["Gateway", "gateway.networking.k8s.io/Gateway"]
        .into_iter()
        .flat_map(|kind| snapshot.objects_of(kind));
    users.extend(gateways.filter(|g| g.namespace() == namespace && names_secret(g, secret)));
    let condition = issuing.or(not_ready).cloned();
    Some(Fact { object, state, until, condition, users, services })
}

/// Whether a Gateway, Istio's or the Gateway API's, serves with this Secret.
fn names_secret(gateway: &Object, secret: &str) -> bool {
    let istio =
        gateway.body.list("spec.servers").iter().any(|s| s.text("tls.credentialName") == Some(secret));
    let listeners = gateway.body.list("spec.listeners").iter();
    istio || listeners.flat_map(|l| l.list("tls.certificateRefs")).any(|r| r.text("name") == Some(secret))
}
