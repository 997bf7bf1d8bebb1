//! The Secrets that Gateways take their certificates from.

use crate::model::json::Value;
use jiff::Timestamp;

use super::certificate;
use super::context::{Context, GATEWAY, SECRET, first_label, selector_text, short_or_full};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

/// IST0161, and IST0101 for Secrets and pods that are not there. A Gateway's Secret lies beside the pods that serve it.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for gateway in context.all(GATEWAY) {
        let selector = gateway.body.text_map("spec.selector");
        let namespace = context.pods_with(&selector).first().map_or("", |pod| pod.namespace());
        if namespace.is_empty() {
            let field = first_label("spec.selector", &selector);
            out.not_found(gateway, &field, "selector", &selector_text(&selector));
            continue;
        }
        for (index, server) in gateway.body.list("spec.servers").iter().enumerate() {
            let Some(name) = server.text("tls.credentialName").filter(|name| !name.is_empty()) else {
                continue;
            };
            let field = format!("spec.servers[{index}].tls.credentialName");
            let (of, secret) = short_or_full(namespace, name);
            match context.find(SECRET, &of, &secret).filter(|secret| is_readable(secret)) {
                None => out.not_found(gateway, &field, "credentialName", name),
                Some(secret) if is_usable(secret, context.snapshot.now) => {}
                Some(_) => {
                    let text = format!(
                        "a Secret in namespace {namespace} holds no key with a certificate that is valid now"
                    );
                    out.push("IST0161", gateway, &field, text);
                }
            }
        }
    }
}

/// Whether the API would take it: all values are base64.
fn is_readable(secret: &Object) -> bool {
    let values = secret.body.map("data").into_iter().flat_map(|data| data.values());
    values.into_iter().all(|value| value.as_str().is_some_and(|text| certificate::base64(text).is_some()))
}

/// Whether it holds a key and a certificate under one of the two pairs of names, and the certificate is valid. Values of keys are
/// no part of a snapshot: a key that is there counts.
fn is_usable(secret: &Object, now: Timestamp) -> bool {
    let Some(data) = secret.body.map("data") else { return false };
    let pair = [("cert", "key"), ("tls.crt", "tls.key")].into_iter().find_map(|(certificate, key)| {
        let text = data.get(certificate).and_then(Value::as_str).filter(|text| !text.is_empty())?;
        data.contains_key(key).then_some(text)
    });
    pair.and_then(certificate::base64).is_some_and(|pem| certificate::is_valid(&pem, now))
}
