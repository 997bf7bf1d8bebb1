//! The manifests in `crds/`, and the chart's copies of them, are what the types say.

use meshscope::api::manifest;

/// With `UPDATE=1` the files are written instead of compared.
#[test]
fn the_manifest_of_debug_session_is_current() {
    let wanted = manifest::crd_yaml().unwrap();
    for folder in ["crds", "charts/meshscope/files/crds"] {
        let path = format!("{}/{folder}/{}.yaml", env!("CARGO_MANIFEST_DIR"), manifest::DEBUG_SESSIONS);
        if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "{path} is not current: run UPDATE=1 cargo test --test it crd::");
    }
}
