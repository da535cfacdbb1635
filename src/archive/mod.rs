//! An archive, a layout's directory or standard input as files of an image.
//!
//! What it is for: [`Archive::open`] looks at the content, not at the name, and
//! gives either [`StoredFiles`], whose members can be read in any order and by
//! several threads, or a [`StreamArchive`], whose members pass once. May assume:
//! a file does not change while it is read (if it does, an error comes, and
//! digests are checked above). Must not know: what an image is made of.
//!
//! * `dir`: a directory. `tar`: a plain tar that can be seeked in.
//! * `stream`: a compressed tar or a pipe. `scanned`: what is kept of it, so that
//!   [`crate::image::find`] works when it has passed.
//! * `aci`: an AppC image, told by its first name. `packing`: decompression.
//! * `names`: the names of members, and where links among them lead.
//! * `pipe`: a descriptor that may keep its reader waiting.
//! * `gate`: bounds what headers may make the tar reader read.

mod aci;
mod dir;
mod gate;
mod names;
mod packing;
mod pipe;
mod place;
mod scanned;
mod stream;
mod tar;

pub use aci::AciStream;
pub use dir::DirFiles;
pub use packing::{Packing, Unpacked};
pub use place::{Place, PlaceReader};
pub use scanned::{ScannedFiles, Taken};
pub use stream::{Member, MemberKind, Members, StreamArchive};
pub use tar::TarFiles;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::image::Files;
use crate::layer::seek::{Compression, SNIFF, Sniffed, sniff};
use aci::Looked;
use pipe::Pipe;

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be opened.
    #[error("cannot open `{archive}`")]
    Open {
        /// What it is called.
        archive: String,
        /// What the system says.
        source: io::Error,
    },
    /// It is something else.
    #[error("`{archive}` is not an image archive: {seems}")]
    NotAnArchive {
        /// What it is called.
        archive: String,
        /// What it seems to be.
        seems: String,
    },
    /// It is damaged, or cannot be read on.
    #[error("`{archive}` cannot be read at byte {at} of the tar")]
    Read {
        /// What it is called.
        archive: String,
        /// Where in the uncompressed tar.
        at: u64,
        /// What is wrong.
        source: io::Error,
    },
    /// It ends before a member does.
    #[error("`{archive}` is cut short: it ends at byte {at}, within `{member}`")]
    Truncated {
        /// What it is called.
        archive: String,
        /// The member that is not whole.
        member: String,
        /// Length of the archive.
        at: u64,
    },
    /// Other readers see other members behind it: they pass such data over, or take it for
    /// what it is.
    #[error("`{archive}` has a {kind}, `{member}`, that says it has {size} bytes of data")]
    Data {
        /// What it is called.
        archive: String,
        /// The member.
        member: String,
        /// What it is: nothing that has data.
        kind: &'static str,
        /// What its header says.
        size: u64,
    },
    /// More than is accepted.
    #[error("`{archive}` has more than {limit} {what}")]
    Limit {
        /// What it is called.
        archive: String,
        /// What there are too many of.
        what: &'static str,
        /// How many are accepted.
        limit: u64,
    },
}

impl ArchiveError {
    /// What to try, where something can be tried.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Truncated { .. } | Self::Data { .. } => {
                Some("save or copy the archive again".to_owned())
            }
            Self::NotAnArchive { seems, .. } if seems.contains("JSON") => {
                Some("give the directory or archive that it belongs to".to_owned())
            }
            _ => None,
        }
    }
}

/// The files of an image, as they were given.
#[derive(Debug)]
pub enum Archive {
    /// They can be read in any order.
    Stored(StoredFiles),
    /// They pass once, in the order of the archive.
    Stream(StreamArchive),
    /// An AppC image, which is one layer with its manifest.
    Aci(AciStream),
}

impl Archive {
    /// Opens what is at `path`: a directory, a tar or ACI (compressed or not), a pipe.
    ///
    /// Set `stop` from elsewhere, and a pipe that nothing comes from is given up.
    ///
    /// # Errors
    /// It cannot be opened, is no archive, or its headers are damaged.
    pub fn open(path: &Path, stop: &Arc<AtomicBool>) -> Result<Self, ArchiveError> {
        let archive = path.display().to_string();
        let file = File::open(path).map_err(|source| ArchiveError::Open {
            archive: archive.clone(),
            source,
        })?;
        Self::from_file(archive, file, stop)
    }

    /// As [`Self::open`], of a descriptor that is open already (standard input,
    /// say). `name` is what messages call it.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn from_file(
        name: String,
        mut file: File,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, ArchiveError> {
        let open = |source| ArchiveError::Open {
            archive: name.clone(),
            source,
        };
        let data = file.metadata().map_err(open)?;
        if data.is_dir() {
            return Ok(Self::Stored(StoredFiles::Dir(DirFiles::new(file))));
        }
        // Somebody who has read a part already wants the rest.
        if !data.is_file() || file.stream_position().map_err(open)? != 0 {
            let pipe = Box::new(Pipe::new(file, Arc::clone(stop)));
            return match aci::look(&name, None, pipe) {
                Looked::Aci(stream) => Ok(Self::Aci(stream)),
                Looked::Other(from) => StreamArchive::new(name, from).map(Self::Stream),
            };
        }
        let again = file.try_clone().map_err(open)?;
        if let Looked::Aci(stream) = aci::look(&name, Some(data.len()), Box::new(again)) {
            return Ok(Self::Aci(stream));
        }
        // Both descriptors share one position.
        file.rewind().map_err(open)?;
        let mut head = Vec::with_capacity(SNIFF);
        head.resize(SNIFF.min(usize::try_from(data.len()).unwrap_or(SNIFF)), 0);
        file.read_exact_at(&mut head, 0).map_err(open)?;
        match sniff(&head) {
            Sniffed::Tar => {
                let tar = TarFiles::scan(name, Arc::new(file), data.len())?;
                Ok(Self::Stored(StoredFiles::Tar(tar)))
            }
            _ => StreamArchive::new(name, Box::new(file)).map(Self::Stream),
        }
    }
}

/// Files of an image that can be read in any order, by several threads at once.
#[derive(Debug)]
pub enum StoredFiles {
    /// A directory.
    Dir(DirFiles),
    /// A plain tar.
    Tar(TarFiles),
}

impl StoredFiles {
    /// Where the bytes of a file lie; nothing where there is no such file.
    ///
    /// # Errors
    /// It leads out of the directory, or cannot be opened.
    pub fn place(&self, name: &str) -> io::Result<Option<Place>> {
        match self {
            Self::Dir(dir) => dir.place(name),
            Self::Tar(tar) => tar.place(name),
        }
    }

    /// The bytes of a file; nothing where there is no such file. Readers do not
    /// disturb each other.
    ///
    /// # Errors
    /// Those of [`Self::place`].
    pub fn reader(&self, name: &str) -> io::Result<Option<Box<dyn Read + Send + '_>>> {
        Ok(self
            .place(name)?
            .map(|place| Box::new(place.reader()) as Box<dyn Read + Send>))
    }
}

impl Files for StoredFiles {
    fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.place(name)?
            .map(|place| place.whole(limit))
            .transpose()
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.place(name)?.map(|place| place.len()))
    }
}

impl Files for DirFiles {
    fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.place(name)?
            .map(|place| place.whole(limit))
            .transpose()
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.place(name)?.map(|place| place.len()))
    }
}

impl Files for TarFiles {
    fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.place(name)?
            .map(|place| place.whole(limit))
            .transpose()
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.place(name)?.map(|place| place.len()))
    }
}

/// Why something cannot be an archive, from its first bytes.
fn refuse(archive: String, head: &[u8], packed: Option<Packing>) -> ArchiveError {
    let sniffed = sniff(head);
    let begins = |magic: &[u8]| head.starts_with(magic);
    let text = head
        .iter()
        .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace());
    let seems = match sniffed {
        Sniffed::Empty => "it is empty",
        Sniffed::Json => "it begins like JSON",
        Sniffed::Tar => "it begins like a tar",
        Sniffed::Compressed(Compression::Gzip) => "it is compressed with gzip",
        Sniffed::Compressed(Compression::Zstd) => "it is compressed with zstd",
        Sniffed::Bzip2 => "it is compressed with bzip2",
        Sniffed::Xz => "it is compressed with xz",
        _ if begins(b"\x7fELF") => "it is an ELF program",
        _ if begins(b"PK\x03\x04") => "it is a zip archive",
        _ if begins(b"hsqs") => "it is a squashfs file system",
        _ if begins(b"#!") => "it is a script",
        // What a server sends in place of a download that is not there.
        _ if begins(b"<!DOCTYPE") || begins(b"<html") => "it is an HTML page",
        _ if text => "it is text",
        _ => "its content is of no known kind",
    };
    let seems = match packed {
        None | Some(Packing::Plain) => seems.to_owned(),
        Some(packing) => format!("inside {}, {seems}", packing.name()),
    };
    ArchiveError::NotAnArchive { archive, seems }
}
