//! Who stands behind a destination: the Service, or a host outside.

use super::Twin;
use super::answer::Backend;
use super::http::table::{Destination, Weighted};
use super::istio::scope::{Known, Scope};
use super::party::Party;
use super::registry::Origin;
use crate::model::mesh::istio::{CLUSTER_DOMAIN, service_of_host};
use crate::model::network::Service;

/// The backends of weighted destinations; those of one Service, subset and port are added up.
pub(super) fn backends<'a>(
    twin: &Twin<'a>,
    scope: Option<&Scope<'a>>,
    to: &[Weighted],
    client: &str,
) -> Vec<Backend> {
    let named = to.iter().filter(|weighted| weighted.weight > 0).filter_map(|weighted| {
        of(twin, scope, &weighted.to, client).map(|backend| Backend { weight: weighted.weight, ..backend })
    });
    added_up(named.collect())
}

/// Those of one Service, subset and port added up.
pub(super) fn added_up(all: Vec<Backend>) -> Vec<Backend> {
    let mut out: Vec<Backend> = vec![];
    for backend in all {
        let same = |known: &&mut Backend| {
            (&known.namespace, &known.service, known.port, &known.subset)
                == (&backend.namespace, &backend.service, backend.port, &backend.subset)
        };
        match out.iter_mut().find(same) {
            Some(known) => known.weight = known.weight.saturating_add(backend.weight),
            None => out.push(backend),
        }
    }
    out
}

/// Who stands behind one destination; none where it is no host of the mesh's.
pub(super) fn of<'a>(
    twin: &Twin<'a>,
    scope: Option<&Scope<'a>>,
    to: &Destination,
    client: &str,
) -> Option<Backend> {
    let Destination::Host { host, subset, port } = to else { return None };
    let (namespace, service) = match find(twin, scope, (host, *port), client).map(|known| known.host.origin) {
        Some(Origin::Service(service)) => {
            (service.object.namespace().to_owned(), service.object.name().to_owned())
        }
        _ => match service_of_host(host).filter(|_| host.ends_with(&format!(".svc.{CLUSTER_DOMAIN}"))) {
            Some((namespace, name)) => (namespace, name),
            None => (String::new(), host.clone()),
        },
    };
    Some(Backend { namespace, service, port: *port, subset: subset.clone(), weight: 1, pods: vec![] })
}

/// A Service as a backend.
pub(super) fn of_service(service: &Service, port: u16) -> Backend {
    Backend {
        namespace: service.object.namespace().to_owned(),
        service: service.object.name().to_owned(),
        port,
        weight: 1,
        ..Backend::default()
    }
}

/// A pod that is called at its own address as a backend.
pub(super) fn of_party(party: &Party<'_>, port: u16) -> Backend {
    Backend {
        namespace: party.namespace().to_owned(),
        service: party.reference.name.clone(),
        port,
        weight: 1,
        ..Backend::default()
    }
}

/// A backend in words: `shop/checkout:80 subset v2`.
pub(super) fn name(backend: &Backend) -> String {
    let place = if backend.namespace.is_empty() { String::new() } else { format!("{}/", backend.namespace) };
    let subset =
        if backend.subset.is_empty() { String::new() } else { format!(" subset {}", backend.subset) };
    format!("{place}{}:{}{subset}", backend.service, backend.port)
}

/// The host of a destination as a proxy knows it; without a proxy of Istio's as its namespace sees it.
pub(super) fn find<'t, 'a>(
    twin: &'t Twin<'a>,
    scope: Option<&Scope<'a>>,
    (name, port): (&str, u16),
    client: &str,
) -> Option<Known<'t, 'a>> {
    let Some(scope) = scope else {
        let host = twin.registry.find_with_port(name, client, port);
        let host = host.or_else(|| twin.registry.pattern_for(name, client))?;
        let with_port = host.port(port).is_some();
        return Some(Known { host, with_port, only_port: host.only_port() });
    };
    scope.known(twin, name, port)
}
