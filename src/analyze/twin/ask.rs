//! What somebody asks the twin: a request and where it comes from, in the form that `--requests` reads.

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

use crate::model::object::ObjectRef;
use crate::model::selector::Labels;

/// One question.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ask {
    /// Names the question; the answer carries it.
    pub name: String,
    /// Where the request comes from.
    pub from: Origin,
    /// The request.
    #[serde(default)]
    pub request: Request,
}

/// Namespace, kind and name of something that makes pods, of a pod, or of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its kind; empty means any kind that makes pods, or a pod.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Named {
    /// The object that it names.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(&self.kind, &self.namespace, &self.name)
    }
}

/// How a proxy under test is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// At its own port, without interception.
    Gateway,
    /// What its pod sends: port 15001.
    Outbound,
    /// What its pod receives: port 15006.
    Inbound,
}

/// What a proxy is to Istio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyType {
    /// Beside an application.
    Sidecar,
    /// A gateway.
    Router,
    /// A waypoint, which no question names by itself: it is met on the way.
    #[serde(skip)]
    Waypoint,
}

/// A proxy as such: no object of the snapshot needs to stand for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyNode {
    /// Its namespace.
    pub namespace: String,
    /// Sidecar or gateway.
    #[serde(rename = "type")]
    pub kind: ProxyType,
    /// Labels of its pod.
    #[serde(default)]
    pub labels: Labels,
    /// Addresses of its pod.
    #[serde(default)]
    pub ips: Vec<String>,
}

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OriginFields")]
pub enum Origin {
    /// A pod of a workload.
    Workload(Named),
    /// A client outside, at the address of this gateway (of Istio or of the Gateway API).
    Gateway(Named),
    /// Whoever has this address.
    Ip(String),
    /// A pod of some ingress controller, its labels unknown.
    IngressController,
    /// One proxy as such.
    Proxy(ProxyNode, Mode),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OriginFields {
    workload: Option<Named>,
    gateway: Option<Named>,
    ip: Option<String>,
    special: Option<String>,
    proxy: Option<ProxyNode>,
    mode: Option<Mode>,
}

impl TryFrom<OriginFields> for Origin {
    type Error = String;

    fn try_from(fields: OriginFields) -> Result<Self, String> {
        match fields {
            OriginFields {
                workload: Some(w),
                gateway: None,
                ip: None,
                special: None,
                proxy: None,
                mode: None,
            } => Ok(Origin::Workload(w)),
            OriginFields {
                workload: None,
                gateway: Some(g),
                ip: None,
                special: None,
                proxy: None,
                mode: None,
            } => Ok(Origin::Gateway(g)),
            OriginFields {
                workload: None,
                gateway: None,
                ip: Some(ip),
                special: None,
                proxy: None,
                mode: None,
            } => Ok(Origin::Ip(ip)),
            OriginFields {
                workload: None,
                gateway: None,
                ip: None,
                special: Some(s),
                proxy: None,
                mode: None,
            } => match s.as_str() {
                "ingress-controller" => Ok(Origin::IngressController),
                other => Err(format!("special source {other:?} is unknown; \"ingress-controller\" is known")),
            },
            OriginFields { workload: None, gateway: None, ip: None, special: None, proxy: Some(p), mode } => {
                let mode = mode.ok_or("a proxy needs a mode: gateway, outbound or inbound")?;
                Ok(Origin::Proxy(p, mode))
            }
            _ => {
                Err("from must have exactly one of workload, gateway, ip, special, or proxy with mode"
                    .to_owned())
            }
        }
    }
}

/// What a request is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// A bare TCP connection.
    Tcp,
    /// Datagrams.
    Udp,
    /// An SCTP association.
    Sctp,
}

impl Protocol {
    /// Whether there is an HTTP request at all.
    pub fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
    }
}

/// What the client wraps its bytes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Nothing.
    #[default]
    Plaintext,
    /// TLS of its own.
    Tls,
    /// Istio's mutual TLS.
    Mtls,
}

/// Where the connection goes, if not where the host resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// An address.
    Ip {
        /// The address.
        ip: String,
    },
    /// A workload, a pod or a Service.
    Object(Named),
}

/// What the backend is taken to answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendResponse {
    /// Its status.
    #[serde(default = "ok")]
    pub status: u16,
    /// Its headers.
    #[serde(default, deserialize_with = "headers")]
    pub headers: BTreeMap<String, String>,
    /// After how long, as a duration: `500ms`, `2s`.
    #[serde(default)]
    pub delay: String,
}

impl Default for BackendResponse {
    fn default() -> Self {
        BackendResponse { status: 200, headers: BTreeMap::new(), delay: String::new() }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Request {
    /// HTTP, or a bare connection.
    pub protocol: Protocol,
    /// The method.
    pub method: String,
    /// The Host header, with its port where it has one.
    pub host: String,
    /// Where the connection goes, if not where `host` resolves to.
    pub to: Option<Target>,
    /// The destination's port.
    pub port: Option<u16>,
    /// The path with its query.
    pub path: String,
    /// Headers; several values of one are joined by `,`.
    #[serde(deserialize_with = "headers")]
    pub headers: BTreeMap<String, String>,
    /// What the client wraps its bytes in.
    pub tls: Tls,
    /// The server name; with TLS the host where nothing is written.
    pub sni: Option<String>,
    /// The application protocols that the client offers.
    pub alpn: Vec<String>,
    /// What the backend is taken to answer.
    pub backend_response: BackendResponse,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            protocol: Protocol::Http,
            method: "GET".to_owned(),
            host: String::new(),
            to: None,
            port: None,
            path: "/".to_owned(),
            headers: BTreeMap::new(),
            tls: Tls::Plaintext,
            sni: None,
            alpn: vec![],
            backend_response: BackendResponse::default(),
        }
    }
}

impl Request {
    /// The host without its port, in lower case, and the port in it.
    pub fn authority(&self) -> (String, Option<u16>) {
        let (host, port) = split_port(&self.host);
        (host.to_ascii_lowercase(), port)
    }

    /// The port of the destination: the one that is written, else the one in the host, else 80, or 443 with TLS.
    pub fn destination_port(&self) -> u16 {
        let standard = if self.tls == Tls::Plaintext { 80 } else { 443 };
        self.port.or(self.authority().1).unwrap_or(standard)
    }

    /// The server name that the client sends; none without TLS.
    pub fn server_name(&self) -> Option<String> {
        if self.tls == Tls::Plaintext {
            return None;
        }
        let host = || Some(self.authority().0).filter(|host| !host.is_empty());
        // An address is no server name.
        self.sni.clone().or_else(|| host().filter(|host| host.parse::<core::net::IpAddr>().is_err()))
    }

    /// The path without its query, and the query.
    pub fn path_and_query(&self) -> (&str, &str) {
        self.path.split_once('?').unwrap_or((&self.path, ""))
    }
}

/// What is asked and from where, in one line: `GET http://checkout.shop/pay from shop/frontend`.
pub fn describe(from: &Origin, request: &Request) -> String {
    let (scheme, line) = match (request.protocol, request.tls) {
        (Protocol::Tcp, _) => ("tcp", false),
        (Protocol::Udp, _) => ("udp", false),
        (Protocol::Sctp, _) => ("sctp", false),
        (Protocol::Grpc, _) => ("grpc", true),
        (Protocol::Http2, _) => ("http2", true),
        (Protocol::Http, Tls::Plaintext) => ("http", true),
        (Protocol::Http, _) => ("https", true),
    };
    let (host, written) = request.authority();
    let standard = if request.tls == Tls::Plaintext { 80 } else { 443 };
    let port = written.or(request.port).filter(|port| !line || *port != standard);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let url = format!("{scheme}://{host}{port}{}", if line { request.path.as_str() } else { "" });
    let headers: Vec<String> =
        request.headers.iter().map(|(key, value)| format!(" with {key}: {value}")).collect();
    let method = if line { format!("{} ", request.method) } else { String::new() };
    let answered = match request.backend_response.delay.as_str() {
        "" => String::new(),
        delay => format!(", answered after {delay},"),
    };
    format!("{method}{url}{}{answered} from {}", headers.concat(), place(from))
}

/// Where a request comes from, in words.
pub fn place(from: &Origin) -> String {
    match from {
        Origin::Workload(named) => format!("{}/{}", named.namespace, named.name),
        Origin::Gateway(named) => format!("outside, at gateway {}/{}", named.namespace, named.name),
        Origin::Ip(ip) => ip.clone(),
        Origin::IngressController => "an ingress controller".to_owned(),
        Origin::Proxy(node, _) => format!("a proxy in {}", node.namespace),
    }
}

/// A host and the port behind it: `a:80`, `[::1]:80`, `a`, `::1`.
pub fn split_port(host: &str) -> (&str, Option<u16>) {
    if let Some((bare, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (bare, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match host.rsplit_once(':') {
        Some((bare, port)) if !bare.contains(':') => (bare, port.parse().ok()),
        _ => (host, None),
    }
}

fn ok() -> u16 {
    200
}

/// Headers by name; a list of values is joined.
fn headers<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Values {
        One(String),
        Many(Vec<String>),
    }
    let read = BTreeMap::<String, Values>::deserialize(input)?;
    Ok(read
        .into_iter()
        .map(|(name, values)| match values {
            Values::One(value) => (name, value),
            Values::Many(values) => (name, values.join(",")),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn ask(from: crate::model::json::Value) -> Result<Ask, serde_json::Error> {
        json!({"name": "a", "from": from}).read()
    }

    #[test]
    fn exactly_one_source_is_taken() {
        assert!(matches!(ask(json!({"ip": "10.0.0.1"})).unwrap().from, Origin::Ip(_)));
        assert!(ask(json!({"ip": "10.0.0.1", "special": "ingress-controller"})).is_err());
        assert!(ask(json!({})).is_err());
        let text = ask(json!({"special": "x"})).unwrap_err().to_string();
        assert!(text.contains("ingress-controller"), "{text}");
        assert!(
            ask(json!({"proxy": {"namespace": "n", "type": "sidecar"}}))
                .unwrap_err()
                .to_string()
                .contains("mode")
        );
    }

    #[test]
    fn defaults_are_those_of_the_published_form() {
        let request: Request = json!({"host": "A.example.com:8443", "tls": "tls"}).read().unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str(), request.destination_port()),
            ("GET", "/", 8443)
        );
        assert_eq!(request.server_name().as_deref(), Some("a.example.com"));
        assert_eq!(Request::default().destination_port(), 80);
        assert!(json!({"hots": "a"}).read::<Request>().is_err());
    }

    #[test]
    fn ports_are_split_off_hosts() {
        assert_eq!(split_port("a:80"), ("a", Some(80)));
        assert_eq!(split_port("[::1]:80"), ("::1", Some(80)));
        assert_eq!(split_port("::1"), ("::1", None));
    }
}
