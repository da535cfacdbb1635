//! A tar stream into members: pushed in, handed out, nothing kept.
//!
//! What it is for: import reads a layer once, in pieces of any size, and wants
//! each member's metadata, where its data lies in the stream, and the data
//! itself while it passes. May assume nothing of the bytes; memory stays bounded
//! by the limits whatever they are. Must not know what a layer makes of its
//! members: paths arrive raw (`..`, `.wh.` and all), links unresolved, and the
//! same path may come twice.
//!
//! Understood: the seventh edition's tar, ustar, star, GNU (long names, numbers
//! in base 256, sparse files) and pax (with GNU's three sparse formats, and
//! extended attributes as `SCHILY.xattr.` or `LIBARCHIVE.xattr.`). Where writers
//! and standards disagree, the answer is that of Go's `archive/tar`, since
//! Docker, containerd, umoci and podman unpack layers with it:
//!
//! * Links, devices, directories and fifos have no data, whatever their size
//!   field says (Go: `isHeaderOnlyType`).
//! * A pax size overrides that of the header it describes, also for finding the
//!   next header, and never that of another header between the two.
//! * Global headers (`g`) must be well-formed and change nothing: "does not
//!   currently support persisting the global state across files" (Go's doc of
//!   `TypeXGlobalHeader`); Docker's unpacker skips them.
//! * The trailing slash of a directory's name makes one of flag NUL only.
//! * A later extended header replaces an earlier one; a GNU long name goes
//!   before a pax path, and `GNU.sparse.name` before both.
//! * The archive ends with two zero blocks, with one at the end of the stream,
//!   or at the end of the stream before a header or within padding.
//!
//! Refused with a message, unlike Go: long names or extended headers that no
//! member follows, sparse formats that nobody knows (Go hands out the stored
//! bytes as if they were the file), device numbers that Linux does not have.
//! Not read: ACLs as text (`SCHILY.acl.`); those that a layer carries as
//! `system.posix_acl_*` attributes arrive as such.
//!
//! Inside: `header` is one block, `pax` one extended header, `sparse` the maps,
//! `reader` the order of all these. `put` is the other way: a member as bytes.

mod header;
mod pax;
mod put;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;

pub use put::{END, Unsayable, header, padding};
pub use reader::TarReader;

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
    /// The next stored bytes of the member that began last: of its `stored` bytes from
    /// `data_at` on, none is left out.
    ///
    /// # Errors
    /// The visitor's own.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    /// The member is complete.
    ///
    /// # Errors
    /// The visitor's own.
    fn end(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
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
        /// The limit's name: `entries` or `unpacked` (of [`Limits`](super::Limits)),
        /// or a fixed one: `extended-header`, `long-name`, `xattrs`,
        /// `xattr-name`, `extents`.
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

impl<E> From<TarError> for Stop<E> {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// A [`TarError`] that does not know yet where it is.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Damaged(String),
    Limit { limit: &'static str, what: String },
}

impl Fault {
    fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    fn limit(limit: &'static str, what: String) -> Self {
        Self::Limit { limit, what }
    }

    fn at(self, at: u64) -> TarError {
        match self {
            Self::Damaged(what) => TarError::Damaged { at, what },
            Self::Limit { limit, what } => TarError::Limit { at, limit, what },
        }
    }
}
