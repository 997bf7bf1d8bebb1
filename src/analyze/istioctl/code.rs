//! The messages that istioctl has: their codes, names and levels.

use crate::analyze::finding::Severity;
use crate::analyze::rule::{Family, Meta};

const fn code(
    code: &'static str,
    aliases: &'static [&'static str],
    name: &'static str,
    severity: Severity,
    docs: &'static str,
) -> Meta {
    Meta { code, name, family: Family::Mesh, severity, needs: &[], aliases, docs }
}

/// All messages that an analysis of objects can give, ordered by code: what only a running cluster, several clusters or an upgrade
/// can bring about is not among them.
#[rustfmt::skip]
pub(super) static CODES: &[Meta] = &[
    code("IST0002", &["IST0002"], "deprecated", Severity::Warning, "A field, kind or provider that is on its way out of Istio."),
    code("IST0101", &["IST0101"], "referenced-resource-not-found", Severity::Error, "A reference to something that is not there: a host, a subset, a port, a gateway, a credential, pods of a selector, a namespace."),
    code("IST0102", &["IST0102"], "namespace-not-injected", Severity::Info, "A namespace whose labels do not say whether pods in it get a proxy."),
    code("IST0103", &["IST0103"], "pod-missing-proxy", Severity::Warning, "A pod without a proxy in a namespace that turns injection on."),
    code("IST0106", &["IST0106"], "schema-validation-error", Severity::Error, "An object that Istio's validation refuses."),
    code("IST0107", &["IST0107"], "misplaced-annotation", Severity::Warning, "An annotation of Istio's on a kind where it has no meaning."),
    code("IST0108", &["IST0108"], "unknown-annotation", Severity::Warning, "An annotation in Istio's name that Istio does not know."),
    code("IST0109", &["IST0109"], "conflicting-mesh-gateway-virtual-service-hosts", Severity::Error, "Several VirtualServices for one host inside the mesh."),
    code("IST0110", &["IST0110"], "conflicting-sidecar-workload-selectors", Severity::Error, "Several Sidecars that select one pod."),
    code("IST0111", &["IST0111"], "multiple-sidecars-without-workload-selectors", Severity::Error, "Several Sidecars for a whole namespace."),
    code("IST0112", &["IST0112"], "virtual-service-destination-port-selector-required", Severity::Error, "A destination with several ports of which none is named."),
    code("IST0116", &["IST0116"], "deployment-associated-to-multiple-services", Severity::Warning, "A Deployment behind several Services that use one port with different protocols."),
    code("IST0118", &["IST0118"], "port-name-is-not-under-naming-convention", Severity::Info, "A port of a Service whose name says no protocol."),
    code("IST0123", &["IST0123"], "namespace-multiple-injection-labels", Severity::Warning, "A namespace whose labels ask for two ways into the mesh at once."),
    code("IST0125", &["IST0125"], "invalid-annotation", Severity::Warning, "An annotation of Istio's with a value that it cannot have."),
    code("IST0126", &["IST0126"], "unknown-mesh-networks-service-registry", Severity::Error, "A mesh network that takes endpoints from a registry nobody knows."),
    code("IST0127", &["IST0127"], "no-matching-workloads-found", Severity::Warning, "An AuthorizationPolicy that is for no pod."),
    code("IST0128", &["IST0128"], "no-server-certificate-verification-destination-level", Severity::Warning, "TLS to a host whose certificate is not checked."),
    code("IST0129", &["IST0129"], "no-server-certificate-verification-port-level", Severity::Warning, "TLS to a port of a host whose certificate is not checked."),
    code("IST0130", &["IST0130"], "virtual-service-unreachable-rule", Severity::Warning, "A rule of a VirtualService that no request reaches."),
    code("IST0131", &["IST0131"], "virtual-service-ineffective-match", Severity::Info, "A match of a VirtualService that an earlier one covers."),
    code("IST0132", &["IST0132"], "virtual-service-host-not-found-in-gateway", Severity::Warning, "A VirtualService for hosts that its Gateway does not serve."),
    code("IST0133", &["IST0133"], "schema-warning", Severity::Warning, "A setting that Istio's validation warns of."),
    code("IST0134", &["IST0134"], "service-entry-addresses-required", Severity::Warning, "A TCP port of a ServiceEntry without addresses."),
    code("IST0135", &["IST0135"], "deprecated-annotation", Severity::Info, "An annotation of Istio's that is on its way out."),
    code("IST0136", &["IST0136"], "alpha-annotation", Severity::Info, "An annotation of Istio's whose meaning is not settled."),
    code("IST0137", &["IST0137"], "deployment-conflicting-ports", Severity::Warning, "A Deployment behind Services that lead to one of its ports from different ones."),
    code("IST0138", &["IST0138"], "gateway-duplicate-certificate", Severity::Warning, "One certificate on several Gateways of the same pods."),
    code("IST0139", &["IST0139"], "invalid-webhook", Severity::Error, "Webhooks of injectors that overlap, or call a Service that is not there."),
    code("IST0140", &["IST0140"], "ingress-route-rules-not-affected", Severity::Warning, "A route at a gateway that another VirtualService's subsets do not count for."),
    code("IST0144", &["IST0144"], "invalid-application-uid", Severity::Warning, "An application that runs as the proxy's user."),
    code("IST0145", &["IST0145"], "conflicting-gateways", Severity::Error, "Gateways that ask for one host on one port of the same pods."),
    code("IST0146", &["IST0146"], "image-auto-without-injection-warning", Severity::Warning, "A Deployment with a placeholder for the proxy's image that no injector will replace."),
    code("IST0147", &["IST0147"], "image-auto-without-injection-error", Severity::Error, "A pod that kept the placeholder for the proxy's image."),
    code("IST0148", &["IST0148"], "namespace-injection-enabled-by-default", Severity::Info, "A namespace without labels for an injector that is on by default."),
    code("IST0149", &["IST0149"], "jwt-claim-based-routing-without-request-authentication", Severity::Error, "Routing by claims of tokens that nobody reads."),
    code("IST0150", &["IST0150"], "external-name-service-type-invalid-port-name", Severity::Warning, "A port of an ExternalName Service whose name takes traffic away from others."),
    code("IST0151", &["IST0151"], "envoy-filter-uses-relative-operation", Severity::Warning, "An EnvoyFilter whose effect depends on the order in which filters came."),
    code("IST0152", &["IST0152"], "envoy-filter-uses-replace-operation-incorrectly", Severity::Error, "An EnvoyFilter that replaces what cannot be replaced."),
    code("IST0153", &["IST0153"], "envoy-filter-uses-add-operation-incorrectly", Severity::Error, "An EnvoyFilter that adds where adding is ignored."),
    code("IST0154", &["IST0154"], "envoy-filter-uses-remove-operation-incorrectly", Severity::Error, "An EnvoyFilter that removes where removing is ignored."),
    code("IST0155", &["IST0155"], "envoy-filter-uses-relative-operation-with-proxy-version", Severity::Warning, "An EnvoyFilter that an upgrade of proxies can leave out."),
    code("IST0157", &["IST0157"], "invalid-telemetry-provider", Severity::Warning, "Telemetry that sends access logs to no provider."),
    code("IST0158", &["IST0158"], "pods-istio-proxy-image-mismatch-in-namespace", Severity::Warning, "Proxies of another image than the injector puts in."),
    code("IST0159", &["IST0159"], "conflicting-telemetry-workload-selectors", Severity::Error, "Several Telemetries that select one pod."),
    code("IST0160", &["IST0160"], "multiple-telemetries-without-workload-selectors", Severity::Error, "Several Telemetries for a whole namespace."),
    code("IST0161", &["IST0161"], "invalid-gateway-credential", Severity::Error, "A Gateway's Secret without a key and a certificate that is valid."),
    code("IST0162", &["IST0162"], "gateway-port-not-defined-on-service", Severity::Warning, "A port of a Gateway that no Service leads to."),
    code("IST0163", &["IST0163"], "invalid-external-control-plane-config", Severity::Warning, "A webhook that cannot reach its control plane."),
    code("IST0164", &["IST0164"], "external-control-plane-address-is-not-a-hostname", Severity::Info, "A webhook that names its control plane by an address."),
    code("IST0165", &["IST0165"], "referenced-internal-gateway", Severity::Warning, "A VirtualService at a Gateway that Istio made for itself."),
    code("IST0166", &["IST0166"], "ineffective-selector", Severity::Warning, "A policy that selects pods which take policies by reference alone."),
    code("IST0167", &["IST0167"], "ineffective-policy", Severity::Warning, "A Sidecar where there are no sidecars."),
    code("IST0171", &["IST0171"], "negative-condition-status", Severity::Warning, "A condition that Istio wrote, and that is bad."),
    code("IST0173", &["IST0173"], "destination-rule-subset-not-select-pods", Severity::Error, "A subset without pods."),
    code("IST0174", &["IST0174"], "unknown-destination-rule-host", Severity::Warning, "A DestinationRule for a host that nobody knows."),
    code("IST0175", &["IST0175"], "jwks-uri-fetch-unrestricted", Severity::Warning, "A control plane that fetches keys from any address it is told."),
    code("IST0176", &["IST0176"], "gateway-api-crd-version-below-minimum", Severity::Warning, "A definition of the Gateway API that is too old for Istio."),
    code("IST0177", &["IST0177"], "conflicting-service-entry-protocol", Severity::Warning, "One port of one host with several protocols."),
];

/// What is known of a code.
pub(super) fn meta(code: &str) -> Option<&'static Meta> {
    CODES.binary_search_by(|meta| meta.code.cmp(code)).ok().and_then(|at| CODES.get(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_named_once() {
        assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert!(CODES.iter().all(|meta| meta.aliases == [meta.code]));
    }
}
