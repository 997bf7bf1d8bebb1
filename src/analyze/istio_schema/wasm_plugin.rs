//! WasmPlugin.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::words::{items, shown, word};
use super::{Faults, attachment, url};
use crate::model::fields::Fields;

const URL: &str = "oci://IMAGE, file://, http:// or https://";

pub(super) fn check(out: &mut Faults, spec: &Value) {
    attachment::check(out, spec);
    let text = word(spec, "url");
    // An image without a scheme is read as a URL of HTTP; a registry's port makes its name a scheme.
    let scheme = url::scheme(text, true)
        .or_else(|| url::scheme(&format!("http://{text}"), true))
        .filter(|scheme| !scheme.is_empty() || url::scheme(text, false).is_some());
    match scheme.as_deref() {
        _ if text.is_empty() => {
            out.error("spec.url", "there is no url", URL);
        }
        None => {
            out.error("spec.url", format!("{} is no URL", shown(text)), URL);
        }
        Some("" | "file" | "http" | "https" | "oci") => {}
        Some(scheme) => {
            out.error("spec.url", format!("the url has scheme {}", shown(scheme)), URL);
        }
    }
    let digest = word(spec, "sha256");
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !digest.is_empty() && (digest.len() != 64 || !digest.bytes().all(hex)) {
        out.error("spec.sha256", "the digest is none of SHA-256", "64 digits of lower-case hexadecimal");
    }
    for (key, most) in [("imagePullSecret", 253), ("pluginName", 256)] {
        if word(spec, key).len() > most {
            out.error(format!("spec.{key}"), format!("{key} is too long"), "a shorter name");
        }
    }
    environment(out, spec);
    let places =
        items(spec, "match", "spec").flat_map(|(path, one)| items(one, "ports", &path).collect::<Vec<_>>());
    for (path, port) in places {
        let number = port.int("number").unwrap_or(0);
        if !(1..=65535).contains(&number) {
            out.error(path, format!("port {number} is not in range"), super::words::PORT);
            return;
        }
    }
}

/// The first thing that is wrong with the module's environment: Istio stops there.
fn environment(out: &mut Faults, spec: &Value) {
    let mut names = BTreeSet::new();
    let Some(vm) = spec.at("vmConfig") else { return };
    for (path, one) in items(vm, "env", "spec.vmConfig") {
        let name = word(one, "name");
        let what = if name.is_empty() {
            "a variable has no name"
        } else if name.len() > 256 {
            "the name of a variable is too long"
        } else if !names.insert(name) {
            "a variable is there twice"
        } else if word(one, "valueFrom") == "HOST" && !word(one, "value").is_empty() {
            "a variable of the host has a value"
        } else {
            continue;
        };
        out.error(path, what, "names, each once, with values or from the host");
        return;
    }
}
