//! PROXY104.

use std::collections::BTreeMap;

use super::{MAX_PROXIES, ask, evidence, plural, restart};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text::plain;
use crate::model::object::ObjectRef;
use crate::model::proxy::Proxy;
use crate::model::proxy::certificate::Certificate;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A certificate that a proxy holds has ended, or ends before it is usually renewed.
    ///
    /// ## What it detects
    /// In a proxy's `/certs`, a certificate of its own or one that it trusts whose validity is over or of which less than a
    /// tenth is left (at most 30 days). Istio renews a workload's certificate of 24 hours after 12 hours; less than two and
    /// a half hours left means that renewing does not work.
    /// ## Why it matters
    /// From the moment it ends every new mutual TLS connection of the proxy fails: callers see `503 UF` with
    /// `CERTIFICATE_EXPIRED`. A trusted root that ends takes the whole mesh with it.
    /// ## Evidence
    /// The certificate's names, and from when until when it is valid.
    /// ## How to confirm
    /// `istioctl proxy-config secret POD` shows VALID CERT false, or the end of the validity.
    /// ## How to fix
    /// A workload's certificate: see why its agent cannot renew it (istiod unreachable at 15012, the service account's
    /// token, the clock). A root: bring a new one in and let both be trusted for a while. A gateway's: renew its Secret.
    /// ## False positives
    /// An issuer that renews later than with a tenth left; the finding is a Warning until the certificate has ended.
    /// ## References
    /// <https://istio.io/latest/docs/concepts/security/#pki>
    CertificateExpiring {
        code: "PROXY104", name: "certificate-expiring", family: Mesh, severity: Error,
        needs: [Proxies], aliases: [],
    }
}

/// Issuers renew with a third or a half of the validity left: with less than this share nobody has.
const SHARE: f64 = 0.1;
/// Of a certificate for years, a month is time enough.
const LONGEST_SECONDS: f64 = 30.0 * 24.0 * 3600.0;

/// The certificates of one workload that have ended, or end soon.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: ObjectRef,
    certificates: Vec<(&'a Proxy, &'a Certificate, i64)>,
}

impl Check for CertificateExpiring {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut by_workload: BTreeMap<ObjectRef, Vec<_>> = BTreeMap::new();
        for proxy in snapshot.proxies.iter().filter(|proxy| snapshot.in_scope(&proxy.namespace)) {
            for certificate in &proxy.certificates {
                if let Some(left) = seconds_left(certificate, snapshot) {
                    let owner = snapshot.owner_by_name(&proxy.namespace, &proxy.pod);
                    by_workload.entry(owner).or_default().push((proxy, certificate, left));
                }
            }
        }
        by_workload.into_iter().map(|(workload, certificates)| Fact { workload, certificates }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let worst = fact.certificates.iter().min_by_key(|(_, _, left)| *left);
        let left = worst.map_or(0, |(_, _, left)| *left);
        let ended = left <= 0;
        let whose = if worst.is_some_and(|(_, c, _)| c.authority) {
            "an authority that it trusts"
        } else {
            "its own certificate"
        };
        let when =
            if ended { format!("ended {} ago", span(-left)) } else { format!("ends in {}", span(left)) };
        let consequence = if ended {
            "Every new mutual TLS connection with it fails."
        } else {
            "It should have been renewed by now: when it ends, every new mutual TLS connection with it fails."
        };
        let look =
            worst.map(|(proxy, _, _)| ask(&proxy.namespace, &proxy.pod, "certs")).into_iter().collect();
        let pods = snapshot.pods_of(&fact.workload).next();
        let services =
            pods.into_iter().flat_map(|pod| snapshot.services_before_pod(pod)).map(|s| s.service_name());
        let services: Vec<_> = services.collect();
        let effects = services.iter().map(|service| Effect::requests(service, &["UF", "UC", "tls"]));
        Finding::new(Self::META, fact.workload.clone(), &[])
            .title(format!("{}: {whose} {when}", fact.workload))
            .message(format!("The proxy of {} holds {} past or near the end of the validity; {whose} {when}. {consequence}", fact.workload, plural(fact.certificates.len(), "certificate")))
            .mechanism(if ended { "certificate expired" } else { "certificate not renewed, expires soon" })
            .severity(if ended { Severity::Error } else { Severity::Warning })
            .role(if ended { Role::Cause } else { Role::Context }, Confidence::Observed)
            .service(services.first().cloned())
            .onset(worst.and_then(|(_, c, _)| c.expires).filter(|_| ended))
            .evidences(fact.certificates.iter().take(MAX_PROXIES).map(|(proxy, certificate, _)| {
                evidence(&proxy.namespace, &proxy.pod, "certs", told(certificate))
            }))
            .effects(effects)
            .effect(Effect::calls(&fact.workload))
            .remedy(Remedy::commands("See its certificates, and why they are not renewed", look, vec![]))
            .maybe_remedy(restart(&fact.workload, "Start the pods anew: their agents ask for a new certificate".to_owned()))
            .prevention(Prevention::alert(
                "Alert before a proxy's certificate ends",
                "min by (namespace, pod) (envoy_server_days_until_first_cert_expiring) < 1 or (citadel_server_root_cert_expiry_timestamp - time()) < 30 * 86400",
            ))
    }
}

/// Seconds until the end of a certificate that has ended or should have been renewed; `None` where it has time.
fn seconds_left(certificate: &Certificate, snapshot: &Snapshot) -> Option<i64> {
    let expires = certificate.expires?.as_second();
    let left = expires - snapshot.now.as_second();
    let validity =
        certificate.valid_from.map(|from| expires - from.as_second()).filter(|validity| *validity > 0);
    let limit = validity.map_or(0.0, |validity| (validity as f64 * SHARE).min(LONGEST_SECONDS));
    ((left as f64) < limit || left <= 0).then_some(left)
}

fn told(certificate: &Certificate) -> String {
    let name = certificate.names.first().map_or("without a name".to_owned(), |name| plain(name, 120));
    let kind = if certificate.authority { "trusted" } else { "own" };
    let time = |at: Option<jiff::Timestamp>| at.map_or("?".to_owned(), |at| at.to_string());
    format!("{kind}, {name}: valid from {} to {}", time(certificate.valid_from), time(certificate.expires))
}

/// `3 days`, `2 hours`, `10 minutes`.
fn span(seconds: i64) -> String {
    match seconds {
        s if s >= 2 * 86_400 => format!("{} days", s / 86_400),
        s if s >= 2 * 3600 => format!("{} hours", s / 3600),
        s => plural(usize::try_from(s / 60).unwrap_or(0), "minute"),
    }
}
