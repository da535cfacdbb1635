//! An index, asked.
//!
//! What it is for: every question about the tree of one layer, answered from
//! the blocks that the question needs and no others. May assume nothing of the
//! file: what a block's check lets through may still be forged, so every
//! reference is looked at before it is followed, a damaged index is an error
//! that says where, and no walk along its references can go round in a circle.
//! Must not know what the union makes of the answers.
//!
//! `heaps` reads what is of variable length; `verify` asks everything at once.

mod heaps;
mod verify;

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::blocks::{BLOCK, BlockCache, BlockFile};
use super::format::{
    self, Body, DIGEST, DIRENT, Dirent, HEADER, Header, INODE, Inode, Listed, NamedBy, Section,
};
use super::tar::Extent;
use super::{Dialect, ReadError, Row, Source};
use crate::digest::{DiffId, Digest};
use crate::node::{Attr, Device, Kind};
use crate::tree_path::TreePath;

/// What a name in a directory of one layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    /// An object of this layer.
    Node(Row, Kind),
    /// A hard link to something in lower layers: number in [`Index::unresolved`].
    Link(u32),
    /// Lower layers' entry of this name is hidden.
    Whiteout,
    /// This layer says nothing of the name.
    Absent,
}

/// What the index says of one directory, beyond its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirInfo {
    /// The directory it lies in; the root's is the root.
    pub parent: Row,
    /// Nothing of lower layers shows through (`.wh..wh..opq`).
    pub opaque: bool,
    /// No member names it, only something below it: its attributes are those of
    /// the next lower layer that has the directory, else 0755 root, time 0.
    pub implied: bool,
    /// Entries that the layer lists in it, whiteouts included.
    pub entries: u32,
}

/// One object of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What `stat` tells. `nlink` counts the names within this layer; a
    /// directory's is 2 + the subdirectories that this layer lists in it.
    pub attr: Attr,
    /// For directories.
    pub dir: Option<DirInfo>,
    /// Whether it has extended attributes.
    pub has_xattrs: bool,
}

/// Where a regular file's bytes lie in the uncompressed tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents {
    /// Where the stored data begins, in bytes.
    pub start: u64,
    /// The file's size, in bytes.
    pub size: u64,
    /// The stored stretches of a sparse file; nothing: all of it is stored.
    pub map: Option<Vec<Extent>>,
}

/// Extended attributes: full names and raw values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A hard link whose target lies in a lower layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The directory that has the name.
    pub dir: Row,
    /// The name.
    pub name: Vec<u8>,
    /// What it leads to, from the root of the image.
    pub target: TreePath,
}

/// What a layer adds, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Summary {
    /// Rows (objects, the root and implied directories included).
    pub rows: u32,
    /// Names listed in directories, whiteouts included.
    pub entries: u32,
    /// Regular files.
    pub files: u32,
    /// Directories.
    pub dirs: u32,
    /// Whiteouts and opaque marks.
    pub whiteouts: u32,
    /// Hard links into lower layers.
    pub unresolved: u32,
    /// Objects with extended attributes.
    pub with_xattrs: u32,
    /// Sum of the sizes of all regular files, in bytes.
    pub bytes: u64,
}

/// An index, opened.
#[derive(Debug)]
pub struct Index {
    file: BlockFile,
    header: Header,
    unresolved: OnceLock<Vec<Unresolved>>,
}

impl Index {
    /// Opens a sealed index: constant time, reads header and footer only.
    ///
    /// # Errors
    /// Damage, another version, failure to read.
    pub fn open(source: Box<dyn Source>, cache: Arc<BlockCache>) -> Result<Self, ReadError> {
        let file = BlockFile::open(source, format::INDEX, cache)?;
        let payload = file.len();
        let header = file
            .with(0, HEADER, |bytes| Header::decode(bytes, payload))?
            .map_err(|(at, what)| file.corrupt(at, what))?;
        Ok(Self {
            file,
            header,
            unresolved: OnceLock::new(),
        })
    }

    /// The layer it describes.
    #[must_use]
    pub fn diff_id(&self) -> DiffId {
        self.header.diff
    }

    /// What special names mean in it.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.header.dialect
    }

    /// Length of the uncompressed tar in bytes.
    #[must_use]
    pub fn tar_len(&self) -> u64 {
        self.header.tar_len
    }

    /// What the layer adds, in numbers (from the header).
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.header.summary
    }

    /// Looks a name up in a directory.
    ///
    /// # Errors
    /// Damage; also when `dir` is no directory.
    pub fn lookup(&self, dir: Row, name: &[u8]) -> Result<Hit, ReadError> {
        let Range {
            start: mut low,
            end: mut high,
        } = self.entries_of(dir)?;
        if !format::is_name(name) {
            return Ok(Hit::Absent);
        }
        // Halve, until what is left lies in one block: that is looked at in place.
        while low < high && self.block_of(low) != self.block_of(high - 1) {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle)?;
            match self.compare(&entry, name)? {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return self.hit(dir, middle, &entry),
            }
        }
        let at = self.entry_at(low);
        let found = self
            .file
            .with(at, (high - low) as usize * DIRENT, |bytes| {
                self.search(low, bytes, name)
            })??;
        match found {
            Some((number, entry)) => self.hit(dir, number, &entry),
            None => Ok(Hit::Absent),
        }
    }

    /// Lists a directory in the order of the names' bytes, from entry number
    /// `from` on, until `visit` (number, name, hit) says false.
    ///
    /// # Errors
    /// Damage; also when `dir` is no directory.
    pub fn list(
        &self,
        dir: Row,
        from: u32,
        visit: &mut dyn FnMut(u32, &[u8], Hit) -> bool,
    ) -> Result<(), ReadError> {
        let all = self.entries_of(dir)?;
        let mut low = all.start.saturating_add(from);
        while low < all.end {
            let at = self.entry_at(low);
            // At most a block of entries; at least one, for none crosses a block.
            let room = u32::try_from((BLOCK - at % BLOCK) / DIRENT as u64).unwrap_or(1);
            let high = low.saturating_add(room).min(all.end);
            let more = self
                .file
                .with(at, (high - low) as usize * DIRENT, |bytes| {
                    for (record, number) in bytes.as_chunks().0.iter().zip(low..high) {
                        let entry = self.decode_entry(number, record)?;
                        let hit = self.hit(dir, number, &entry)?;
                        let seen = number - all.start;
                        if !self.named(&entry, |name| visit(seen, name, hit))? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                })??;
            if !more {
                break;
            }
            low = high;
        }
        Ok(())
    }

    /// An object's attributes.
    ///
    /// # Errors
    /// Damage; also when there is no such row.
    pub fn node(&self, row: Row) -> Result<Node, ReadError> {
        let inode = self.inode(row)?;
        let mut rdev = Device::default();
        let mut dir = None;
        let mut stored = inode.size;
        match inode.body {
            Body::File { sparse, .. } => {
                if let Some(unit) = sparse.checked_sub(1) {
                    stored = self.sparse_head(unit)?.1.stored;
                }
            }
            Body::Dir {
                count,
                opaque,
                implied,
                ..
            } => {
                let parent = match inode.named {
                    NamedBy::Entry { dir, .. } => Row(dir),
                    NamedBy::Links(_) => Row::ROOT,
                };
                dir = Some(DirInfo {
                    parent,
                    opaque,
                    implied,
                    entries: count,
                });
            }
            Body::Char(device) | Body::Block(device) => rdev = device,
            Body::Symlink { .. } | Body::Fifo => {}
        }
        let attr = Attr {
            kind: inode.kind(),
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            stored,
            mtime: inode.mtime,
            nlink: inode.nlink,
            rdev,
        };
        Ok(Node {
            attr,
            dir,
            has_xattrs: inode.xattrs != 0,
        })
    }

    /// An object's extended attributes: full names and raw values, sorted by name.
    ///
    /// # Errors
    /// Damage; also when there is no such row.
    pub fn xattrs(&self, row: Row) -> Result<Xattrs, ReadError> {
        match self.inode(row)?.xattrs.checked_sub(1) {
            Some(unit) => self.xattr_set(unit),
            None => Ok(Vec::new()),
        }
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// Damage; also when the row is no symlink.
    pub fn target(&self, row: Row) -> Result<Vec<u8>, ReadError> {
        let inode = self.inode(row)?;
        let Body::Symlink { target } = inode.body else {
            return Err(self.bad_row(row, "a symlink is expected here"));
        };
        let len = usize::try_from(inode.size).unwrap_or(usize::MAX);
        let target = self.target_bytes(u64::from(target), len)?;
        if target.contains(&0) {
            return Err(self.bad_row(row, "a symlink's target has a NUL byte"));
        }
        Ok(target)
    }

    /// Where a regular file's bytes lie.
    ///
    /// # Errors
    /// Damage; also when the row is no regular file.
    pub fn extents(&self, row: Row) -> Result<Extents, ReadError> {
        let inode = self.inode(row)?;
        let Body::File { start, sparse, .. } = inode.body else {
            return Err(self.bad_row(row, "a regular file is expected here"));
        };
        let size = inode.size;
        let (stored, map) = match sparse.checked_sub(1) {
            Some(unit) => {
                let (stored, map) = self.sparse_map(unit, size)?;
                (stored, Some(map))
            }
            None => (size, None),
        };
        if start
            .checked_add(stored)
            .is_none_or(|end| end > self.header.tar_len)
        {
            return Err(self.bad_row(row, "a file's data leads behind the end of the tar"));
        }
        Ok(Extents { start, size, map })
    }

    /// The SHA-256 of a regular file's stored data.
    ///
    /// # Errors
    /// Damage; also when the row is no regular file.
    pub fn digest(&self, row: Row) -> Result<Digest, ReadError> {
        let Body::File { digest, .. } = self.inode(row)?.body else {
            return Err(self.bad_row(row, "a regular file is expected here"));
        };
        let at = self.place(
            self.header.sections.digests,
            u64::from(digest) * DIGEST as u64,
            DIGEST,
        )?;
        let mut raw = [0; DIGEST];
        self.file.read(at, &mut raw)?;
        Ok(Digest::Sha256(raw))
    }

    /// All names that an object has in this layer, each with its directory
    /// (one for a directory; none for the root).
    ///
    /// # Errors
    /// Damage; also when there is no such row.
    pub fn names(&self, row: Row) -> Result<Vec<(Row, Vec<u8>)>, ReadError> {
        let inode = self.inode(row)?;
        let pairs = match inode.named {
            NamedBy::Entry { .. } if row == Row::ROOT => Vec::new(),
            NamedBy::Entry { dir, entry } => vec![(dir, entry)],
            NamedBy::Links(first) => self.links(first, inode.nlink)?,
        };
        pairs
            .into_iter()
            .map(|(dir, number)| {
                let entry = self.entry(number)?;
                if !matches!(entry.listed, Listed::Node(of, _) if of == row) {
                    return Err(self.bad_row(row, "a name of an object leads elsewhere"));
                }
                let dir = Row(dir);
                if !self.entries_of(dir)?.contains(&number) {
                    return Err(self.bad_row(row, "a name of an object is in another directory"));
                }
                Ok((dir, self.named(&entry, <[u8]>::to_vec)?))
            })
            .collect()
    }

    /// The hard links that lead into lower layers; `Hit::Link` is a place herein.
    ///
    /// # Errors
    /// Damage.
    pub fn unresolved(&self) -> Result<&[Unresolved], ReadError> {
        if let Some(links) = self.unresolved.get() {
            return Ok(links);
        }
        let links = self.load_unresolved()?;
        Ok(self.unresolved.get_or_init(|| links))
    }

    /// Reads all of it and checks every rule of the format: references, order,
    /// names, that directories form one tree.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn verify(&self) -> Result<(), ReadError> {
        self.file.verify()?;
        verify::verify(self)
    }
}

/// Places and records.
impl Index {
    /// Where `len` bytes at `offset` of a section lie in the file.
    fn place(&self, section: Section, offset: u64, len: usize) -> Result<u64, ReadError> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= section.len => Ok(section.start + offset),
            _ => Err(self.file.corrupt(
                section.start.saturating_add(offset),
                "a reference leads out of its section",
            )),
        }
    }

    fn row_at(&self, row: Row) -> u64 {
        self.header.sections.inodes.start + u64::from(row.0) * INODE as u64
    }

    fn bad_row(&self, row: Row, what: &str) -> ReadError {
        self.file.corrupt(self.row_at(row), what)
    }

    fn inode(&self, row: Row) -> Result<Inode, ReadError> {
        if row.0 >= self.header.summary.rows {
            return Err(self
                .file
                .corrupt(self.row_at(row), format!("there is no row {}", row.0)));
        }
        self.file
            .with(self.row_at(row), INODE, |bytes| match bytes.first_chunk() {
                Some(record) => Inode::decode(row, record),
                None => Err("a record is cut off"),
            })?
            .map_err(|what| self.bad_row(row, what))
    }

    /// The entries of a directory, by number.
    fn entries_of(&self, dir: Row) -> Result<Range<u32>, ReadError> {
        let Body::Dir { first, count, .. } = self.inode(dir)?.body else {
            return Err(self.bad_row(dir, "a directory is expected here"));
        };
        match first.checked_add(count) {
            Some(end) if end <= self.header.summary.entries => Ok(first..end),
            _ => Err(self.bad_row(dir, "a directory has entries behind the last one")),
        }
    }

    fn entry_at(&self, number: u32) -> u64 {
        self.header.sections.dirents.start + u64::from(number) * DIRENT as u64
    }

    fn block_of(&self, number: u32) -> u64 {
        self.entry_at(number) / BLOCK
    }

    fn entry(&self, number: u32) -> Result<Dirent, ReadError> {
        let offset = u64::from(number) * DIRENT as u64;
        let at = self.place(self.header.sections.dirents, offset, DIRENT)?;
        let mut record = [0; DIRENT];
        self.file.read(at, &mut record)?;
        self.decode_entry(number, &record)
    }

    fn decode_entry(&self, number: u32, record: &[u8; DIRENT]) -> Result<Dirent, ReadError> {
        Dirent::decode(record).ok_or_else(|| self.bad_entry(number, "an entry stands for nothing"))
    }

    fn bad_entry(&self, number: u32, what: &str) -> ReadError {
        self.file.corrupt(self.entry_at(number), what)
    }

    /// Hands the name of an entry on to `look`.
    fn named<T>(&self, entry: &Dirent, look: impl FnOnce(&[u8]) -> T) -> Result<T, ReadError> {
        if let Some(name) = entry.inline() {
            return Ok(look(name));
        }
        let len = usize::from(entry.name_len);
        let at = self.place(self.header.sections.names, u64::from(entry.name_at), len)?;
        self.file.with(at, len, look)
    }

    fn compare(&self, entry: &Dirent, name: &[u8]) -> Result<Ordering, ReadError> {
        match entry.prefix.cmp(&format::prefix(name)) {
            Ordering::Equal => self.named(entry, |own| own.cmp(name)),
            decided => Ok(decided),
        }
    }

    /// Finds a name among the entries from `low` on, which lie in `bytes`.
    fn search(
        &self,
        low: u32,
        bytes: &[u8],
        name: &[u8],
    ) -> Result<Option<(u32, Dirent)>, ReadError> {
        let records = bytes.as_chunks::<DIRENT>().0;
        let prefix = format::prefix(name);
        // Those whose first bytes are the name's: mostly one, or none.
        let mut from = records.partition_point(|record| Dirent::prefix_of(record) < prefix);
        let rest = records.get(from..).unwrap_or_default();
        let mut until = from + rest.partition_point(|record| Dirent::prefix_of(record) == prefix);
        while from < until {
            let middle = from + (until - from) / 2;
            let Some(record) = records.get(middle) else {
                break;
            };
            let number = low.saturating_add(u32::try_from(middle).unwrap_or(u32::MAX));
            let entry = self.decode_entry(number, record)?;
            match self.named(&entry, |own| own.cmp(name))? {
                Ordering::Less => from = middle + 1,
                Ordering::Greater => until = middle,
                Ordering::Equal => return Ok(Some((number, entry))),
            }
        }
        Ok(None)
    }

    /// What an entry of `dir` stands for, if it can.
    fn hit(&self, dir: Row, number: u32, entry: &Dirent) -> Result<Hit, ReadError> {
        match entry.listed {
            Listed::Whiteout => Ok(Hit::Whiteout),
            Listed::Link(link) if link < self.header.summary.unresolved => Ok(Hit::Link(link)),
            // Parents come first: that is what makes every walk end.
            Listed::Node(row, Kind::Dir) if row <= dir => {
                Err(self.bad_entry(number, "a directory comes before its parent"))
            }
            Listed::Node(row, kind) if row.0 < self.header.summary.rows => Ok(Hit::Node(row, kind)),
            _ => Err(self.bad_entry(number, "an entry leads behind the last object")),
        }
    }
}
