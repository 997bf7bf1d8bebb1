//! Keeps the house one-way: which module uses which. A new edge is a decision, made in [`ALLOWED`] in the same commit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "what goes wrong here is to stop here"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and what it uses of this crate. `main` and `lib` use what they like.
const ALLOWED: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("model", &[]),
    ("collect", &["api", "model", "telemetry"]),
    ("analyze", &["model"]),
    ("report", &["api", "model", "analyze"]),
    ("controller", &["api", "model", "collect", "analyze", "report", "telemetry"]),
    ("replay", &["api", "model", "collect"]),
    ("server", &["telemetry"]),
    ("telemetry", &[]),
    ("cli", &["api", "model", "collect", "analyze", "report", "controller", "replay", "server", "telemetry"]),
];

/// Modules that do no I/O and read no clock, and what they must not name for that.
const PURE: &[&str] = &["model", "analyze"];
const IMPURE: &[&str] = &[
    "kube",
    "k8s_openapi",
    "tokio",
    "reqwest",
    "prometheus_http_query",
    "std::fs",
    "std::net",
    "std::env",
    "rand",
    "SystemTime",
    "Instant",
    "Timestamp::now",
];

fn files_of(path: &Path, out: &mut Vec<PathBuf>) {
    if path.is_file() {
        out.push(path.to_owned());
    } else if let Ok(entries) = fs::read_dir(path) {
        entries.for_each(|entry| files_of(&entry.unwrap().path(), out));
    }
    out.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
}

/// The source without comments and without the strings that begin and end on one line: what a rule looks for in a log is no
/// use of it.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| without_strings(line.split("//").next().unwrap_or_default()));
    lines.collect::<Vec<_>>().join("\n")
}

fn without_strings(line: &str) -> String {
    let line = line.replace("\\\\", "").replace("\\\"", "").replace("'\"'", "");
    let mut parts = line.split('"');
    let mut out = parts.next().unwrap_or_default().to_owned();
    while let Some(inside) = parts.next() {
        match parts.next() {
            Some(after) => out.push_str(after),
            None => out.push_str(inside),
        }
    }
    out
}

/// The modules that a source names after `crate::`, groups (`crate::{a::X, b}`) included.
fn modules_named(code: &str) -> Vec<String> {
    let mut out = vec![];
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => out.push(identifier(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (index, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && c.is_alphabetic() => {
                            out.push(identifier(&group[index..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    out
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn every_module_uses_only_what_the_table_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = vec![];
    for (module, allowed) in ALLOWED {
        let mut files = vec![];
        files_of(&src.join(module), &mut files);
        files_of(&src.join(format!("{module}.rs")), &mut files);
        for file in files {
            let code = code(&fs::read_to_string(&file).unwrap());
            for named in modules_named(&code) {
                let known = ALLOWED.iter().any(|(other, _)| *other == named);
                if known && named != *module && !allowed.contains(&named.as_str()) {
                    wrong.push(format!("{}: {module} uses {named}", file.display()));
                }
            }
            if PURE.contains(module) {
                for name in IMPURE.iter().filter(|name| {
                    code.contains(&format!("{name}::")) || code.contains(&format!("use {name}"))
                }) {
                    wrong.push(format!("{}: {module} names {name}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_is_in_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        let known =
            ["lib", "main"].contains(&name.as_str()) || ALLOWED.iter().any(|(module, _)| *module == name);
        assert!(known, "src/{name} is not in the table of tests/architecture.rs");
    }
}

#[test]
fn the_reader_of_paths_sees_groups() {
    assert_eq!(
        modules_named("use crate::{model::{a, b}, collect::X}; crate::api::Y"),
        ["model", "collect", "api"]
    );
}
