//! How a call failed, as its caller's client says it.

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The host answered that nothing listens there.
    Refused,
    /// The connection was never made: packets are dropped.
    ConnectTimeout,
    /// Nobody routes to the address.
    Unreachable,
    /// The name does not exist.
    NoSuchHost,
    /// The name exists and leads to no address: a Service without ready endpoints behind a headless name.
    NoAddresses,
    /// The resolver itself failed.
    Resolver,
    /// The peer closed an open connection.
    Reset,
    /// The handshake failed.
    Tls,
    /// TLS met plaintext, or HTTP/2 met something else.
    Scheme,
    /// The call was made and took longer than the caller waits.
    Timeout,
    /// The caller's own pool of connections had none to give.
    Pool,
    /// The server takes no more connections.
    TooMany,
    /// A message is larger than the side that reads it allows.
    TooLarge,
    /// The server closed the connection because its client pings too often.
    Pings,
    /// The server knows no such method.
    Unimplemented,
    /// An answer came, and it says no: the status.
    Status(u16),
}

impl Kind {
    /// A word for messages.
    pub fn words(self) -> String {
        match self {
            Kind::Refused => "connection refused",
            Kind::ConnectTimeout => "connection timed out",
            Kind::Unreachable => "no route to host",
            Kind::NoSuchHost => "no such host",
            Kind::NoAddresses => "the name leads to no address",
            Kind::Resolver => "name resolution failed",
            Kind::Reset => "connection reset",
            Kind::Tls => "TLS handshake failed",
            Kind::Scheme => "the two sides speak different protocols",
            Kind::Timeout => "timeout",
            Kind::Pool => "no free connection in the pool",
            Kind::TooMany => "too many connections",
            Kind::TooLarge => "message larger than the limit",
            Kind::Pings => "too many pings",
            Kind::Unimplemented => "no such gRPC method",
            Kind::Status(code) => return format!("status {code}"),
        }
        .to_owned()
    }

    /// What the words mean on the layer where they arise: the fact that tells it from its look-alikes.
    pub fn fact(self) -> &'static str {
        match self {
            Kind::Refused => {
                "the host answered with a reset: nothing listens on this port there, or the Service has no endpoint"
            }
            Kind::ConnectTimeout => {
                "the first packet was never answered: a policy, a firewall or a dead node drops it"
            }
            Kind::Unreachable => {
                "the network answered that nobody has this address: the pod is gone, or a rule rejects it"
            }
            Kind::NoSuchHost => "the name server works and says that this name does not exist",
            Kind::NoAddresses => "the name exists, and no ready endpoint stands behind it",
            Kind::Resolver => {
                "the name server did not answer or failed itself; this says nothing about the name"
            }
            Kind::Reset => {
                "the connection was open and the peer closed it: it restarted, drained, or closes idle connections first"
            }
            Kind::Tls => "both sides speak TLS and one does not accept the other's certificate",
            Kind::Scheme => "one side speaks TLS or HTTP/2 and the other does not",
            Kind::Timeout => {
                "the connection was made and the answer came too late: the callee, or what it waits for, is slow"
            }
            Kind::Pool => {
                "no connection was tried: the caller's own pool is empty, because calls take long or are not given back"
            }
            Kind::TooMany => "the server is up and refuses further connections",
            Kind::TooLarge => "the call arrived and its message exceeds a limit of the one who reads it",
            Kind::Pings => {
                "the server enforces a minimum time between keep-alive pings and the client is below it"
            }
            Kind::Unimplemented => {
                "a server answered that does not have this method: another version, or another server"
            }
            Kind::Status(429) => "the callee, or what stands before it, limits how much it takes",
            Kind::Status(502) => "something between the two could not get a valid answer from the callee",
            Kind::Status(503) => {
                "something between the two has nobody to send the call to, or the callee refuses work"
            }
            Kind::Status(504) => "something between the two waited in vain for the callee",
            Kind::Status(code) if code >= 500 => "the call arrived and the callee failed it",
            Kind::Status(_) => "the call arrived and the callee does not accept it",
        }
    }

    /// Words and Envoy flags with which proxies and rules name the same failure.
    pub fn flags(self) -> Vec<&'static str> {
        match self {
            Kind::Refused => vec!["refused", "UF"],
            Kind::ConnectTimeout => vec!["timeout", "connect_timeout", "UF"],
            Kind::Unreachable => vec!["unreachable", "UF"],
            Kind::NoSuchHost | Kind::Resolver => vec!["dns"],
            Kind::NoAddresses => vec!["dns", "UH"],
            Kind::Reset | Kind::Pings => vec!["reset", "UC"],
            Kind::Tls | Kind::Scheme => vec!["tls"],
            Kind::Timeout => vec!["timeout", "slow", "UT"],
            Kind::Pool => vec!["pool"],
            Kind::TooMany => vec!["too_many_connections"],
            Kind::TooLarge => vec!["too_large"],
            Kind::Unimplemented => vec!["404", "unimplemented"],
            Kind::Status(code) if code >= 500 => vec!["5xx"],
            Kind::Status(404) => vec!["404"],
            Kind::Status(429) => vec!["429"],
            Kind::Status(403) => vec!["rbac", "403"],
            Kind::Status(401) => vec!["jwt", "401"],
            Kind::Status(_) => vec!["4xx"],
        }
    }

    /// Whether it is about reaching somebody, and not about what he answered.
    pub fn is_of_connection(self) -> bool {
        matches!(
            self,
            Kind::Refused
                | Kind::ConnectTimeout
                | Kind::Unreachable
                | Kind::NoSuchHost
                | Kind::NoAddresses
                | Kind::Resolver
                | Kind::Timeout
                | Kind::Pool
                | Kind::TooMany
        )
    }
}
