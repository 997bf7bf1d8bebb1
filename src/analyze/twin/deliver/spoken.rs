//! What a proxy speaks to a destination: the TLS that it wraps the connection in, and the version of HTTP.

use crate::model::json::Value;

use super::{Leg, Share, backend_tls};
use crate::analyze::twin::answer::{Answer, Step};
use crate::analyze::twin::endpoints::Endpoint;
use crate::analyze::twin::istio::destination_rule::Applying;
use crate::analyze::twin::istio::scope::Scope;
use crate::analyze::twin::policy::ClientTls;
use crate::analyze::twin::registry::Host;
use crate::model::fields::Fields;
use crate::model::network::Service;
use crate::model::selector::Labels;

impl Leg<'_, '_, '_> {
    /// What the proxy wraps the connection in, by the DestinationRule.
    pub(super) fn client_tls(
        &self,
        rules: Option<&Applying<'_>>,
        subset: &str,
        port: u16,
        answer: &mut Answer,
    ) -> ClientTls {
        let Some((at, tls)) = rules.and_then(|rules| rules.policy(subset, port, "tls")) else {
            return ClientTls::Auto;
        };
        let mode = tls.text("mode").unwrap_or("DISABLE");
        // Certificates out of Secrets are for gateways, and for the sidecars that a rule picks by their labels.
        let secret = tls.text("credentialName").filter(|name| !name.starts_with("configmap://"));
        let of_sidecar = self.scope.is_some_and(Scope::is_sidecars);
        let picked = rules.is_some_and(Applying::picks_clients);
        if matches!(mode, "SIMPLE" | "MUTUAL")
            && secret.is_some_and(|name| !name.is_empty())
            && of_sidecar
            && !picked
        {
            let at = at.field(format!("{}.credentialName", at.field_path));
            let said = format!(
                "sidecars get no certificates by credentialName unless the rule has a workloadSelector: {mode} becomes plaintext"
            );
            answer.steps.push(Step::by(&at, said));
            return ClientTls::Disable;
        }
        answer.steps.push(Step::by(&at, format!("the proxy's TLS mode to it is {mode}")));
        match mode {
            "ISTIO_MUTUAL" => ClientTls::IstioMutual,
            "SIMPLE" | "MUTUAL" => ClientTls::Originate,
            _ => ClientTls::Disable,
        }
    }

    /// Whether the proxy speaks HTTP/2 to a port of HTTP: as a DestinationRule says, else the mesh.
    pub(super) fn upgraded(
        &self,
        host: &Host<'_>,
        rules: Option<&Applying<'_>>,
        (subset, port): (&str, u16),
        answer: &mut Answer,
    ) -> bool {
        const FIELD: &str = "http.h2UpgradePolicy";
        let pool = rules.and_then(|rules| rules.policy(subset, port, "connectionPool"));
        let own = pool.and_then(|(at, pool)| Some((at, pool.text(FIELD)?)));
        match own {
            Some((at, "UPGRADE")) => {
                let at = at.field(format!("{}.{FIELD}", at.field_path));
                answer.steps.push(Step::by(&at, "the proxy speaks HTTP/2 to it"));
                true
            }
            Some((_, "DO_NOT_UPGRADE")) => false,
            _ => {
                let mesh = self.twin.snapshot.istio.mesh_config.text("h2UpgradePolicy") == Some("UPGRADE");
                mesh && host.port(port).is_some_and(|own| own.protocol.is_http())
            }
        }
    }

    /// What a BackendTLSPolicy of the host says, unless a DestinationRule beside the client, or one that sets a policy beside the
    /// host, comes before it. `Err`: it lets no connection come about.
    pub(super) fn backend_tls(
        &self,
        host: &Host<'_>,
        rules: Option<&Applying<'_>>,
        port: u16,
        answer: &mut Answer,
    ) -> Option<Result<ClientTls, Share>> {
        let rule = rules.and_then(Applying::reference);
        let of_host = rule.is_none_or(|rule| rule.namespace == host.namespace);
        if !of_host || rules.is_some_and(|rules| rules.policy("", port, "tls").is_some()) {
            return None;
        }
        let found = backend_tls::of(self.twin.snapshot, host, port)?;
        let Some((field, why)) = found.broken else {
            let said = format!("the proxy speaks TLS to it and expects a certificate for {}", found.hostname);
            answer.steps.push(Step::by(&found.policy.field("spec.validation.hostname"), said));
            return Some(Ok(ClientTls::Originate));
        };
        let why = format!(
            "{} lets no certificate be verified, so that every connection fails: {why}",
            found.policy
        );
        answer.steps.push(Step::by(&found.policy.field(field), why.clone()));
        Some(Err(Share::Failed { status: self.routing.is_some().then_some(503), flag: "UF", why }))
    }

    /// What a proxy chooses for the pods of a headless Service: it knows no pod by itself, so that it speaks mutual TLS to all
    /// of them, where all have a proxy, or to none. PeerAuthentications for some workloads do not count.
    pub(super) fn tls_to_all(&self, service: &Service, pods: &[Endpoint<'_>]) -> ClientTls {
        let istio = &self.twin.snapshot.istio;
        if istio.mesh_config.at("enableAutoMtls").and_then(Value::as_bool) == Some(false) {
            return ClientTls::Auto;
        }
        let (mode, _) = istio.peer_mode(service.object.namespace(), &Labels::new(), None);
        let all = pods.iter().all(|endpoint| endpoint.party.proxy);
        if all && mode != "DISABLE" { ClientTls::IstioMutual } else { ClientTls::Disable }
    }
}

/// The server name that a proxy's own TLS carries: what the DestinationRule says, else what stands for the cluster.
pub(super) fn server_name(rules: Option<&Applying<'_>>, (host, subset, port): (&str, &str, u16)) -> String {
    let tls = rules.and_then(|rules| rules.policy(subset, port, "tls"));
    let own = tls.and_then(|(_, tls)| tls.text("sni")).filter(|sni| !sni.is_empty());
    own.map_or_else(|| format!("outbound_.{port}_.{subset}_.{host}"), str::to_owned)
}

impl<'l, 'a, 'p> Leg<'l, 'a, 'p> {
    /// The same leg, where the proxy accepts these identities, unless a DestinationRule named others before.
    pub(super) fn expecting<'s>(self, names: &'s [String]) -> Leg<'s, 'a, 'p>
    where
        'l: 's,
    {
        let expects = if self.expects.is_empty() { names } else { self.expects };
        Leg { expects, ..self }
    }
}

/// The identities that a DestinationRule names for the other side (`subjectAltNames`).
pub(super) fn names(rules: Option<&Applying<'_>>, subset: &str, port: u16) -> Vec<String> {
    let tls = rules.and_then(|rules| rules.policy(subset, port, "tls"));
    tls.map(|(_, tls)| tls.texts("subjectAltNames")).unwrap_or_default()
}
