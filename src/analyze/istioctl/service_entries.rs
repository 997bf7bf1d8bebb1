//! ServiceEntries: TCP without addresses, and one port with two protocols.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, SERVICE_ENTRY, full_name};
use super::hosts::{EVERYWHERE, scopes};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

/// IST0134. With the proxy's own name server and automatic addresses, set for the whole mesh, none are needed.
pub(super) fn addresses(context: &Context<'_>, out: &mut Messages) {
    let settings = context.istio().mesh_config.text_map("defaultConfig.proxyMetadata");
    let on = |name: &str| settings.get(name).is_some_and(|value| value == "true");
    let automatic = on("ISTIO_META_DNS_CAPTURE")
        && (on("ISTIO_META_DNS_AUTO_ALLOCATE") || on("PILOT_ENABLE_IP_AUTOALLOCATE"));
    if automatic {
        return;
    }
    for entry in context.all(SERVICE_ENTRY) {
        if !entry.body.list("spec.addresses").is_empty() || !entry.body.list("status.addresses").is_empty() {
            continue;
        }
        for (index, port) in entry.body.list("spec.ports").iter().enumerate() {
            let protocol = port.string("protocol");
            if protocol.is_empty() || protocol.eq_ignore_ascii_case("tcp") {
                let field = format!("spec.ports[{index}].name");
                out.push("IST0134", entry, &field, "a port is TCP, and there are no addresses to know it by");
            }
        }
    }
}

/// A scope, a host and a port of it.
type Place = (String, String, i64);

/// IST0177, once for each ServiceEntry.
pub(super) fn protocols(context: &Context<'_>, out: &mut Messages) {
    let mut index: BTreeMap<Place, Vec<(String, &Object)>> = BTreeMap::new();
    for entry in context.all(SERVICE_ENTRY) {
        for scope in scopes(&entry.body.texts("spec.exportTo"), entry.namespace()) {
            for host in entry.body.texts("spec.hosts") {
                for port in entry.body.list("spec.ports") {
                    let key = (scope.clone(), host.clone(), port.int("number").unwrap_or_default());
                    index.entry(key).or_default().push((port.string("protocol").to_uppercase(), entry));
                }
            }
        }
    }
    let mut said = BTreeSet::new();
    for ((scope, host, port), own) in &index {
        let everywhere = (scope != EVERYWHERE).then(|| (EVERYWHERE.to_owned(), host.clone(), *port));
        let seen_too = everywhere.and_then(|key| index.get(&key));
        let entries: Vec<_> = own.iter().chain(seen_too.into_iter().flatten()).collect();
        let protocols: BTreeSet<&str> = entries.iter().map(|(protocol, _)| protocol.as_str()).collect();
        if protocols.len() < 2 {
            continue;
        }
        let names: BTreeSet<String> = entries.iter().map(|(_, entry)| full_name(entry)).collect();
        for (_, entry) in entries {
            if said.insert(full_name(entry)) {
                let text = format!("{names:?} give port {port} of {host} the protocols {protocols:?}")
                    .replace(['{', '}'], "");
                out.push("IST0177", entry, "metadata.name", text);
            }
        }
    }
}
