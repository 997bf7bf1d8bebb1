//! From raw material to the snapshot that analysis reads.

use serde_json::Value;

use super::material::Material;
use crate::model::access_format::AccessFormat;
use crate::model::fields::Fields;
use crate::model::log::LogStream;
use crate::model::series;
use crate::model::snapshot::{Builder, Snapshot, Target};
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
    for file in &material.proxies {
        builder.proxy(&file.namespace, &file.pod, &file.file, &file.bytes);
    }
    for file in &material.control_plane {
        builder.control_plane(&file.pod, &file.file, &file.body);
    }
    for gap in manifest.gaps.into_iter().chain(material.gaps) {
        builder.gap(gap);
    }
    builder.finish()
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
