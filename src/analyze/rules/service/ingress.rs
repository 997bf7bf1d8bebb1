//! Ingresses as the rules about them read them.

use crate::model::json::Value;

use crate::model::fields::Fields;
use crate::model::object::Object;

/// One backend of an Ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    /// The Service that it names.
    pub service: String,
    /// The port, by name or number.
    pub port: String,
    /// Where it stands: `spec.rules[0].http.paths[1].backend`.
    pub path: String,
    /// Whose requests it takes: `shop.example/cart`, or `everything else`.
    pub takes: String,
}

/// The Services that an Ingress names. Backends that are other resources are left out.
pub(crate) fn backends(ingress: &Object) -> Vec<Backend> {
    let mut out = vec![];
    let mut add = |body: Option<&Value>, path: String, takes: String| {
        let Some(service) = body.and_then(|b| b.text("service.name")).filter(|name| !name.is_empty()) else {
            return;
        };
        let port = body.and_then(|b| b.at("service.port"));
        let number = port.and_then(|p| p.int("number")).map(|n| n.to_string());
        let port =
            number.or_else(|| port.and_then(|p| p.text("name")).map(str::to_owned)).unwrap_or_default();
        out.push(Backend { service: service.to_owned(), port, path, takes });
    };
    add(
        ingress.body.at("spec.defaultBackend"),
        "spec.defaultBackend".to_owned(),
        "everything else".to_owned(),
    );
    for (at, rule) in ingress.body.list("spec.rules").iter().enumerate() {
        let host = rule.text("host").unwrap_or("*");
        for (index, path) in rule.list("http.paths").iter().enumerate() {
            let takes = format!("{host}{}", path.text("path").unwrap_or("/"));
            add(path.at("backend"), format!("spec.rules[{at}].http.paths[{index}].backend"), takes);
        }
    }
    out
}
