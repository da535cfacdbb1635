//! A plain tar that can be read anywhere: one look at all headers, then a table.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::gate::Gate;
use super::names::{MEMBERS_MAX, Node, Table};
use super::stream::{MemberKind, data_of_none, describe};
use super::{ArchiveError, Place};

/// The members of a plain tar.
#[derive(Debug)]
pub struct TarFiles {
    file: Arc<File>,
    table: Table<Stored>,
}

/// How a member's bytes lie in the archive.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stored {
    Whole { offset: u64, len: u64 },
    Sparse,
}

impl TarFiles {
    /// Reads the headers of `file`, which has `len` bytes.
    pub(super) fn scan(archive: String, file: Arc<File>, len: u64) -> Result<Self, ArchiveError> {
        let (gate, state) = Gate::new(Place::new(Arc::clone(&file), 0, len).reader());
        let mut tar = tar::Archive::new(gate);
        let mut table = Table::default();
        let at = Arc::clone(&state);
        let read = |source| ArchiveError::Read {
            archive: archive.clone(),
            at: at.at(),
            source,
        };
        let mut entries = tar.entries_with_seek().map_err(read)?;
        let mut end = 0;
        loop {
            state.headers_behind(end);
            let Some(entry) = entries.next().transpose().map_err(read)? else {
                break;
            };
            if let Some(error) = data_of_none(&archive, &entry) {
                return Err(error);
            }
            let (name, kind) = describe(&entry);
            let offset = entry.raw_file_position();
            let size = entry.size();
            let sparse = entry.header().entry_type().is_gnu_sparse();
            // A sparse one stores less than its size says.
            end = if sparse {
                let stored = entry.header().entry_size().unwrap_or(0);
                state.at().saturating_add(stored)
            } else {
                offset.saturating_add(size)
            };
            if end > len {
                let member = crate::tree_path::printable(&entry.path_bytes());
                return Err(ArchiveError::Truncated {
                    archive,
                    member,
                    at: len,
                });
            }
            let Some(name) = name else {
                continue;
            };
            let node = match kind {
                MemberKind::File if sparse => Node::File(Stored::Sparse),
                MemberKind::File => Node::File(Stored::Whole { offset, len: size }),
                MemberKind::Link(target) => Node::Link(target),
                MemberKind::Other => Node::Other,
            };
            if !table.insert(name, node) {
                let limit = MEMBERS_MAX as u64;
                return Err(ArchiveError::Limit {
                    archive,
                    what: "members",
                    limit,
                });
            }
        }
        Ok(Self { file, table })
    }

    /// Where the bytes of a file lie; nothing where there is no such file.
    ///
    /// # Errors
    /// Its links lead in a circle, or it is stored in pieces.
    pub fn place(&self, name: &str) -> io::Result<Option<Place>> {
        match self.table.resolve(name)? {
            None => Ok(None),
            Some((_, &Stored::Whole { offset, len })) => {
                Ok(Some(Place::new(Arc::clone(&self.file), offset, len)))
            }
            Some((_, Stored::Sparse)) => {
                let what = "the archive stores it as a sparse file: make it without `tar --sparse`";
                Err(io::Error::new(io::ErrorKind::Unsupported, what))
            }
        }
    }
}
