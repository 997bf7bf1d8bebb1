//! An incident on disk: reading and writing bundles.
//!
//! A bundle is a folder, the same tree as `.tar`, `.tar.gz` or `.tar.zst`, or one file of Kubernetes YAML or JSON. It may
//! come from anybody, so reading is bounded, follows no link and never leaves the folder.

mod entries;
mod objects;
mod place;
mod plain;
mod read;
mod write;

pub use read::{read, read_stream};
pub use write::{Format, write, write_archive};

use std::io;

/// The path that stands for standard input.
pub const STDIN: &str = "-";

/// Entries of one bundle, folders included. The fullest must-gathers of large clusters hold some 50,000.
pub const MAX_ENTRIES: usize = 200_000;

/// Bytes of one file after unpacking. A list of 10,000 pods with their managed fields takes about 120 MB.
pub const MAX_ENTRY_BYTES: u64 = 256 << 20;

/// Bytes of all files after unpacking, headers and ignored files included: this is what stops an archive that unpacks to
/// a thousand times its size.
pub const MAX_TOTAL_BYTES: u64 = 1 << 30;

/// Levels of folders.
pub const MAX_FOLDER_DEPTH: usize = 24;

/// Levels of nesting in one YAML document. The deepest schemas of well-known CRDs have some 45; the parser recurses, and
/// twice as many would need more stack than a thread has. The JSON parser stops at 128 by itself.
pub const MAX_NESTING: usize = 64;

/// Objects of one bundle, after lists are unrolled.
pub const MAX_OBJECTS: usize = 1_000_000;

/// Text of YAML files that is kept, so that findings can name the line. Files by hand are far smaller; what a dump has beyond it gives
/// findings without a line.
pub const MAX_SOURCE_BYTES: usize = 64 << 20;

/// Gaps that name a file or document which could not be read. More are counted in a last one.
pub const MAX_GAPS: usize = 100;

/// Why a bundle could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The path does not exist or cannot be opened.
    #[error("failed to open {path}")]
    Open {
        /// The path as it was given.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Reading broke off: a truncated archive, a failing disk.
    #[error("failed to read {path}; if it is an archive it may be cut off: make it again")]
    Read {
        /// The path, and the entry in it.
        path: String,
        /// What the system or the decompressor said.
        source: io::Error,
    },
    /// An entry is a link, a device, a socket or a pipe.
    #[error(
        "failed to read {path}: it is {what}, which a bundle must not hold; remove it or pack the file itself"
    )]
    Refused {
        /// The path, and the entry in it.
        path: String,
        /// `a symbolic link`, …
        what: &'static str,
    },
    /// The name of an entry leaves the folder.
    #[error(
        "failed to read {path}: its name leaves the bundle's folder; pack it with relative names and without \"..\""
    )]
    Outside {
        /// The path, and the entry in it.
        path: String,
    },
    /// A bound was reached.
    #[error(
        "failed to read {path}: more than {limit}; take a smaller part of it, one namespace or a shorter window"
    )]
    TooLarge {
        /// The path.
        path: String,
        /// The bound, with its unit.
        limit: String,
    },
    /// The manifest is not what it should be.
    #[error("failed to read the manifest {path}: {message}")]
    Manifest {
        /// The manifest's path.
        path: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The bundle could not be written.
    #[error("failed to write {path}")]
    Write {
        /// The path, and the entry in it.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The folder to write holds something already.
    #[error("failed to write {path}: the folder is not empty; name a new one")]
    NotEmpty {
        /// The folder.
        path: String,
    },
    /// There is nothing in it that Meshscope can read.
    #[error(
        "failed to find anything in {path}: {detail}; expected Kubernetes YAML or JSON, or a folder or archive with \
         resources/, logs/ or metrics/"
    )]
    Empty {
        /// The paths.
        path: String,
        /// The first thing that went wrong, or what was there instead.
        detail: String,
    },
}

impl BundleError {
    /// A bounded label for metrics and exit paths.
    pub fn category(&self) -> &'static str {
        match self {
            BundleError::Open { .. } => "open",
            BundleError::Read { .. } => "read",
            BundleError::Refused { .. } | BundleError::Outside { .. } => "refused",
            BundleError::TooLarge { .. } => "too-large",
            BundleError::Write { .. } | BundleError::NotEmpty { .. } => "write",
            BundleError::Manifest { .. } => "manifest",
            BundleError::Empty { .. } => "empty",
        }
    }
}
