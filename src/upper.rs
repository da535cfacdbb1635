//! The upper directory of a writable mount, on disk.
//!
//! What it is for: [`Upper`](crate::union::upper::Upper) on a real directory, in
//! the format of kernel overlayfs, so that either can go on with what the other
//! wrote. May assume: upper and work directory are on one file system, and nobody
//! else changes them. Must not know layers, nor numbers of a union.

use std::io;
use std::path::{Path, PathBuf};

/// Why an upper directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpperError {
    /// Another mount has it.
    #[error("the upper directory `{}` is in use by another mount", .0.display())]
    InUse(PathBuf),
    /// Upper and work directory are not on one file system.
    #[error("`{}` and `{}` are not on one file system", upper.display(), work.display())]
    Apart {
        /// The upper directory.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// Its changes belong to other layers.
    #[error("the upper directory `{}` holds changes to another image", .0.display())]
    OtherImage(PathBuf),
    /// The file system lacks something that cannot be done without.
    #[error("the file system of `{}` cannot keep changes: {lacks}", path.display())]
    Unfit {
        /// A directory on it.
        path: PathBuf,
        /// What it lacks: `extended attributes`, ...
        lacks: &'static str,
    },
    /// Any other failure of the system.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// The verb: `open`, `clean` ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// An upper directory and its work directory, in use by this process.
#[derive(Debug)]
pub struct Directory {}

impl Directory {
    /// Takes an upper directory into use, and clears what an earlier user left
    /// in the work directory. Both are made if missing. `layers` names the stack
    /// of layers that the changes belong to; a directory that belongs to none yet
    /// belongs to it from then on.
    ///
    /// # Errors
    /// See [`UpperError`].
    pub fn open(_upper: &Path, _work: &Path, _layers: &str) -> Result<Self, UpperError> {
        unimplemented!()
    }
}
