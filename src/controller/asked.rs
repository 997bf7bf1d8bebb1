//! The request of a session's symptom, as a question to the twin.

use kube::ResourceExt;

use crate::analyze::twin::ask::{Ask, Named, Origin, Protocol, Request, Tls, describe};
use crate::api::v1alpha1::DebugSession;
use crate::api::v1alpha1::request::RequestProtocol;

/// The question that `spec.symptom.request` asks; none where it asks none. Its source is one of the target namespace.
pub fn asked(session: &DebugSession) -> Option<Ask> {
    let wanted = session.spec.symptom.request.as_ref()?;
    let own = || session.namespace().unwrap_or_default();
    let namespace = session.spec.target.namespace.clone().unwrap_or_else(own);
    let named =
        |name: &String| Named { namespace: namespace.clone(), kind: String::new(), name: name.clone() };
    let from = match (&wanted.from.workload, &wanted.from.gateway) {
        (Some(name), _) => Origin::Workload(named(name)),
        (None, Some(name)) => Origin::Gateway(named(name)),
        (None, None) => return None,
    };
    let (protocol, tls) = match wanted.protocol {
        RequestProtocol::HTTP => (Protocol::Http, Tls::Plaintext),
        RequestProtocol::HTTPS => (Protocol::Http, Tls::Tls),
        RequestProtocol::HTTP2 => (Protocol::Http2, Tls::Plaintext),
        RequestProtocol::GRPC => (Protocol::Grpc, Tls::Plaintext),
        RequestProtocol::TCP => (Protocol::Tcp, Tls::Plaintext),
    };
    let method = if protocol == Protocol::Grpc { "POST" } else { "GET" };
    let request = Request {
        protocol,
        tls,
        method: wanted.method.clone().unwrap_or_else(|| method.to_owned()),
        host: wanted.host.clone(),
        port: wanted.port.and_then(|port| u16::try_from(port).ok()),
        path: wanted.path.clone().unwrap_or_else(|| "/".to_owned()),
        headers: wanted.headers.clone(),
        ..Request::default()
    };
    Some(Ask { name: describe(&from, &request), from, request })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn session(request: serde_json::Value) -> DebugSession {
        serde_json::from_value(json!({"apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession",
            "metadata": {"name": "a", "namespace": "shop"}, "spec": {"target": {}, "symptom": {"request": request}}}))
        .unwrap()
    }

    #[test]
    fn a_session_asks_from_its_target_namespace() {
        let ask = asked(&session(json!({"host": "checkout", "path": "/pay", "headers": {"x-user": "beta"},
            "from": {"workload": "frontend"}})))
        .unwrap();
        assert_eq!(ask.name, "GET http://checkout/pay with x-user: beta from shop/frontend");
        let ask = asked(&session(json!({"protocol": "HTTPS", "host": "shop.example.com", "port": 8443,
            "from": {"gateway": "public"}})))
        .unwrap();
        assert_eq!(ask.name, "GET https://shop.example.com:8443/ from outside, at gateway shop/public");
        assert!(asked(&session(json!(null))).is_none());
    }
}
