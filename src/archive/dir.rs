//! A directory's files.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::Place;

/// Tries at a path that somebody renames meanwhile: openat2(2) says EAGAIN then.
const TRIES: usize = 16;

/// The files of a directory. Links are followed, and never out of it.
#[derive(Debug)]
pub struct DirFiles {
    root: File,
}

impl DirFiles {
    /// `root` is the directory, open.
    #[must_use]
    pub fn new(root: File) -> Self {
        Self { root }
    }

    /// Where the bytes of a file lie; nothing where there is no such file.
    ///
    /// # Errors
    /// It leads out of the directory, or cannot be opened.
    pub fn place(&self, name: &str) -> io::Result<Option<Place>> {
        // Not waiting for the other end, should it be a fifo.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        let file = loop {
            match openat2(&self.root, name, flags, Mode::empty(), inside) {
                Ok(file) => break File::from(file),
                Err(Errno::AGAIN) if tries < TRIES => tries += 1,
                Err(Errno::INTR) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(Errno::XDEV) => {
                    let what = "it leads out of the directory";
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
                }
                Err(error) => return Err(error.into()),
            }
        };
        let data = file.metadata()?;
        if data.is_dir() {
            return Ok(None);
        }
        if !data.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            ));
        }
        Ok(Some(Place::new(Arc::new(file), 0, data.len())))
    }
}
