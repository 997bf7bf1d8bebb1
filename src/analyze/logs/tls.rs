//! Why a TLS handshake failed, as clients say it.

use jiff::Timestamp;
use regex::Regex;
use std::sync::LazyLock;

use crate::model::time;

/// What a client has against a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// Its issuer is not known here.
    UnknownIssuer,
    /// Its time is over; when, where the text says.
    Expired(Option<Timestamp>),
    /// Its time has not begun; when it does, where the text says.
    NotYetValid(Option<Timestamp>),
    /// It is for other names: the names, and the one that was asked for, where the text says.
    WrongName {
        /// The names that it is for.
        valid_for: Vec<String>,
        /// The name that was asked for.
        wanted: Option<String>,
    },
    /// The server wants a certificate of the client, or does not accept the one it got.
    ClientCertificate,
}

static EXPIRED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)certificate[^.;]{0,40}(?:has |is )?expired|certexpired|cert_has_expired|expiredcert|is after (\d{4}-\d\d-\d\dT[\d:]+Z)|NotAfter: |certificate is not valid: current time.*after",
    )
    .ok()
});
static DATE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:is after|is before|expired on|expired at|notafter:?|notbefore:?) (\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)").ok()
});
static GO_NAMES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"certificate is (?:not valid for any names|valid for ([^;]{1,600}?)), (?:not|but wanted to match) ([A-Za-z0-9.*-]+)").ok()
});
static OTHER_NAMES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"(?i)(?:hostname mismatch,? certificate is not valid for '|host: |no (?:subject alternative )?(?:dns )?name(?:s)? (?:present|matching) |doesn't match(?: any of the subject alternative names:| '?)|no alternative certificate subject name matches target host name '?)([A-Za-z0-9.*-]+)"#,
    )
    .ok()
});

/// What a text has against a certificate, where it is about one.
pub fn objection(text: &str) -> Option<Objection> {
    let lower = text.to_ascii_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if any(&["not yet valid", "cert_not_yet_valid", "notbefore", "certificatenotyetvalid"])
        && !any(&["has expired or is not yet valid"])
    {
        return Some(Objection::NotYetValid(date(text)));
    }
    if any(&["has expired or is not yet valid"]) {
        // Go says both at once; the comparison behind it tells which.
        let early = lower.contains("is before ");
        return Some(if early { Objection::NotYetValid(date(text)) } else { Objection::Expired(date(text)) });
    }
    if EXPIRED.as_ref().is_some_and(|expired| expired.is_match(text)) {
        return Some(Objection::Expired(date(text)));
    }
    if let Some(found) = GO_NAMES.as_ref().and_then(|names| names.captures(text)) {
        let names = found.get(1).map_or("", |m| m.as_str());
        return Some(Objection::WrongName {
            valid_for: names
                .split(", ")
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .take(16)
                .collect(),
            wanted: found.get(2).map(|m| m.as_str().to_owned()),
        });
    }
    if any(&[
        "err_tls_cert_altname_invalid",
        "hostname mismatch",
        "no subject alternative",
        "no name matching",
        "doesn't match",
        "alternative certificate subject name",
        "remotecertificatenamemismatch",
        "notvalidforname",
    ]) {
        let wanted = OTHER_NAMES
            .as_ref()
            .and_then(|names| names.captures(text))
            .and_then(|found| Some(found.get(1)?.as_str().to_owned()));
        let valid_for = text
            .split("DNS:")
            .skip(1)
            .filter_map(|part| {
                part.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '*'))).next()
            })
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .take(16)
            .collect();
        return Some(Objection::WrongName { valid_for, wanted });
    }
    if any(&[
        "unknown authority",
        "pkix path building failed",
        "unable_to_verify_leaf_signature",
        "unable to get local issuer",
        "unable to verify the first certificate",
        "self_signed_cert_in_chain",
        "depth_zero_self_signed_cert",
        "self-signed certificate",
        "self signed certificate",
        "unknownissuer",
        "unknown issuer",
        "untrustedroot",
        "unable to find valid certification path",
        "certificate signed by unknown",
    ]) {
        return Some(Objection::UnknownIssuer);
    }
    any(&[
        "tls: bad certificate",
        "certificate required",
        "bad_certificate",
        "unknown certificate authority",
        "unknown_ca",
        "certificate_required",
        "client didn't provide a certificate",
    ])
    .then_some(Objection::ClientCertificate)
}

/// The date that a text compares with, read as UTC.
fn date(text: &str) -> Option<Timestamp> {
    let found = DATE.as_ref()?.captures(text)?;
    time::parse(&format!("{}T{}Z", found.get(1)?.as_str(), found.get(2)?.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<Timestamp> {
        text.parse().ok()
    }

    #[test]
    fn each_objection_in_the_words_of_several_clients() {
        for text in [
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "PKIX path building failed: sun.security.provider.certpath.SunCertPathBuilderException: unable to find valid certification path",
            "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1006)",
            "invalid peer certificate: UnknownIssuer",
        ] {
            assert_eq!(objection(text), Some(Objection::UnknownIssuer), "{text}");
        }
        assert_eq!(
            objection(
                "x509: certificate has expired or is not yet valid: current time 2026-11-21T10:00:00Z is after 2026-11-01T00:00:00Z"
            ),
            Some(Objection::Expired(at("2026-11-01T00:00:00Z")))
        );
        assert_eq!(
            objection(
                "x509: certificate has expired or is not yet valid: current time 2026-10-21T10:00:00Z is before 2026-11-01T00:00:00Z"
            ),
            Some(Objection::NotYetValid(at("2026-11-01T00:00:00Z")))
        );
        for text in [
            "CERT_HAS_EXPIRED",
            "certificate verify failed: certificate has expired",
            "invalid peer certificate: Expired certificate has expired",
            "SSL certificate expired",
        ] {
            assert_eq!(objection(text), Some(Objection::Expired(None)), "{text}");
        }
        assert_eq!(
            objection("Certificate expired on 2024-08-03 17:00:08"),
            Some(Objection::Expired(at("2024-08-03T17:00:08Z")))
        );
    }

    #[test]
    fn names_are_read_where_the_text_has_them() {
        assert_eq!(
            objection("x509: certificate is valid for pay.prod, pay.prod.svc, not pay"),
            Some(Objection::WrongName {
                valid_for: vec!["pay.prod".into(), "pay.prod.svc".into()],
                wanted: Some("pay".into())
            })
        );
        let node = "ERR_TLS_CERT_ALTNAME_INVALID: Hostname/IP does not match certificate's altnames: Host: pay. is not in the cert's altnames: DNS:pay.prod, DNS:*.prod";
        let Some(Objection::WrongName { valid_for, .. }) = objection(node) else { panic!() };
        assert_eq!(valid_for, ["pay.prod", "*.prod"]);
        let python =
            "certificate verify failed: Hostname mismatch, certificate is not valid for 'pay'. (_ssl.c:1006)";
        assert_eq!(
            objection(python),
            Some(Objection::WrongName { valid_for: vec![], wanted: Some("pay".into()) })
        );
        assert_eq!(
            objection("javax.net.ssl.SSLHandshakeException: No name matching pay found"),
            Some(Objection::WrongName { valid_for: vec![], wanted: Some("pay".into()) })
        );
    }

    #[test]
    fn texts_about_something_else_are_none() {
        for text in
            ["the session expired", "wrong version number", "token is expired", "connection refused", ""]
        {
            assert_eq!(objection(text), None, "{text}");
        }
        assert_eq!(objection("remote error: tls: bad certificate"), Some(Objection::ClientCertificate));
    }
}
