//! The whole report, gzipped, in ConfigMaps that the session owns: they go when it goes.
//!
//! A file that does not fit into one ConfigMap goes on in the next under the same key, so the parts of a key, joined in
//! the order of `status.report.configMaps`, are one gzip stream:
//!
//! ```sh
//! for name in $(kubectl get dbg NAME -o jsonpath='{.status.report.configMaps[*]}'); do
//!   kubectl get configmap "$name" -o jsonpath='{.binaryData.report\.md\.gz}' | base64 -d
//! done | gunzip
//! ```

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use crate::analyze::diagnosis::Diagnosis;
use crate::api::FIELD_MANAGER;
use crate::api::v1alpha1::DebugSession;
use crate::api::v1alpha1::session::{CaptureLogs, ReportFormat, short_hash};
use crate::api::v1alpha1::status::{ReportFile, ReportRef};
use crate::collect::material::LogFile;
use crate::report::status::quotes_logs;
use crate::report::{json, markdown};

/// Bytes of data in one ConfigMap. The API server takes 1 MiB of it; keys, labels and a margin are left.
const CHUNK: usize = 900 << 10;
/// ConfigMaps of one report; the schema of the status takes no more than 16.
const MAX_CHUNKS: usize = 10;
/// How long publishing may take in all.
const DEADLINE: Duration = Duration::from_secs(60);
/// The label by which the ConfigMaps of a session are found; its value is the session's UID.
pub const SESSION_LABEL: &str = "meshscope.dev/session-uid";

/// The Markdown file of a report.
pub const MARKDOWN: &str = "report.md.gz";
/// The JSON file of a report.
pub const JSON: &str = "report.json.gz";
/// The file with all logs that were read, as JSON.
pub const LOGS: &str = "logs.json.gz";

/// A report was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The API server refused, or did not answer.
    #[error("failed to write the report")]
    Api(#[source] Box<kube::Error>),
    /// Not done in time.
    #[error("failed to write the report within {} s", DEADLINE.as_secs())]
    TimedOut,
    /// There is something of that name that is not ours.
    #[error("failed to write the report: ConfigMap {0} exists and does not belong to this session")]
    NameTaken(String),
    /// The report cannot be written in this form.
    #[error("failed to compress the report")]
    Encode(#[source] std::io::Error),
}

impl PublishError {
    /// A bounded word for conditions and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            PublishError::Api(error) if matches!(error.as_ref(), kube::Error::Api(status) if status.is_forbidden()) => {
                "Forbidden"
            }
            PublishError::Api(_) => "Refused",
            PublishError::TimedOut => "TimedOut",
            PublishError::NameTaken(_) => "NameTaken",
            PublishError::Encode(_) => "Failed",
        }
    }
}

/// A compressed file of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its key in the ConfigMaps.
    pub name: &'static str,
    /// The gzip stream.
    pub bytes: Vec<u8>,
}

/// The files that a session asks for, the most useful first.
///
/// # Errors
/// Where one cannot be compressed.
pub fn files(
    session: &DebugSession,
    diagnosis: &Diagnosis,
    logs: &[LogFile],
) -> Result<Vec<File>, PublishError> {
    let wanted = &session.spec.report.formats;
    let wants = |format| wanted.is_empty() || wanted.contains(&format);
    let title = format!("{}/{}", session.namespace().unwrap_or_default(), session.name_any());
    let mut files = vec![];
    if wants(ReportFormat::Markdown) {
        let text = markdown::render(diagnosis, &title);
        files.push(File { name: MARKDOWN, bytes: gzip(text.as_bytes())? });
    }
    if wants(ReportFormat::Json) {
        let text = serde_json::to_vec(&json::document(diagnosis))
            .map_err(|error| PublishError::Encode(std::io::Error::other(error)))?;
        files.push(File { name: JSON, bytes: gzip(&text)? });
    }
    if session.spec.evidence.capture_logs == CaptureLogs::Full && !logs.is_empty() {
        let all: Vec<_> = logs
            .iter()
            .map(|log| {
                json!({
                    "namespace": log.namespace, "pod": log.pod, "container": log.container,
                    "previous": log.previous, "truncated": log.truncated,
                    "text": String::from_utf8_lossy(&log.bytes),
                })
            })
            .collect();
        files.push(File { name: LOGS, bytes: gzip(serde_json::Value::Array(all).to_string().as_bytes())? });
    }
    Ok(files)
}

/// The diagnosis without what it quotes of logs, for sessions that want none of it kept.
pub fn without_log_quotes(mut diagnosis: Diagnosis) -> Diagnosis {
    for evidence in diagnosis.findings.iter_mut().flat_map(|finding| &mut finding.evidence) {
        if quotes_logs(evidence) {
            evidence.excerpt.clear();
        }
    }
    if let Some(followed) = &mut diagnosis.followed {
        followed.forget_lines();
    }
    diagnosis
}

/// The same bytes give the same stream: the header has no time in it.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>, PublishError> {
    let mut encoder = GzEncoder::new(vec![], Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(PublishError::Encode)
}

type Chunk = BTreeMap<String, ByteString>;

/// Spreads files over chunks. A file that does not fit any more is left out; `true` says that one was.
fn pack(files: &[File]) -> (Vec<Chunk>, Vec<ReportFile>, bool) {
    let (mut chunks, mut kept, mut truncated) = (vec![Chunk::new()], vec![], false);
    let mut room = CHUNK;
    for file in files {
        let left = room + CHUNK * MAX_CHUNKS.saturating_sub(chunks.len());
        if file.bytes.len() > left {
            truncated = true;
            continue;
        }
        let mut rest = file.bytes.as_slice();
        while !rest.is_empty() {
            if room == 0 {
                chunks.push(Chunk::new());
                room = CHUNK;
            }
            let (part, tail) = rest.split_at(room.min(rest.len()));
            if let Some(chunk) = chunks.last_mut() {
                chunk.insert(file.name.to_owned(), ByteString(part.to_vec()));
            }
            room -= part.len();
            rest = tail;
        }
        kept.push(ReportFile {
            name: file.name.to_owned(),
            bytes: i64::try_from(file.bytes.len()).unwrap_or(i64::MAX),
            sha256: Sha256::digest(&file.bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        });
    }
    (chunks, kept, truncated)
}

/// The name of a chunk. With a hash of the UID, no session's report can be aimed at a ConfigMap that exists already.
fn chunk_name(session: &DebugSession, index: usize) -> String {
    let uid = session.uid().unwrap_or_default();
    let hash: String = short_hash(&[uid.as_bytes()]).chars().take(8).collect();
    let name: String = session.name_any().chars().take(200).collect();
    format!("{}-report-{hash}-{index}", name.trim_end_matches(['-', '.']))
}

/// Writes the files of a report, and takes away what an earlier report had more.
///
/// # Errors
/// Where they could not be written. The session's answer does not depend on it.
pub async fn publish(
    client: &Client,
    session: &DebugSession,
    files: &[File],
) -> Result<ReportRef, PublishError> {
    let work = async {
        let api = config_maps(client, session);
        let (chunks, files, truncated) = pack(files);
        let mut names = vec![];
        for (index, chunk) in chunks.into_iter().enumerate() {
            let name = chunk_name(session, index);
            write_chunk(&api, session, &name, chunk).await?;
            names.push(name);
        }
        delete_all_but(&api, session, &names).await?;
        Ok(ReportRef { config_maps: names, files, truncated })
    };
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(PublishError::TimedOut))
}

/// Deletes the report of a session.
///
/// # Errors
/// Where it could not be deleted.
pub async fn unpublish(client: &Client, session: &DebugSession) -> Result<(), PublishError> {
    let work = async { delete_all_but(&config_maps(client, session), session, &[]).await };
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(PublishError::TimedOut))
}

fn config_maps(client: &Client, session: &DebugSession) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), session.namespace().as_deref().unwrap_or_default())
}

fn api_error(error: kube::Error) -> PublishError {
    PublishError::Api(Box::new(error))
}

async fn write_chunk(
    api: &Api<ConfigMap>,
    session: &DebugSession,
    name: &str,
    data: Chunk,
) -> Result<(), PublishError> {
    let uid = session.uid().unwrap_or_default();
    if let Some(found) = api.get_opt(name).await.map_err(api_error)?
        && !found.owner_references().iter().any(|owner| owner.uid == uid)
    {
        return Err(PublishError::NameTaken(name.to_owned()));
    }
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: session.namespace(),
            labels: Some(BTreeMap::from([
                ("app.kubernetes.io/managed-by".to_owned(), "meshscope".to_owned()),
                (SESSION_LABEL.to_owned(), uid.clone()),
            ])),
            owner_references: Some(vec![OwnerReference {
                api_version: DebugSession::api_version(&()).into_owned(),
                kind: DebugSession::kind(&()).into_owned(),
                name: session.name_any(),
                uid,
                controller: Some(true),
                // A report never holds up the deletion of its session.
                block_owner_deletion: Some(false),
            }]),
            ..ObjectMeta::default()
        },
        binary_data: Some(data),
        ..ConfigMap::default()
    };
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &params, &Patch::Apply(&map)).await.map_err(api_error)?;
    Ok(())
}

async fn delete_all_but(
    api: &Api<ConfigMap>,
    session: &DebugSession,
    keep: &[String],
) -> Result<(), PublishError> {
    let uid = session.uid().unwrap_or_default();
    let of_session = ListParams::default().labels(&format!("{SESSION_LABEL}={uid}"));
    for map in api.list_metadata(&of_session).await.map_err(api_error)?.items {
        let name = map.name_any();
        // A label is easily copied; who owns it is not a matter of labels.
        if keep.contains(&name) || !map.owner_references().iter().any(|owner| owner.uid == uid) {
            continue;
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: map.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&name, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => return Err(api_error(error)),
            Ok(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &'static str, size: usize) -> File {
        File { name, bytes: (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect() }
    }

    fn joined(chunks: &[Chunk], name: &str) -> Vec<u8> {
        chunks.iter().filter_map(|chunk| chunk.get(name)).flat_map(|part| part.0.clone()).collect()
    }

    #[test]
    fn files_share_chunks_and_their_parts_join_up() {
        let files = [file(MARKDOWN, 10), file(JSON, CHUNK + 5), file(LOGS, 3 * CHUNK)];
        let (chunks, kept, truncated) = pack(&files);
        assert_eq!((chunks.len(), kept.len(), truncated), (5, 3, false));
        for file in &files {
            assert!(joined(&chunks, file.name) == file.bytes, "{}", file.name);
        }
        for chunk in &chunks {
            assert!(chunk.values().map(|part| part.0.len()).sum::<usize>() <= CHUNK);
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole_and_said() {
        let (chunks, kept, truncated) = pack(&[file(LOGS, MAX_CHUNKS * CHUNK + 1), file(MARKDOWN, 10)]);
        assert!(truncated);
        assert_eq!(kept.len(), 1);
        assert_eq!(joined(&chunks, MARKDOWN).len(), 10);
        let (chunks, _, truncated) = pack(&[file(LOGS, MAX_CHUNKS * CHUNK)]);
        assert_eq!((chunks.len(), truncated), (MAX_CHUNKS, false));
    }

    #[test]
    fn names_are_names_and_tell_sessions_apart() {
        let session = |name: &str, uid: &str| -> DebugSession {
            serde_json::from_value(json!({
                "apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession",
                "metadata": {"name": name, "namespace": "shop", "uid": uid}, "spec": {"target": {}},
            }))
            .unwrap()
        };
        assert_ne!(chunk_name(&session("a", "1"), 0), chunk_name(&session("a", "2"), 0));
        let long = chunk_name(&session(&format!("{}.{}", "a".repeat(199), "b".repeat(53)), "1"), 9);
        assert!(long.len() <= 253 && !long.contains(".-"), "{long}");
    }

    #[test]
    fn the_same_text_is_the_same_stream() {
        assert_eq!(gzip(b"text").unwrap(), gzip(b"text").unwrap());
    }
}
