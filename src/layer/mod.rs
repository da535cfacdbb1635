//! What one layer says: its tree, and where the bytes of its files lie.
//!
//! What it is for: turning a layer's tar stream into an index and a seek map
//! (import), and answering questions from those two (everything else).
//! May assume: bytes come from a [`Source`] or are pushed in. Must not know:
//! paths, descriptors, sockets, the store's layout, other layers.
//!
//! * [`tar`]: tar bytes into entries.
//! * [`write`](mod@write): entries into an index. [`read`](mod@read): an index, asked.
//! * [`seek`]: compressed bytes into plain ones, forwards while points are
//!   recorded, or from any recorded point.
//! * [`blocks`]: the sealed file that index and seek map are kept in.
//! * [`mod@format`]: every byte of both, written down once.
//! * [`path_set`]: paths that a layer is restricted to.

pub mod blocks;
pub mod format;
pub mod inflate;
pub mod path_set;
pub mod read;
pub mod seek;
pub mod tar;
pub mod write;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;

use crate::digest::{DiffId, Digest};

/// A place in one layer's index; row 0 is the layer's root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row(pub u32);

impl Row {
    /// The layer's root directory, always there.
    pub const ROOT: Self = Self(0);
}

/// What special names in a layer mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `.wh.NAME` and `.wh..wh..opq` hide what lower layers have, and every name
    /// that begins with `.wh.` is hidden (OCI image spec, layer.md, "Whiteouts").
    Docker,
    /// No whiteouts: `.wh.` is an ordinary beginning of a name.
    AppC,
}

/// What a hostile layer may make us spend. Every refusal names the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members of one layer's tar.
    pub entries: u64,
    /// Bytes of one layer when unpacked; also the largest size a member may claim.
    pub unpacked: u64,
    /// Unpacked bytes per compressed byte, looked at beyond the first GiB only
    /// (deflate can reach 1032).
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4 << 20,
            unpacked: 1 << 40,
            ratio: 256,
        }
    }
}

/// Why bytes could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// They are there and they are wrong.
    #[error("`{file}` is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The file, as its [`Source`] is called.
        file: String,
        /// Where in that file, in bytes.
        offset: u64,
        /// What was found there.
        what: String,
    },
    /// They could not be read.
    #[error("cannot read `{file}`")]
    Io {
        /// The file, as its [`Source`] is called.
        file: String,
        /// What the system says.
        source: io::Error,
    },
}

impl ReadError {
    /// Whether it is the bytes that are to blame, and not what this process may have or do.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return true;
        };
        let errno = source.raw_os_error().map(Errno::from_raw_os_error);
        !matches!(
            errno,
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::ACCESS | Errno::PERM)
        )
    }
}

/// Bytes at rest that can be read anywhere: a file, a blob seen uncompressed, memory.
pub trait Source: Send + Sync + fmt::Debug {
    /// What messages call it.
    fn name(&self) -> String;

    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `to` from `offset` on.
    ///
    /// # Errors
    /// [`ReadError::Io`] where the bytes cannot be read (also beyond the end),
    /// [`ReadError::Corrupt`] where they fail their check. `to` is then undefined.
    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), ReadError>;

    /// These bytes are going to be read soon: whoever has to wait for a disk may begin to.
    fn will_need(&self, _range: Range<u64>) {}

    /// As [`Self::read_at`], where the caller has a check of his own: a source
    /// may then hand out bytes that pass it before it has made its own check.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    fn read_checked(
        &self,
        offset: u64,
        to: &mut [u8],
        _check: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(), ReadError> {
        self.read_at(offset, to)
    }
}

/// Files up to this size (64 KiB, nine files in ten) are checked by their own
/// digest where that answers a reader sooner.
const SMALL_FILE: usize = 64 << 10;

impl Source for Vec<u8> {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), ReadError> {
        let from = usize::try_from(offset)
            .ok()
            .and_then(|at| self.get(at..)?.get(..to.len()));
        match from {
            Some(bytes) => to.copy_from_slice(bytes),
            None => {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(ReadError::Io {
                    file: self.name(),
                    source,
                });
            }
        }
        Ok(())
    }
}

/// One layer, ready to be asked: its tree and its uncompressed tar.
#[derive(Debug)]
pub struct Layer {
    /// The tree.
    pub index: read::Index,
    /// The uncompressed tar, readable anywhere; checks what it hands out.
    pub contents: Box<dyn Source>,
}

impl Layer {
    /// The layer's name.
    #[must_use]
    pub fn diff_id(&self) -> DiffId {
        self.index.diff_id()
    }

    /// Reads up to `to.len()` bytes of the regular file `row` from `offset` on;
    /// holes are zeros. Returns how many bytes there were, 0 at the end.
    ///
    /// # Errors
    /// Damage or failure of index or contents.
    pub fn read_file(&self, row: Row, offset: u64, to: &mut [u8]) -> Result<usize, ReadError> {
        self.read_part(row, offset, to, true)
    }

    /// As [`Self::read_file`], for one who reads the layer from its beginning to its end:
    /// he will want what lies behind a small file, too, so he gets no part of a span
    /// before the rest of it.
    ///
    /// # Errors
    /// As [`Self::read_file`].
    pub fn read_file_on(&self, row: Row, offset: u64, to: &mut [u8]) -> Result<usize, ReadError> {
        self.read_part(row, offset, to, false)
    }

    /// In a `hurry`, a small file is checked by its own digest as soon as its bytes are there.
    fn read_part(
        &self,
        row: Row,
        offset: u64,
        to: &mut [u8],
        hurry: bool,
    ) -> Result<usize, ReadError> {
        let extents = self.index.extents(row)?;
        let size = extents.size;
        if offset >= size {
            return Ok(0);
        }
        let wanted = usize::try_from(size - offset).map_or(to.len(), |left| left.min(to.len()));
        let to = &mut to[..wanted];
        let Some(map) = &extents.map else {
            let small = wanted as u64 == size && wanted <= SMALL_FILE;
            if small && hurry {
                let digest = self.index.digest(row)?;
                let check = |bytes: &[u8]| Digest::sha256(bytes) == digest;
                self.contents.read_checked(extents.start, to, &check)?;
            } else {
                self.contents.read_at(extents.start + offset, to)?;
            }
            return Ok(wanted);
        };
        to.fill(0);
        let end = offset + wanted as u64;
        // First extent that ends behind `offset`: extents are sorted and apart.
        let first = map.partition_point(|e| e.offset + e.len <= offset);
        for extent in map[first..].iter().take_while(|e| e.offset < end) {
            let from = extent.offset.max(offset);
            let until = (extent.offset + extent.len).min(end);
            // Both differences are at most `wanted`, which is a usize.
            let (a, b) = ((from - offset) as usize, (until - offset) as usize);
            let at = extents.start + extent.stored_at + (from - extent.offset);
            self.contents.read_at(at, &mut to[a..b])?;
        }
        Ok(wanted)
    }
}

/// A layer that several views share.
pub type SharedLayer = Arc<Layer>;
