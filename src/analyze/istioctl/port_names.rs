//! Ports of Services whose name says no protocol.

use super::context::{Context, SERVICE, is_control_plane};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::json::Value;

/// Controllers whose Services nobody writes by hand.
const CONTROLLERS: &[&str] =
    &["istio.io-gateway-controller", "istio.io-mesh-controller", "istio.io-eastwest-controller"];

/// Ports of servers that speak first: bytes, whatever the name says.
const SERVER_SPEAKS_FIRST: &[i64] = &[25, 53, 3306, 27017];

/// Words before the first hyphen that Istio reads as a protocol.
const PROTOCOLS: &[&str] = &[
    "tcp",
    "udp",
    "grpc",
    "grpc-web",
    "http",
    "http_proxy",
    "http2",
    "https",
    "tls",
    "mongo",
    "redis",
    "mysql",
];

/// IST0118 and IST0150.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for service in context.all(SERVICE).filter(|service| !is_control_plane(service)) {
        let managed = service.labels.get("gateway.istio.io/managed");
        if managed.is_some_and(|controller| CONTROLLERS.contains(&controller)) {
            continue;
        }
        let external = service.body.text("spec.type") == Some("ExternalName");
        for (index, port) in service.body.list("spec.ports").iter().enumerate() {
            let name = port.string("name");
            let field = format!("spec.ports[{index}].port");
            if says_protocol(port) && !(external && name == "tcp") {
                continue;
            }
            if external {
                let text = "a port of an ExternalName Service is named tcp, or by no protocol";
                out.push("IST0150", service, &field, text);
            } else {
                let number = port.int("port").unwrap_or_default();
                let target = port.at("targetPort").map_or("0".to_owned(), |target| {
                    target.as_str().map_or_else(|| target.to_string(), str::to_owned)
                });
                let text = format!("port {name:?} ({number}, target port {target}) is named by no protocol");
                out.push("IST0118", service, &field, text);
            }
        }
    }
}

fn says_protocol(port: &Value) -> bool {
    if port.text("protocol") == Some("UDP") {
        return true;
    }
    let word = match port.text("appProtocol") {
        Some("kubernetes.io/h2c" | "kubernetes.io/ws" | "kubernetes.io/wss") => return true,
        Some(protocol) => protocol.to_owned(),
        None => port.string("name"),
    };
    let word = word.to_ascii_lowercase();
    let first = word.split('-').next().unwrap_or_default();
    word.starts_with("grpc-web")
        || PROTOCOLS.contains(&first)
        || port.int("port").is_some_and(|number| SERVER_SPEAKS_FIRST.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn names_and_their_protocols() {
        let says = |port: Value| says_protocol(&port);
        assert!(says(json!({"name": "HTTP-web", "port": 80})) && says(json!({"name": "grpc-web-x"})));
        assert!(says(json!({"name": "x", "port": 3306})) && says(json!({"name": "x", "protocol": "UDP"})));
        assert!(says(json!({"name": "x", "appProtocol": "kubernetes.io/ws"})));
        assert!(
            !says(json!({"name": "web", "port": 80})) && !says(json!({"name": "httpx"})) && !says(json!({}))
        );
        assert!(!says(json!({"name": "http", "appProtocol": "custom"})));
    }
}
