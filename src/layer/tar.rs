//! A tar stream into members: pushed in, handed out, nothing kept.
//!
//! STUB: to be written. The types below are fixed.

use super::Limits;
use crate::node::{Device, Time};

/// What kind of member it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// Regular file; its data follows.
    File,
    /// Another name (`Member::link`) of something.
    HardLink,
    /// Symbolic link to `Member::link`.
    Symlink,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Directory.
    Dir,
    /// Named pipe.
    Fifo,
}

/// One stretch of a sparse file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it lies in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Where it lies in the member's stored data, in bytes from its start.
    pub stored_at: u64,
}

/// One member, as the archive says it, after long names and extended headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path, raw: may begin with `./`, end with `/`, or be hostile.
    pub path: Vec<u8>,
    /// Its kind.
    pub kind: MemberKind,
    /// Target of a link, raw; empty for other kinds.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid, sticky (0 to 0o7777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of the file in bytes, holes included; 0 for other kinds.
    pub size: u64,
    /// Bytes of data that the archive stores for it (`size` unless sparse).
    pub stored: u64,
    /// Where that data begins in the tar stream, in bytes.
    pub data_at: u64,
    /// Last change.
    pub mtime: Time,
    /// Device number of a device node.
    pub rdev: Device,
    /// Extended attributes: full name and raw value, in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Stored stretches of a sparse file, sorted and apart; nothing for others.
    pub sparse: Option<Vec<Extent>>,
}

/// Who takes the members.
pub trait Visitor {
    /// Why a visitor stops the reader.
    type Error;
    /// A member begins. Its data (if it is a file) follows by [`Self::data`].
    ///
    /// # Errors
    /// The visitor's own.
    fn member(&mut self, member: Member) -> Result<(), Self::Error>;
    /// The next stored bytes of the member that began last.
    ///
    /// # Errors
    /// The visitor's own.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    /// The member is complete.
    ///
    /// # Errors
    /// The visitor's own.
    fn end(&mut self) -> Result<(), Self::Error>;
}

/// Why a stream is not a tar that can be taken. `at` is a byte of the stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Broken or unsupported.
    #[error("the tar is damaged at byte {at}: {what}")]
    Damaged {
        /// Where.
        at: u64,
        /// What is wrong, a fragment.
        what: String,
    },
    /// A limit passed.
    #[error("the tar passes the limit `{limit}` at byte {at}: {what}")]
    Limit {
        /// Where.
        at: u64,
        /// The limit's name: `entries`, `unpacked`, or a fixed one.
        limit: &'static str,
        /// What is too large.
        what: String,
    },
}

/// What stops a reader: the stream, or the visitor.
#[derive(Debug)]
pub enum Stop<E> {
    /// The stream is wrong.
    Tar(TarError),
    /// The visitor said no.
    Visitor(E),
}

/// The reader: bytes of any cut are pushed in.
#[derive(Debug)]
pub struct TarReader {}

impl TarReader {
    /// A reader at the beginning of a stream.
    #[must_use]
    pub fn new(_limits: Limits) -> Self {
        Self {}
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// A stream that is no tar, or what the visitor says.
    pub fn push<V: Visitor>(&mut self, _bytes: &[u8], _to: &mut V) -> Result<(), Stop<V::Error>> {
        unimplemented!()
    }

    /// The stream ended.
    ///
    /// # Errors
    /// When it ended within a member.
    pub fn finish(self) -> Result<(), TarError> {
        unimplemented!()
    }
}
