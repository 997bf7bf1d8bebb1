//! What attributes of spans and of their resources tell, whatever convention they follow.

use super::scalar::Scalar;
use super::{Code, Status};

/// What the attributes of one span say; a later one of the same weight does not replace an earlier.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) code: Code,
    pub(super) status: Status,
    pub(super) peer: String,
    peer_weight: u8,
    pub(super) message: String,
    pub(super) request: String,
    pub(super) attempt: u8,
    /// `span.kind` of OpenTracing.
    pub(super) kind: Option<super::Kind>,
}

impl Facts {
    /// Takes note of one attribute. The keys are those of OpenTelemetry's semantic conventions, old and new, of OpenTracing,
    /// of Zipkin's instrumentations and of Envoy.
    pub(super) fn note(&mut self, key: &str, value: &Scalar<'_>) {
        match key {
            "http.status_code" | "http.response.status_code" => {
                let status = value.int().and_then(|code| u16::try_from(code).ok());
                if let Some(status) = status.filter(|status| (100..600).contains(status)) {
                    self.code = Code::Http(status);
                }
            }
            "rpc.grpc.status_code" | "grpc.status_code" | "grpc-status" | "rpc.response.status_code" => {
                // Beside HTTP's own 200, this is the one that says how it went.
                if let Some(status) = value.int().or_else(|| grpc_word(&value.text()))
                    && let Ok(status) = u8::try_from(status)
                {
                    self.code = Code::Grpc(status);
                }
            }
            "error" => {
                if value.flag() {
                    self.status = Status::Error;
                    let text = value.text();
                    if self.message.is_empty() && text != "true" && text != "1" {
                        self.message = text.into_owned();
                    }
                }
            }
            "otel.status_code" => match value.text().as_ref() {
                "ERROR" => self.status = Status::Error,
                "OK" => self.status = Status::Ok,
                _ => {}
            },
            "otel.status_description" | "error.message" | "exception.message" | "error.type" => {
                if self.message.is_empty() {
                    self.message = value.text().into_owned();
                }
            }
            "span.kind" => self.kind = kind_word(&value.text()),
            "http.request.resend_count" | "http.resend_count" | "http.retry_count" => {
                self.attempt = value.int().map_or(0, |n| n.clamp(0, 255) as u8);
            }
            "guid:x-request-id"
            | "http.request.header.x-request-id"
            | "x-request-id"
            | "request_id"
            | "request.id"
            | "correlation_id"
            | "correlation.id" => {
                if self.request.is_empty() {
                    self.request = value.text().into_owned();
                }
            }
            _ => {
                let weight = peer_weight(key);
                if weight > self.peer_weight && !value.is_none() {
                    self.peer_weight = weight;
                    self.peer = value.text().into_owned();
                }
            }
        }
    }
}

/// How well an attribute names the other side; 0 where it does not. A service's name beats a host, a host beats an address.
fn peer_weight(key: &str) -> u8 {
    match key {
        "peer.service" | "service.peer.name" => 9,
        "upstream_cluster.name" | "upstream_cluster" => 8,
        "messaging.destination.name" | "messaging.destination" => 7,
        "server.address" | "net.peer.name" => 6,
        "peer.hostname" | "http.host" => 5,
        "rpc.service" => 4,
        "db.namespace" | "db.name" => 3,
        "db.system.name" | "db.system" | "messaging.system" => 2,
        "network.peer.address" | "net.peer.ip" | "peer.address" | "peer.ipv4" => 1,
        _ => 0,
    }
}

/// A kind in a word, as Zipkin, OpenTracing and OTLP's enumeration write it.
pub(super) fn kind_word(word: &str) -> Option<super::Kind> {
    use super::Kind;
    let word = word.strip_prefix("SPAN_KIND_").unwrap_or(word);
    let known = [
        ("internal", Kind::Internal),
        ("server", Kind::Server),
        ("client", Kind::Client),
        ("producer", Kind::Producer),
        ("consumer", Kind::Consumer),
    ];
    known.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, kind)| *kind)
}

/// A gRPC status in a word.
fn grpc_word(word: &str) -> Option<i64> {
    let names = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let plain = |text: &str| text.replace('_', "").to_ascii_uppercase();
    let wanted = plain(word).replace("CANCELED", "CANCELLED");
    names.iter().position(|name| plain(name) == wanted).map(|at| at as i64)
}

/// What the attributes of a resource say of who writes.
pub(super) fn note_resource(emitter: &mut super::Emitter, key: &str, value: &Scalar<'_>) {
    let slot = match key {
        "service.name" => &mut emitter.name,
        "k8s.namespace.name" => {
            emitter.namespace.clear();
            &mut emitter.namespace
        }
        "service.namespace" | "namespace" => &mut emitter.namespace,
        "k8s.pod.name" => {
            emitter.pod.clear();
            &mut emitter.pod
        }
        "service.instance.id" | "host.name" | "hostname" | "ip" => &mut emitter.pod,
        "k8s.node.name" => &mut emitter.node,
        _ => return,
    };
    if slot.is_empty() {
        *slot = value.text().chars().filter(|c| !c.is_control()).take(253).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn grpc_beats_http_and_a_service_beats_a_host() {
        let text = |text: &'static str| Scalar::Text(Cow::Borrowed(text));
        let mut facts = Facts::default();
        facts.note("http.status_code", &Scalar::Int(200));
        facts.note("grpc-status", &text("14"));
        facts.note("server.address", &text("host"));
        facts.note("peer.service", &text("pay"));
        facts.note("net.peer.ip", &text("10.0.0.1"));
        facts.note("error", &text("refused"));
        assert_eq!((facts.code, facts.peer.as_str()), (Code::Grpc(14), "pay"));
        assert_eq!((facts.status, facts.message.as_str()), (Status::Error, "refused"));
        assert_eq!(grpc_word("DeadlineExceeded"), Some(4));
        assert_eq!(grpc_word("Canceled"), Some(1));
    }

    #[test]
    fn a_pod_beats_an_instance_id_in_either_order() {
        for keys in [["service.instance.id", "k8s.pod.name"], ["k8s.pod.name", "service.instance.id"]] {
            let mut emitter = crate::model::span::Emitter::default();
            for key in keys {
                note_resource(&mut emitter, key, &Scalar::Text(Cow::Borrowed(key)));
            }
            assert_eq!(emitter.pod, "k8s.pod.name");
        }
    }
}
