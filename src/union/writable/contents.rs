//! Contents of files: opening, reading, holes, durability.

use super::nodes::{File, Node};
use super::{Contents, Open, Writable};
use crate::node::{Ino, Kind};
use crate::union::FsError;
use crate::union::upper::{Change, Key};

/// Where a file's contents are.
enum Place {
    Lower(Ino),
    Upper(Key),
}

impl Writable {
    fn contents(&self, ino: Ino) -> Result<Place, FsError> {
        Ok(match self.node(ino) {
            None | Some(Node::Gone) => Place::Lower(ino),
            Some(Node::Dir(_)) => return Err(FsError::IsDir),
            Some(Node::File(File {
                below: Some(below), ..
            })) => Place::Lower(below),
            Some(Node::File(file)) => {
                file.check_regular()?;
                Place::Upper(file.key)
            }
        })
    }

    /// Whether opening a file for writing, or changing its size, has contents to
    /// copy: it may take long.
    #[must_use]
    pub fn copies(&self, ino: Ino) -> bool {
        match self.node(ino) {
            None | Some(Node::Gone) => self.lower.attr(ino).is_ok_and(|attr| attr.size > 0),
            Some(Node::File(file)) => file.below.is_some(),
            Some(Node::Dir(_)) => false,
        }
    }

    /// Whether a file's contents are being copied: a change of its attributes waits
    /// for that.
    #[must_use]
    pub fn is_copying(&self, ino: Ino) -> bool {
        self.copying.lock().contains_key(&ino)
    }

    /// A regular file's contents. For writing they are copied up first.
    ///
    /// # Errors
    /// `IsDir`, `WrongKind`, `Stale`, `Damaged`, `Upper`.
    pub fn open(&self, ino: Ino, how: Open) -> Result<Contents, FsError> {
        let key = match how {
            Open::Read => match self.contents(ino)? {
                Place::Upper(key) => key,
                Place::Lower(lower) => {
                    return match self.lower.attr(lower)?.kind {
                        Kind::File => Ok(Contents::Lower),
                        Kind::Dir => Err(FsError::IsDir),
                        _ => Err(FsError::WrongKind),
                    };
                }
            },
            Open::Write => self.raise_contents(ino, u64::MAX)?,
            Open::Truncate => {
                let key = self.raise_contents(ino, 0)?;
                let change = Change {
                    size: Some(0),
                    ..Change::default()
                };
                self.upper.set_attr(key, &change).map_err(FsError::Upper)?;
                key
            }
        };
        let data = self.upper.open(key).map_err(FsError::Upper)?;
        Ok(Contents::Upper(data))
    }

    /// Reads a regular file, wherever its contents are; may be slow.
    ///
    /// # Errors
    /// `IsDir`, `WrongKind`, `Stale`, `Damaged`, `Upper`.
    pub fn read(&self, ino: Ino, offset: u64, to: &mut [u8]) -> Result<usize, FsError> {
        match self.contents(ino)? {
            Place::Lower(lower) => {
                // A file whose attributes alone went up may have been cut there.
                let size = self.attr(ino)?.attr.size;
                let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
                let most = to.len().min(left);
                self.lower.read(lower, offset, &mut to[..most])
            }
            Place::Upper(key) => {
                let data = self.upper.open(key).map_err(FsError::Upper)?;
                data.read_at(offset, to).map_err(FsError::Upper)
            }
        }
    }

    /// Where the next data (`data`) or hole (else) of a file is, at or behind
    /// `offset`; nothing at its end.
    ///
    /// # Errors
    /// `IsDir`, `WrongKind`, `Stale`, `Damaged`, `Upper`.
    pub fn seek(&self, ino: Ino, offset: u64, data: bool) -> Result<Option<u64>, FsError> {
        match self.contents(ino)? {
            Place::Lower(lower) => {
                let size = self.attr(ino)?.attr.size;
                let found = self.lower.seek(lower, offset, data)?;
                Ok(found.filter(|_| offset < size).map(|at| at.min(size)))
            }
            Place::Upper(key) => {
                let open = self.upper.open(key).map_err(FsError::Upper)?;
                open.seek(offset, data).map_err(FsError::Upper)
            }
        }
    }

    /// Makes a file or directory durable, as fsync(2) and fdatasync(2) (`data_only`)
    /// say. What is in a layer alone is.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self, ino: Ino, data_only: bool) -> Result<(), FsError> {
        let synced = match self.node(ino) {
            None | Some(Node::Gone) => return Ok(()),
            Some(Node::Dir(dir)) => self.upper.sync_dir(dir.key),
            Some(Node::File(file)) => {
                file.check_regular()?;
                // The name or mark that came with the copy-up is no data: a file that
                // came from a layer is synced as a whole.
                let data_only = data_only && ino == self.own_number(file.key);
                let data = self.upper.open(file.key);
                data.and_then(|data| data.sync(data_only))
            }
        };
        synced.map_err(FsError::Upper)
    }
}
