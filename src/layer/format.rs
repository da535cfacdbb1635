//! Every byte of a layer's index (`layers-v1`), written down once. The seek map
//! (`seek-v1`) is specified where it is made and read: [`super::seek`].
//!
//! What it is for: this text is the specification; the code below it and in
//! `records` writes and reads single records by it, and nothing else knows an
//! offset. May assume nothing of bytes that are read. Must not know where they
//! come from, nor what a directory or a whiteout is good for.
//!
//! An index is the payload of a sealed file ([`super::blocks`]) with the magic
//! `lr-index` and version 1. All numbers are little-endian and unsigned unless
//! said otherwise; everything that has no meaning is zero. *Row n* is inode
//! record n, *entry n* is entry record n, counted from 0 over the whole section.
//!
//! # Header, at 0, 512 bytes
//!
//! ```text
//!   0  algorithm of the diff ID   u8, 1 SHA-256, 2 SHA-512
//!   1  dialect                    u8, 1 Docker, 2 AppC
//!   2  zero                       6 bytes
//!   8  diff ID                    64 bytes, a SHA-256 fills the first 32
//!  72  length of the tar          u64
//!  80  rows                       u32 \
//!  84  entries                    u32  |
//!  88  regular files              u32  |
//!  92  directories                u32  | the summary
//!  96  whiteouts and opaque marks u32  |
//! 100  unresolved hard links      u32  |
//! 104  rows with xattrs           u32  |
//! 108  zero                       u32  |
//! 112  sum of the files' sizes    u64 /
//! 120  lengths of the sections    9 times u64, in the order below
//! 192  zero                       up to 512
//! ```
//!
//! # Sections
//!
//! The first begins at 512, each next one at the first multiple of 64 behind the
//! one before; the payload ends with the last one. So no record of 64, 32, 16 or
//! 8 bytes ever crosses a block of the sealed file.
//!
//! **1. Inodes**, 64 bytes each, as many as rows, in the order in which the tar
//! first told of them (index and data are near each other in the same way). Row
//! 0 is the root. A directory's row is greater than its parent's, so every walk
//! up or down ends.
//!
//! ```text
//!  0  type and mode    u16, as st_mode (inode(7))
//!  2  flags            u16, 1 opaque, 2 implied (directories only),
//!                      4 linked: more than one name (never a directory)
//!  4  uid              u32
//!  8  gid              u32
//! 12  link count       u32, names in this layer; a directory's is 2 + the
//!                      directories among its entries
//! 16  size             u64, of a file, or length of a symlink's target, else 0
//! 24  mtime, seconds   i64
//! 32  mtime, nanos     u32, below 1 000 000 000
//! 36  xattrs           u32, 0: none, else 1 + offset / 8 in section 6
//! 40  by type          16 bytes:
//!       file           u64 start of its stored data in the tar, u32 number of its
//!                      digest, u32 0: no holes, else 1 + offset / 8 in section 7
//!       directory      u32 first entry, u32 number of entries
//!       symlink        u32 offset of its target in section 5
//!       device         u32 major, u32 minor
//! 56  name             linked: u32 first record in section 8 (link count records)
//!                      else: u32 row of its directory, u32 its entry;
//!                      the root: 0 and 0xffff_ffff
//! ```
//!
//! **2. Entries**, 16 bytes each. Those of one directory lie together, sorted by
//! the bytes of their names, no name twice; the directories follow each other in
//! the order of their rows, without gaps.
//!
//! ```text
//!  0  offset of the name in section 3   u32, 0 for names up to 6 bytes
//!  4  number                            u32, row, or unresolved link, or 0
//!  8  length of the name                u8, 1 to 255
//!  9  what it is                        u8, DT_* of readdir(3): 1 fifo, 2 character
//!                                       device, 4 directory, 6 block device, 8 file,
//!                                       10 symlink, 14 whiteout; 15 unresolved link
//! 10  first bytes of the name           6 bytes, zeros behind a shorter one
//! ```
//!
//! A name is neither `.` nor `..` and has no `/` or NUL; in dialect Docker none
//! begins with `.wh.`, in AppC none is a whiteout.
//!
//! **3. Names** longer than 6 bytes, whole, in the order of their first use by
//! entries, each once. None crosses a block: zeros are put before one that would.
//!
//! **4. Digests**, 32 bytes each: SHA-256 of each regular file's stored data, in
//! the order of rows.
//!
//! **5. Targets**: those of symlinks (1 to 4095 bytes, no NUL), in the order of
//! their first use by rows, each once; then those of the unresolved links, in
//! their order, one behind the other up to the end of the section (not shared, so
//! that reading all of them never takes more memory than the file has bytes).
//!
//! **6. Xattr sets**, in the order of their first use by rows, each once, each at
//! a multiple of 8: u32 length of what follows (1 to 1 MiB), then for each
//! attribute, sorted by name, no name twice: u32 length of the value (at most
//! 64 KiB), u8 length of the name, name, value.
//!
//! **7. Sparse maps**, in the order of rows: u64 length of the stored data,
//! u32 number of extents, u32 zero, then for each extent u64 offset in the file,
//! u64 length, u64 offset in the stored data. Extents are not empty, are sorted
//! and do not overlap, end within the file and within the stored data.
//!
//! **8. Names of linked rows**, 8 bytes each: u32 row of the directory, u32 entry.
//! One list per linked row, in the order of rows, each sorted by entry.
//!
//! **9. Unresolved hard links**, 16 bytes each, sorted by entry: u32 row of the
//! directory, u32 entry, u32 offset of the target in section 5, u32 its length.
//! A target is a clean path: no leading slash, no empty, `.` or `..` component.

mod records;

pub(super) use records::{
    Body, Dirent, EXTENT, Inode, Listed, NamedBy, SparseHead, UnresolvedAt, extent, pair,
    put_extent, put_xattr, split_xattr, unpair,
};

use super::Dialect;
use super::blocks::Seal;
use super::read::Summary;
use crate::digest::{DiffId, Digest};
use crate::tree_path::NAME_MAX;

/// How a sealed file says that it is an index of this version.
pub const INDEX: Seal = Seal {
    magic: *b"lr-index",
    version: 1,
};

/// Longest symlink target in bytes (`PATH_MAX` is 4096 with its NUL: symlink(2)
/// takes no more).
pub const TARGET_MAX: usize = 4095;
/// Longest name of an extended attribute (`XATTR_NAME_MAX`, xattr(7)).
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute (`XATTR_SIZE_MAX`, xattr(7)).
pub const XATTR_VALUE_MAX: usize = 64 << 10;
/// Longest set of extended attributes of one object, encoded. File systems
/// keep far less (ext4: one block); this bounds what one answer may allocate.
pub const XATTR_SET_MAX: usize = 1 << 20;
/// Longest section of names, targets, xattr sets or sparse maps: what a hostile
/// layer may make the builder hold in memory, and the reason why 32 bits are
/// enough for an offset. Real layers stay below a tenth of it.
pub const HEAP_MAX: usize = 512 << 20;
/// Most rows and entries of one layer: numbers are 32 bits, one is kept free.
pub const ROWS_MAX: u32 = u32::MAX - 1;

/// Names up to this length lie in their entry record alone.
pub(super) const INLINE: usize = 6;
pub(super) const HEADER: usize = 512;
pub(super) const INODE: usize = 64;
pub(super) const DIRENT: usize = 16;
pub(super) const DIGEST: usize = 32;
pub(super) const PAIR: usize = 8;
pub(super) const UNRESOLVED: usize = 16;
pub(super) const SPARSE_HEAD: usize = 16;
/// Entry number that the root has for its own name.
pub(super) const NO_ENTRY: u32 = u32::MAX;
/// Sections begin at multiples of this, which the block size is a multiple of.
pub(super) const ALIGN: u64 = 64;
/// Xattr sets and sparse maps begin at multiples of this, so 32 bits reach far.
pub(super) const UNIT: usize = 8;
const SECTIONS: usize = 9;
/// Where the summary begins in the header.
pub(super) const SUMMARY_AT: u64 = 80;
/// Where the lengths of the sections begin in the header.
pub(super) const LENGTHS_AT: u64 = 120;

/// A stretch of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Section {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Where the sections lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sections {
    pub(super) inodes: Section,
    pub(super) dirents: Section,
    pub(super) names: Section,
    pub(super) digests: Section,
    pub(super) targets: Section,
    pub(super) xattrs: Section,
    pub(super) sparse: Section,
    pub(super) links: Section,
    pub(super) unresolved: Section,
}

impl Sections {
    /// Sections of these lengths, in the order of the file; nothing if they
    /// reach further than 64 bits.
    pub(super) fn of(lengths: [u64; SECTIONS]) -> Option<Self> {
        let mut end = HEADER as u64;
        let mut next = |len: u64| {
            let start = end.checked_next_multiple_of(ALIGN)?;
            end = start.checked_add(len)?;
            Some(Section { start, len })
        };
        let [
            inodes,
            dirents,
            names,
            digests,
            targets,
            xattrs,
            sparse,
            links,
            unresolved,
        ] = lengths;
        Some(Self {
            inodes: next(inodes)?,
            dirents: next(dirents)?,
            names: next(names)?,
            digests: next(digests)?,
            targets: next(targets)?,
            xattrs: next(xattrs)?,
            sparse: next(sparse)?,
            links: next(links)?,
            unresolved: next(unresolved)?,
        })
    }

    /// In the order of the file.
    pub(super) fn all(&self) -> [Section; SECTIONS] {
        [
            self.inodes,
            self.dirents,
            self.names,
            self.digests,
            self.targets,
            self.xattrs,
            self.sparse,
            self.links,
            self.unresolved,
        ]
    }

    /// Where the payload ends.
    pub(super) fn end(&self) -> u64 {
        self.unresolved.start + self.unresolved.len
    }
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) diff: DiffId,
    pub(super) dialect: Dialect,
    pub(super) tar_len: u64,
    pub(super) summary: Summary,
    pub(super) sections: Sections,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut to = Vec::with_capacity(HEADER);
        let digest = self.diff.0;
        to.push(match digest {
            Digest::Sha256(_) => 1,
            Digest::Sha512(_) => 2,
        });
        to.push(match self.dialect {
            Dialect::Docker => 1,
            Dialect::AppC => 2,
        });
        to.resize(8, 0);
        to.extend_from_slice(digest.as_bytes());
        to.resize(72, 0);
        to.extend_from_slice(&self.tar_len.to_le_bytes());
        let s = &self.summary;
        let counts = [
            s.rows,
            s.entries,
            s.files,
            s.dirs,
            s.whiteouts,
            s.unresolved,
            s.with_xattrs,
            0,
        ];
        for count in counts {
            to.extend_from_slice(&count.to_le_bytes());
        }
        to.extend_from_slice(&s.bytes.to_le_bytes());
        for section in self.sections.all() {
            to.extend_from_slice(&section.len.to_le_bytes());
        }
        let mut header = [0; HEADER];
        for (at, byte) in header.iter_mut().zip(to) {
            *at = byte;
        }
        header
    }

    /// The header of a payload of `payload` bytes, or where it is wrong and why.
    pub(super) fn decode(bytes: &[u8], payload: u64) -> Result<Self, (u64, &'static str)> {
        let short = (0, "the header is cut off");
        let mut from = bytes;
        let [algorithm, dialect, ..] = take::<8>(&mut from).ok_or(short)?;
        let raw = take::<64>(&mut from).ok_or(short)?;
        let diff = match (algorithm, raw.first_chunk::<32>()) {
            (1, Some(raw)) => Digest::Sha256(*raw),
            (2, _) => Digest::Sha512(raw),
            _ => return Err((0, "the algorithm of the diff ID is unknown")),
        };
        let dialect = match dialect {
            1 => Dialect::Docker,
            2 => Dialect::AppC,
            _ => return Err((1, "the dialect is unknown")),
        };
        let tar_len = u64(&mut from).ok_or(short)?;
        let mut counts = [0; 8];
        for count in &mut counts {
            *count = u32(&mut from).ok_or(short)?;
        }
        let [
            rows,
            entries,
            files,
            dirs,
            whiteouts,
            unresolved,
            with_xattrs,
            _,
        ] = counts;
        let bytes = u64(&mut from).ok_or(short)?;
        let summary = Summary {
            rows,
            entries,
            files,
            dirs,
            whiteouts,
            unresolved,
            with_xattrs,
            bytes,
        };
        let mut lengths = [0; SECTIONS];
        for len in &mut lengths {
            *len = u64(&mut from).ok_or(short)?;
        }
        let sections = Sections::of(lengths)
            .filter(|sections| sections.end() == payload)
            .ok_or((LENGTHS_AT, "the sections are not as long as the file"))?;
        let header = Self {
            diff: DiffId(diff),
            dialect,
            tar_len,
            summary,
            sections,
        };
        header.check()?;
        Ok(header)
    }

    /// Whether counts and lengths agree.
    fn check(&self) -> Result<(), (u64, &'static str)> {
        let (counted, sections) = (&self.summary, &self.sections);
        if counted.rows == 0 || counted.rows > ROWS_MAX || counted.entries > ROWS_MAX {
            return Err((SUMMARY_AT, "the number of rows or entries is impossible"));
        }
        let fixed = [
            (counted.rows, INODE, sections.inodes),
            (counted.entries, DIRENT, sections.dirents),
            (counted.files, DIGEST, sections.digests),
            (counted.unresolved, UNRESOLVED, sections.unresolved),
        ];
        if fixed
            .iter()
            .any(|&(count, size, section)| u64::from(count) * size as u64 != section.len)
            || !sections.links.len.is_multiple_of(PAIR as u64)
        {
            return Err((
                LENGTHS_AT,
                "the length of a section is not that of its records",
            ));
        }
        let heaps = [
            sections.names,
            sections.targets,
            sections.xattrs,
            sections.sparse,
        ];
        if heaps.iter().any(|section| section.len > HEAP_MAX as u64) {
            return Err((LENGTHS_AT, "a section is longer than its limit"));
        }
        Ok(())
    }
}

/// Whether bytes can be the name of an entry.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

/// The first bytes of a name as an entry record has them. No name has a NUL,
/// so their order is that of the names wherever they differ.
pub(super) fn prefix(name: &[u8]) -> [u8; INLINE] {
    let mut prefix = [0; INLINE];
    for (to, from) in prefix.iter_mut().zip(name) {
        *to = *from;
    }
    prefix
}

/// The next `N` bytes.
fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = from.split_first_chunk::<N>()?;
    *from = tail;
    Some(*head)
}

fn u16(from: &mut &[u8]) -> Option<u16> {
    take(from).map(u16::from_le_bytes)
}

fn u32(from: &mut &[u8]) -> Option<u32> {
    take(from).map(u32::from_le_bytes)
}

fn u64(from: &mut &[u8]) -> Option<u64> {
    take(from).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_its_lies_are_found() {
        let summary = Summary {
            rows: 2,
            entries: 1,
            files: 1,
            bytes: 7,
            ..Summary::default()
        };
        let sections = Sections::of([128, 16, 9, 32, 0, 0, 0, 0, 0]).unwrap();
        let diff = DiffId(Digest::Sha512([7; 64]));
        let header = Header {
            diff,
            dialect: Dialect::AppC,
            tar_len: 9,
            summary,
            sections,
        };
        let bytes = header.encode();
        let end = sections.end();
        assert_eq!(Header::decode(&bytes, end), Ok(header));
        assert!(Header::decode(&bytes, end + 1).is_err());
        assert!(Header::decode(&bytes[..100], end).is_err());
        for at in [0usize, 1, 80, 84, 88, 100, 120, 127, 135, 183, 191] {
            let mut bad = bytes;
            bad[at] ^= 0x40;
            assert!(Header::decode(&bad, end).is_err(), "byte {at}");
        }
    }

    #[test]
    fn sections_that_reach_beyond_64_bits_are_no_sections() {
        assert_eq!(Sections::of([u64::MAX, 1, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Sections::of([u64::MAX - 600, 1, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
