//! Whether what the client speaks and what the destination takes fit: PeerAuthentication against plaintext and TLS.

use crate::analyze::twin::ask::Tls;
use crate::analyze::twin::policy::ClientTls;

/// What stands at the destination's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// No proxy: the application itself.
    Application,
    /// A proxy that takes plaintext only.
    Disable,
    /// A proxy that takes plaintext and mutual TLS.
    Permissive,
    /// A proxy that takes mutual TLS only.
    Strict,
}

impl Server {
    /// From the effective mode of a PeerAuthentication.
    pub fn of_mode(mode: &str) -> Self {
        match mode {
            "STRICT" => Server::Strict,
            "DISABLE" => Server::Disable,
            _ => Server::Permissive,
        }
    }

    /// Whether a proxy that chooses for itself speaks mutual TLS to it.
    pub fn takes_mutual_tls(self) -> bool {
        matches!(self, Server::Permissive | Server::Strict)
    }
}

/// How the handshake ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handshake {
    /// Both sides know each other by their certificates.
    Mutual,
    /// Bytes in plaintext, which the destination's proxy reads where there is one.
    Plaintext,
    /// TLS that is none of the mesh's: the destination's proxy passes the bytes on as they are.
    Opaque,
    /// The connection fails. A proxy at the source answers 503 with this flag and detail.
    Failed {
        /// Envoy's response flag.
        flag: &'static str,
        /// Envoy's response code details.
        detail: &'static str,
        /// A sentence.
        said: &'static str,
    },
    /// Cannot be known, and why.
    Unknown(&'static str),
}

/// Strict mutual TLS closes a connection that does not begin with TLS.
const PLAINTEXT_TO_STRICT: Handshake = Handshake::Failed {
    flag: "UC",
    detail: "upstream_reset_before_response_started{connection_termination}",
    said: "plaintext meets STRICT mutual TLS: no filter chain takes it, and the connection is closed",
};

/// TLS meets somebody who speaks plaintext.
const TLS_TO_PLAINTEXT: Handshake = Handshake::Failed {
    flag: "UF",
    detail: "upstream_reset_before_response_started{remote_connection_failure|TLS_error:WRONG_VERSION_NUMBER}",
    said: "TLS meets a server that speaks plaintext: the handshake fails (WRONG_VERSION_NUMBER)",
};

/// TLS without a certificate of the mesh meets strict mutual TLS.
const NO_CERTIFICATE: Handshake = Handshake::Failed {
    flag: "UF",
    detail: "upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
    said: "TLS without a certificate of the mesh meets STRICT mutual TLS: the handshake fails",
};

/// The server's certificate is of the mesh, and names somebody else than the client's proxy expects.
pub const SOMEBODY_ELSE: Handshake = Handshake::Failed {
    flag: "UF",
    detail: "upstream_reset_before_response_started{remote_connection_failure|TLS_error:CERTIFICATE_VERIFY_FAILED}",
    said: "the certificate names an identity that the proxy does not expect there: the handshake fails (CERTIFICATE_VERIFY_FAILED)",
};

/// How a client and a server get on. `auto`: whether proxies choose mutual TLS for themselves (`enableAutoMtls`).
pub fn shake(client: &ClientTls, server: Server, auto: bool) -> Handshake {
    use Server::{Application, Disable, Permissive, Strict};
    match client {
        ClientTls::Auto if auto && server.takes_mutual_tls() => Handshake::Mutual,
        ClientTls::Auto | ClientTls::Disable | ClientTls::AsSent(Tls::Plaintext) => match server {
            Strict => PLAINTEXT_TO_STRICT,
            Application | Disable | Permissive => Handshake::Plaintext,
        },
        ClientTls::IstioMutual | ClientTls::AsSent(Tls::Mtls) => match server {
            Permissive | Strict => Handshake::Mutual,
            Application | Disable => TLS_TO_PLAINTEXT,
        },
        // The application's own TLS, end to end.
        ClientTls::AsSent(Tls::Tls) => match server {
            Strict => NO_CERTIFICATE,
            Application | Disable | Permissive => Handshake::Opaque,
        },
        ClientTls::Originate => match server {
            Strict => NO_CERTIFICATE,
            Application | Disable | Permissive => {
                Handshake::Unknown("whether the application serves TLS itself is not known")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_meets_every_server() {
        const SERVERS: [Server; 4] =
            [Server::Application, Server::Disable, Server::Permissive, Server::Strict];
        let word = |handshake: &Handshake| match handshake {
            Handshake::Mutual => "mutual",
            Handshake::Plaintext => "plain",
            Handshake::Opaque => "opaque",
            Handshake::Failed { flag, .. } => flag,
            Handshake::Unknown(_) => "?",
        };
        for (client, row) in [
            (ClientTls::Auto, ["plain", "plain", "mutual", "mutual"]),
            (ClientTls::Disable, ["plain", "plain", "plain", "UC"]),
            (ClientTls::AsSent(Tls::Plaintext), ["plain", "plain", "plain", "UC"]),
            (ClientTls::AsSent(Tls::Tls), ["opaque", "opaque", "opaque", "UF"]),
            (ClientTls::AsSent(Tls::Mtls), ["UF", "UF", "mutual", "mutual"]),
            (ClientTls::IstioMutual, ["UF", "UF", "mutual", "mutual"]),
            (ClientTls::Originate, ["?", "?", "?", "UF"]),
        ] {
            assert_eq!(SERVERS.map(|server| word(&shake(&client, server, true))), row, "{client:?}");
        }
        let without = SERVERS.map(|server| word(&shake(&ClientTls::Auto, server, false)));
        assert_eq!(without, ["plain", "plain", "plain", "UC"]);
    }
}
