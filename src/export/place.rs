//! The file that an archive is written to.
//!
//! What it is for: the name is there when the archive is whole, and not before; whatever
//! happens until then leaves what was there, and nothing beside it. A pipe or a device is
//! written as it is.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// Why the file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something has that name.
    #[error("`{}` is there already", .0.display())]
    Exists(PathBuf),
    /// A directory has that name.
    #[error("`{}` is a directory", .0.display())]
    Directory(PathBuf),
    /// The directory for it is not there.
    #[error("there is no directory for `{}`", .0.display())]
    NoDirectory(PathBuf),
    /// Anything else.
    #[error("cannot write `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A file that is being written.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    to: To,
    replace: bool,
}

#[derive(Debug)]
enum To {
    /// Under another name in the same directory.
    Staged(BufWriter<NamedTempFile>),
    /// What is no regular file.
    Direct(BufWriter<File>),
}

impl Place {
    /// Begins a file. With `replace` one that has the name goes when this one is whole.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub fn open(path: &Path, replace: bool) -> Result<Self, PlaceError> {
        let failed = |source| io_error(path, source);
        let to = match path.metadata() {
            Ok(there) if there.is_dir() => return Err(PlaceError::Directory(path.to_owned())),
            Ok(there) if !there.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
                To::Direct(BufWriter::with_capacity(BUFFER, file))
            }
            Ok(_) if !replace => return Err(PlaceError::Exists(path.to_owned())),
            _ => To::Staged(BufWriter::with_capacity(BUFFER, stage(path)?)),
        };
        let path = path.to_owned();
        Ok(Self { path, to, replace })
    }

    /// The archive is whole: it gets its name. Returns its bytes, where it is a file.
    ///
    /// # Errors
    /// [`PlaceError::Exists`]: somebody else made it meanwhile. What the system says.
    pub fn finish(self) -> Result<Option<u64>, PlaceError> {
        let failed = |source| io_error(&self.path, source);
        let staged = match self.to {
            To::Direct(mut file) => {
                file.flush().map_err(failed)?;
                return Ok(None);
            }
            To::Staged(staged) => staged,
        };
        let staged = staged
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        // A name whose bytes a power cut takes away is worse than no name.
        staged.as_file().sync_data().map_err(failed)?;
        let bytes = staged.as_file().metadata().map_err(failed)?.len();
        let named = match self.replace {
            true => staged.persist(&self.path),
            false => staged.persist_noclobber(&self.path),
        };
        match named {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(PlaceError::Exists(self.path))
            }
            Err(error) => Err(failed(error.error)),
        }
    }
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Staged(file) => file.write(bytes),
            To::Direct(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Staged(file) => file.flush(),
            To::Direct(file) => file.flush(),
        }
    }
}

fn stage(path: &Path) -> Result<NamedTempFile, PlaceError> {
    let name = path
        .file_name()
        .ok_or_else(|| PlaceError::Directory(path.to_owned()))?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let made = tempfile::Builder::new()
        .prefix(&prefix)
        // As the process' umask has it; alone a temporary file is private.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent);
    made.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PlaceError::NoDirectory(path.to_owned()),
        _ => io_error(path, source),
    })
}

fn io_error(path: &Path, source: io::Error) -> PlaceError {
    let path = path.to_owned();
    PlaceError::Io { path, source }
}
