//! The files of a bundle, one after the other: from a folder, an archive or standard input.

use flate2::read::MultiGzDecoder;
use std::fs;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::{BundleError, MAX_ENTRIES, MAX_FOLDER_DEPTH, MAX_TOTAL_BYTES};

/// Takes the files as they come.
pub(super) trait Sink {
    /// Whether the file at this path, relative and joined by `/`, is worth reading.
    fn wants(&mut self, path: &str) -> bool;

    /// One file.
    fn file(&mut self, path: &str, content: &mut dyn Read) -> Result<(), BundleError>;

    /// A path that is one file and no archive.
    fn single(&mut self, name: &str, content: &mut dyn Read) -> Result<(), BundleError>;
}

/// Walks a folder or a file on disk. The path itself may be a link; nothing inside may.
pub(super) fn walk(path: &Path, sink: &mut dyn Sink) -> Result<(), BundleError> {
    let shown = path.display().to_string();
    let open = |source| BundleError::Open { path: shown.clone(), source };
    let metadata = fs::metadata(path).map_err(open)?;
    if metadata.is_dir() {
        let mut folder = Folder { shown: &shown, entries: 0, bytes: 0, sink };
        return folder.walk(path, "", 0);
    }
    if !metadata.is_file() {
        // A named pipe or a process substitution is read as standard input is; a block device is not.
        return match device(metadata.file_type()) {
            Some(what) => Err(BundleError::Refused { path: shown, what }),
            None => stream(&shown, fs::File::open(path).map_err(open)?, sink),
        };
    }
    stream(&shown, fs::File::open(path).map_err(open)?, sink)
}

fn device(kind: fs::FileType) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_block_device() {
        Some("a block device")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        None
    }
}

struct Folder<'a> {
    shown: &'a str,
    entries: usize,
    bytes: u64,
    sink: &'a mut dyn Sink,
}

impl Folder<'_> {
    fn walk(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), BundleError> {
        let shown = |path: &Path| path.display().to_string();
        if depth > MAX_FOLDER_DEPTH {
            let limit = format!("{MAX_FOLDER_DEPTH} levels of folders");
            return Err(BundleError::TooLarge { path: shown(folder), limit });
        }
        let open = |source| BundleError::Open { path: shown(folder), source };
        let mut entries = vec![];
        for entry in fs::read_dir(folder).map_err(open)? {
            let entry = entry.map_err(open)?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let limit = format!("{MAX_ENTRIES} files");
                return Err(BundleError::TooLarge { path: self.shown.to_owned(), limit });
            }
            entries.push(entry);
        }
        // The order of a folder is the file system's affair; that of a bundle is not.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = entry.path();
            let inside = if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
            if name.starts_with('.') {
                // `.git` and editors' files are no part of a bundle.
                self.sink.wants("");
                continue;
            }
            let kind =
                entry.file_type().map_err(|source| BundleError::Open { path: shown(&path), source })?;
            if kind.is_dir() {
                self.walk(&path, &inside, depth + 1)?;
                continue;
            }
            if !kind.is_file() {
                let what = if kind.is_symlink() { "a symbolic link" } else { "a device, socket or pipe" };
                return Err(BundleError::Refused { path: shown(&path), what });
            }
            if !self.sink.wants(&inside) {
                continue;
            }
            let open = |source| BundleError::Open { path: shown(&path), source };
            let mut file = fs::File::open(&path).map_err(open)?;
            self.bytes = self.bytes.saturating_add(file.metadata().map_err(open)?.len());
            if self.bytes > MAX_TOTAL_BYTES {
                return Err(too_large(self.shown));
            }
            self.sink.file(&inside, &mut file)?;
        }
        Ok(())
    }
}

fn too_large(path: &str) -> BundleError {
    BundleError::TooLarge { path: path.to_owned(), limit: format!("{} MiB unpacked", MAX_TOTAL_BYTES >> 20) }
}

/// Reads what its first bytes say it is: a compressed or plain archive, or one document file.
pub(super) fn stream<'a>(
    name: &str,
    content: impl Read + 'a,
    sink: &mut dyn Sink,
) -> Result<(), BundleError> {
    let failed = |source| read_error(name, source);
    let mut content: Box<dyn Read + 'a> = Box::new(content);
    // Twice: an archive may be compressed, and a compressed file need not be an archive.
    for _ in 0..2 {
        let mut head = vec![];
        (&mut content).take(HEAD_BYTES).read_to_end(&mut head).map_err(failed)?;
        let format = Format::of(&head);
        content = Box::new(io::Cursor::new(head).chain(content));
        let decoder: Box<dyn Read + 'a> = match format {
            Format::Gzip => Box::new(MultiGzDecoder::new(content)),
            Format::Zstd => Box::new(zstd::stream::read::Decoder::new(content).map_err(failed)?),
            Format::Tar => return archive(name, Limited { inner: content, left: MAX_TOTAL_BYTES }, sink),
            Format::Other => break,
        };
        content = Box::new(BufReader::with_capacity(BUFFER, decoder));
    }
    sink.single(name, &mut content)
}

/// As much as a tar header, whose magic stands at byte 257.
const HEAD_BYTES: u64 = 512;

/// Decompression in few calls.
const BUFFER: usize = 64 << 10;

enum Format {
    Gzip,
    Zstd,
    Tar,
    Other,
}

impl Format {
    fn of(head: &[u8]) -> Self {
        if head.starts_with(&[0x1f, 0x8b]) {
            Format::Gzip
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Format::Zstd
        } else if head.get(257..262) == Some(b"ustar") {
            Format::Tar
        } else {
            Format::Other
        }
    }
}

fn archive(name: &str, content: impl Read, sink: &mut dyn Sink) -> Result<(), BundleError> {
    let failed = |source| read_error(name, source);
    let mut archive = tar::Archive::new(content);
    for (count, entry) in archive.entries().map_err(failed)?.enumerate() {
        if count >= MAX_ENTRIES {
            let limit = format!("{MAX_ENTRIES} files");
            return Err(BundleError::TooLarge { path: name.to_owned(), limit });
        }
        let mut entry = entry.map_err(failed)?;
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let shown = || format!("{name}: {}", printable(&raw));
        let kind = entry.header().entry_type();
        let refused = match kind {
            kind if kind.is_symlink() => Some("a symbolic link"),
            kind if kind.is_hard_link() => Some("a hard link"),
            kind if kind.is_character_special() || kind.is_block_special() => Some("a device"),
            kind if kind.is_fifo() => Some("a pipe"),
            kind if kind.is_gnu_sparse() => Some("a sparse file"),
            _ => None,
        };
        if let Some(what) = refused {
            return Err(BundleError::Refused { path: shown(), what });
        }
        let Some(path) = relative(&raw) else { return Err(BundleError::Outside { path: shown() }) };
        if !kind.is_file() && !kind.is_contiguous() {
            continue;
        }
        if path.split('/').any(|part| part.starts_with('.')) {
            sink.wants("");
            continue;
        }
        if sink.wants(&path) {
            sink.file(&path, &mut entry)?;
        }
    }
    Ok(())
}

/// The path without `./`; `None` where it is absolute or goes upwards.
fn relative(path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts = vec![];
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A name of an archive's entry for a message: no control characters, and not endless.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(200).collect()
}

pub(super) fn read_error(name: &str, source: io::Error) -> BundleError {
    if source.get_ref().is_some_and(|inner| inner.is::<Exceeded>()) {
        return too_large(name);
    }
    BundleError::Read { path: name.to_owned(), source }
}

/// Fails where a plain `take` would pretend that the end was reached.
struct Limited<R> {
    inner: R,
    left: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("more bytes than allowed")]
struct Exceeded;

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other(Exceeded))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder() {
        assert_eq!(relative("./a//b").as_deref(), Some("a/b"));
        assert_eq!(relative("/etc/passwd"), None);
        assert_eq!(relative("a/../../b"), None);
        assert_eq!(relative("a/..b").as_deref(), Some("a/..b"));
    }

    #[test]
    fn a_limit_is_an_error_and_no_end() {
        let mut limited = Limited { inner: io::repeat(0), left: 10 };
        let error = io::copy(&mut limited, &mut io::sink()).unwrap_err();
        assert!(matches!(read_error("x", error), BundleError::TooLarge { .. }));
    }
}
