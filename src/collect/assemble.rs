//! From raw material to the snapshot that analysis reads.

use crate::model::json::{Value, json};

use super::material::Material;
use crate::model::access_format::AccessFormat;
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};
use crate::model::log::LogStream;
use crate::model::object::Object;
use crate::model::series;
use crate::model::snapshot::{Builder, Snapshot, Target};
use crate::model::span::{self, SpansBuilder};
use crate::model::workload::is_proxy_container;

/// Normalises and indexes all of it. Nothing is refused: what cannot be read is left out.
pub fn assemble(material: Material) -> Snapshot {
    let mut builder = Builder::new();
    let manifest = material.manifest;
    builder.captured_at(manifest.captured_at);
    builder.window(manifest.window);
    builder.onset(manifest.onset);
    builder.target(manifest.target.map(|t| Target { namespace: t.namespace, services: t.services }));
    for (caller, callee) in &manifest.edges {
        builder.edge(caller, callee);
    }
    let istio = manifest.istio.unwrap_or_default();
    let mesh_config = if istio.mesh_config.is_null() {
        mesh_config_of(&material.objects, &istio.root_namespace)
    } else {
        istio.mesh_config
    };
    let format = AccessFormat::of_mesh_config(&mesh_config);
    builder.istio(&istio.root_namespace, mesh_config);
    for object in material.objects {
        builder.object(object);
    }
    builder.sources(material.sources);
    for log in &material.logs {
        let mut stream = LogStream::read(
            &log.namespace,
            &log.pod,
            &log.container,
            log.previous,
            &log.bytes,
            log.truncated,
        );
        if let Some(format) = format.as_ref().filter(|_| is_proxy_container(&log.container)) {
            stream.take_access(format);
        }
        builder.log(stream);
    }
    for metric in &material.metrics {
        builder.series(series::read(&metric.body, &metric.name));
    }
    let mut spans = SpansBuilder::default();
    for file in &material.traces {
        for gap in span::read(&format!("traces/{}.json", file.name), &file.bytes, &mut spans) {
            builder.gap(gap);
        }
    }
    builder.spans(spans.finish());
    for file in &material.proxies {
        builder.proxy(&file.namespace, &file.pod, &file.file, &file.bytes);
    }
    for file in &material.control_plane {
        builder.control_plane(&file.pod, &file.file, &file.body);
    }
    for gap in manifest.gaps.into_iter().chain(material.gaps) {
        builder.gap(gap);
    }
    let mut snapshot = builder.finish();
    if let Some(gap) = access_logs_off(&snapshot) {
        snapshot.gaps.push(gap);
        snapshot.gaps.sort();
    }
    snapshot
}

/// That the proxies write no access log, where the mesh's configuration says so: it is Istio's default, and what requests
/// end with is then only seen in counters.
fn access_logs_off(snapshot: &Snapshot) -> Option<Gap> {
    let config = &snapshot.istio.mesh_config;
    let on = |text: Option<&str>| text.is_some_and(|path| !path.is_empty());
    let by_mesh =
        on(config.text("accessLogFile")) || !config.list("defaultProviders.accessLogging").is_empty();
    let enables = |telemetry: &Object| {
        telemetry.body.list("spec.accessLogging").iter().any(|logging| !logging.flag("disabled"))
    };
    let by_telemetry = snapshot.objects_of("Telemetry").any(enables);
    let seen = snapshot.logs.iter().any(|log| !log.access.is_empty());
    let configs = snapshot.proxies.iter().filter_map(|proxy| proxy.config.as_ref());
    let by_proxy = configs.flat_map(|config| &config.listeners).any(|listener| listener.access_log);
    // Without the mesh's configuration nothing is known.
    if !config.is_object() || by_mesh || by_telemetry || seen || by_proxy || !snapshot.runs() {
        return None;
    }
    let pod = snapshot
        .pods
        .iter()
        .find(|pod| snapshot.in_scope(pod.object.namespace()) && snapshot.has_istio_proxy(pod))?;
    let telemetry = json!({"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry",
        "metadata": {"name": "access-logs", "namespace": pod.object.namespace()},
        "spec": {"accessLogging": [{"providers": [{"name": "envoy"}]}]}});
    let hint = format!(
        "turn them on: echo '{telemetry}' | kubectl apply -f - (or, for the whole mesh, meshConfig.accessLogFile: /dev/stdout)"
    );
    let what = "access logs of the proxies: the mesh's configuration leaves them off";
    Some(Gap::new("Logs", what, GapReason::NotConfigured).hint(hint))
}

/// MeshConfig out of the ConfigMap `istio` of the root namespace, where it stands as YAML.
fn mesh_config_of(objects: &[Value], root_namespace: &str) -> Value {
    let root = if root_namespace.is_empty() { "istio-system" } else { root_namespace };
    let map = objects.iter().find(|object| {
        object.text("kind") == Some("ConfigMap")
            && object.text("metadata.name") == Some("istio")
            && object.text("metadata.namespace") == Some(root)
    });
    let text = map.and_then(|map| map.at("data")?.child("mesh")?.as_str());
    text.and_then(|text| serde_saphyr::from_str(text).ok()).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::material::{Manifest, ManifestIstio};

    fn gaps(mesh_config: Value, more: Option<Value>) -> Vec<Gap> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "a"},
            "spec": {"containers": [{"name": "app"}, {"name": "istio-proxy"}]}, "status": {"phase": "Running"}});
        let istio = Some(ManifestIstio { root_namespace: String::new(), mesh_config });
        let objects = std::iter::once(pod).chain(more).collect();
        assemble(Material {
            manifest: Manifest { istio, ..Manifest::default() },
            objects,
            ..Material::default()
        })
        .gaps
    }

    #[test]
    fn that_access_logs_are_off_is_a_gap_with_its_remedy() {
        let found = gaps(json!({"enableTracing": false}), None);
        assert!(
            found[0].hint.contains(r#""namespace":"shop""#) && found[0].hint.contains("accessLogFile"),
            "{found:?}"
        );
        let telemetry = |logging: Value| {
            Some(json!({"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry",
                "metadata": {"namespace": "istio-system", "name": "x"}, "spec": {"accessLogging": [logging]}}))
        };
        assert!(gaps(json!({"accessLogFile": "/dev/stdout"}), None).is_empty());
        assert!(gaps(json!({}), telemetry(json!({"providers": [{"name": "otel"}]}))).is_empty());
        assert_eq!(gaps(json!({}), telemetry(json!({"disabled": true}))).len(), 1);
        assert!(gaps(Value::Null, None).is_empty(), "nothing is known of the mesh's configuration");
    }
}
