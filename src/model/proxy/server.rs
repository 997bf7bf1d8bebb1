//! `/server_info`: who a proxy is and how it fares.

use crate::model::json::Value;

use crate::model::fields::Fields;

/// A proxy's version and state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerInfo {
    /// Envoy's version, such as `1.40.0`.
    pub version: String,
    /// Istio's version as the proxy's agent has it, such as `1.29.1`; empty without Istio.
    pub istio_version: String,
    /// `LIVE`, `DRAINING`, `PRE_INITIALIZING` or `INITIALIZING`.
    pub state: String,
    /// Seconds since it started.
    pub uptime: Option<f64>,
    /// Its name to the control plane: `sidecar~10.0.0.1~pod.namespace~namespace.svc.cluster.local`.
    pub node: String,
    /// Its worker threads.
    pub concurrency: Option<i64>,
}

impl ServerInfo {
    pub(super) fn read(body: &Value) -> Self {
        // REVISION/VERSION/Clean/RELEASE/TLS
        let build = body.string("version");
        let version = build.split('/').nth(1).unwrap_or(&build).to_owned();
        ServerInfo {
            version,
            istio_version: body.string("node.metadata.ISTIO_VERSION"),
            state: body.string("state"),
            uptime: body.seconds("uptime_current_epoch"),
            node: body.string("node.id"),
            concurrency: body.int("command_line_options.concurrency"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn the_version_stands_between_slashes() {
        let info = ServerInfo::read(
            &json!({"version": "9e55/1.40.0/Clean/RELEASE/BoringSSL", "state": "LIVE",
            "uptime_current_epoch": "147s", "node": {"id": "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "metadata": {"ISTIO_VERSION": "1.29.1"}}}),
        );
        assert_eq!((info.version.as_str(), info.istio_version.as_str()), ("1.40.0", "1.29.1"));
        assert_eq!(info.uptime, Some(147.0));
        assert_eq!(ServerInfo::read(&json!({"version": "odd"})).version, "odd");
    }
}
