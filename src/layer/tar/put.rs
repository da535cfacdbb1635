//! A member as bytes of a tar: what [`TarReader`](super::TarReader) would read as that member.
//!
//! What it is for: headers of layers that we make. ustar, with a pax extended header
//! where ustar cannot say it: names over 255 bytes, nanoseconds, times before 1970,
//! large owners and sizes, extended attributes, holes (GNU's sparse format 1.0). Each of
//! these is read by Go's `archive/tar`, GNU tar, bsdtar and Python. The same member
//! makes the same bytes. Must not know where data comes from.

use std::fmt::Write as _;

use tar::{EntryType, Header};

use super::header::BLOCK;
use super::{Extent, Member, MemberKind};
use crate::node::Time;

/// The largest owner and size that ustar's octal digits say.
const OWNER_MAX: u32 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;
/// Bytes of ustar's name and prefix.
const NAME: usize = 100;
const PREFIX: usize = 155;

/// An extended attribute that no extended header can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsayable {
    /// Without a value: a record without one deletes (POSIX pax).
    Empty(Vec<u8>),
    /// With `=` in its name, which ends a keyword.
    Equals(Vec<u8>),
}

/// Everything of a member that comes before its data, as blocks; of a sparse file the
/// map, too. `Member::data_at` says nothing here. What cannot be said is left out and
/// returned.
#[must_use]
pub fn header(member: &Member) -> (Vec<u8>, Vec<Unsayable>) {
    let mut records = Records::default();
    let map = match (&member.kind, &member.sparse) {
        (MemberKind::File, Some(extents)) => Some(sparse_map(extents, member.size)),
        _ => None,
    };
    let mut header = Header::new_ustar();
    header.set_entry_type(entry_type(member.kind));
    header.set_mode(member.mode.into());
    if map.is_none() {
        set_path(&mut header, &member.path, &mut records);
    } else {
        // Whoever does not know the format shall not take it for the file.
        put(&mut ustar(&mut header).name, b"GNUSparseFile");
    }
    set_link(&mut header, &member.link, &mut records);
    set_owner(&mut header, member, &mut records);
    set_time(&mut header, member.mtime, &mut records);
    let stored = match member.kind {
        MemberKind::File => member.stored + map.as_ref().map_or(0, |map| map.len() as u64),
        _ => 0,
    };
    header.set_size(stored.min(SIZE_MAX));
    if stored > SIZE_MAX {
        records.add(b"size", stored.to_string().as_bytes());
    }
    if matches!(member.kind, MemberKind::Char | MemberKind::Block) {
        put_octal(&mut ustar(&mut header).dev_major, member.rdev.major);
        put_octal(&mut ustar(&mut header).dev_minor, member.rdev.minor);
    }
    let unsayable = add_xattrs(member, &mut records);
    if map.is_some() {
        records.add(b"GNU.sparse.major", b"1");
        records.add(b"GNU.sparse.minor", b"0");
        records.add(b"GNU.sparse.name", &member.path);
        records.add(b"GNU.sparse.realsize", member.size.to_string().as_bytes());
    }
    header.set_cksum();
    let mut bytes = records.member();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&map.unwrap_or_default());
    (bytes, unsayable)
}

/// Zeros that end the last block of so many bytes of data.
#[must_use]
pub fn padding(stored: u64) -> &'static [u8] {
    // Less than a block.
    let over = (stored % BLOCK as u64) as usize;
    &[0; BLOCK][..(BLOCK - over) % BLOCK]
}

/// What ends an archive.
pub const END: &[u8] = &[0; 2 * BLOCK];

fn entry_type(kind: MemberKind) -> EntryType {
    match kind {
        MemberKind::File => EntryType::Regular,
        MemberKind::HardLink => EntryType::Link,
        MemberKind::Symlink => EntryType::Symlink,
        MemberKind::Char => EntryType::Char,
        MemberKind::Block => EntryType::Block,
        MemberKind::Dir => EntryType::Directory,
        MemberKind::Fifo => EntryType::Fifo,
    }
}

fn ustar(header: &mut Header) -> &mut tar::UstarHeader {
    header
        .as_ustar_mut()
        .expect("because it was made as such a header")
}

/// Copies as much as fits.
fn put(field: &mut [u8], bytes: &[u8]) {
    let len = bytes.len().min(field.len());
    field[..len].copy_from_slice(&bytes[..len]);
}

fn put_octal(field: &mut [u8; 8], value: u32) {
    put(field, format!("{value:07o}\0").as_bytes());
}

/// The path, in one field or in two, else in a record.
fn set_path(header: &mut Header, path: &[u8], records: &mut Records) {
    let fields = ustar(header);
    if path.len() <= NAME {
        return put(&mut fields.name, path);
    }
    // The slash between the two is in neither; the name must not be empty.
    let earliest = path.len() - NAME - 1;
    let last = path.len() - 1;
    let split = (earliest..last.min(PREFIX + 1)).find(|&at| path[at] == b'/' && at > 0);
    match split {
        Some(at) => {
            put(&mut fields.prefix, &path[..at]);
            put(&mut fields.name, &path[at + 1..]);
        }
        None => {
            put(&mut fields.name, path);
            records.add_name(b"path", path);
        }
    }
}

fn set_link(header: &mut Header, link: &[u8], records: &mut Records) {
    put(&mut ustar(header).linkname, link);
    if link.len() > NAME {
        records.add_name(b"linkpath", link);
    }
}

fn set_owner(header: &mut Header, member: &Member, records: &mut Records) {
    header.set_uid(member.uid.min(OWNER_MAX).into());
    header.set_gid(member.gid.min(OWNER_MAX).into());
    for (keyword, id) in [(&b"uid"[..], member.uid), (b"gid", member.gid)] {
        if id > OWNER_MAX {
            records.add(keyword, id.to_string().as_bytes());
        }
    }
}

fn set_time(header: &mut Header, time: Time, records: &mut Records) {
    let seconds = u64::try_from(time.seconds).unwrap_or(0).min(SIZE_MAX);
    header.set_mtime(seconds);
    if i64::try_from(seconds) != Ok(time.seconds) || time.nanos != 0 {
        records.add(b"mtime", decimal(time).as_bytes());
    }
}

/// Seconds as a decimal number. Nanoseconds count forwards also before 1970.
fn decimal(time: Time) -> String {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let sign = if nanos < 0 { "-" } else { "" };
    let (whole, rest) = (nanos.abs() / 1_000_000_000, nanos.abs() % 1_000_000_000);
    let mut text = format!("{sign}{whole}");
    if rest != 0 {
        let fraction = format!("{rest:09}");
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    text
}

fn add_xattrs(member: &Member, records: &mut Records) -> Vec<Unsayable> {
    let mut unsayable = Vec::new();
    let mut sorted: Vec<_> = member.xattrs.iter().collect();
    sorted.sort();
    for (name, value) in sorted {
        if value.is_empty() {
            unsayable.push(Unsayable::Empty(name.clone()));
        } else if name.contains(&b'=') {
            unsayable.push(Unsayable::Equals(name.clone()));
        } else {
            records.add(&[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
    }
    unsayable
}

/// The map of a sparse file (GNU tar manual, "PAX Format, Version 1.0"): decimal
/// lines, padded to a block. An empty stretch at the end says how long the file is.
fn sparse_map(extents: &[Extent], size: u64) -> Vec<u8> {
    let mut text = format!("{}\n", extents.len() + 1);
    for extent in extents {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}\n{}\n", extent.offset, extent.len);
    }
    let _ = write!(text, "{size}\n0\n");
    let mut map = text.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Records of an extended header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, keyword: &[u8], value: &[u8]) {
        // A blank, `=` and a newline; the length counts its own digits.
        let rest = keyword.len() + value.len() + 3;
        let mut len = rest + 1;
        while rest + len.to_string().len() != len {
            len = rest + len.to_string().len();
        }
        self.0.extend_from_slice(len.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(keyword);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// A record is UTF-8 unless one before it says otherwise (POSIX pax, `hdrcharset`).
    fn add_name(&mut self, keyword: &[u8], name: &[u8]) {
        if std::str::from_utf8(name).is_err() {
            self.add(b"hdrcharset", b"BINARY");
        }
        self.add(keyword, name);
    }

    /// The extended header as a member, if it says anything.
    fn member(self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        put(&mut ustar(&mut header).name, b"././@PaxHeader");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.0.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&self.0);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{TarReader, Visitor};
    use super::*;
    use crate::layer::Limits;
    use crate::node::Device;

    /// Members as they are read, with how much data came.
    #[derive(Default)]
    struct Read(Vec<(Member, u64)>);

    impl Visitor for Read {
        type Error = std::convert::Infallible;

        fn member(&mut self, member: Member) -> Result<(), Self::Error> {
            self.0.push((member, 0));
            Ok(())
        }

        fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
            self.0.last_mut().expect("a member").1 += bytes.len() as u64;
            Ok(())
        }

        fn end(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    fn path() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![
            prop::collection::vec(1u8..=255, 1..6),
            Just(vec![b'n'; 99]),
            Just(vec![0xff; 101]),
            Just(vec![b'm'; 255]),
        ];
        let name = name.prop_map(|name| {
            let plain = |byte: u8| if byte == b'/' { b'x' } else { byte };
            name.into_iter().map(plain).collect::<Vec<u8>>()
        });
        prop::collection::vec(name, 1..6).prop_map(|names| names.join(&b'/'))
    }

    fn member() -> impl Strategy<Value = Member> {
        let kind = prop::sample::select(vec![
            MemberKind::File,
            MemberKind::HardLink,
            MemberKind::Symlink,
            MemberKind::Char,
            MemberKind::Block,
            MemberKind::Dir,
            MemberKind::Fifo,
        ]);
        let owner = || {
            prop_oneof![
                0u32..5,
                Just(OWNER_MAX),
                Just(OWNER_MAX + 1),
                // The greatest that there is: the next one is nobody.
                Just(u32::MAX - 1)
            ]
        };
        let seconds = prop_oneof![
            -3i64..3,
            Just(SIZE_MAX as i64),
            Just(SIZE_MAX as i64 + 1),
            Just(-9_999_999_999)
        ];
        let nanos = prop_oneof![Just(0u32), Just(1), Just(500_000_000), 0u32..1_000_000_000];
        let xattr = (
            prop::collection::vec(b'a'..=b'f', 1..9),
            prop::collection::vec(any::<u8>(), 1..99),
        );
        let xattrs = prop::collection::btree_map(
            xattr.0.prop_map(|name| [b"user.", &name[..]].concat()),
            xattr.1,
            0..3,
        );
        let sparse = prop::option::of(prop::collection::vec((1u64..5000, 1u64..5000), 0..9));
        (
            (kind, path(), path(), 0u16..0o10000),
            (owner(), owner(), seconds, nanos),
            (xattrs, sparse, 0u64..2000),
        )
            .prop_map(
                |((kind, path, link, mode), (uid, gid, seconds, nanos), (xattrs, sparse, size))| {
                    let linked = matches!(kind, MemberKind::HardLink | MemberKind::Symlink);
                    let file = kind == MemberKind::File;
                    let device = matches!(kind, MemberKind::Char | MemberKind::Block);
                    let (mut at, mut stored_at, mut extents) = (0, 0, Vec::new());
                    for (hole, len) in sparse.iter().flatten() {
                        extents.push(Extent {
                            offset: at + hole,
                            len: *len,
                            stored_at,
                        });
                        (at, stored_at) = (at + hole + len, stored_at + len);
                    }
                    let sparse = sparse.filter(|_| file).map(|_| extents);
                    Member {
                        path: if kind == MemberKind::Dir {
                            [&path[..], b"/"].concat()
                        } else {
                            path
                        },
                        kind,
                        link: if linked { link } else { Vec::new() },
                        mode: match kind {
                            MemberKind::Symlink => 0o777,
                            _ => mode,
                        },
                        uid,
                        gid,
                        stored: match &sparse {
                            Some(_) => stored_at,
                            None if file => size,
                            None => 0,
                        },
                        size: match &sparse {
                            Some(_) => at + 7,
                            None if file => size,
                            None => 0,
                        },
                        data_at: 0,
                        mtime: Time { seconds, nanos },
                        rdev: if device {
                            Device {
                                major: 4095,
                                minor: 1_048_575,
                            }
                        } else {
                            Device::default()
                        },
                        xattrs: xattrs.into_iter().collect(),
                        sparse,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_put_is_read_as_it_was(members in prop::collection::vec(member(), 1..5)) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for member in members {
                let (header, unsayable) = header(&member);
                prop_assert_eq!(unsayable, Vec::new());
                bytes.extend_from_slice(&header);
                let data_at = bytes.len() as u64;
                bytes.resize(bytes.len() + member.stored as usize, 1);
                bytes.extend_from_slice(padding(member.stored));
                let data_at = if member.kind == MemberKind::File { data_at } else { 0 };
                expected.push((Member { data_at, ..member.clone() }, member.stored));
            }
            bytes.extend_from_slice(END);
            let mut reader = TarReader::new(Limits::default());
            let mut read = Read::default();
            prop_assert!(reader.push(&bytes, &mut read).is_ok());
            prop_assert!(reader.finish().is_ok());
            for (member, _) in &mut read.0 {
                if member.kind != MemberKind::File {
                    member.data_at = 0;
                }
                if member.sparse.as_ref().is_some_and(Vec::is_empty) {
                    // A file that is one hole.
                    prop_assert_eq!(member.stored, 0);
                }
            }
            prop_assert_eq!(read.0, expected);
        }
    }

    #[test]
    fn what_an_extended_header_cannot_say_is_told() {
        let xattrs = [
            (&b"user.a"[..], &b""[..]),
            (b"user.b=c", b"1"),
            (b"user.d", b"2"),
        ];
        let xattrs = xattrs.map(|(name, value)| (name.to_vec(), value.to_vec()));
        let member = Member {
            path: b"f".to_vec(),
            kind: MemberKind::Fifo,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            stored: 0,
            data_at: 0,
            mtime: Time::default(),
            rdev: Device::default(),
            xattrs: xattrs.to_vec(),
            sparse: None,
        };
        let expected = [
            Unsayable::Empty(b"user.a".to_vec()),
            Unsayable::Equals(b"user.b=c".to_vec()),
        ];
        assert_eq!(header(&member).1, expected);
    }
}
