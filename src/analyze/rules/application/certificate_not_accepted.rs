//! APP119.

use jiff::Timestamp;

use super::calls::{self, Calls, MIN_FAILURES, plain, service_of, since};
use super::settings::{names_host, settings};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, ErrorGroup};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::logs::record::Level;
use crate::analyze::logs::tls::{Objection, objection};
use crate::analyze::remedy::{Prevention, Remedy, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A client does not accept the certificate that it is shown, and says why.
    ///
    /// ## What it detects
    /// TLS handshakes that fail in an application's log with a reason: the certificate has expired or is not yet valid, is for other
    /// names than the one that was called, comes from an issuer that the client does not know, or the server wants one of the client.
    /// ## Why it matters
    /// Every call fails before anything is sent, whatever the callee's state, and no proxy or policy is involved.
    /// ## Evidence
    /// The caller's log lines; the end of the certificate's time or its names, where the text tells them; the Certificate object that
    /// issues it, where there is one.
    /// ## How to confirm
    /// `openssl s_client -connect HOST:PORT -servername HOST </dev/null | openssl x509 -noout -dates -ext subjectAltName`.
    /// ## How to fix
    /// Expired: renew the certificate and let the server read it. Not yet valid: compare the clocks first. Other names: call the host
    /// by a name that the certificate has, or issue it for this name. Unknown issuer: give the client the issuer's certificate.
    /// ## False positives
    /// Handshakes that fail because one side speaks plaintext are another matter, and so are single failures and those that ended.
    /// ## References
    /// <https://cert-manager.io/docs/usage/certificate/>
    CertificateNotAccepted {
        code: "APP119", name: "certificate-not-accepted", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// Where the objection was read.
#[derive(Debug)]
enum Said {
    /// A call of the workload failed.
    Call(Box<Calls>),
    /// The workload logs it of a certificate of its own.
    Own(Box<ErrorGroup>),
}

/// A certificate that is not accepted.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    said: Said,
    objection: Objection,
    subject: ObjectRef,
    /// The Certificate that issues it.
    certificate: Option<ObjectRef>,
    remedies: Vec<Remedy>,
}

impl Check for CertificateNotAccepted {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: Vec<Fact> = vec![];
        for calls in &calls::failing(snapshot).all {
            if calls.kind() == Some(Kind::Tls)
                && calls.severity() >= Severity::Warning
                && let Some(objection) = calls.main().and_then(|group| objection(&group.sample))
            {
                out.push(of_call(snapshot, calls, objection));
            }
        }
        let digest = snapshot.derived::<Digest>();
        for (workload, log) in &digest.workloads {
            let grave = log.errors.iter().filter(|e| !e.call && e.level >= Level::Error && !e.ended(log));
            // One line is enough of a program that ends with it.
            let told =
                grave.filter(|e| e.count >= MIN_FAILURES || ends_itself(snapshot, workload)).find_map(|e| {
                    let objection = objection(&e.sample)?;
                    matches!(objection, Objection::Expired(_) | Objection::NotYetValid(_))
                        .then(|| (e, objection))
                });
            let known = out.iter().any(|fact| fact.workload.same_object(workload));
            if let Some((error, objection)) = told.filter(|_| !known) {
                out.push(Fact {
                    workload: workload.clone(),
                    subject: workload.clone(),
                    said: Said::Own(Box::new(error.clone())),
                    objection,
                    certificate: None,
                    remedies: vec![Remedy::manual(format!(
                        "Renew the certificate that {workload} checks, where it is kept (a Secret or ConfigMap that it mounts), and restart it"
                    ))],
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let words = words(&fact.objection);
        let short = short(&fact.objection);
        let workload = &fact.workload;
        let mut finding = Finding::new(Self::META, fact.subject.clone(), &[&workload.name, short])
            .mechanism(format!("TLS certificate not accepted: {short}"))
            .role(Role::Cause, Confidence::Observed)
            .service(service_of(snapshot, workload))
            .remedies(fact.remedies.iter().cloned())
            .effect(Effect::calls(workload))
            .prevention(Prevention::alert(
                "Alert before certificates end",
                "certmanager_certificate_expiration_timestamp_seconds - time() < 14 * 24 * 3600",
            ));
        if !fact.subject.same_object(workload) {
            finding = finding.related(workload.clone());
        }
        if let Some(certificate) = &fact.certificate {
            finding = finding.evidence(Evidence::object(certificate, "issues the certificate of this host"));
        }
        match &fact.said {
            Said::Call(calls) => {
                let callee = calls.main().map(|group| group.callee()).unwrap_or_default();
                let name = calls.service().map_or_else(|| callee.clone(), |s| s.name.clone());
                finding = finding
                    .title(format!(
                        "{} does not accept the certificate of {name}: {short}, {}",
                        workload.name,
                        calls.amount()
                    ))
                    .message(format!(
                        "{workload} calls {callee} by TLS and ends the handshake: {words}. {} failed{}.",
                        calls.amount(),
                        since(calls.first)
                    ))
                    .severity(calls.severity())
                    .evidences(calls.evidence())
                    .onset(calls.first);
                if let Some(service) = calls.service() {
                    finding = finding.effect(Effect::requests(service, &["tls"]));
                }
            }
            Said::Own(error) => {
                let place = format!(
                    "Pod {}/{}, container {}",
                    workload.namespace, error.place.pod, error.place.container
                );
                finding = finding
                    .title(format!(
                        "{}: a certificate {short}, {} times in its log{}",
                        workload.name,
                        error.count,
                        since(error.first)
                    ))
                    .message(format!("The log of {workload} says of a certificate that it uses: {words}."))
                    .evidence(
                        Evidence::new("Log", place, format!("{} times", error.count))
                            .at(error.first)
                            .excerpt(&error.sample),
                    )
                    .onset(error.first)
                    .effect(Effect::pods(workload));
            }
        }
        if let Some(service) = service_of(snapshot, workload) {
            finding = finding.effect(Effect::requests(&service, &["5xx", "tls"]));
        }
        finding
    }
}

/// Whether a container of the workload ends by itself again and again.
fn ends_itself(snapshot: &Snapshot, workload: &ObjectRef) -> bool {
    let mut statuses = snapshot.pods_of(workload).flat_map(|pod| &pod.statuses);
    statuses.any(|status| status.restarts > 0 && status.latest_end().is_some_and(|end| end.exit_code != 0))
}

fn of_call(snapshot: &Snapshot, calls: &Calls, objection: Objection) -> Fact {
    let host = calls.main().map(|group| group.host().to_owned()).unwrap_or_default();
    let callee = calls.service();
    let caller = &calls.caller;
    let all = snapshot.workload(caller).map(|w| settings(snapshot, w)).unwrap_or_default();
    let setting = all.into_iter().find(|s| s.value.as_ref().is_some_and(|value| names_host(value, &host)));
    let certificate = certificate_for(snapshot, &host, callee);
    let callee_object = callee.map_or_else(|| caller.clone(), |service| backing(snapshot, service));
    let mut remedies = vec![];
    let subject = match &objection {
        Objection::Expired(_) | Objection::NotYetValid(_) => {
            if let Some(object) = certificate {
                let r = &object.reference;
                remedies.push(Remedy {
                    commands: vec![format!("cmctl {}renew {}", scope(r), quote(&r.name))],
                    ..Remedy::manual(format!(
                        "Renew {r} now, and find in its conditions why it was not renewed in time"
                    ))
                });
            }
            remedies.push(Remedy::manual(format!("Issue a new certificate for \"{host}\" and let the server behind it read it; if its time has not begun, compare the clocks of both nodes first")));
            certificate.map_or_else(|| callee_object.clone(), |object| object.reference.clone())
        }
        Objection::WrongName { valid_for, .. } => {
            let better = valid_for.iter().find(|name| {
                !name.contains('*')
                    && (known(snapshot, name, &caller.namespace) == callee.cloned() || callee.is_none())
            });
            if let (Some(setting), Some(value), Some(name)) = (
                &setting,
                setting.as_ref().and_then(|s| s.value.as_ref()),
                better.and_then(|name| plain(name)),
            ) {
                remedies.extend(setting.set(
                    snapshot,
                    &value.replacen(&host, name, 1),
                    format!("Call the host as {name} in {}: the certificate has this name", setting.name),
                ));
            }
            remedies.push(Remedy::manual(format!("Issue the certificate for \"{host}\", too: add it to spec.dnsNames of its Certificate or to its subject alternative names")));
            match (&setting, certificate) {
                (Some(setting), _) => setting.subject.clone(),
                (None, Some(object)) => object.reference.field("spec.dnsNames"),
                (None, None) => callee_object.clone(),
            }
        }
        Objection::UnknownIssuer => {
            remedies.push(Remedy::manual(format!("Give {caller} the certificate of the issuer: mount it from a ConfigMap and name it in SSL_CERT_FILE, NODE_EXTRA_CA_CERTS, REQUESTS_CA_BUNDLE or the trust store; if it worked before, the issuer was changed")));
            caller.clone()
        }
        Objection::ClientCertificate => {
            remedies.push(Remedy::manual(format!("Give {caller} a client certificate of an issuer that the server accepts, or let the server do without")));
            caller.clone()
        }
    };
    Fact {
        workload: caller.clone(),
        said: Said::Call(Box::new(calls.clone())),
        objection,
        subject,
        certificate: certificate.map(|object| object.reference.clone()),
        remedies,
    }
}

/// The workload behind a Service, or the Service where nothing is known behind it.
fn backing(snapshot: &Snapshot, service: &ServiceName) -> ObjectRef {
    let first = snapshot.graph.backing.get(service).and_then(|all| all.iter().next().cloned());
    first.unwrap_or_else(|| service.reference())
}

/// The Service that a name is.
fn known(snapshot: &Snapshot, host: &str, namespace: &str) -> Option<ServiceName> {
    use crate::model::mesh::istio::{full_host, service_of_host};
    let (namespace, name) = service_of_host(&full_host(host, namespace))?;
    let name = ServiceName::new(namespace, name);
    snapshot.service(&name).map(|_| name)
}

/// The object that issues the certificate of a host: in the callee's namespace, for this name or one of its Service.
fn certificate_for<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    callee: Option<&ServiceName>,
) -> Option<&'a Object> {
    let mut all = snapshot.objects_of("Certificate");
    all.find(|object| {
        let names = object.body.texts("spec.dnsNames");
        names.iter().any(|name| name == host)
            || callee.is_some_and(|service| {
                object.namespace() == service.namespace
                    && names.iter().any(|name| name.split('.').next() == Some(service.name.as_str()))
            })
    })
}

fn short(objection: &Objection) -> &'static str {
    match objection {
        Objection::UnknownIssuer => "unknown issuer",
        Objection::Expired(_) => "has expired",
        Objection::NotYetValid(_) => "is not yet valid",
        Objection::WrongName { .. } => "is for other names",
        Objection::ClientCertificate => "the server wants one of the client",
    }
}

fn words(objection: &Objection) -> String {
    let date = |at: &Option<Timestamp>| {
        at.map(|at| format!(" ({})", at.strftime("%Y-%m-%d %H:%M UTC"))).unwrap_or_default()
    };
    match objection {
        Objection::UnknownIssuer => {
            "it does not know who issued the certificate, so its own list of issuers lacks that one"
                .to_owned()
        }
        Objection::Expired(at) => format!("its time is over{}", date(at)),
        Objection::NotYetValid(at) => format!(
            "its time has not begun{}: the certificate is new and a clock is behind, or it was issued for later",
            date(at)
        ),
        Objection::WrongName { valid_for, wanted } => {
            let names: Vec<&str> = valid_for.iter().filter_map(|name| plain_name(name)).collect();
            let has = if names.is_empty() { String::new() } else { format!(": it has {}", names.join(", ")) };
            let wanted =
                wanted.as_deref().and_then(plain_name).map(|name| format!(" \"{name}\"")).unwrap_or_default();
            format!("the certificate is not for the name{wanted} that was called{has}")
        }
        Objection::ClientCertificate => {
            "the server asks for a certificate of the client and does not accept what it got".to_owned()
        }
    }
}

/// A host name, where it is one and nothing else.
fn plain_name(name: &str) -> Option<&str> {
    let fits = !name.is_empty() && name.len() <= 80;
    (fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'*')))
        .then_some(name)
}
