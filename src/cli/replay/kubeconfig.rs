//! The kubeconfig of a replay, on disk while it runs.

use anyhow::Context;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A kubeconfig that only its owner can read: it holds the token. Removed when it is dropped.
pub(super) struct KubeconfigFile {
    pub(super) path: PathBuf,
    folder: Option<PathBuf>,
}

impl KubeconfigFile {
    /// Writes it to a path that does not exist yet, or into a private temporary folder.
    pub(super) fn write(path: Option<PathBuf>, content: &str) -> anyhow::Result<Self> {
        let (path, folder) = match path {
            Some(path) => (path, None),
            None => {
                let folder = std::env::temp_dir().join(format!("meshscope-replay-{}", std::process::id()));
                // Not `recursive`: a folder that somebody put there before us is refused.
                let made = DirBuilder::new().mode(0o700).create(&folder);
                made.with_context(|| format!("failed to create {}", folder.display()))?;
                (folder.join("kubeconfig"), Some(folder))
            }
        };
        write_private(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(KubeconfigFile { path, folder })
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
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_private_and_goes_at_the_end() {
        let file = KubeconfigFile::write(None, "x").unwrap();
        let path = file.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let taken = KubeconfigFile::write(Some(path.clone()), "y");
        assert!(taken.is_err(), "an existing file is left alone");
        drop(file);
        assert!(!path.exists() && !path.parent().unwrap().exists());
    }
}
