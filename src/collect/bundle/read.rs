//! Reading a bundle into [`Material`].

use crate::model::json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entries::{self, Sink, read_error};
use super::objects::{self, Fault};
use super::place::{Place, is_archive, is_document, place};
use super::{BundleError, MAX_ENTRY_BYTES, MAX_GAPS, MAX_OBJECTS, MAX_SOURCE_BYTES, STDIN};
use crate::collect::material::{
    ControlPlaneFile, LogFile, Manifest, Material, MetricFile, ProxyFile, TraceFile,
};
use crate::collect::redact::{redact_all, redact_bytes, redact_json, redact_object, redact_proxy_file};
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};
use crate::model::source::{Document, Source};

/// Reads one or several paths as one bundle. A path is a folder, an archive, a YAML or JSON file, or `-` for standard
/// input. An object that stands in several files (same kind, uid and name) is kept once, in its newest version.
///
/// # Errors
/// A path that cannot be opened, an entry that is a link or leaves the folder, a bound that was reached, a manifest that
/// cannot be read, or nothing readable in any of the paths. One unreadable file among others is a gap.
pub fn read(paths: &[PathBuf]) -> Result<Material, BundleError> {
    let mut reader = Reader::default();
    for path in paths {
        reader.root = shown(path);
        if path.as_os_str() == STDIN {
            entries::stream(&shown(path), std::io::stdin().lock(), &mut reader)?;
        } else {
            entries::walk(path, &mut reader)?;
        }
    }
    let names: Vec<String> = paths.iter().map(|path| shown(path)).collect();
    reader.finish(&names.join(", "))
}

/// Reads an archive or a document file from a stream; `name` stands for it in messages.
///
/// # Errors
/// As [`read`].
pub fn read_stream(name: &str, content: impl Read) -> Result<Material, BundleError> {
    let mut reader = Reader { root: name.to_owned(), ..Reader::default() };
    entries::stream(name, content, &mut reader)?;
    reader.finish(name)
}

fn shown(path: &Path) -> String {
    if path.as_os_str() == STDIN { "standard input".to_owned() } else { path.display().to_string() }
}

#[derive(Default)]
struct Reader {
    material: Material,
    /// The path that is being read, for messages.
    root: String,
    has_manifest: bool,
    /// Documents that were read, objects or not.
    documents: usize,
    /// Faults beyond those that became gaps.
    more_faults: usize,
    first_fault: Option<String>,
    /// Archives that lie inside and are not unpacked, by their names in messages.
    packed: Vec<String>,
    /// Bytes of YAML that are kept for the places of objects in them.
    source_bytes: usize,
    /// Where the object of this kind, uid and name stands.
    seen: HashMap<(String, String, String), usize>,
}

impl Sink for Reader {
    fn wants(&mut self, path: &str) -> bool {
        let wanted = place(path) != Place::Unknown;
        self.material.ignored += usize::from(!wanted);
        if is_archive(path) && self.packed.len() < MAX_GAPS {
            self.packed.push(self.name(path));
        }
        wanted
    }

    fn file(&mut self, path: &str, content: &mut dyn Read) -> Result<(), BundleError> {
        let (bytes, cut) = self.bytes(path, content)?;
        let place = place(path);
        if cut && !matches!(place, Place::Log { .. } | Place::DumpedLogs { .. }) {
            self.too_large(path);
            return Ok(());
        }
        match place {
            Place::Unknown => {}
            Place::Manifest => self.manifest(path, &bytes)?,
            Place::Objects => self.objects(path, &bytes),
            Place::Log { namespace, pod, container, previous } => {
                self.log(namespace, pod, container, previous, bytes, cut);
            }
            Place::DumpedLogs { namespace, pod } => self.dumped_logs(namespace, pod, &bytes, cut),
            Place::Metrics { name } => self.metrics(path, name, &bytes),
            Place::Traces { name } => self.traces(path, name, &bytes),
            Place::Proxy { namespace, pod, file } => self.proxy(path, namespace, pod, file, &bytes),
            Place::ControlPlane { pod, file } => {
                if let Some(mut body) = self.json(path, &bytes) {
                    redact_all(&mut body, &mut self.material.redacted);
                    self.material.control_plane.push(ControlPlaneFile {
                        pod: pod.to_owned(),
                        file: file.to_owned(),
                        body,
                    });
                }
            }
        }
        Ok(())
    }

    fn single(&mut self, name: &str, content: &mut dyn Read) -> Result<(), BundleError> {
        let (bytes, cut) = self.bytes(name, content)?;
        if cut {
            self.too_large(name);
            return Ok(());
        }
        let file = Path::new(name).file_name().map(|file| file.to_string_lossy().into_owned());
        if file.as_deref() == Some("meshscope.json") {
            return self.manifest(name, &bytes);
        }
        let first = bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        if first.is_none() {
            self.first_fault.get_or_insert_with(|| format!("{name} is empty"));
        } else if bytes.contains(&0) {
            let what = "is neither text nor an archive (.tar, .tar.gz, .tar.zst)";
            self.fault(name, &Fault { line: 1, message: what.to_owned() });
        } else {
            self.objects(name, &bytes);
        }
        Ok(())
    }
}

impl Reader {
    /// The content, and whether it was cut at the bound for one file.
    fn bytes(&self, path: &str, content: &mut dyn Read) -> Result<(Vec<u8>, bool), BundleError> {
        let mut bytes = vec![];
        let failed = |source| match read_error(&self.root, source) {
            BundleError::Read { source, .. } => read_error(&self.name(path), source),
            other => other,
        };
        content.take(MAX_ENTRY_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        let cut = bytes.len() as u64 > MAX_ENTRY_BYTES;
        bytes.truncate(MAX_ENTRY_BYTES as usize);
        Ok((bytes, cut))
    }

    /// The file as a message names it.
    fn name(&self, path: &str) -> String {
        if self.root.is_empty() || self.root == path {
            return path.to_owned();
        }
        format!("{}/{path}", self.root.trim_end_matches('/'))
    }

    fn gap(&mut self, what: String, reason: GapReason, hint: &str) {
        self.first_fault.get_or_insert_with(|| what.clone());
        if self.material.gaps.len() < MAX_GAPS {
            self.material.gaps.push(Gap::new("Bundle", what, reason).hint(hint));
        } else {
            self.more_faults += 1;
        }
    }

    fn too_large(&mut self, path: &str) {
        let what = format!("{}: larger than {} MiB, left out", self.name(path), MAX_ENTRY_BYTES >> 20);
        self.gap(what, GapReason::Truncated, "split the file, one kind or namespace each");
    }

    fn fault(&mut self, path: &str, fault: &Fault) {
        // Messages quote the file, which may hold anything.
        let message: String = fault.message.chars().filter(|c| !c.is_control()).take(200).collect();
        let what = format!("{}, line {}: {message}", self.name(path), fault.line);
        self.gap(what, GapReason::Failed, "correct that document; the others of the file were read");
    }

    fn json(&mut self, path: &str, bytes: &[u8]) -> Option<Value> {
        match serde_json::from_slice(bytes) {
            Ok(value) => Some(value),
            Err(error) => {
                let message = error.to_string();
                let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
                self.fault(path, &Fault { line: error.line(), message: message.to_owned() });
                None
            }
        }
    }

    fn manifest(&mut self, path: &str, bytes: &[u8]) -> Result<(), BundleError> {
        let wrong = |message: String| BundleError::Manifest { path: self.name(path), message };
        let body: Value = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if !body.is_object() {
            return Err(wrong("it is no JSON object".to_owned()));
        }
        let manifest: Manifest = body.read().map_err(|error| wrong(error.to_string()))?;
        if manifest.version > Manifest::VERSION {
            return Err(wrong(format!(
                "it is of format {}, and this meshscope reads up to {}; take a newer one",
                manifest.version,
                Manifest::VERSION
            )));
        }
        if !self.has_manifest {
            self.material.manifest = manifest;
        } else {
            // Of several bundles the first one's word counts, and nothing that any of them knows is lost.
            let ours = &mut self.material.manifest;
            ours.captured_at = ours.captured_at.or(manifest.captured_at);
            ours.window = ours.window.or(manifest.window);
            ours.onset = ours.onset.or(manifest.onset);
            ours.target = ours.target.take().or(manifest.target);
            ours.istio = ours.istio.take().or(manifest.istio);
            ours.edges.extend(manifest.edges);
            ours.gaps.extend(manifest.gaps);
            ours.truncated_logs.extend(manifest.truncated_logs);
        }
        self.has_manifest = true;
        Ok(())
    }

    fn objects(&mut self, path: &str, bytes: &[u8]) {
        let documents = objects::parse(bytes);
        for fault in &documents.faults {
            self.fault(path, fault);
        }
        // A file of comments is read too: there was nothing wrong with it.
        self.documents += documents.values.len() + usize::from(documents.faults.is_empty());
        let before = self.material.objects.len();
        let mut sources = vec![];
        let file: Arc<str> = self.name(path).into();
        for (value, text) in documents.values.into_iter().zip(documents.texts) {
            let first = self.material.objects.len();
            let places = objects::unroll(value, &mut self.material.objects);
            let document = self.keep(&file, first, text);
            sources.extend(places.into_iter().map(|path| {
                let document = document.clone()?;
                Some(Source { document, path: path.into() })
            }));
        }
        if sources.is_empty() && is_document(path) {
            self.material.ignored += 1;
        }
        if self.material.objects.len() >= MAX_OBJECTS {
            let what = format!("{}: more than {MAX_OBJECTS} objects, the rest left out", self.name(path));
            self.gap(what, GapReason::Truncated, "capture fewer namespaces");
        }
        self.merge(before, sources);
    }

    /// Keeps the text of a document for the places of the objects from `first` on. Not where there is a Secret among them, whose
    /// values are no part of a bundle.
    fn keep(&mut self, file: &Arc<str>, first: usize, text: Option<(usize, &str)>) -> Option<Arc<Document>> {
        let (line, text) = text?;
        let objects = self.material.objects.get(first..).unwrap_or_default();
        let secret = objects.iter().any(|object| object.text("kind") == Some("Secret"));
        if secret || objects.is_empty() || self.source_bytes + text.len() > MAX_SOURCE_BYTES {
            return None;
        }
        self.source_bytes += text.len();
        Some(Arc::new(Document { file: file.clone(), line, text: text.into() }))
    }

    /// Of objects from `from` on, those that are there already replace the older version.
    fn merge(&mut self, from: usize, places: Vec<Option<Source>>) {
        let Material { objects, redacted, sources, .. } = &mut self.material;
        let mut place = |object: &Value, source: Option<Source>| {
            if let Some(source) = source {
                sources.insert(object, source);
            }
        };
        let version = |object: &Value| object.int("metadata.resourceVersion").unwrap_or_default();
        let fresh = objects.split_off(from);
        for (mut object, source) in fresh.into_iter().zip(places) {
            redact_object(&mut object, redacted);
            let uid = object.string("metadata.uid");
            if uid.is_empty() {
                place(&object, source);
                objects.push(object);
                continue;
            }
            // Objects that somebody copied by hand share their uid, but not their name.
            let name = format!("{}/{}", object.string("metadata.namespace"), object.string("metadata.name"));
            match self.seen.entry((object.string("kind"), uid, name)) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(objects.len());
                    place(&object, source);
                    objects.push(object);
                }
                std::collections::hash_map::Entry::Occupied(slot) => {
                    if let Some(known) = objects.get_mut(*slot.get())
                        && version(known) < version(&object)
                    {
                        place(&object, source);
                        *known = object;
                    }
                }
            }
        }
    }

    fn log(
        &mut self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
        bytes: Vec<u8>,
        cut: bool,
    ) {
        let bytes = match redact_bytes(&bytes, &mut self.material.redacted) {
            Cow::Borrowed(_) => bytes,
            Cow::Owned(redacted) => redacted,
        };
        self.material.logs.push(LogFile {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
            previous,
            bytes,
            truncated: cut,
        });
    }

    /// `==== START logs for container C of pod NS/POD ====` … `==== END logs for container C of pod NS/POD ====`
    fn dumped_logs(&mut self, namespace: &str, pod: &str, bytes: &[u8], cut: bool) {
        let mut current: Option<(String, Vec<u8>)> = None;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let container = |mark: &str| {
                let rest = std::str::from_utf8(line).ok()?.strip_prefix(mark)?;
                Some(rest.split_once(" of pod ")?.0.to_owned())
            };
            if let Some(name) = container("==== START logs for container ") {
                current = Some((name, vec![]));
            } else if container("==== END logs for container ").is_some() {
                if let Some((name, bytes)) = current.take() {
                    self.log(namespace, pod, &name, false, bytes, false);
                }
            } else if let Some((_, bytes)) = &mut current {
                bytes.extend_from_slice(line);
            }
        }
        if let Some((name, bytes)) = current {
            self.log(namespace, pod, &name, false, bytes, cut);
        }
    }

    fn proxy(&mut self, path: &str, namespace: &str, pod: &str, file: &str, bytes: &[u8]) {
        match redact_proxy_file(file, bytes, &mut self.material.redacted) {
            Some(bytes) => self.material.proxies.push(ProxyFile {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                file: file.to_owned(),
                bytes,
            }),
            None => self.fault(path, &Fault { line: 1, message: "it is no JSON".to_owned() }),
        }
    }

    fn metrics(&mut self, path: &str, name: &str, bytes: &[u8]) {
        let Some(body) = self.json(path, bytes) else { return };
        if body.at("data.result").is_some() {
            self.material.metrics.push(MetricFile { name: name.to_owned(), body });
        } else {
            self.objects(path, bytes);
        }
    }

    fn traces(&mut self, path: &str, name: &str, bytes: &[u8]) {
        // Whatever has a kind at the top is a Kubernetes object; a text search saves parsing a trace twice.
        let object = memchr::memmem::find(bytes, b"\"apiVersion\"").is_some()
            && serde_json::from_slice::<Value>(bytes)
                .is_ok_and(|body| body.child("kind").is_some_and(Value::is_string));
        if object {
            return self.objects(path, bytes);
        }
        let bytes = redact_json(bytes, &mut self.material.redacted).into_owned();
        self.material.traces.push(TraceFile { name: name.to_owned(), bytes });
    }

    fn finish(mut self, names: &str) -> Result<Material, BundleError> {
        let material = &self.material;
        // A question beside an archive is no evidence: that lies in the archive.
        let question = |object: &Value| object.text("kind") == Some("DebugSession");
        let nothing = material.objects.iter().all(|object| !self.packed.is_empty() && question(object))
            && material.logs.is_empty()
            && material.metrics.is_empty()
            && material.traces.is_empty()
            && material.proxies.is_empty()
            && material.control_plane.is_empty()
            && (self.documents == 0 || !self.packed.is_empty())
            && !self.has_manifest;
        if nothing {
            if let Some(packed) = self.packed.first() {
                let detail = format!("the archive {packed} in it is not unpacked; name that file itself");
                return Err(BundleError::Empty { path: names.to_owned(), detail });
            }
            let detail = self.first_fault.take().unwrap_or_else(|| match material.ignored {
                0 => "it is empty".to_owned(),
                1 => "1 file, of a sort that no bundle holds".to_owned(),
                count => format!("{count} files, all of a sort that no bundle holds"),
            });
            return Err(BundleError::Empty { path: names.to_owned(), detail });
        }
        for packed in std::mem::take(&mut self.packed) {
            self.gap(
                format!("{packed}: an archive inside, not unpacked"),
                GapReason::Failed,
                "if it is a bundle, name that file itself",
            );
        }
        if self.more_faults > 0 {
            let what = format!("{} more documents or files that could not be read", self.more_faults);
            self.material.gaps.push(Gap::new("Bundle", what, GapReason::Failed));
        }
        self.material.manifest.version = Manifest::VERSION;
        let truncated = std::mem::take(&mut self.material.manifest.truncated_logs);
        for log in &mut self.material.logs {
            log.truncated |= truncated.contains(&log.path());
        }
        Ok(self.material)
    }
}

#[cfg(test)]
mod tests;
