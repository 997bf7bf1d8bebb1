//! What a controller refuses a single listener for.

use super::prelude::*;
use super::{classes, secrets};

/// Why one listener is not served.
#[derive(Debug)]
pub struct Problem {
    /// The field that decides.
    pub path: String,
    /// The API's reason: `InvalidCertificateRef`.
    pub reason: &'static str,
    /// Why, with names.
    pub why: String,
    /// In the words of the field.
    pub mechanism: &'static str,
    /// A value that would be right, and where.
    pub fix: Option<(String, Value)>,
}

/// Everything that is wrong with a listener by itself.
pub fn check(snapshot: &Snapshot, gateway: &Gateway, listener: &Listener<'_>) -> Vec<Problem> {
    let istios = classes::is_istios(snapshot, gateway);
    if let Some(problem) = mesh_listener(gateway, listener) {
        return vec![problem];
    }
    let mut out = vec![];
    out.extend(protocol(istios, listener));
    out.extend(kinds(snapshot, listener));
    out.extend(tls(listener));
    out.extend(too_many(istios, listener));
    for (index, entry) in listener.body.list("tls.certificateRefs").iter().enumerate() {
        out.extend(certificate(snapshot, listener, index, entry));
    }
    out
}

/// Waypoints and east-west gateways take what ztunnel speaks, and nothing else.
fn mesh_listener(gateway: &Gateway, listener: &Listener<'_>) -> Option<Problem> {
    let mode = listener.body.text("tls.mode").unwrap_or_default();
    let path = format!("{}.protocol", listener.path);
    let problem = |path: String, why: String, mechanism, fix| {
        Some(Problem { path, reason: "UnsupportedProtocol", why, mechanism, fix })
    };
    let hbone = listener.protocol == "HBONE" && listener.port == 15008;
    match gateway.class.as_str() {
        "istio-waypoint" if !hbone => {
            let why = format!(
                "a waypoint has one listener, port 15008 with protocol HBONE; this is port {} with {}",
                listener.port, listener.protocol
            );
            let fix = Some((path.clone(), json!("HBONE")));
            problem(path, why, "waypoint listener is not HBONE on 15008", fix)
        }
        "istio-east-west" if listener.protocol == "TLS" && mode == "Passthrough" => None,
        "istio-east-west" if hbone && mode == "Terminate" => None,
        "istio-east-west" if hbone => {
            let path = format!("{}.tls", listener.path);
            let why = "an east-west listener for HBONE on port 15008 ends the outer connection: its tls.mode is Terminate, and here it is not".to_owned();
            let value = json!({"mode": "Terminate", "options": {"gateway.istio.io/tls-terminate-mode": "ISTIO_MUTUAL"}});
            let fix = Some((path.clone(), value));
            problem(path, why, "east-west HBONE listener without TLS termination", fix)
        }
        "istio-east-west" => {
            let why = format!(
                "an east-west gateway has listeners for HBONE on port 15008 that terminate, and for TLS that pass through; this is port {} with {} {mode}",
                listener.port, listener.protocol
            );
            problem(
                path,
                why.trim_end().to_owned(),
                "east-west listener is neither HBONE on 15008 nor TLS",
                None,
            )
        }
        _ => None,
    }
}

/// Protocols that the API knows. Others carry their implementation's domain.
fn protocol(istios: bool, listener: &Listener<'_>) -> Option<Problem> {
    let word = listener.protocol.as_str();
    let known = matches!(word, "HTTP" | "HTTPS" | "TLS" | "TCP" | "UDP" | "HBONE");
    let served = if istios { known && word != "UDP" } else { known || word.contains('/') };
    let upper = word.to_ascii_uppercase();
    let fix = matches!(upper.as_str(), "HTTP" | "HTTPS" | "TLS" | "TCP");
    (!served && !word.is_empty()).then(|| Problem {
        path: format!("{}.protocol", listener.path),
        reason: "UnsupportedProtocol",
        why: format!("protocol {word} is none that the controller serves"),
        mechanism: "listener with an unsupported protocol",
        fix: fix.then(|| (format!("{}.protocol", listener.path), json!(upper))),
    })
}

/// Kinds of routes that a listener asks for and its protocol does not carry.
fn kinds(snapshot: &Snapshot, listener: &Listener<'_>) -> Option<Problem> {
    let fit = attach::carried(snapshot, listener)?;
    let listed = listener.body.list("allowedRoutes.kinds").iter();
    let wrong = listed
        .map(|k| (k.string("kind"), k.text("group").unwrap_or(attach::GROUP)))
        .find(|(kind, group)| *group != attach::GROUP || !fit.contains(&kind.as_str()))?;
    Some(Problem {
        path: format!("{}.allowedRoutes.kinds", listener.path),
        reason: "InvalidRouteKinds",
        why: format!(
            "kind {}{} in allowedRoutes.kinds is not carried by protocol {}",
            wrong.0,
            if wrong.1 == attach::GROUP { String::new() } else { format!(" of group {:?}", wrong.1) },
            listener.protocol
        ),
        mechanism: "listener with invalid route kinds",
        fix: None,
    })
}

/// How Istio ends a connection without a certificate of the listener's own.
const OWN_CERTIFICATE: &[&str] = &["ISTIO_MUTUAL", "ISTIO_SIMPLE"];

/// Whether the TLS section is what the protocol needs.
fn tls(listener: &Listener<'_>) -> Option<Problem> {
    let secure = matches!(listener.protocol.as_str(), "HTTPS" | "TLS");
    let problem = |path: String, reason, why: String, mechanism, fix| {
        Some(Problem { path, reason, why, mechanism, fix })
    };
    let path = format!("{}.tls", listener.path);
    let Some(section) = listener.body.at("tls") else {
        let why = format!("protocol is {} and there is no TLS section", listener.protocol);
        return if secure {
            problem(path, "UnsupportedProtocol", why, "listener without TLS configuration", None)
        } else {
            None
        };
    };
    let mode = section.text("mode").unwrap_or("Terminate");
    if !secure {
        let ends = matches!(listener.protocol.as_str(), "HTTP" | "TCP" | "UDP");
        let why = format!("protocol {} has no TLS, and there is a TLS section", listener.protocol);
        let words = "TLS configuration at a listener without TLS";
        return if ends { problem(path, "UnsupportedValue", why, words, None) } else { None };
    }
    let at = format!("{path}.mode");
    if !matches!(mode, "Terminate" | "Passthrough") {
        let why = format!("tls.mode {mode} is neither Terminate nor Passthrough");
        return problem(at, "UnsupportedValue", why, "listener with an unknown TLS mode", None);
    }
    if listener.protocol == "HTTPS" && mode == "Passthrough" {
        let why = "protocol HTTPS ends TLS, and tls.mode is Passthrough; that is for protocol TLS".to_owned();
        let fix = Some((format!("{}.protocol", listener.path), json!("TLS")));
        return problem(at, "UnsupportedValue", why, "HTTPS listener with TLS passthrough", fix);
    }
    // `tls.options` has keys with dots.
    let options = section.map("options");
    let terminate =
        options.and_then(|o| o.get("gateway.istio.io/tls-terminate-mode")).and_then(Value::as_str);
    let own = terminate.is_some_and(|mode| OWN_CERTIFICATE.contains(&mode));
    let options_only = options.is_some_and(|o| !o.is_empty());
    if mode == "Terminate" && section.list("certificateRefs").is_empty() && !own && !options_only {
        let why = "it ends TLS and names no certificate in tls.certificateRefs".to_owned();
        let path = format!("{path}.certificateRefs");
        return problem(path, "InvalidCertificateRef", why, "TLS listener without certificateRef", None);
    }
    None
}

/// Istio takes two certificates, for two kinds of keys.
const CERTIFICATES: usize = 2;

fn too_many(istios: bool, listener: &Listener<'_>) -> Option<Problem> {
    let count = listener.body.list("tls.certificateRefs").len();
    (istios && count > CERTIFICATES).then(|| Problem {
        path: format!("{}.tls.certificateRefs", listener.path),
        reason: "InvalidCertificateRef",
        why: format!(
            "it names {count} certificates in tls.certificateRefs, and a listener has up to {CERTIFICATES}"
        ),
        mechanism: "TLS listener with too many certificateRefs",
        fix: None,
    })
}

/// Whether a listener's certificate can be used: a Secret, there, with both keys.
fn certificate(snapshot: &Snapshot, listener: &Listener<'_>, index: usize, entry: &Value) -> Option<Problem> {
    let owner = listener.owner;
    let base = format!("{}.tls.certificateRefs[{index}]", listener.path);
    let (kind, group) = (entry.text("kind").unwrap_or("Secret"), entry.text("group").unwrap_or_default());
    let namespace = entry.text("namespace").unwrap_or(owner.namespace());
    let name = entry.string("name");
    let mechanism = "certificate not found: TLS Secret of a listener";
    let reason = "InvalidCertificateRef";
    let plain = matches!(group, "" | "core");
    if plain && kind != "Secret" {
        let why = format!("its certificate, {kind} {name}, is of a kind that holds none; Secret does");
        let fix = Some((format!("{base}.kind"), json!("Secret")));
        return Some(Problem {
            path: format!("{base}.kind"),
            reason,
            why,
            mechanism: "certificateRef of a wrong kind",
            fix,
        });
    }
    if !plain || !snapshot.knows_kind("Secret") {
        return None;
    }
    let Some(secret) = snapshot.object("Secret", namespace, &name) else {
        let beside = snapshot.objects_of("Secret").filter(|s| s.namespace() == namespace);
        let near = nearest(&name, beside.map(Object::name));
        let fix = near.map(|near| (format!("{base}.name"), json!(near)));
        let why = format!("its certificate, Secret {namespace}/{name}, does not exist");
        return Some(Problem { path: base, reason, why, mechanism, fix });
    };
    let (flaw, mechanism) = secrets::flaw(secret)?;
    let why = format!("its certificate, Secret {namespace}/{name}, {flaw}");
    Some(Problem { path: base, reason, why, mechanism, fix: None })
}
