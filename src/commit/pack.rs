//! A tree's members as a tar.
//!
//! What it is for: from what [`Writable`] says a layer has to say to the bytes of the
//! layer. A file comes as it was at one moment: it is looked at before and after it is
//! read, and read again if it changed in between. Must not know compression, nor what
//! becomes of the tar.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bytes::Bytes;
use crate::layer::Dialect;
use crate::layer::tar::{END, Extent, Member, MemberKind, Unsayable, header, padding};
use crate::node::{Attr, Ino, Kind};
use crate::tree_path::{TreePath, printable};
use crate::union::FsError;
use crate::union::upper::Stat;
use crate::union::writable::{Said, Says, Writable};

/// Files up to this length (16 MiB) are read into memory before they are written, so
/// that they can be read again.
const BUFFERED: u64 = 16 << 20;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// How often a file is read that changes while it is read.
const TRIES: usize = 10;

/// Why there is no tar.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// What.
        path: TreePath,
        /// Why.
        source: FsError,
    },
    /// The tar cannot be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// A file that is written to all the time.
    #[error("`{0}` changes while it is read, again and again")]
    Busy(TreePath),
    /// A name that means a whiteout in a layer.
    #[error("`{0}` cannot be in a layer: names that begin with `.wh.` mean what is not there")]
    Whiteout(TreePath),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What is not in the tar as it is in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacks {
    /// A socket: a tar cannot say one.
    Socket(TreePath),
    /// An extended attribute that a tar cannot say.
    Xattr(TreePath, Vec<u8>),
}

impl std::fmt::Display for Lacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "the socket `{path}` is left out"),
            Self::Xattr(path, name) => write!(
                f,
                "the attribute `{}` of `{path}` is left out: it is empty, or has `=` in its name",
                printable(name)
            ),
        }
    }
}

/// How a tree is packed.
pub struct Packer<'a> {
    /// The tree.
    pub tree: &'a Writable,
    /// Docker: a layer as it is. AppC: everything is below `rootfs/`, and no name means
    /// a whiteout.
    pub dialect: Dialect,
    /// Somebody writes to it meanwhile.
    pub live: bool,
    /// A directory for files that are too long for memory.
    pub spool: PathBuf,
    /// Told of bytes that are written.
    pub advance: &'a dyn Fn(u64),
    /// Set from elsewhere: stop soon.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Packer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer")
            .field("dialect", &self.dialect)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

/// What was packed.
#[derive(Debug, Default)]
pub struct Packed {
    /// What is not in it.
    pub lacks: Vec<Lacks>,
    /// What each told object looked like, in the order of the members.
    pub seen: Vec<(TreePath, Option<Stat>)>,
}

impl Packer<'_> {
    /// Writes the members, without the end of the archive.
    ///
    /// # Errors
    /// See [`PackError`]; what was written by then is no layer.
    pub fn write(&self, said: &[Said], to: &mut dyn Write) -> Result<Packed, PackError> {
        let mut packed = Packed::default();
        // Members that later ones are links to; nothing for one that is left out.
        let mut linked: BTreeMap<&TreePath, Option<Member>> = said
            .iter()
            .filter_map(|member| match &member.says {
                Says::Link(first) => Some((first, None)),
                _ => None,
            })
            .collect();
        for member in said {
            if self.stop.load(Ordering::Relaxed) {
                return Err(PackError::Interrupted);
            }
            let path = &member.path;
            self.check_name(path)?;
            let stat = match &member.says {
                Says::Whiteout => {
                    let (parent, name) = path.split_last().unwrap_or_default();
                    self.mark(&parent, &[b".wh.", name].concat(), to)?;
                    None
                }
                Says::Opaque => {
                    self.mark(path, b".wh..wh..opq", to)?;
                    None
                }
                Says::Link(first) => {
                    match linked.get(first).cloned().flatten() {
                        // Some give a file the attributes of the last link to it, so
                        // all have the same.
                        Some(file) => drop(put(&self.link(file, first, path), to)?),
                        None => packed.lacks.push(Lacks::Socket(path.clone())),
                    }
                    None
                }
                Says::Object(dir, name) => {
                    let written = self.object(*dir, name, path, to, &mut packed.lacks)?;
                    written.map(|(member, stat)| {
                        if let Some(file) = linked.get_mut(path) {
                            *file = Some(member);
                        }
                        stat
                    })
                }
            };
            packed.seen.push((path.clone(), stat));
        }
        Ok(packed)
    }

    /// The end of the archive.
    ///
    /// # Errors
    /// As write(2).
    pub fn end(&self, to: &mut dyn Write) -> Result<(), PackError> {
        to.write_all(END).map_err(PackError::Write)
    }

    fn check_name(&self, path: &TreePath) -> Result<(), PackError> {
        let name = path.names().next_back().unwrap_or_default();
        match self.dialect {
            Dialect::Docker if name.starts_with(b".wh.") => Err(PackError::Whiteout(path.clone())),
            _ => Ok(()),
        }
    }

    /// A path as the tar has it.
    fn spelled(&self, path: &TreePath) -> Vec<u8> {
        match (self.dialect, path.is_root()) {
            (Dialect::Docker, true) => b".".to_vec(),
            (Dialect::Docker, false) => path.as_bytes().to_vec(),
            (Dialect::AppC, true) => b"rootfs".to_vec(),
            (Dialect::AppC, false) => [b"rootfs/", path.as_bytes()].concat(),
        }
    }

    /// One more name of a member.
    fn link(&self, file: Member, first: &TreePath, path: &TreePath) -> Member {
        Member {
            path: self.spelled(path),
            kind: MemberKind::HardLink,
            link: self.spelled(first),
            size: 0,
            stored: 0,
            rdev: crate::node::Device::default(),
            sparse: None,
            ..file
        }
    }

    /// An empty file that means something.
    fn mark(&self, dir: &TreePath, name: &[u8], to: &mut dyn Write) -> Result<(), PackError> {
        let path = match dir.is_root() {
            true => name.to_vec(),
            false => [dir.as_bytes(), b"/", name].concat(),
        };
        put(&blank(path, MemberKind::File), to).map(|_| ())
    }

    /// An object with all that it has; nothing: it is left out.
    fn object(
        &self,
        dir: Ino,
        name: &[u8],
        path: &TreePath,
        to: &mut dyn Write,
        lacks: &mut Vec<Lacks>,
    ) -> Result<Option<(Member, Stat)>, PackError> {
        let failed = read_error(path);
        let ino = match name.is_empty() {
            true => Ino::ROOT,
            false => self.tree.lookup(dir, name).map_err(&failed)?.ino,
        };
        let mut outcome = Ok(Tried::Changed);
        for _ in 0..TRIES {
            outcome = self.try_object(ino, path, to, lacks);
            if !matches!(outcome, Ok(Tried::Changed)) {
                break;
            }
        }
        if !name.is_empty() {
            self.tree.forget(ino, 1);
        }
        match outcome? {
            Tried::Changed => Err(PackError::Busy(path.clone())),
            Tried::LeftOut => Ok(None),
            Tried::Written(written) => Ok(Some(*written)),
        }
    }

    /// Writes an object unless it changes while it is read.
    fn try_object(
        &self,
        ino: Ino,
        path: &TreePath,
        to: &mut dyn Write,
        lacks: &mut Vec<Lacks>,
    ) -> Result<Tried, PackError> {
        let failed = read_error(path);
        let stat = self.tree.attr(ino).map_err(&failed)?;
        let attr = stat.attr;
        let Some(kind) = member_kind(attr.kind) else {
            lacks.push(Lacks::Socket(path.clone()));
            return Ok(Tried::LeftOut);
        };
        let mut member = Member {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            mtime: attr.mtime,
            rdev: attr.rdev,
            xattrs: self.tree.xattrs(ino).map_err(&failed)?,
            ..blank(self.spelled(path), kind)
        };
        if kind == MemberKind::Dir {
            member.path.push(b'/');
        }
        if kind == MemberKind::Symlink {
            member.link = self.tree.target(ino).map_err(&failed)?;
        }
        let mut data = Held::Memory(Vec::new());
        if kind == MemberKind::File {
            let bytes = Bytes::open(self.tree, ino).map_err(&failed)?;
            let extents = bytes.extents(attr.size).map_err(&failed)?;
            member.size = attr.size;
            member.stored = extents.iter().map(|extent| extent.len).sum();
            data = match self.live || member.stored <= BUFFERED {
                true => self.hold(&bytes, &extents, path)?,
                false => Held::There(bytes, extents.clone()),
            };
            member.sparse = (member.stored < member.size).then_some(extents);
        }
        let same = || Ok(same(&self.tree.attr(ino).map_err(&failed)?, &stat));
        if !same()? {
            return Ok(Tried::Changed);
        }
        for unsayable in put(&member, to)? {
            let (Unsayable::Empty(name) | Unsayable::Equals(name)) = unsayable;
            lacks.push(Lacks::Xattr(path.clone(), name));
        }
        let there = matches!(data, Held::There(..));
        self.put_data(data, path, to)?;
        to.write_all(padding(member.stored))
            .map_err(PackError::Write)?;
        // What was not held came straight from the file: it is too late to begin again.
        match there && !same()? {
            true => Err(PackError::Busy(path.clone())),
            false => Ok(Tried::Written(Box::new((member, stat)))),
        }
    }

    /// Takes a file's bytes out of reach of whoever writes to it.
    fn hold<'t>(
        &self,
        bytes: &Bytes<'t>,
        extents: &[Extent],
        path: &TreePath,
    ) -> Result<Held<'t>, PackError> {
        let stored: u64 = extents.iter().map(|extent| extent.len).sum();
        if stored <= BUFFERED {
            let mut all = Vec::new();
            self.copy(bytes, extents, path, &mut all)?;
            return Ok(Held::Memory(all));
        }
        let mut file = tempfile::tempfile_in(&self.spool).map_err(PackError::Write)?;
        self.copy(bytes, extents, path, &mut file)?;
        file.rewind().map_err(PackError::Write)?;
        Ok(Held::Spooled(file))
    }

    fn put_data(
        &self,
        data: Held<'_>,
        path: &TreePath,
        to: &mut dyn Write,
    ) -> Result<(), PackError> {
        match data {
            Held::Memory(bytes) => {
                (self.advance)(bytes.len() as u64);
                to.write_all(&bytes).map_err(PackError::Write)
            }
            Held::Spooled(mut file) => {
                let mut buffer = vec![0; PIECE];
                loop {
                    let got = file.read(&mut buffer).map_err(PackError::Write)?;
                    if got == 0 {
                        return Ok(());
                    }
                    (self.advance)(got as u64);
                    to.write_all(&buffer[..got]).map_err(PackError::Write)?;
                    self.go_on()?;
                }
            }
            Held::There(bytes, extents) => {
                self.copy(&bytes, &extents, path, to)?;
                (self.advance)(extents.iter().map(|extent| extent.len).sum());
                Ok(())
            }
        }
    }

    fn go_on(&self) -> Result<(), PackError> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(PackError::Interrupted),
            false => Ok(()),
        }
    }

    /// Copies the stored bytes of a file, exactly as many as the extents say: what is
    /// cut off meanwhile comes as zeros, and is read again.
    fn copy(
        &self,
        bytes: &Bytes<'_>,
        extents: &[Extent],
        path: &TreePath,
        to: &mut dyn Write,
    ) -> Result<(), PackError> {
        let mut buffer = Vec::new();
        for extent in extents {
            let (mut at, end) = (extent.offset, extent.offset + extent.len);
            while at < end {
                self.go_on()?;
                // At most a piece.
                let want = (end - at).min(PIECE as u64) as usize;
                buffer.resize(want, 0);
                let got = bytes.read(at, &mut buffer).map_err(read_error(path))?;
                if got == 0 {
                    buffer.fill(0);
                }
                let got = if got == 0 { want } else { got };
                to.write_all(&buffer[..got]).map_err(PackError::Write)?;
                at += got as u64;
            }
        }
        Ok(())
    }
}

/// What became of an object.
enum Tried {
    /// It changed while it was read, and nothing was written.
    Changed,
    /// A tar cannot say it.
    LeftOut,
    /// It is in the tar, and looked like this.
    Written(Box<(Member, Stat)>),
}

/// A file's bytes on their way.
enum Held<'a> {
    Memory(Vec<u8>),
    Spooled(File),
    There(Bytes<'a>, Vec<Extent>),
}

fn read_error(path: &TreePath) -> impl Fn(FsError) -> PackError {
    let path = path.clone();
    move |source| PackError::Read {
        path: path.clone(),
        source,
    }
}

/// Whether nothing has happened to an object between two looks.
pub(super) fn same(one: &Stat, other: &Stat) -> bool {
    let of = |attr: &Attr| {
        (
            attr.kind, attr.mode, attr.uid, attr.gid, attr.size, attr.mtime,
        )
    };
    of(&one.attr) == of(&other.attr) && one.ctime == other.ctime
}

fn member_kind(kind: Kind) -> Option<MemberKind> {
    Some(match kind {
        Kind::File => MemberKind::File,
        Kind::Dir => MemberKind::Dir,
        Kind::Symlink => MemberKind::Symlink,
        Kind::Char => MemberKind::Char,
        Kind::Block => MemberKind::Block,
        Kind::Fifo => MemberKind::Fifo,
        Kind::Socket => return None,
    })
}

/// A member that says nothing but its name.
pub(super) fn blank(path: Vec<u8>, kind: MemberKind) -> Member {
    Member {
        path,
        kind,
        link: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        stored: 0,
        data_at: 0,
        mtime: crate::node::Time::default(),
        rdev: crate::node::Device::default(),
        xattrs: Vec::new(),
        sparse: None,
    }
}

/// Writes a member's header.
fn put(member: &Member, to: &mut dyn Write) -> Result<Vec<Unsayable>, PackError> {
    let (bytes, unsayable) = header(member);
    to.write_all(&bytes).map_err(PackError::Write)?;
    Ok(unsayable)
}
