//! Writing [`Material`] as a bundle. The same material gives the same bytes: files are sorted, and times, owners and
//! modes are fixed.

use crate::model::json::Value;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{BundleError, objects};
use crate::collect::material::{Manifest, Material};
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};

/// The form of a bundle on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A plain archive.
    Tar,
    /// An archive packed with gzip.
    TarGzip,
    /// An archive packed with Zstandard.
    TarZstd,
    /// A folder.
    Folder,
}

impl Format {
    /// The form that a name asks for; without one of the known endings it is a folder.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match name.as_str() {
            name if name.ends_with(".tar.zst") || name.ends_with(".tzst") => Format::TarZstd,
            name if name.ends_with(".tar.gz") || name.ends_with(".tgz") => Format::TarGzip,
            name if name.ends_with(".tar") => Format::Tar,
            _ => Format::Folder,
        }
    }
}

/// Writes a bundle in the form that the path's name asks for. Files are readable by their owner alone, since logs may
/// hold what redaction did not know. An archive appears at once or not at all; an existing one is replaced.
///
/// # Errors
/// The path cannot be written, or is a folder that is not empty.
pub fn write(material: &Material, path: &Path) -> Result<(), BundleError> {
    let failed = |source| BundleError::Write { path: path.display().to_string(), source };
    let format = Format::of(path);
    if format == Format::Folder {
        return write_folder(material, path);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
    let written = open.and_then(|file| {
        let mut file = BufWriter::new(file);
        write_archive(material, &mut file, format)?;
        file.flush()?;
        fs::rename(&partial, path)
    });
    written.map_err(|source| {
        // The half-written file is of no use; that it cannot be removed either is not the news here.
        let _ = fs::remove_file(&partial);
        failed(source)
    })
}

/// Writes a bundle as an archive into any writer. [`Format::Folder`] is written as a plain archive.
///
/// # Errors
/// What the writer gave.
pub fn write_archive(material: &Material, out: &mut dyn Write, format: Format) -> io::Result<()> {
    match format {
        Format::Tar | Format::Folder => tar_into(material, out).map(drop),
        Format::TarGzip => {
            let encoder = flate2::GzBuilder::new().mtime(0).write(out, flate2::Compression::default());
            tar_into(material, encoder)?.finish().map(drop)
        }
        Format::TarZstd => {
            let mut encoder = zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            encoder.include_checksum(true)?;
            tar_into(material, encoder)?.finish().map(drop)
        }
    }
}

fn tar_into<W: Write>(material: &Material, out: W) -> io::Result<W> {
    let mtime = material.manifest.captured_at.map_or(0, |at| at.as_second().max(0).unsigned_abs());
    let mut builder = tar::Builder::new(out);
    for (path, content) in files(material)? {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(mtime);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, &path, content.as_slice())?;
    }
    builder.into_inner()
}

fn write_folder(material: &Material, folder: &Path) -> Result<(), BundleError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| BundleError::Write { path, source }
    };
    let private = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
    private(folder).map_err(failed(folder))?;
    if fs::read_dir(folder).map_err(failed(folder))?.next().is_some() {
        return Err(BundleError::NotEmpty { path: folder.display().to_string() });
    }
    for (name, content) in files(material).map_err(failed(folder))? {
        let path: PathBuf = folder.join(name);
        let written = path.parent().map_or(Ok(()), private).and_then(|()| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(&content)
        });
        written.map_err(failed(&path))?;
    }
    Ok(())
}

/// The folder of objects without a namespace; no namespace can be called so.
const CLUSTER: &str = "_cluster";

/// All files, by their path.
fn files(material: &Material) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut out = BTreeMap::new();
    let (mut left_out, mut truncated_logs) = (vec![], vec![]);
    let mut lists: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for object in &material.objects {
        lists.entry(list_path(object)).or_default().push(object);
    }
    for (path, objects) in lists {
        out.insert(path, list(objects)?);
    }
    for log in &material.logs {
        let parts = [log.namespace.as_str(), &log.pod, &log.container];
        if parts.iter().any(|part| safe(part) != *part) {
            left_out.push(format!("the log of container {}", printable(&parts.join("/"))));
            continue;
        }
        if log.truncated {
            truncated_logs.push(log.path());
        }
        out.insert(log.path(), log.bytes.clone());
    }
    for proxy in &material.proxies {
        let parts = [proxy.namespace.as_str(), &proxy.pod, &proxy.file];
        if parts.iter().any(|part| safe(part) != *part) {
            left_out.push(format!("the proxy's answer {}", printable(&parts.join("/"))));
            continue;
        }
        out.insert(format!("envoy/{}", parts.join("/")), proxy.bytes.clone());
    }
    for answer in &material.control_plane {
        let path = format!("istiod/{}/{}", safe(&answer.pod), safe(&answer.file));
        out.insert(path, serde_json::to_vec(&answer.body)?);
    }
    for metric in &material.metrics {
        let body = serde_json::to_vec(&metric.body)?;
        insert_free(&mut out, &format!("metrics/{}", safe(&metric.name)), body);
    }
    for file in &material.traces {
        insert_free(&mut out, &format!("traces/{}", safe(&file.name)), file.bytes.clone());
    }
    let mut manifest = Manifest { version: Manifest::VERSION, ..material.manifest.clone() };
    truncated_logs.sort();
    manifest.truncated_logs = truncated_logs;
    manifest.gaps.extend(material.gaps.iter().cloned());
    manifest.gaps.extend(left_out.into_iter().map(|what| Gap::new("Bundle", what, GapReason::Failed)));
    let mut text = serde_json::to_vec_pretty(&manifest)?;
    text.push(b'\n');
    out.insert("meshscope.json".to_owned(), text);
    Ok(out)
}

/// One file for each kind of a namespace.
fn list_path(object: &Value) -> String {
    let namespace = object.text("metadata.namespace").unwrap_or(CLUSTER);
    let kind = object.text("kind").unwrap_or_default().to_ascii_lowercase();
    let group = object.text("apiVersion").and_then(|version| Some(version.split_once('/')?.0));
    let name = group.map_or(kind.clone(), |group| format!("{kind}.{group}"));
    format!("resources/{}/{}.json", safe(namespace), safe(&name))
}

/// A `List` with one object on each line, so that it can be searched and compared line by line.
fn list(mut objects: Vec<&Value>) -> io::Result<Vec<u8>> {
    objects.sort_by(|a, b| {
        let key = |object: &Value| (object.string("metadata.namespace"), object.string("metadata.name"));
        key(a).cmp(&key(b))
    });
    let mut out = br#"{"apiVersion":"v1","kind":"List","items":["#.to_vec();
    for (index, object) in objects.into_iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        let mut stripped = None;
        if object.text("kind") == Some("Secret") {
            objects::strip_secret(stripped.insert(object.clone()));
        }
        serde_json::to_writer(&mut out, stripped.as_ref().unwrap_or(object))?;
    }
    out.extend_from_slice(b"\n]}\n");
    Ok(out)
}

/// Inserts under a name that nothing has yet.
fn insert_free(out: &mut BTreeMap<String, Vec<u8>>, stem: &str, content: Vec<u8>) {
    let mut path = format!("{stem}.json");
    let mut number = 2;
    while out.contains_key(&path) {
        path = format!("{stem}-{number}.json");
        number += 1;
    }
    out.insert(path, content);
}

/// A name that is one component of a path everywhere: letters, digits, `-`, `_` and inner dots; the rest becomes `_`.
fn safe(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    let name: String = name.chars().map(|c| if allowed(c) { c } else { '_' }).take(MAX_NAME).collect();
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if name.is_empty() => "_".to_owned(),
        None => name,
    }
}

/// File systems stop at 255 bytes; the ending needs some of them. Kubernetes' names have 253 characters at most.
const MAX_NAME: usize = 240;

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::bundle::{read, read_stream};
    use crate::collect::material::{ControlPlaneFile, LogFile, MetricFile, ProxyFile, TraceFile};
    use crate::collect::redact::{Counts, redact_bytes};
    use crate::model::json::json;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn log(container: &str, previous: bool, bytes: &[u8]) -> LogFile {
        LogFile {
            namespace: "shop".to_owned(),
            pod: "a-1".to_owned(),
            container: container.to_owned(),
            previous,
            bytes: bytes.to_vec(),
            truncated: false,
        }
    }

    fn full() -> Material {
        Material {
            manifest: json!({
                "version": 1, "capturedAt": "2026-11-21T10:00:00Z", "onset": "2026-11-21T09:41:00Z",
                "window": {"start": "2026-11-21T09:00:00Z", "end": "2026-11-21T10:00:00Z"},
                "target": {"namespace": "shop", "services": ["checkout"]}, "edges": [["a", "b"]],
                "istio": {"rootNamespace": "mesh", "meshConfig": {"a": 1}},
                "gaps": [{"source": "Logs", "what": "x", "reason": "Forbidden"}]
            })
            .read()
            .unwrap(),
            objects: vec![
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "shop"}}),
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-1", "namespace": "shop"}}),
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b-1", "namespace": "shop"}}),
            ],
            logs: vec![
                log("app", false, b"one \xff\n"),
                LogFile { truncated: true, ..log("app", true, b"zero\n") },
            ],
            metrics: vec![MetricFile { name: "up".to_owned(), body: json!({"data": {"result": []}}) }],
            traces: vec![TraceFile { name: "t".to_owned(), bytes: br#"[{"traceId":"1"}]"#.to_vec() }],
            proxies: vec![ProxyFile {
                namespace: "shop".to_owned(),
                pod: "a-1".to_owned(),
                file: "stats.txt".to_owned(),
                bytes: b"x: 1\n".to_vec(),
            }],
            control_plane: vec![ControlPlaneFile {
                pod: "istiod-1".to_owned(),
                file: "syncz.json".to_owned(),
                body: json!([1]),
            }],
            ..Material::default()
        }
    }

    /// All of a material, in an order of its own.
    fn shape(material: &Material) -> impl PartialEq + std::fmt::Debug + use<> {
        let mut objects: Vec<String> = material.objects.iter().map(Value::to_string).collect();
        objects.sort();
        let mut logs = material.logs.clone();
        logs.sort_by_key(|log| (log.namespace.clone(), log.pod.clone(), log.container.clone(), log.previous));
        let rest = (
            material.metrics.clone(),
            material.traces.clone(),
            material.proxies.clone(),
            material.control_plane.clone(),
        );
        (material.manifest.clone(), objects, logs, rest, material.gaps.clone(), material.ignored)
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let material = full();
        for name in ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst", "a"] {
            let path = folder.path().join(name);
            write(&material, &path).unwrap();
            let again = read(&[path]).unwrap();
            assert_eq!(shape(&again), shape(&material), "{name}");
        }
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 5, "no partial file stays");
    }

    #[test]
    fn the_same_material_gives_the_same_bytes() {
        let mut shuffled = full();
        shuffled.objects.reverse();
        shuffled.logs.reverse();
        for format in [Format::Tar, Format::TarGzip, Format::TarZstd] {
            let (mut one, mut two) = (vec![], vec![]);
            write_archive(&full(), &mut one, format).unwrap();
            write_archive(&shuffled, &mut two, format).unwrap();
            assert_eq!(one, two);
        }
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "x").unwrap();
        let error = write(&full(), folder.path()).unwrap_err();
        assert!(matches!(error, BundleError::NotEmpty { .. }));
        let error = write(&full(), &folder.path().join("mine/x.tar")).unwrap_err();
        assert_eq!(error.category(), "write");
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let mut material = full();
        material.logs.push(log("../../../x", false, b"x"));
        material.objects.push(json!({"kind": "../../X", "metadata": {"name": "x", "namespace": "../.."}}));
        let mut bytes = vec![];
        write_archive(&material, &mut bytes, Format::Tar).unwrap();
        let again = read_stream("x", Cursor::new(bytes)).unwrap();
        assert_eq!(again.objects.len(), material.objects.len());
        assert_eq!(again.logs.len(), 2);
        assert_eq!(again.manifest.gaps.len(), 2);
    }

    #[test]
    fn secrets_are_not_written() {
        let mut material = full();
        material
            .objects
            .push(json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "aHVudGVyMg=="}}));
        let mut bytes = vec![];
        write_archive(&material, &mut bytes, Format::Tar).unwrap();
        assert!(memchr::memmem::find(&bytes, b"aHVudGVyMg").is_none());
    }

    proptest! {
        #[test]
        fn any_log_survives(bytes in proptest::collection::vec(any::<u8>(), 0..512), container in "[a-z][a-z0-9-]{0,20}") {
            let material = Material { logs: vec![log(&container, false, &bytes)], ..full() };
            let mut out = vec![];
            write_archive(&material, &mut out, Format::TarZstd).unwrap();
            let again = read_stream("x", Cursor::new(out)).unwrap();
            let expected = redact_bytes(&bytes, &mut Counts::default());
            prop_assert_eq!(&again.logs[0].bytes, &expected.into_owned());
        }
    }
}
