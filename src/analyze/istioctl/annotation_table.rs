//! The annotations that Istio knows: how settled each is, whether it is on its way out, and what it belongs on.

/// How settled an annotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::analyze) enum Stage {
    Alpha,
    Beta,
    Stable,
}

/// One annotation.
#[derive(Debug)]
pub(in crate::analyze) struct Annotation {
    pub(in crate::analyze) name: &'static str,
    pub(in crate::analyze) stage: Stage,
    pub(in crate::analyze) deprecated: bool,
    /// Kinds, or `Any`.
    pub(in crate::analyze) on: &'static [&'static str],
}

const fn known(name: &'static str, stage: Stage, on: &'static [&'static str]) -> Annotation {
    Annotation { name, stage, deprecated: false, on }
}

const fn retired(name: &'static str, stage: Stage, on: &'static [&'static str]) -> Annotation {
    Annotation { name, stage, deprecated: true, on }
}

use Stage::{Alpha, Beta, Stable};

/// All of them, as of Istio's API 1.31.
pub(in crate::analyze) const ANNOTATIONS: &[Annotation] = &[
    retired("alpha.istio.io/canonical-serviceaccounts", Alpha, &["Service"]),
    retired("alpha.istio.io/kubernetes-serviceaccounts", Alpha, &["Service"]),
    known("ambient.istio.io/bypass-inbound-capture", Alpha, &["Pod"]),
    known("ambient.istio.io/dns-capture", Alpha, &["Pod"]),
    known("ambient.istio.io/redirection", Beta, &["Pod"]),
    known("ambient.istio.io/waypoint-inbound-binding", Alpha, &["GatewayClass", "Gateway"]),
    known("galley.istio.io/analyze-suppress", Alpha, &["Any"]),
    known("gateway.istio.io/controller-version", Alpha, &["Any"]),
    known("gateway.istio.io/name-override", Alpha, &["Gateway"]),
    known("gateway.istio.io/service-account", Alpha, &["Gateway"]),
    known("inject.istio.io/templates", Alpha, &["Pod"]),
    known("istio.io/autoRegistrationGroup", Alpha, &["WorkloadEntry"]),
    known("istio.io/connectedAt", Alpha, &["WorkloadEntry"]),
    known("istio.io/disconnectedAt", Alpha, &["WorkloadEntry"]),
    known("istio.io/dry-run", Alpha, &["AuthorizationPolicy"]),
    known("istio.io/reroute-virtual-interfaces", Alpha, &["Pod"]),
    known("istio.io/rev", Alpha, &["Pod"]),
    known("istio.io/use-waypoint-canary-weight", Alpha, &["Service", "ServiceEntry", "Namespace"]),
    known("istio.io/workloadController", Alpha, &["WorkloadEntry"]),
    known("kubernetes.io/ingress.class", Stable, &["Ingress"]),
    known("networking.istio.io/exportTo", Alpha, &["Service"]),
    known("networking.istio.io/service-type", Alpha, &["Gateway"]),
    known("networking.istio.io/traffic-distribution", Alpha, &["Namespace", "Service", "ServiceEntry"]),
    known("prometheus.istio.io/merge-metrics", Alpha, &["Pod"]),
    known("proxy.istio.io/config", Beta, &["Pod"]),
    known("proxy.istio.io/overrides", Alpha, &["Pod"]),
    known("readiness.status.sidecar.istio.io/applicationPorts", Alpha, &["Pod"]),
    known("readiness.status.sidecar.istio.io/failureThreshold", Alpha, &["Pod"]),
    known("readiness.status.sidecar.istio.io/initialDelaySeconds", Alpha, &["Pod"]),
    known("readiness.status.sidecar.istio.io/periodSeconds", Alpha, &["Pod"]),
    known("sidecar.istio.io/agentLogLevel", Alpha, &["Pod"]),
    known("sidecar.istio.io/bootstrapOverride", Alpha, &["Pod"]),
    known("sidecar.istio.io/componentLogLevel", Alpha, &["Pod"]),
    retired("sidecar.istio.io/discoveryAddress", Alpha, &["Pod"]),
    retired("sidecar.istio.io/extraStatTags", Alpha, &["Pod"]),
    retired("sidecar.istio.io/inject", Beta, &["Pod"]),
    known("sidecar.istio.io/interceptionMode", Alpha, &["Pod"]),
    known("sidecar.istio.io/logLevel", Alpha, &["Pod"]),
    known("sidecar.istio.io/nativeSidecar", Alpha, &["Pod"]),
    known("sidecar.istio.io/proxyCPU", Alpha, &["Pod"]),
    known("sidecar.istio.io/proxyCPULimit", Alpha, &["Pod"]),
    known("sidecar.istio.io/proxyImage", Alpha, &["Pod"]),
    known("sidecar.istio.io/proxyImageType", Alpha, &["Pod"]),
    known("sidecar.istio.io/proxyMemory", Alpha, &["Pod"]),
    known("sidecar.istio.io/proxyMemoryLimit", Alpha, &["Pod"]),
    known("sidecar.istio.io/rewriteAppHTTPProbers", Alpha, &["Pod"]),
    retired("sidecar.istio.io/statsCompression", Alpha, &["Pod"]),
    known("sidecar.istio.io/statsEvictionInterval", Alpha, &["Pod"]),
    known("sidecar.istio.io/statsFlushInterval", Alpha, &["Pod"]),
    known("sidecar.istio.io/statsHistogramBins", Alpha, &["Pod"]),
    known("sidecar.istio.io/statsHistogramBuckets", Alpha, &["Pod"]),
    retired("sidecar.istio.io/statsInclusionPrefixes", Alpha, &["Pod"]),
    retired("sidecar.istio.io/statsInclusionRegexps", Alpha, &["Pod"]),
    retired("sidecar.istio.io/statsInclusionSuffixes", Alpha, &["Pod"]),
    known("sidecar.istio.io/status", Alpha, &["Pod"]),
    known("sidecar.istio.io/userVolume", Alpha, &["Pod"]),
    known("sidecar.istio.io/userVolumeMount", Alpha, &["Pod"]),
    known("status.sidecar.istio.io/port", Alpha, &["Pod"]),
    known("topology.istio.io/controlPlaneClusters", Alpha, &["Namespace"]),
    known("traffic.istio.io/nodeSelector", Stable, &["Service"]),
    known("traffic.sidecar.istio.io/excludeInboundPorts", Alpha, &["Pod"]),
    known("traffic.sidecar.istio.io/excludeInterfaces", Alpha, &["Pod"]),
    known("traffic.sidecar.istio.io/excludeOutboundIPRanges", Alpha, &["Pod"]),
    known("traffic.sidecar.istio.io/excludeOutboundPorts", Alpha, &["Pod"]),
    known("traffic.sidecar.istio.io/includeInboundPorts", Alpha, &["Pod"]),
    known("traffic.sidecar.istio.io/includeOutboundIPRanges", Alpha, &["Pod"]),
    known("traffic.sidecar.istio.io/includeOutboundPorts", Alpha, &["Pod"]),
    retired("traffic.sidecar.istio.io/kubevirtInterfaces", Alpha, &["Pod"]),
];

/// What is known of an annotation.
pub(in crate::analyze) fn find(name: &str) -> Option<&'static Annotation> {
    ANNOTATIONS.iter().find(|annotation| annotation.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_each_once() {
        assert!(ANNOTATIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
