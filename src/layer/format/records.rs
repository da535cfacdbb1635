//! Single records of the index, field by field (see the module above).
//!
//! Decoding checks what one record can say alone; what it says of others is
//! checked by whoever follows it.

use super::{DIRENT, INLINE, INODE, NO_ENTRY, PAIR, SPARSE_HEAD, UNRESOLVED, take, u16, u32, u64};
use crate::layer::tar::Extent;
use crate::layer::{Row, format};
use crate::node::{Device, Kind, Time};

/// Nanoseconds in a second.
const NANOS: u32 = 1_000_000_000;

const OPAQUE: u16 = 1;
const IMPLIED: u16 = 2;
const LINKED: u16 = 4;

/// `DT_WHT` of readdir(3).
const WHITEOUT: u8 = 14;
/// Ours: `DT_*` ends before it.
const LINK: u8 = 15;

/// `S_IFMT` shifted down (inode(7)); `DT_*` of readdir(3) are the same numbers.
fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Fifo => 1,
        Kind::Char => 2,
        Kind::Dir => 4,
        Kind::Block => 6,
        Kind::File => 8,
        Kind::Symlink => 10,
        // Never written: no tar has one. Read, it is no kind.
        Kind::Socket => 12,
    }
}

fn kind_of(code: u8) -> Option<Kind> {
    Some(match code {
        1 => Kind::Fifo,
        2 => Kind::Char,
        4 => Kind::Dir,
        6 => Kind::Block,
        8 => Kind::File,
        10 => Kind::Symlink,
        _ => return None,
    })
}

/// What an inode has by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layer) enum Body {
    File {
        start: u64,
        digest: u32,
        /// 0: no holes, else 1 + offset / 8.
        sparse: u32,
    },
    Dir {
        first: u32,
        count: u32,
        opaque: bool,
        implied: bool,
    },
    Symlink {
        target: u32,
    },
    Char(Device),
    Block(Device),
    Fifo,
}

/// Where the names of an inode are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layer) enum NamedBy {
    /// It has one.
    Entry { dir: u32, entry: u32 },
    /// It has as many as its link count: first record of section 8.
    Links(u32),
}

/// An inode record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layer) struct Inode {
    pub(in crate::layer) mode: u16,
    pub(in crate::layer) uid: u32,
    pub(in crate::layer) gid: u32,
    pub(in crate::layer) nlink: u32,
    pub(in crate::layer) size: u64,
    pub(in crate::layer) mtime: Time,
    /// 0: none, else 1 + offset / 8.
    pub(in crate::layer) xattrs: u32,
    pub(in crate::layer) body: Body,
    pub(in crate::layer) named: NamedBy,
}

impl Inode {
    pub(in crate::layer) fn kind(&self) -> Kind {
        match self.body {
            Body::File { .. } => Kind::File,
            Body::Dir { .. } => Kind::Dir,
            Body::Symlink { .. } => Kind::Symlink,
            Body::Char(_) => Kind::Char,
            Body::Block(_) => Kind::Block,
            Body::Fifo => Kind::Fifo,
        }
    }

    pub(in crate::layer) fn encode(&self, to: &mut Vec<u8>) {
        let mut flags = 0;
        let (mut low, mut third, mut fourth) = (0u64, 0, 0);
        let two = |a: u32, b: u32| u64::from(a) | u64::from(b) << 32;
        match self.body {
            Body::File {
                start,
                digest,
                sparse,
            } => (low, third, fourth) = (start, digest, sparse),
            Body::Dir {
                first,
                count,
                opaque,
                implied,
            } => {
                low = two(first, count);
                flags |= if opaque { OPAQUE } else { 0 } | if implied { IMPLIED } else { 0 };
            }
            Body::Symlink { target } => low = u64::from(target),
            Body::Char(device) | Body::Block(device) => low = two(device.major, device.minor),
            Body::Fifo => {}
        }
        let (at, entry) = match self.named {
            NamedBy::Entry { dir, entry } => (dir, entry),
            NamedBy::Links(first) => {
                flags |= LINKED;
                (first, 0)
            }
        };
        let mode = self.mode | u16::from(kind_code(self.kind())) << 12;
        to.extend_from_slice(&mode.to_le_bytes());
        to.extend_from_slice(&flags.to_le_bytes());
        to.extend_from_slice(&self.uid.to_le_bytes());
        to.extend_from_slice(&self.gid.to_le_bytes());
        to.extend_from_slice(&self.nlink.to_le_bytes());
        to.extend_from_slice(&self.size.to_le_bytes());
        to.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        to.extend_from_slice(&self.mtime.nanos.to_le_bytes());
        to.extend_from_slice(&self.xattrs.to_le_bytes());
        to.extend_from_slice(&low.to_le_bytes());
        to.extend_from_slice(&third.to_le_bytes());
        to.extend_from_slice(&fourth.to_le_bytes());
        to.extend_from_slice(&at.to_le_bytes());
        to.extend_from_slice(&entry.to_le_bytes());
    }

    /// Reads record `row`.
    pub(in crate::layer) fn decode(row: Row, bytes: &[u8; INODE]) -> Result<Self, &'static str> {
        let (inode, flags) = Self::fields(bytes).ok_or("the type of an object is unknown")?;
        inode.check(flags, row)?;
        Ok(inode)
    }

    fn fields(bytes: &[u8; INODE]) -> Option<(Self, u16)> {
        let from = &mut &bytes[..];
        let mode = u16(from)?;
        let flags = u16(from)?;
        let (uid, gid, nlink, size) = (u32(from)?, u32(from)?, u32(from)?, u64(from)?);
        let mtime = Time {
            seconds: i64::from_le_bytes(take(from)?),
            nanos: u32(from)?,
        };
        let xattrs = u32(from)?;
        let (first, second) = (u32(from)?, u32(from)?);
        let (third, fourth) = (u32(from)?, u32(from)?);
        let (at, entry) = (u32(from)?, u32(from)?);
        let device = Device {
            major: first,
            minor: second,
        };
        let kind = kind_of(u8::try_from(mode >> 12).ok()?)?;
        let body = match kind {
            Kind::File => Body::File {
                start: u64::from(first) | u64::from(second) << 32,
                digest: third,
                sparse: fourth,
            },
            Kind::Dir => Body::Dir {
                first,
                count: second,
                opaque: flags & OPAQUE != 0,
                implied: flags & IMPLIED != 0,
            },
            Kind::Symlink => Body::Symlink { target: first },
            Kind::Char => Body::Char(device),
            Kind::Block => Body::Block(device),
            Kind::Fifo => Body::Fifo,
            Kind::Socket => return None,
        };
        let named = match flags & LINKED {
            0 => NamedBy::Entry { dir: at, entry },
            _ => NamedBy::Links(at),
        };
        let mode = mode & 0o7777;
        Some((
            Self {
                mode,
                uid,
                gid,
                nlink,
                size,
                mtime,
                xattrs,
                body,
                named,
            },
            flags,
        ))
    }

    fn check(&self, flags: u16, row: Row) -> Result<(), &'static str> {
        let is_dir = self.kind() == Kind::Dir;
        let allowed = if is_dir { OPAQUE | IMPLIED } else { LINKED };
        if flags & !allowed != 0 {
            return Err("an object has flags that its type cannot have");
        }
        if self.mtime.nanos >= NANOS {
            return Err("a time has more nanoseconds than a second");
        }
        let linked = matches!(self.named, NamedBy::Links(_));
        let links = match (is_dir, linked) {
            (true, _) | (_, true) => self.nlink >= 2,
            _ => self.nlink == 1,
        };
        if !links {
            return Err("a link count is impossible");
        }
        let target_max = format::TARGET_MAX as u64;
        let size = match self.body {
            Body::File { .. } => true,
            Body::Symlink { .. } => (1..=target_max).contains(&self.size),
            _ => self.size == 0,
        };
        if !size {
            return Err("an object has a size that its type cannot have");
        }
        let root = NamedBy::Entry {
            dir: 0,
            entry: NO_ENTRY,
        };
        match self.named {
            named if row == Row::ROOT && (named != root || !is_dir) => Err("the root is no root"),
            // Parents come first: that is what makes every walk end.
            NamedBy::Entry { dir, .. } if row != Row::ROOT && is_dir && dir >= row.0 => {
                Err("a directory comes before its parent")
            }
            _ => Ok(()),
        }
    }
}

/// What an entry record stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layer) enum Listed {
    Node(Row, Kind),
    Link(u32),
    Whiteout,
}

/// An entry record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layer) struct Dirent {
    pub(in crate::layer) name_at: u32,
    pub(in crate::layer) name_len: u8,
    pub(in crate::layer) listed: Listed,
    pub(in crate::layer) prefix: [u8; INLINE],
}

impl Dirent {
    pub(in crate::layer) fn encode(&self, to: &mut Vec<u8>) {
        let (number, code) = match self.listed {
            Listed::Node(row, kind) => (row.0, kind_code(kind)),
            Listed::Link(number) => (number, LINK),
            Listed::Whiteout => (0, WHITEOUT),
        };
        to.extend_from_slice(&self.name_at.to_le_bytes());
        to.extend_from_slice(&number.to_le_bytes());
        to.extend_from_slice(&[self.name_len, code]);
        to.extend_from_slice(&self.prefix);
    }

    pub(in crate::layer) fn decode(bytes: &[u8; DIRENT]) -> Option<Self> {
        let from = &mut &bytes[..];
        let (name_at, number) = (u32(from)?, u32(from)?);
        let [name_len, code] = take(from)?;
        let prefix = take(from)?;
        let listed = match code {
            LINK => Listed::Link(number),
            WHITEOUT => Listed::Whiteout,
            code => Listed::Node(Row(number), kind_of(code)?),
        };
        (name_len > 0).then_some(Self {
            name_at,
            name_len,
            listed,
            prefix,
        })
    }

    /// The first bytes of the name, without reading the rest of the record.
    pub(in crate::layer) fn prefix_of(bytes: &[u8; DIRENT]) -> [u8; INLINE] {
        let [.., a, b, c, d, e, f] = *bytes;
        [a, b, c, d, e, f]
    }

    /// The name, if the record has all of it.
    pub(in crate::layer) fn inline(&self) -> Option<&[u8]> {
        self.prefix.get(..usize::from(self.name_len))
    }
}

/// Two numbers as a record of section 8.
pub(in crate::layer) fn pair(dir: u32, entry: u32) -> [u8; PAIR] {
    (u64::from(dir) | u64::from(entry) << 32).to_le_bytes()
}

/// Directory row and entry of a record of section 8.
pub(in crate::layer) fn unpair(bytes: &[u8; PAIR]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *bytes;
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// A record of section 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layer) struct UnresolvedAt {
    pub(in crate::layer) dir: u32,
    pub(in crate::layer) entry: u32,
    pub(in crate::layer) target: u32,
    pub(in crate::layer) len: u32,
}

impl UnresolvedAt {
    pub(in crate::layer) fn encode(&self, to: &mut Vec<u8>) {
        for field in [self.dir, self.entry, self.target, self.len] {
            to.extend_from_slice(&field.to_le_bytes());
        }
    }

    pub(in crate::layer) fn decode(bytes: &[u8; UNRESOLVED]) -> Self {
        let mut fields = bytes.as_chunks().0.iter();
        let mut field = || fields.next().map_or(0, |field| u32::from_le_bytes(*field));
        Self {
            dir: field(),
            entry: field(),
            target: field(),
            len: field(),
        }
    }
}

/// The beginning of a sparse map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layer) struct SparseHead {
    pub(in crate::layer) stored: u64,
    pub(in crate::layer) count: u32,
}

/// Bytes of one extent of a sparse map.
pub(in crate::layer) const EXTENT: usize = 24;

impl SparseHead {
    pub(in crate::layer) fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.stored.to_le_bytes());
        to.extend_from_slice(&self.count.to_le_bytes());
        to.extend_from_slice(&0u32.to_le_bytes());
    }

    pub(in crate::layer) fn decode(bytes: &[u8; SPARSE_HEAD]) -> Option<Self> {
        let from = &mut &bytes[..];
        let head = Self {
            stored: u64(from)?,
            count: u32(from)?,
        };
        (u32(from)? == 0).then_some(head)
    }
}

pub(in crate::layer) fn put_extent(extent: &Extent, to: &mut Vec<u8>) {
    for field in [extent.offset, extent.len, extent.stored_at] {
        to.extend_from_slice(&field.to_le_bytes());
    }
}

pub(in crate::layer) fn extent(bytes: &[u8; EXTENT]) -> Extent {
    let mut fields = bytes.as_chunks().0.iter();
    let mut field = || fields.next().map_or(0, |field| u64::from_le_bytes(*field));
    Extent {
        offset: field(),
        len: field(),
        stored_at: field(),
    }
}

/// Appends one attribute of a set; lengths are within their limits.
pub(in crate::layer) fn put_xattr(name: &[u8], value: &[u8], to: &mut Vec<u8>) {
    let value_len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&value_len.to_le_bytes());
    to.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    to.extend_from_slice(name);
    to.extend_from_slice(value);
}

/// Takes name and value of the next attribute of a set.
pub(in crate::layer) fn split_xattr<'a>(from: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let value_len = usize::try_from(u32(from)?).ok()?;
    let [name_len] = take(from)?;
    let (name, rest) = from.split_at_checked(usize::from(name_len))?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    *from = rest;
    let valid = !name.is_empty() && !name.contains(&0) && value_len <= format::XATTR_VALUE_MAX;
    valid.then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(body: Body) -> Inode {
        let named = NamedBy::Entry { dir: 3, entry: 9 };
        let mtime = Time {
            seconds: -5,
            nanos: 999_999_999,
        };
        let nlink = if matches!(body, Body::Dir { .. }) {
            2
        } else {
            1
        };
        let size = u64::from(matches!(body, Body::Symlink { .. }));
        Inode {
            mode: 0o4755,
            uid: 1,
            gid: u32::MAX,
            nlink,
            size,
            mtime,
            xattrs: 8,
            body,
            named,
        }
    }

    #[test]
    fn records_survive_being_written_and_read() {
        let device = Device {
            major: 4095,
            minor: 1 << 20,
        };
        let bodies = [
            Body::File {
                start: 1 << 40,
                digest: 7,
                sparse: 2,
            },
            Body::Dir {
                first: 5,
                count: 6,
                opaque: true,
                implied: true,
            },
            Body::Symlink { target: 77 },
            Body::Char(device),
            Body::Block(device),
            Body::Fifo,
        ];
        for body in bodies {
            let given = inode(body);
            let mut bytes = Vec::new();
            given.encode(&mut bytes);
            let bytes: [u8; INODE] = bytes.try_into().unwrap();
            assert_eq!(Inode::decode(Row(4), &bytes), Ok(given));
            assert_eq!(
                Inode::decode(Row(3), &bytes).is_ok(),
                given.kind() != Kind::Dir
            );
            assert!(Inode::decode(Row::ROOT, &bytes).is_err());
        }
        for listed in [
            Listed::Node(Row(8), Kind::Block),
            Listed::Link(3),
            Listed::Whiteout,
        ] {
            let given = Dirent {
                name_at: 9,
                name_len: 255,
                listed,
                prefix: *b"abcdef",
            };
            let mut bytes = Vec::new();
            given.encode(&mut bytes);
            let bytes: [u8; DIRENT] = bytes.try_into().unwrap();
            assert_eq!(Dirent::decode(&bytes), Some(given));
            assert_eq!(Dirent::prefix_of(&bytes), *b"abcdef");
        }
    }

    #[test]
    fn senseless_inodes_are_refused() {
        let good = inode(Body::Fifo);
        for bad in [
            Inode { nlink: 2, ..good },
            Inode { size: 1, ..good },
            Inode {
                mtime: Time {
                    seconds: 0,
                    nanos: NANOS,
                },
                ..good
            },
            Inode {
                named: NamedBy::Links(0),
                ..good
            },
            Inode {
                size: 4096,
                body: Body::Symlink { target: 0 },
                ..good
            },
        ] {
            let mut bytes = Vec::new();
            bad.encode(&mut bytes);
            let bytes: [u8; INODE] = bytes.try_into().unwrap();
            assert!(Inode::decode(Row(4), &bytes).is_err(), "{bad:?}");
        }
    }
}
