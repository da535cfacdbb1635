//! An archive that begins like an AppC image.
//!
//! What it is for: an ACI is told from other archives by the name of its first
//! member, and is then taken as it is: its bytes are the image's layer. May assume
//! nothing. Must not know what is in a manifest.

use std::fmt;
use std::io::{self, Cursor, Read};
use std::sync::Arc;

use parking_lot::Mutex;

use super::ArchiveError;
use super::stream::{Input, StreamArchive};

/// Bytes that are looked at for the first name; a block of bzip2, which is all or
/// nothing, has up to 900 000, and headers may come before the name.
const LOOK_MAX: usize = 4 << 20;
/// Members without a name of their own (`./`) that may come first.
const NAMELESS_MAX: usize = 16;

/// The bytes of an ACI, as they came.
pub struct AciStream {
    name: String,
    len: Option<u64>,
    from: Input,
}

impl fmt::Debug for AciStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AciStream({}, {:?} bytes)", self.name, self.len)
    }
}

impl AciStream {
    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes as it is compressed, where that is known.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.len
    }
}

impl Read for AciStream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.from.read(to)
    }
}

/// What a stream turned out to be.
pub(super) enum Looked {
    Aci(AciStream),
    /// Something else: all of its bytes.
    Other(Input),
}

/// Looks at the first name in a stream. Nothing of the stream is lost.
///
/// A pipe that fails meanwhile fails again when it is read on.
pub(super) fn look(name: &str, len: Option<u64>, from: Input) -> Looked {
    let seen = Arc::new(Mutex::new(Seen {
        from,
        bytes: Vec::new(),
    }));
    let is_aci = begins_like_aci(name, Glance(Arc::clone(&seen)));
    let seen = Arc::into_inner(seen).expect("because the archive that looked is gone");
    let Seen { from, bytes } = seen.into_inner();
    let from: Input = Box::new(Cursor::new(bytes).chain(from));
    match is_aci {
        true => Looked::Aci(AciStream {
            name: name.to_owned(),
            len,
            from,
        }),
        false => Looked::Other(from),
    }
}

/// What fails here fails again, and is told, when the archive is read.
fn begins_like_aci(name: &str, glance: Glance) -> bool {
    let first = || -> Result<Option<String>, ArchiveError> {
        let mut archive = StreamArchive::new(name.to_owned(), Box::new(glance))?;
        let mut members = archive.members()?;
        for _ in 0..NAMELESS_MAX {
            match members.next_member()? {
                None => return Ok(None),
                Some(member) => {
                    if let Some(name) = member.name() {
                        return Ok(Some(name.to_owned()));
                    }
                    if member.size() > 0 {
                        // To pass it over could mean to decompress for hours.
                        return Ok(None);
                    }
                }
            }
        }
        Ok(None)
    };
    first().is_ok_and(|first| {
        first.is_some_and(|name| {
            matches!(name.split('/').next(), Some("rootfs")) || name == "manifest"
        })
    })
}

/// A stream, and what was read of it.
struct Seen {
    from: Input,
    bytes: Vec<u8>,
}

/// Reads a stream and keeps what it reads.
struct Glance(Arc<Mutex<Seen>>);

impl Read for Glance {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Seen { from, bytes } = &mut *self.0.lock();
        let room = LOOK_MAX.saturating_sub(bytes.len()).min(to.len());
        if room == 0 && !to.is_empty() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let got = from.read(&mut to[..room])?;
        bytes.extend_from_slice(&to[..got]);
        Ok(got)
    }
}
