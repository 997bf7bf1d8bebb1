//! DestinationRules: servers whose certificate nobody checks, subsets that select nothing, hosts that nobody knows.

use std::collections::BTreeMap;

use super::context::{Context, DESTINATION_RULE, NODE, covers};
use super::hosts::Registry;
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;

/// IST0128 and IST0129: TLS is begun, and no certificate authority is named to check the server by.
pub(super) fn certificates(context: &Context<'_>, out: &mut Messages) {
    for rule in context.all(DESTINATION_RULE) {
        let body = &rule.body;
        // A client that a selector names takes the authority from the credential's Secret.
        let selects = body.at("spec.workloadSelector").is_some();
        let host = body.string("spec.host");
        let unchecked = |at: &str| {
            let tls = |field: &str| crate::model::path::find(body, &format!("{at}.tls.{field}"))?.as_str();
            let mode = tls("mode").filter(|mode| matches!(*mode, "SIMPLE" | "MUTUAL"))?;
            let given = |field: &str| tls(field).is_some_and(|value| !value.is_empty());
            (!(given("caCertificates") || given("credentialName") && selects)).then(|| mode.to_owned())
        };
        if let Some(mode) = unchecked("spec.trafficPolicy") {
            let text =
                format!("TLS mode {mode} without caCertificates: the certificate of {host} is not checked");
            out.push("IST0128", rule, "spec.trafficPolicy.tls.caCertificates", text);
        }
        for (index, entry) in body.list("spec.trafficPolicy.portLevelSettings").iter().enumerate() {
            let at = format!("spec.trafficPolicy.portLevelSettings[{index}]");
            if let Some(mode) = unchecked(&at) {
                let port = entry.int("port.number").unwrap_or_default();
                let text = format!(
                    "TLS mode {mode} without caCertificates: the certificate of {host} at port {port} is not checked"
                );
                out.push("IST0129", rule, &format!("{at}.tls.caCertificates"), text);
            }
        }
    }
}

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const HOST_NAME: &str = "kubernetes.io/hostname";

/// IST0173 and IST0174. A subset's labels, with those that the host's ServiceEntry selects by, are looked for on the pods of all
/// namespaces, each with the labels that Istio gives it for the place where it runs. A Service's selector is not looked at.
pub(super) fn subsets(context: &Context<'_>, out: &mut Messages) {
    let registry = Registry::read(context);
    let places = places(context);
    for rule in context.all(DESTINATION_RULE) {
        let host = rule.body.string("spec.host");
        let export_to = rule.body.texts("spec.exportTo");
        let Some(destination) = registry.find(rule.namespace(), &export_to, &host) else {
            out.push("IST0174", rule, "", format!("host {host:?} is no Service and no ServiceEntry"));
            continue;
        };
        // Of two subsets with one name the later one counts.
        let subsets: BTreeMap<String, Labels> = rule
            .body
            .list("spec.subsets")
            .iter()
            .map(|subset| (subset.string("name"), subset.text_map("labels")))
            .collect();
        for (name, own) in subsets {
            let mut wanted = destination.workload_labels();
            wanted.extend(own);
            if !selects(context, &places, &wanted) {
                out.push("IST0173", rule, "", format!("subset {name:?} selects no pod"));
            }
        }
    }
}

/// What Istio adds to the labels of the pods on each node.
fn places<'a>(context: &Context<'a>) -> BTreeMap<&'a str, Labels> {
    let of_node = |node: &'a Object| {
        // A zone counts in a region, and a subzone in a zone: each ends at the first that is empty.
        let label = |key: &str| node.labels.get(key).filter(|value| !value.is_empty()).map(str::to_owned);
        let mut labels = Labels::new();
        let (region, zone) = (label(REGION), label(ZONE));
        labels.extend(region.map(|value| (REGION.to_owned(), value)));
        if let Some(zone) = zone {
            labels.insert(ZONE.to_owned(), zone);
            labels.extend(label(SUBZONE).map(|value| (SUBZONE.to_owned(), value)));
        }
        (node.name(), labels)
    };
    context.all(NODE).map(of_node).collect()
}

fn selects(context: &Context<'_>, places: &BTreeMap<&str, Labels>, wanted: &Labels) -> bool {
    let of_place = [REGION, ZONE, SUBZONE, HOST_NAME];
    let own: Labels = wanted.iter().filter(|(key, _)| !of_place.contains(key)).collect();
    if own.len() == wanted.len() {
        return !context.pods_with(wanted).is_empty();
    }
    context.pods_with(&own).into_iter().any(|pod| {
        let mut labels = pod.labels.clone();
        let node = pod.body.string("spec.nodeName");
        labels.extend(places.get(node.as_str()).cloned().unwrap_or_default());
        if !node.is_empty() {
            labels.insert(HOST_NAME.to_owned(), node);
        }
        covers(wanted, &labels)
    })
}
