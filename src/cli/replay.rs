//! `meshscope replay`: a recorded incident as a Kubernetes API on this machine.

use anyhow::Context;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::{Internal, print};
use crate::collect::bundle;
use crate::collect::material::Material;
use crate::model::fields::Fields;
use crate::replay::{self, Options};
use crate::telemetry;

/// Serve a recorded incident as a Kubernetes API on this machine, for kubectl and for DebugSessions
///
/// What was recorded cannot be changed; DebugSessions can be created. Ages are those at the time of the recording.
/// It runs until Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bundles: folders, archives (.tar, .tar.gz, .tar.zst) or Kubernetes YAML; several are read as one
    #[arg(required = true, value_name = "BUNDLE")]
    paths: Vec<PathBuf>,
    /// Port on 127.0.0.1 [default: any free one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Where to write the kubeconfig [default: a private temporary file, removed at the end]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl Args {
    /// Serves until it is told to stop.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let material = bundle::read(&self.paths)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Internal(format!("failed to start the runtime: {error}")))?;
        runtime.block_on(self.serve(material))
    }

    async fn serve(self, material: Material) -> anyhow::Result<ExitCode> {
        let namespace = busiest_namespace(&material);
        let objects = material.objects.len();
        let options = Options { port: self.port, clock: Arc::new(telemetry::now) };
        let handle = replay::serve(material, options).await?;
        let file = KubeconfigFile::write(self.kubeconfig, &handle.kubeconfig(&namespace))?;
        let at = handle.captured_at();
        print(&format!(
            "{objects} objects as they were at {at}, served at {}\n\n  export KUBECONFIG={}\n  kubectl get pods\n  \
             kubectl get events\n\nCtrl-C ends it.\n",
            handle.url(),
            file.path.display(),
        ))?;
        stopped().await.context("failed to wait for Ctrl-C")?;
        handle.shutdown().await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Ctrl-C, or a polite kill.
async fn stopped() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// The namespace that the recording is about: the target's, else the one with most objects that is no system's.
fn busiest_namespace(material: &Material) -> String {
    if let Some(target) = material.manifest.target.as_ref().filter(|target| !target.namespace.is_empty()) {
        return target.namespace.clone();
    }
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for object in &material.objects {
        let namespace = object.text("metadata.namespace").unwrap_or_default();
        if !namespace.is_empty() && !namespace.starts_with("kube-") && !namespace.starts_with("istio-") {
            *counts.entry(namespace).or_default() += 1;
        }
    }
    let busiest = counts.into_iter().max_by_key(|(_, count)| *count);
    busiest.map_or_else(|| "default".to_owned(), |(namespace, _)| namespace.to_owned())
}

/// A kubeconfig that only its owner can read: it holds the token. Removed when it is dropped.
struct KubeconfigFile {
    path: PathBuf,
    folder: Option<PathBuf>,
}

impl KubeconfigFile {
    fn write(path: Option<PathBuf>, content: &str) -> anyhow::Result<Self> {
        let file = match path {
            Some(path) => KubeconfigFile { path, folder: None },
            None => {
                let folder = std::env::temp_dir().join(format!("meshscope-replay-{}", std::process::id()));
                // Not `recursive`: a folder that somebody put there before us is refused.
                let made = DirBuilder::new().mode(0o700).create(&folder);
                made.with_context(|| format!("failed to create {}", folder.display()))?;
                KubeconfigFile { path: folder.join("kubeconfig"), folder: Some(folder) }
            }
        };
        write_private(&file.path, content)
            .with_context(|| format!("failed to write {}", file.path.display()))?;
        Ok(file)
    }
}

fn write_private(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())
}

impl Drop for KubeconfigFile {
    fn drop(&mut self) {
        // At the end of the program nobody is left to tell about a file that cannot be removed.
        let _ = fs::remove_file(&self.path);
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_namespace_that_it_is_about() {
        let object =
            |namespace: &str| json!({"kind": "Pod", "metadata": {"name": "a", "namespace": namespace}});
        let mut material = Material {
            objects: vec![
                object("kube-system"),
                object("kube-system"),
                object("kube-system"),
                object("a"),
                object("b"),
                object("b"),
            ],
            ..Material::default()
        };
        assert_eq!(busiest_namespace(&material), "b");
        material.objects.clear();
        assert_eq!(busiest_namespace(&material), "default");
    }

    #[test]
    fn the_kubeconfig_is_private_and_goes_at_the_end() {
        use std::os::unix::fs::PermissionsExt;
        let file = KubeconfigFile::write(None, "x").unwrap();
        let path = file.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
        assert!(!path.exists() && !path.parent().unwrap().exists());
    }
}
