//! Who stands behind a destination: the Service and its pods.

use super::Twin;
use super::answer::Backend;
use super::http::table::{Destination, Weighted};
use super::registry::{Host, Origin};

/// The backends of weighted destinations; those of one Service, subset and port are added up.
pub(super) fn backends(twin: &Twin<'_>, to: &[Weighted], client: &str) -> Vec<Backend> {
    let mut out: Vec<Backend> = vec![];
    for weighted in to.iter().filter(|weighted| weighted.weight > 0) {
        let Some(backend) = of(twin, &weighted.to, client) else { continue };
        let same = |known: &&mut Backend| {
            known.namespace == backend.namespace
                && known.service == backend.service
                && known.port == backend.port
                && known.subset == backend.subset
        };
        match out.iter_mut().find(same) {
            Some(known) => known.weight = known.weight.saturating_add(weighted.weight),
            None => out.push(Backend { weight: weighted.weight, ..backend }),
        }
    }
    out
}

/// Who stands behind one destination; none where it is no host of the mesh's.
pub(super) fn of(twin: &Twin<'_>, to: &Destination, client: &str) -> Option<Backend> {
    let Destination::Host { host, subset, port } = to else { return None };
    let known = find(twin, host, client);
    let (namespace, service) = match known.map(|known| known.origin) {
        Some(Origin::Service(service)) => {
            (service.object.namespace().to_owned(), service.object.name().to_owned())
        }
        _ => match crate::model::mesh::istio::service_of_host(host)
            .filter(|_| host.ends_with(".svc.cluster.local"))
        {
            Some((namespace, name)) => (namespace, name),
            None => (String::new(), host.clone()),
        },
    };
    Some(Backend { namespace, service, port: *port, subset: subset.clone(), weight: 1, pods: vec![] })
}

/// The registry's host of a destination.
pub(super) fn find<'t, 'a>(twin: &'t Twin<'a>, host: &str, client: &str) -> Option<&'t Host<'a>> {
    twin.registry.find(host, client).or_else(|| twin.registry.pattern_for(host, client))
}
