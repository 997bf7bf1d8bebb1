//! Which connections of a pod go past its own proxy: the annotations that traffic redirection reads.

use core::net::IpAddr;

use crate::model::json::json;

use crate::analyze::remedy::{Remedy, Risk, pointer, pointer_segment};
use crate::model::cidr::Cidr;
use crate::model::workload::{PodTemplate, Workload};

const EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
const INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
const INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
const EXCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
const INCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";

/// An annotation that takes connections past the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past<'a> {
    /// Its key.
    pub annotation: &'static str,
    /// Its value.
    pub value: &'a str,
    /// The entry that takes them past, of a list that excludes; `None` of a list that lacks one.
    entry: Option<&'a str>,
}

impl Past<'_> {
    /// The annotation without its domain: `excludeInboundPorts`.
    pub fn short(&self) -> &'static str {
        self.annotation.rsplit('/').next().unwrap_or(self.annotation)
    }

    /// The workload with the annotation as it would have to be for `port` to reach the proxy: without the entry, with the port,
    /// or, of ranges, without the annotation, so that every address counts.
    pub fn remedy(&self, workload: &Workload, port: i64) -> Option<Remedy> {
        let annotations = workload.template_path("metadata.annotations");
        let path = format!("{}/{}", pointer(&annotations), pointer_segment(self.annotation));
        let (port, short) = (port.to_string(), self.short());
        let entries = entries(self.value);
        let (left, summary): (Vec<&str>, _) = match self.entry {
            Some(entry) => {
                (entries.filter(|e| *e != entry).collect(), format!("Take {entry} out of {short}"))
            }
            None if self.annotation == INCLUDE_OUTBOUND_RANGES => (vec![], format!("Remove {short}")),
            None => (entries.chain([port.as_str()]).collect(), format!("Add port {port} to {short}")),
        };
        let operation = if left.is_empty() {
            json!([{"op": "remove", "path": path}])
        } else {
            json!([{"op": "replace", "path": path, "value": left.join(",")}])
        };
        let summary =
            format!("{summary} of {}: its pods are made anew and their proxy takes it", workload.reference());
        Remedy::patch(&workload.object, &operation, summary).map(|remedy| remedy.risk(Risk::Medium))
    }
}

/// What takes connections to a pod's port past its proxy.
pub fn inbound(template: &PodTemplate, port: i64) -> Option<Past<'_>> {
    excluded(template, EXCLUDE_INBOUND_PORTS, |entry| entry.parse() == Ok(port)).or_else(|| {
        let value = value(template, INCLUDE_INBOUND_PORTS)?;
        let included = value.trim() == "*" || entries(value).any(|entry| entry.parse() == Ok(port));
        (!included).then_some(Past { annotation: INCLUDE_INBOUND_PORTS, value, entry: None })
    })
}

/// What takes a pod's connections to these addresses (a Service's) and this port past its proxy. Ports that are included count
/// beside the ranges, which are all addresses unless the annotation says otherwise.
pub fn outbound<'a>(template: &'a PodTemplate, addresses: &[String], port: i64) -> Option<Past<'a>> {
    let addresses: Vec<IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let within = |range: &str| {
        range == "*"
            || Cidr::parse(range)
                .is_some_and(|range| addresses.iter().any(|address| range.contains(*address)))
    };
    let named = |entry: &str| entry.parse() == Ok(port);
    excluded(template, EXCLUDE_OUTBOUND_PORTS, named)
        .or_else(|| excluded(template, EXCLUDE_OUTBOUND_RANGES, within))
        .or_else(|| {
            let value = value(template, INCLUDE_OUTBOUND_RANGES)?;
            let included = entries(value).any(within)
                || self::value(template, INCLUDE_OUTBOUND_PORTS)
                    .is_some_and(|ports| entries(ports).any(named));
            (!included && !addresses.is_empty()).then_some(Past {
                annotation: INCLUDE_OUTBOUND_RANGES,
                value,
                entry: None,
            })
        })
}

fn value<'a>(template: &'a PodTemplate, annotation: &str) -> Option<&'a str> {
    template.annotations.get(annotation)
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// An annotation that excludes, where an entry of it fits.
fn excluded<'a>(
    template: &'a PodTemplate,
    annotation: &'static str,
    fits: impl Fn(&str) -> bool,
) -> Option<Past<'a>> {
    let value = value(template, annotation)?;
    let entry = entries(value).find(|entry| fits(entry))?;
    Some(Past { annotation, value, entry: Some(entry) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(annotations: &[(&str, &str)]) -> PodTemplate {
        let key = |short: &str| format!("traffic.sidecar.istio.io/{short}");
        let annotations: crate::model::json::Map =
            annotations.iter().map(|(short, value)| (key(short), json!(value))).collect();
        PodTemplate::read(&std::sync::Arc::new(json!({"metadata": {"annotations": annotations}, "spec": {}})))
    }

    fn way(annotations: &[(&str, &str)]) -> Option<String> {
        outbound(&of(annotations), &["10.96.0.2".to_owned()], 80).map(|past| past.short().to_owned())
    }

    #[test]
    fn outbound_ports_that_are_included_exclude_no_others() {
        assert_eq!(way(&[("includeOutboundPorts", "443")]), None);
        let ranges = ("includeOutboundIPRanges", "10.200.0.0/16");
        assert_eq!(way(&[ranges]).as_deref(), Some("includeOutboundIPRanges"));
        assert_eq!(way(&[ranges, ("includeOutboundPorts", "443, 80")]), None);
        assert_eq!(way(&[("includeOutboundIPRanges", "")]).as_deref(), Some("includeOutboundIPRanges"));
        assert_eq!(way(&[("includeOutboundIPRanges", "10.96.0.0/12")]), None);
        assert_eq!(way(&[("includeOutboundIPRanges", "*")]), None);
    }

    #[test]
    fn what_is_excluded_counts_before_what_is_included() {
        let excluded = [("excludeOutboundIPRanges", "10.96.0.0/16"), ("includeOutboundPorts", "80")];
        assert_eq!(way(&excluded).as_deref(), Some("excludeOutboundIPRanges"));
        assert_eq!(way(&[("excludeOutboundPorts", "8080,80")]).as_deref(), Some("excludeOutboundPorts"));
        assert_eq!(
            way(&[("excludeOutboundPorts", "8080"), ("excludeOutboundIPRanges", "10.97.0.0/16")]),
            None
        );
    }

    #[test]
    fn inbound_ports_are_all_or_those_that_are_named() {
        let past = |annotations: &[(&str, &str)]| inbound(&of(annotations), 8080).map(|past| past.short());
        assert_eq!(past(&[("includeInboundPorts", "*")]), None);
        assert_eq!(past(&[("includeInboundPorts", "9090,8080")]), None);
        assert_eq!(past(&[("includeInboundPorts", "")]), Some("includeInboundPorts"));
        assert_eq!(past(&[("excludeInboundPorts", "8080")]), Some("excludeInboundPorts"));
        assert_eq!(past(&[]), None);
    }
}
