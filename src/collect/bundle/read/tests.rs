use super::*;
use crate::model::json::json;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::fs;
use std::io::{Cursor, Write};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n";

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        // `set_path` refuses what hostile archives hold.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn link(kind: tar::EntryType) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_entry_type(kind);
    builder.append_link(&mut header, "resources/x.yaml", "/etc/passwd").unwrap();
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn stream(bytes: &[u8]) -> Result<Material, BundleError> {
    read_stream("x", Cursor::new(bytes.to_vec()))
}

#[test]
fn everything_the_format_names_is_read() {
    let files: &[(&str, &[u8])] = &[
        (
            "i/meshscope.json",
            br#"{"version": 1, "capturedAt": "2026-11-21T10:00:00Z", "edges": [["a", "b"]]}"#,
        ),
        ("i/resources/shop/pods.yaml", POD.as_bytes()),
        ("i/logs/shop/a/app.log", b"now \xff\n"),
        ("i/logs/shop/a/app.previous.log", b"then\n"),
        ("i/metrics/up.json", br#"{"status": "success", "data": {"resultType": "vector", "result": []}}"#),
        ("i/metrics/service.json", br#"{"kind": "Service", "metadata": {"name": "s"}}"#),
        ("i/traces/zipkin.json", b"[]"),
        ("i/envoy/shop/a/clusters.json", b"{}"),
        ("i/istiod/istiod-1/syncz.json", b"[]"),
        ("i/README.md", b"notes"),
        ("i/.git/config", b"x"),
    ];
    let plain = tar_of(files);
    for bytes in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
        let material = stream(&bytes).unwrap();
        assert_eq!(material.objects.len(), 2);
        assert_eq!(material.logs.len(), 2);
        assert_eq!(material.logs[0].bytes, b"now \xff\n");
        assert!(material.logs[1].previous);
        assert_eq!(material.metrics[0].name, "up");
        assert_eq!(material.traces, [TraceFile { name: "zipkin".to_owned(), bytes: b"[]".to_vec() }]);
        assert_eq!(material.proxies[0].file, "clusters.json");
        assert_eq!(material.control_plane[0].pod, "istiod-1");
        assert_eq!(material.manifest.edges, [("a".to_owned(), "b".to_owned())]);
        assert!(material.manifest.captured_at.is_some());
        assert_eq!(material.ignored, 2);
        assert!(material.gaps.is_empty(), "{:?}", material.gaps);
    }
}

#[test]
fn a_folder_a_file_and_several_paths() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("deep/er")).unwrap();
    fs::write(folder.path().join("deep/er/a.yml"), POD).unwrap();
    fs::write(folder.path().join("b.json"), r#"{"kind":"Pod","metadata":{"name":"b"}}"#).unwrap();
    let folder_path = folder.path().to_owned();
    assert_eq!(read(std::slice::from_ref(&folder_path)).unwrap().objects.len(), 2);
    let file = folder.path().join("deep/er/a.yml");
    assert_eq!(read(std::slice::from_ref(&file)).unwrap().objects.len(), 1);
    assert_eq!(read(&[file, folder_path.join("b.json")]).unwrap().objects.len(), 2);
    let missing = read(&[folder_path.join("none")]).unwrap_err();
    assert_eq!(missing.category(), "open");
    assert!(missing.to_string().contains("none"), "{missing}");
}

#[test]
fn links_and_names_that_leave_the_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), POD).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("b.yaml")).unwrap();
    let error = read(&[folder.path().to_owned()]).unwrap_err();
    assert!(matches!(error, BundleError::Refused { .. }));
    assert!(error.to_string().contains("b.yaml"), "{error}");

    for name in ["../x.yaml", "/x.yaml", "resources/../../x.yaml"] {
        let error = stream(&tar_of(&[(name, POD.as_bytes())])).unwrap_err();
        assert!(matches!(error, BundleError::Outside { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo] {
        let error = stream(&link(kind)).unwrap_err();
        assert!(matches!(error, BundleError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("resources/x.yaml"), "{error}");
    }
}

#[test]
fn an_archive_that_unpacks_to_too_much_is_stopped() {
    // 1 GiB and a little of zeros behind a valid header; gzip makes a megabyte of it.
    let mut header = tar::Header::new_ustar();
    header.set_path("padding.bin").unwrap();
    header.set_size(super::super::MAX_TOTAL_BYTES);
    header.set_cksum();
    let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
    encoder.write_all(header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(super::super::MAX_TOTAL_BYTES), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let error = stream(&bomb).unwrap_err();
    assert!(matches!(error, BundleError::TooLarge { .. }), "{error}");
}

#[test]
fn a_cut_archive_is_an_error_that_says_so() {
    let whole = gzip(&tar_of(&[("a.yaml", POD.as_bytes())]));
    let error = stream(&whole[..whole.len() / 2]).unwrap_err();
    assert_eq!(error.category(), "read");
    assert!(error.to_string().contains("cut off"), "{error}");
}

#[test]
fn a_broken_document_is_a_gap_and_nothing_but_broken_ones_an_error() {
    let text = format!("{POD}---\nspec: [\n---\n{}", POD.replace("name: a", "name: b"));
    let material = stream(text.as_bytes()).unwrap();
    assert_eq!(material.objects.len(), 2);
    assert_eq!(material.gaps.len(), 1);
    assert!(material.gaps[0].what.starts_with("x, line "), "{:?}", material.gaps);

    let error = stream(b"spec: [\n").unwrap_err();
    assert!(error.to_string().contains("x, line "), "{error}");
    assert_eq!(stream(b"").unwrap_err().category(), "empty");
    assert_eq!(stream(b"\0\0\0").unwrap_err().category(), "empty");
    assert!(stream(b"# nothing to see\n---\n").unwrap().objects.is_empty());
}

#[test]
fn a_manifest_that_cannot_be_trusted_is_an_error() {
    for manifest in [r#"{"version": 2}"#, r#"{"capturedAt": "noon"}"#, "[]"] {
        let error = stream(&tar_of(&[("meshscope.json", manifest.as_bytes())])).unwrap_err();
        assert_eq!(error.category(), "manifest", "{error}");
        assert!(error.to_string().contains("x/meshscope.json"), "{error}");
    }
    assert!(stream(&tar_of(&[("meshscope.json", b"{}")])).unwrap().objects.is_empty());
}

#[test]
fn the_newest_version_of_an_object_counts() {
    let pod = |version: &str| json!({"kind": "Pod", "metadata": {"name": "a", "uid": "u", "resourceVersion": version}});
    let list = |pods: &[Value]| json!({"kind": "List", "items": pods}).to_string();
    let text = list(&[pod("9"), pod("10"), pod("3")]);
    let material = stream(text.as_bytes()).unwrap();
    assert_eq!(material.objects.len(), 1);
    assert_eq!(material.objects[0].text("metadata.resourceVersion"), Some("10"));
    // Copied by hand, with another name.
    let mut copy = pod("11");
    copy["metadata"]["name"] = json!("b");
    assert_eq!(stream(list(&[pod("9"), copy]).as_bytes()).unwrap().objects.len(), 2);
}

#[test]
fn logs_of_a_cluster_dump_are_told_apart_by_container() {
    let text = b"==== START logs for container a of pod shop/p ====\none\n==== END logs for container a of pod shop/p ====\n\
                 ==== START logs for container b of pod shop/p ====\ntwo\n";
    let material = stream(&tar_of(&[("dump/shop/p/logs.txt", text)])).unwrap();
    let logs: Vec<_> =
        material.logs.iter().map(|log| (log.container.as_str(), log.bytes.as_slice())).collect();
    assert_eq!(logs, [("a", b"one\n".as_slice()), ("b", b"two\n".as_slice())]);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = stream(&bytes);
    }

    #[test]
    fn random_text_never_panics(text in "[ \\n\\t:{}\\[\\]&*!|>'\"%#a-c0-9.,<?@`~-]{0,300}") {
        let _ = stream(text.as_bytes());
    }

    #[test]
    fn random_entries_never_panic(name in "[a-z./-]{1,40}", content in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = stream(&tar_of(&[(&name, &content)]));
    }
}

#[test]
fn objects_know_where_they_stand_and_secrets_are_not_kept() {
    use crate::model::object::ObjectRef;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "# head\n{POD}---\nkind: List\nitems:\n- kind: Role\n  metadata: {{name: r}}\n---\nkind: Secret\nmetadata: {{name: s}}\n"
    );
    let file = folder.path().join("a.yaml");
    fs::write(&file, text).unwrap();
    let sources = read(std::slice::from_ref(&file)).unwrap().sources;
    let asked = [
        ObjectRef { api_version: "v1".into(), ..ObjectRef::new("Pod", "shop", "a") }
            .field("metadata.namespace"),
        ObjectRef::new("Role", "", "r").field("rules[0].verbs"),
        ObjectRef::new("Secret", "", "s"),
    ];
    let asked: Vec<&ObjectRef> = asked.iter().collect();
    let found: Vec<Option<(usize, usize)>> =
        sources.locate(&asked, |_| None).into_iter().map(|at| at.map(|at| (at.line, at.column))).collect();
    assert_eq!(found, [Some((4, 21)), Some((8, 3)), None]);
    let json = folder.path().join("b.json");
    fs::write(&json, r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}}"#).unwrap();
    assert!(read(&[json]).unwrap().sources.is_empty());
}

#[test]
fn a_packed_bundle_inside_is_named_and_no_reason_for_peace_of_mind() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("incident.tar.gz"), b"anything").unwrap();
    fs::write(folder.path().join("notes.json"), "{}").unwrap();
    fs::write(folder.path().join("session.yaml"), "kind: DebugSession\nmetadata: {name: why}\n").unwrap();
    let error = read(&[folder.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("incident.tar.gz in it is not unpacked; name that file itself"), "{error}");
    fs::write(folder.path().join("pod.yaml"), POD).unwrap();
    let gaps = read(&[folder.path().to_owned()]).unwrap().gaps;
    assert_eq!(gaps.len(), 1);
    assert!(gaps[0].what.ends_with("incident.tar.gz: an archive inside, not unpacked"), "{}", gaps[0].what);
}
