//! Reads a published report back.

use flate2::read::GzDecoder;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use std::io::Read;

use crate::api::v1alpha1::DebugSession;

/// The largest file of a report, unpacked, in bytes: with all the logs that a run may read it stays well below.
const MAX_FILE: u64 = 512 << 20;

/// A report could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The session has none.
    #[error("failed to read the report of {session}: {why}")]
    None {
        /// The session.
        session: String,
        /// Why it has none.
        why: String,
    },
    /// The report has no such file.
    #[error(
        "failed to read {file}: the report has {found}; spec.report.formats and spec.evidence.captureLogs decide"
    )]
    NoSuchFile {
        /// The file.
        file: String,
        /// Those that it has.
        found: String,
    },
    /// A ConfigMap is gone or may not be read.
    #[error("failed to read ConfigMap {name}")]
    Api {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// What is there is not what was written.
    #[error("failed to read {file}: its parts do not add up to what was written; run the session again")]
    Damaged {
        /// The file.
        file: String,
    },
}

/// A file of the report of a session, unpacked.
///
/// # Errors
/// Where there is none, or where its parts are gone or changed.
pub async fn fetch(client: &Client, session: &DebugSession, file: &str) -> Result<Vec<u8>, FetchError> {
    let status = session.status.as_ref();
    let Some(report) = status.and_then(|status| status.report.as_ref()) else {
        let condition = status.and_then(|status| {
            status.conditions.iter().find(|condition| condition.type_ == "ReportAvailable")
        });
        return Err(FetchError::None {
            session: session.name_any(),
            why: condition.map_or_else(
                || "no run of it has ended with an answer".to_owned(),
                |condition| condition.message.clone(),
            ),
        });
    };
    let Some(entry) = report.files.iter().find(|entry| entry.name == file) else {
        let names: Vec<&str> = report.files.iter().map(|entry| entry.name.as_str()).collect();
        return Err(FetchError::NoSuchFile { file: file.to_owned(), found: names.join(", ") });
    };
    let api: Api<ConfigMap> =
        Api::namespaced(client.clone(), session.namespace().as_deref().unwrap_or_default());
    let mut packed = vec![];
    for name in &report.config_maps {
        let map = api
            .get(name)
            .await
            .map_err(|source| FetchError::Api { name: name.clone(), source: Box::new(source) })?;
        if let Some(part) = map.binary_data.unwrap_or_default().remove(file) {
            packed.extend(part.0);
        }
    }
    unpack(&packed, &entry.sha256).ok_or_else(|| FetchError::Damaged { file: file.to_owned() })
}

fn unpack(packed: &[u8], sha256: &str) -> Option<Vec<u8>> {
    let digest: String = Sha256::digest(packed).iter().map(|byte| format!("{byte:02x}")).collect();
    if digest != sha256 {
        return None;
    }
    let mut bytes = vec![];
    GzDecoder::new(packed).take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    #[test]
    fn what_was_changed_is_not_read() {
        let mut encoder = GzEncoder::new(vec![], Compression::default());
        encoder.write_all(b"# Report").unwrap();
        let packed = encoder.finish().unwrap();
        let digest: String = Sha256::digest(&packed).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(unpack(&packed, &digest).as_deref(), Some(b"# Report".as_slice()));
        assert_eq!(unpack(&packed[1..], &digest), None);
        assert_eq!(unpack(&packed, "00"), None);
    }
}
