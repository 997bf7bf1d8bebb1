//! What a file of a bundle is, told by its path alone.
//!
//! Paths are matched from their end, so it does not matter how many folders an archive wraps around the bundle, and the
//! layouts of other tools are read beside our own:
//!
//! - `kubectl cluster-info dump --output-directory`: `NAMESPACE/pods.json`, `NAMESPACE/POD/logs.txt`
//! - troubleshoot.sh support bundles: `cluster-resources/…`, `…/logs/NAMESPACE/POD/CONTAINER-previous.log`
//! - OpenShift must-gather: `namespaces/NAMESPACE/core/*.yaml`, `…/pods/POD/CONTAINER/CONTAINER/logs/current.log`
//! - `istioctl bug-report`: `cluster/k8s-resources`, `proxies/NAMESPACE/POD/proxy.log`, `istio/NAMESPACE/POD/…`

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// `meshscope.json`.
    Manifest,
    /// Kubernetes objects.
    Objects,
    /// The log of one container.
    Log { namespace: &'a str, pod: &'a str, container: &'a str, previous: bool },
    /// The logs of all containers of a pod in one file, as `kubectl cluster-info dump` writes them.
    DumpedLogs { namespace: &'a str, pod: &'a str },
    /// A response of Prometheus, unless its body says otherwise.
    Metrics { name: &'a str },
    /// A trace document, unless its body says otherwise.
    Traces { name: &'a str },
    /// An answer of a proxy's admin port.
    Proxy { namespace: &'a str, pod: &'a str, file: &'a str },
    /// An answer of a control plane.
    ControlPlane { pod: &'a str, file: &'a str },
    /// Nothing that the format names.
    Unknown,
}

/// The answers of a proxy that are read, by our name and by the names that `istioctl bug-report` gives them.
const PROXY_FILES: &[(&str, &str)] = &[
    ("config_dump.json", "config_dump.json"),
    ("clusters.json", "clusters.json"),
    ("certs.json", "certs.json"),
    ("server_info.json", "server_info.json"),
    ("stats.txt", "stats.txt"),
    ("listeners.json", "listeners.json"),
    ("config_dump", "config_dump.json"),
    ("certs", "certs.json"),
    ("server_info", "server_info.json"),
    ("stats", "stats.txt"),
];

fn proxy_file(name: &str) -> Option<&'static str> {
    PROXY_FILES.iter().find(|(known, _)| *known == name).map(|(_, ours)| *ours)
}

/// Whether the name is that of a YAML or JSON file.
pub(super) fn is_document(name: &str) -> bool {
    matches!(name.rsplit_once('.'), Some((_, "yaml" | "yml" | "json")))
}

/// Whether the name is that of an archive in a form that bundles are packed in.
pub(super) fn is_archive(name: &str) -> bool {
    [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|end| name.ends_with(end))
}

/// What the file at `path` is; `path` is relative and joined by `/`.
pub(super) fn place(path: &str) -> Place<'_> {
    let mut parts = [""; 8];
    let mut known = 0;
    for (slot, part) in parts.iter_mut().zip(path.rsplit('/')) {
        *slot = part;
        known += 1;
    }
    // parts[0] is the file, parts[1] its folder, and so on upwards.
    let [file, up1, up2, up3, up4, _, up6, _] = parts;
    if file == "meshscope.json" && known <= 2 {
        return Place::Manifest;
    }
    if let Some(log) = log(file, up1, up2, up3, up4, up6) {
        return log;
    }
    if let Some(file) = proxy_file(file).filter(|_| matches!(up3, "envoy" | "proxies")) {
        return Place::Proxy { namespace: up2, pod: up1, file };
    }
    if let Some(name) = file.strip_suffix(".json") {
        match () {
            () if up2 == "istiod" => return Place::ControlPlane { pod: up1, file },
            () if up1 == "metrics" => return Place::Metrics { name },
            () if up1 == "traces" => return Place::Traces { name },
            () => {}
        }
    }
    if is_document(file) || (file == "k8s-resources" && up1 == "cluster") {
        return Place::Objects;
    }
    Place::Unknown
}

fn log<'a>(
    file: &'a str,
    up1: &'a str,
    up2: &'a str,
    up3: &'a str,
    up4: &'a str,
    up6: &'a str,
) -> Option<Place<'a>> {
    if file == "logs.txt" && !up2.is_empty() {
        return Some(Place::DumpedLogs { namespace: up2, pod: up1 });
    }
    let name = file.strip_suffix(".log")?;
    if up3 == "logs" {
        let (container, previous) = match name.strip_suffix(".previous").or(name.strip_suffix("-previous")) {
            Some(container) => (container, true),
            None => (name, false),
        };
        return Some(Place::Log { namespace: up2, pod: up1, container, previous });
    }
    // namespaces/NAMESPACE/pods/POD/CONTAINER/CONTAINER/logs/current.log
    if up1 == "logs" && up2 == up3 && !up6.is_empty() && matches!(name, "current" | "previous") {
        return Some(Place::Log { namespace: up6, pod: up4, container: up2, previous: name == "previous" });
    }
    if matches!(up3, "proxies" | "istio") && matches!(name, "proxy" | "discovery") {
        let container = if name == "proxy" { "istio-proxy" } else { name };
        return Some(Place::Log { namespace: up2, pod: up1, container, previous: false });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_layout() {
        assert_eq!(place("meshscope.json"), Place::Manifest);
        assert_eq!(place("incident/meshscope.json"), Place::Manifest);
        assert_eq!(place("a/b/meshscope.json"), Place::Objects);
        assert_eq!(place("services.yaml"), Place::Objects);
        assert_eq!(place("resources/shop/pods.json"), Place::Objects);
        assert_eq!(place("metrics/up.json"), Place::Metrics { name: "up" });
        assert_eq!(place("x/traces/a.json"), Place::Traces { name: "a" });
        assert_eq!(
            place("istiod/pod-1/syncz.json"),
            Place::ControlPlane { pod: "pod-1", file: "syncz.json" }
        );
        assert_eq!(
            place("logs/shop/pod-1/app.previous.log"),
            Place::Log { namespace: "shop", pod: "pod-1", container: "app", previous: true }
        );
        assert_eq!(
            place("x/envoy/shop/pod-1/stats.txt"),
            Place::Proxy { namespace: "shop", pod: "pod-1", file: "stats.txt" }
        );
        assert_eq!(place("README.md"), Place::Unknown);
        assert_eq!(place("logs/stray.log"), Place::Unknown);
        assert_eq!(place(""), Place::Unknown);
    }

    #[test]
    fn the_layouts_of_other_tools() {
        assert_eq!(
            place("sb/cluster-resources/pods/logs/shop/pod-1/app-previous.log"),
            Place::Log { namespace: "shop", pod: "pod-1", container: "app", previous: true }
        );
        assert_eq!(
            place("mg/quay/namespaces/shop/pods/pod-1/app/app/logs/current.log"),
            Place::Log { namespace: "shop", pod: "pod-1", container: "app", previous: false }
        );
        assert_eq!(place("dump/shop/pod-1/logs.txt"), Place::DumpedLogs { namespace: "shop", pod: "pod-1" });
        assert_eq!(place("bug-report/cluster/k8s-resources"), Place::Objects);
        assert_eq!(
            place("bug-report/proxies/shop/pod-1/proxy.log"),
            Place::Log { namespace: "shop", pod: "pod-1", container: "istio-proxy", previous: false }
        );
        assert_eq!(
            place("bug-report/proxies/shop/pod-1/config_dump"),
            Place::Proxy { namespace: "shop", pod: "pod-1", file: "config_dump.json" }
        );
    }
}
