//! A file's bytes, wherever they are, and what of it is stored.
//!
//! What it is for: reading a file of the tree that is packed. Must not know the tar.

use std::sync::Arc;

use crate::layer::tar::Extent;
use crate::node::Ino;
use crate::union::FsError;
use crate::union::upper::Data;
use crate::union::writable::{Contents, Open, Writable};

/// Stretches that a sparse file is told in; of one with more, short holes are filled.
const EXTENTS_MAX: usize = 10_000;

/// Where a file's bytes are.
pub(super) enum Bytes<'a> {
    Lower(&'a Writable, Ino),
    Upper(Arc<dyn Data>),
}

impl<'a> Bytes<'a> {
    pub(super) fn open(tree: &'a Writable, ino: Ino) -> Result<Self, FsError> {
        Ok(match tree.open(ino, Open::Read)? {
            Contents::Lower => Self::Lower(tree, ino),
            Contents::Upper(data) => Self::Upper(data),
        })
    }

    pub(super) fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize, FsError> {
        match self {
            Self::Lower(tree, ino) => tree.read(*ino, offset, to),
            Self::Upper(data) => data.read_at(offset, to).map_err(FsError::Upper),
        }
    }

    fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>, FsError> {
        match self {
            Self::Lower(tree, ino) => tree.seek(*ino, offset, data),
            Self::Upper(file) => file.seek(offset, data).map_err(FsError::Upper),
        }
    }

    /// What is stored of the first `size` bytes.
    pub(super) fn extents(&self, size: u64) -> Result<Vec<Extent>, FsError> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        while at < size {
            let Some(from) = self.seek(at, true)?.filter(|from| *from < size) else {
                break;
            };
            let until = self
                .seek(from, false)?
                .unwrap_or(size)
                .clamp(from + 1, size);
            found.push((from, until));
            at = until;
        }
        let mut least = 1;
        while found.len() > EXTENTS_MAX {
            least *= 2;
            found.dedup_by(|next, last| {
                let near = next.0 - last.1 < least;
                if near {
                    last.1 = next.1;
                }
                near
            });
        }
        let mut stored_at = 0;
        let extent = |(from, until): (u64, u64)| {
            let extent = Extent {
                offset: from,
                len: until - from,
                stored_at,
            };
            stored_at += extent.len;
            extent
        };
        Ok(found.into_iter().map(extent).collect())
    }
}
