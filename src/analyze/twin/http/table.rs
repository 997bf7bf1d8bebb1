//! The table: virtual hosts, their routes, and what a route does. It says nothing of who wrote it but where each part stands.

use super::domains::Domains;
use super::headers::HeaderOps;
use super::operators;
use super::text::{Pattern, TextMatch};
use crate::model::object::ObjectRef;

/// A route configuration.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Envoy's name of it: `http.80`, `9080`.
    pub name: String,
    hosts: Vec<VirtualHost>,
    domains: Domains,
    refused: Option<(ObjectRef, String)>,
}

impl RouteTable {
    /// An empty one.
    pub fn new(name: impl Into<String>) -> Self {
        RouteTable { name: name.into(), ..RouteTable::default() }
    }

    /// Adds a virtual host. Domains that an earlier one has are left to that one; without any domain of its own it is
    /// dropped, and the answer is `false`.
    pub fn push(&mut self, mut host: VirtualHost) -> bool {
        let at = self.hosts.len();
        host.domains.retain(|domain| self.domains.insert(domain, at));
        let keeps = !host.domains.is_empty();
        if keeps {
            self.refused = self.refused.take().or_else(|| host.routes.iter().find_map(Route::refused));
            self.hosts.push(host);
        }
        keeps
    }

    /// Whether a domain is taken.
    pub fn has_domain(&self, domain: &str) -> bool {
        self.domains.contains(domain)
    }

    /// The virtual host of a host without port.
    pub fn host(&self, host: &str) -> Option<&VirtualHost> {
        self.domains.find(host).and_then(|at| self.hosts.get(at))
    }

    /// The route for which Envoy takes nothing of the table, and why; its proxies keep the table that they had before.
    pub fn refused(&self) -> Option<&(ObjectRef, String)> {
        self.refused.as_ref()
    }

    /// All virtual hosts, in order.
    pub fn hosts(&self) -> &[VirtualHost] {
        &self.hosts
    }
}

/// A virtual host.
#[derive(Debug, Clone, Default)]
pub struct VirtualHost {
    /// Envoy's name of it: `checkout.shop.svc.cluster.local:80`.
    pub name: String,
    /// The hosts it takes: `a`, `*.a`, `a.*`, `*`; without ports.
    pub domains: Vec<String>,
    /// Its routes: the first that fits is taken.
    pub routes: Vec<Route>,
    /// What sends plaintext requests to HTTPS before any route is looked at.
    pub require_tls: Option<ObjectRef>,
}

/// A route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name; empty where it has none.
    pub name: String,
    /// Where it stands: the object, and the field of the condition that it was made from.
    pub source: ObjectRef,
    /// What a request must be to fit.
    pub matching: RouteMatch,
    /// What is done with it.
    pub action: Action,
    /// Changes of the request's headers.
    pub request_headers: HeaderOps,
    /// Changes of the response's headers.
    pub response_headers: HeaderOps,
    /// Faults that are put in.
    pub fault: Option<Fault>,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
}

impl Route {
    /// A route for every request.
    pub fn any(source: ObjectRef, action: Action) -> Self {
        Route {
            name: String::new(),
            source,
            matching: RouteMatch::default(),
            action,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            fault: None,
            cors: None,
        }
    }

    fn refused(&self) -> Option<(ObjectRef, String)> {
        let own = [&self.request_headers, &self.response_headers];
        let to = if let Action::Forward(forward) = &self.action { forward.to.as_slice() } else { &[] };
        let behind = to.iter().flat_map(|to| [&to.request_headers, &to.response_headers]);
        let mut values = own.into_iter().chain(behind).flat_map(|ops| ops.set.iter().chain(&ops.add));
        values.find_map(|(_, value)| operators::refused(value)).map(|why| (self.source.clone(), why))
    }
}

/// What a request must be to fit a route: all of it.
#[derive(Debug, Clone, Default)]
pub struct RouteMatch {
    /// The path without query.
    pub path: PathMatch,
    /// Whether the path's case is disregarded.
    pub ignore_path_case: bool,
    /// Headers, and `:method`, `:authority`, `:scheme`.
    pub headers: Vec<HeaderMatch>,
    /// Parameters of the query.
    pub query: Vec<(String, TextMatch)>,
}

/// A condition on the path.
#[derive(Debug, Clone, Default)]
pub enum PathMatch {
    /// Any.
    #[default]
    Any,
    /// This path.
    Exact(String),
    /// A path that begins so.
    Prefix(String),
    /// This path, or one below it: `/a` takes `/a` and `/a/b`, not `/ab`.
    Below(String),
    /// A path that fits an expression as a whole.
    Regex(Pattern),
}

/// A condition on a header.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    /// Its name, in lower case.
    pub name: String,
    /// What its value must be.
    pub value: TextMatch,
    /// The condition is that this does not hold.
    pub not: bool,
    /// Whether the value's case is disregarded.
    pub ignore_case: bool,
}

/// What a route does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Sends it on.
    Forward(Box<Forward>),
    /// Sends the client elsewhere.
    Redirect(Redirect),
    /// Answers itself.
    Respond {
        /// The status.
        status: u16,
        /// Why there is nothing else to do; for the answer's detail. Empty where the configuration asked for it.
        reason: String,
    },
}

/// Where requests go.
#[derive(Debug, Clone, Default)]
pub struct Forward {
    /// Destinations by weight. Where all weights are 0 there is one, of weight 1.
    pub to: Vec<Weighted>,
    /// Changes of host and path.
    pub rewrite: Rewrite,
    /// Who gets a copy, and of how many percent.
    pub mirrors: Vec<(Destination, f64)>,
    /// The whole request's time in seconds; `None` is no limit.
    pub timeout: Option<f64>,
    /// Tries after the first one.
    pub retries: u32,
    /// Whether they are made after answers of the application, too, and not after failed connections alone.
    pub retries_answers: bool,
    /// One try's time in seconds.
    pub per_try_timeout: Option<f64>,
}

impl Forward {
    /// The longest that a request takes, in seconds: all its tries, or the whole time where that is shorter; none where
    /// nothing limits it.
    pub fn longest(&self) -> Option<f64> {
        let all = self.per_try_timeout.map(|each| each * (f64::from(self.retries) + 1.0));
        match (self.timeout, all) {
            (Some(whole), Some(all)) => Some(whole.min(all)),
            (whole, all) => whole.or(all),
        }
    }

    /// How often a request is sent in all that the application answers with a failure.
    pub fn tries_of_answers(&self) -> u64 {
        if self.retries_answers { u64::from(self.retries) + 1 } else { 1 }
    }
}

/// A destination with its share.
#[derive(Debug, Clone)]
pub struct Weighted {
    /// Where to.
    pub to: Destination,
    /// Its share, relative to the others.
    pub weight: u32,
    /// Changes of the request's headers for this destination.
    pub request_headers: HeaderOps,
    /// Changes of the response's headers.
    pub response_headers: HeaderOps,
    /// Changes of host and path for this destination.
    pub rewrite: Rewrite,
    /// Where it stands.
    pub source: ObjectRef,
}

impl Weighted {
    /// The only destination.
    pub fn whole(to: Destination, source: ObjectRef) -> Self {
        Weighted {
            to,
            weight: 1,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            rewrite: Rewrite::default(),
            source,
        }
    }
}

/// What a cluster stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// A host of the mesh's registry.
    Host {
        /// The full host: `checkout.shop.svc.cluster.local`, `api.example.com`.
        host: String,
        /// The subset; empty for none.
        subset: String,
        /// The host's port.
        port: u16,
    },
    /// Wherever the connection was going: `PassthroughCluster`, `InboundPassthroughCluster`, `AllowAnyDynamicDNSCluster`.
    Original(&'static str),
    /// The application beside the proxy: `inbound|8080||`, and where a Sidecar sends it instead.
    Local {
        /// The port at which the connection came in.
        port: u16,
    },
    /// Nowhere: `BlackHoleCluster`.
    BlackHole,
    /// A reference that leads nowhere: requests get this status, and the text says why.
    Broken(u16, String),
}

impl Destination {
    /// Envoy's name of the cluster, as Istio forms it.
    pub fn cluster(&self) -> String {
        match self {
            Destination::Host { host, subset, port } => format!("outbound|{port}|{subset}|{host}"),
            Destination::Original(name) => (*name).to_owned(),
            Destination::Local { port } => format!("inbound|{port}||"),
            Destination::BlackHole => "BlackHoleCluster".to_owned(),
            Destination::Broken(..) => String::new(),
        }
    }
}

/// Changes of host and path before a request is sent on.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// The Host header.
    pub host: Option<String>,
    /// The path.
    pub path: Option<PathRewrite>,
}

/// A change of the path; the query stays.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// All of it.
    Full(String),
    /// What the route's condition matched (the prefix, or all of it where the condition was exact or an expression).
    Matched(String),
    /// What an expression fits, by a substitution with `\1`.
    Regex(Pattern, String),
}

/// A redirect.
#[derive(Debug, Clone, Default)]
pub struct Redirect {
    /// The scheme; the request's own where absent.
    pub scheme: Option<String>,
    /// The host; the request's own where absent.
    pub host: Option<String>,
    /// The port; see [`super::rewrite::location`] for what absence means.
    pub port: Option<u16>,
    /// The path; the request's own where absent.
    pub path: Option<PathRewrite>,
    /// The status.
    pub status: u16,
}

/// Faults that a route puts in.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// Seconds, and the percentage of requests.
    pub delay: Option<(f64, f64)>,
    /// The status, and the percentage of requests.
    pub abort: Option<(u16, f64)>,
    /// Where it stands.
    pub source: ObjectRef,
}

/// Cross-origin requests.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    /// Origins that may.
    pub origins: Vec<TextMatch>,
    /// Headers of the answer to a preflight and to requests of such origins, by name.
    pub methods: Vec<String>,
    /// Request headers that are allowed.
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// For how long, in seconds.
    pub max_age: Option<u64>,
    /// Whether credentials are allowed.
    pub credentials: Option<bool>,
    /// Whether preflights of other origins are passed on to the backend.
    pub forward_not_matching: bool,
}
