//! Secrets that hold a certificate with its key: what keeps one from being used.

use super::prelude::*;
use crate::analyze::istioctl::certificate;

/// The names under which a certificate and its key stand together.
const PAIRS: &[[&str; 2]] = &[["tls.crt", "tls.key"], ["cert", "key"]];

/// Why a Secret is no certificate with its key, as the rest of a sentence, and in the words of the field. `None` where it
/// is one as far as can be seen: private values are no part of a bundle, so an empty one says nothing, and a Secret without
/// any data was read without it.
pub fn flaw(secret: &Object) -> Option<(String, &'static str)> {
    let parts = ["data", "stringData"].iter().filter_map(|part| Some((*part, secret.body.map(part)?)));
    let held: Vec<(&str, &str, &Value)> = parts
        .flat_map(|(part, map)| map.iter().map(move |(key, value)| (part, key.as_str(), value)))
        .collect();
    let find = |name: &str| held.iter().rfind(|(_, key, _)| *key == name);
    let pair = PAIRS.iter().find_map(|[first, second]| Some((*first, find(first)?, find(second)?)));
    let Some((name, (part, _, value), _)) = pair else {
        let keys = held.iter().map(|(_, key, _)| *key).take(8).collect::<Vec<_>>().join(", ");
        let why = format!("has no tls.crt and tls.key; its keys are {keys}");
        return (!held.is_empty())
            .then_some((why, "certificate unusable: Secret without tls.crt and tls.key"));
    };
    let text = value.as_str().filter(|text| !text.is_empty())?;
    let bytes = if *part == "data" { certificate::base64(text)? } else { text.as_bytes().to_vec() };
    (!certificate::is_pem(&bytes)).then(|| {
        (
            format!("holds no certificate in {name}: it is no PEM"),
            "certificate malformed: no PEM in its Secret",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_needs_both_parts_and_a_certificate() {
        let flawed = |data: Value| {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}, "stringData": data});
            flaw(&Object::read(secret).unwrap()).is_some()
        };
        let pem = "-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n";
        assert!(
            !flawed(json!({"tls.crt": pem, "tls.key": "x"})) && !flawed(json!({"cert": pem, "key": "x"}))
        );
        assert!(flawed(json!({"tls.crt": pem})) && flawed(json!({"tls.crt": pem, "key": "x"})));
        assert!(
            flawed(json!({"tls.crt": "x", "tls.key": ""})) && !flawed(json!({"tls.crt": "", "tls.key": ""}))
        );
        assert!(!flawed(json!({})));
    }
}
