//! ISTIO137.

use crate::model::json::json;
use jiff::Timestamp;

use super::support::{Said, of_proxy, parts, said, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, resource};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::fields::Fields;
use crate::model::log::LogStream;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::from_unix;

crate::rule! {
    /// The mesh's certificates have expired, or are not renewed.
    ///
    /// ## What it detects
    /// A root or signing certificate of the control plane whose end, as its own metrics tell it, has passed or is near; and
    /// proxies whose requests for certificates the control plane refuses.
    /// ## Why it matters
    /// Mutual TLS between proxies fails everywhere at once, or pod by pod as their certificates run out within a day.
    /// ## Evidence
    /// `citadel_server_root_cert_expiry_timestamp` and `citadel_server_cert_chain_expiry_timestamp`; what agents log;
    /// `CERTIFICATE_VERIFY_FAILED` in access logs. Secrets are never read.
    /// ## How to confirm
    /// `istioctl proxy-config secret POD` shows the dates of a proxy's certificates.
    /// ## How to fix
    /// Renew the signing certificate; for a new root keep the old one beside it until every workload was restarted.
    /// ## False positives
    /// A clock of a node that is wrong makes good certificates look expired.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/security/cert-management/plugin-ca-cert/>
    CertificatesExpire {
        code: "ISTIO137", name: "certificates-expire", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// Certificates of the control plane that end within this many days are worth a word.
const SOON_DAYS: i64 = 14;
/// How long cert-manager lets a certificate last where nothing is said, in seconds.
const DEFAULT_CERTIFICATE_S: f64 = 90.0 * 86_400.0;
/// What agents say whose requests for certificates fail.
const REFUSED: &[&str] = &[
    "ca request failed",
    "CA request failed",
    "ailed to warm certificate",
    "create certificate: rpc error",
    "certificate has expired",
];

/// What is wrong with the certificates.
#[derive(Debug)]
enum Wrong {
    /// The control plane's own ends then.
    Ends { root: bool, at: Timestamp },
    /// Agents get none.
    Refused,
}

/// Certificates that end.
#[derive(Debug)]
pub struct Fact {
    wrong: Wrong,
    lines: Vec<(ObjectRef, Said)>,
    groups: Vec<Failures>,
}

impl Check for CertificatesExpire {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let metrics = [
            ("citadel_server_root_cert_expiry_timestamp", true),
            ("citadel_server_cert_chain_expiry_timestamp", false),
        ];
        let now = snapshot.now.as_second();
        let ends = metrics
            .iter()
            // A value of 0 or less stands for "none loaded".
            .flat_map(|(name, root)| {
                snapshot
                    .series_named(name)
                    .filter_map(|s| s.last().filter(|v| *v > 0.0))
                    .map(move |v| (*root, v))
            })
            .filter_map(|(root, value)| Some((root, from_unix(value)?)))
            .filter(|(_, at)| at.as_second() - now < SOON_DAYS * 86_400)
            .min_by_key(|(_, at)| *at);
        let own = |log: &LogStream| of_proxy(log) && snapshot.in_scope(&log.namespace);
        let renewed = said(snapshot, own, &["enerated new workload certificate"]);
        let later = |workload: &ObjectRef, at: Option<Timestamp>| {
            renewed.get(workload).is_some_and(|said| said.last > at)
        };
        let lines: Vec<(ObjectRef, Said)> = said(snapshot, own, REFUSED)
            .into_iter()
            .filter(|(workload, said)| !later(workload, said.last))
            .collect();
        let groups: Vec<Failures> = failures(snapshot, Way::Certificate)
            .into_iter()
            .filter(|group| group.callee.service.is_some())
            .collect();
        match ends {
            Some((root, at)) => vec![Fact { wrong: Wrong::Ends { root, at }, lines, groups }],
            // One failed attempt is tried again and says nothing; callers that refuse certificates do.
            None if lines.iter().any(|(_, said)| said.count > 2) => {
                vec![Fact { wrong: Wrong::Refused, lines, groups }]
            }
            None => vec![],
        }
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let root_namespace = &snapshot.istio.root_namespace;
        let secret =
            ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Secret", root_namespace, "cacerts") };
        let now = snapshot.now;
        let plane = format!("deployment -n {} -l app=istiod", quote(root_namespace));
        let (subject, title, why, expired) = match &fact.wrong {
            Wrong::Ends { root, at } => {
                let which = if *root { "root certificate" } else { "signing certificate" };
                let expired = *at <= now;
                let days = (at.as_second() - now.as_second()).unsigned_abs() / 86_400;
                let when = if expired { format!("expired {} ago", text::several(days, "day")) } else { format!("expires in {}", text::several(days, "day")) };
                (
                    secret.field(if *root { "data[root-cert.pem]" } else { "data[ca-cert.pem]" }),
                    format!("The mesh's {which} {when}"),
                    format!("The control plane's own metric says that its {which} ends at {}.", at.strftime("%Y-%m-%d %H:%M:%SZ")),
                    expired,
                )
            }
            Wrong::Refused => (
                ObjectRef { api_version: "apps/v1".to_owned(), ..ObjectRef::new("Deployment", root_namespace, "istiod") },
                format!("Proxies of {} get no certificates from the control plane", text::several(fact.lines.len() as u64, "workload")),
                "Agents ask the control plane for certificates again and again and get none: what they have runs out within a day.".to_owned(),
                false,
            ),
        };
        let failing: u64 = fact.groups.iter().map(|group| group.count).sum();
        let felt = fact.groups.iter().filter_map(Failures::severity).max();
        let severity = match (expired, felt) {
            (_, Some(severity)) if severity >= Severity::Warning => severity,
            (true, _) => Severity::Error,
            (false, _) => Severity::Warning,
        };
        let seen = if failing > 0 {
            format!(
                " Proxies refused certificates {}{}.",
                text::times(failing),
                since(fact.groups.iter().filter_map(|g| g.onset).min())
            )
        } else {
            String::new()
        };
        Finding::new(Self::META, subject.clone(), &[])
            .title(title)
            .message(format!("{why}{seen}"))
            .mechanism("certificate expired or not renewed: mutual TLS fails")
            .severity(severity)
            .role(Role::Cause, if expired || matches!(fact.wrong, Wrong::Refused) { Confidence::Observed } else { Confidence::Possible })
            .service(fact.groups.first().and_then(|group| group.callee.service.clone()))
            .onset(fact.groups.iter().filter_map(|group| group.onset).chain(fact.lines.iter().filter_map(|(_, said)| said.first)).min())
            .evidence(Evidence::object(&subject, why))
            .evidences(fact.lines.iter().take(3).map(|(workload, said)| said.evidence(format!("istio-proxy of {workload}"))))
            .evidences(fact.groups.iter().take(2).flat_map(parts))
            .effects(fact.groups.iter().filter_map(|group| group.callee.service.as_ref()).map(|service| Effect::requests(service, &["UF", "tls"])))
            .effects(fact.lines.iter().map(|(workload, _)| Effect::calls(workload)))
            .maybe_remedy(renew(fact, snapshot))
            .remedy(Remedy::commands(
                "See the dates, renew the signing certificate with the old root kept beside the new one, then restart the control plane and the workloads",
                vec![format!("kubectl get {plane} -o wide"), "istioctl proxy-config secret POD.NAMESPACE".to_owned()],
                vec![],
            ))
            .prevention(Prevention::alert("Alert 30 days before the root certificate ends", "min(citadel_server_root_cert_expiry_timestamp) - time() < 2592000"))
            .prevention(Prevention::alert("Alert when certificates are refused", "sum(increase(citadel_server_csr_sign_err_count[10m])) + sum(increase(citadel_server_authentication_failure_count[10m])) > 0"))
    }
}

/// Has cert-manager issue the signing certificate anew, where it is what keeps it; a proxy that gets none asks again when it
/// starts.
fn renew(fact: &Fact, snapshot: &Snapshot) -> Option<Remedy> {
    let root = &snapshot.istio.root_namespace;
    let restart = |target: &ObjectRef| {
        format!(
            "kubectl -n {} rollout restart {}/{}",
            quote(&target.namespace),
            resource(target),
            quote(&target.name)
        )
    };
    let back = |target: &ObjectRef| {
        format!(
            "kubectl -n {} rollout undo {}/{}",
            quote(&target.namespace),
            resource(target),
            quote(&target.name)
        )
    };
    if matches!(fact.wrong, Wrong::Refused) {
        let own: Vec<&ObjectRef> = fact
            .lines
            .iter()
            .map(|(workload, _)| workload)
            .filter(|w| matches!(w.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet"))
            .take(4)
            .collect();
        let plane = snapshot.workloads.iter().find(|w| {
            w.object.owners.is_empty()
                && w.object.namespace() == root
                && w.template.container("discovery").is_some()
        })?;
        let all: Vec<&ObjectRef> = std::iter::once(plane.reference()).chain(own).collect();
        let remedy = Remedy::commands(
            "Restart the control plane, which reads its signing certificate when it starts, then the workloads whose proxies got none",
            all.iter().map(|target| restart(target)).collect(),
            all.iter().map(|target| back(target)).collect(),
        );
        return Some(remedy.risk(Risk::Medium));
    }
    let secrets = ["cacerts", "istio-ca-secret"];
    let certificate = snapshot.objects_of("Certificate").find(|object| {
        let secret = object.body.text("spec.secretName");
        object.namespace() == root && secret.is_some_and(|name| secrets.contains(&name))
    })?;
    // Without the condition the controller compares dates with `renewBefore`: a longer one makes it renew now.
    let op = if certificate.body.at("spec.renewBefore").is_some() { "replace" } else { "add" };
    let lasts = certificate.body.seconds("spec.duration").unwrap_or(DEFAULT_CERTIFICATE_S);
    let early = format!("{}h", ((lasts / 3600.0) * 2.0 / 3.0).floor().max(1.0));
    let remedy = Remedy::patch(
        certificate,
        &json!([{"op": op, "path": "/spec/renewBefore", "value": early}]),
        format!(
            "Set renewBefore of {} to {early}, so that cert-manager renews it now; keep the old root beside the new one until all proxies have it",
            certificate.reference
        ),
    )?;
    Some(remedy.risk(Risk::High))
}
