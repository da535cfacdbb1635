//! Members into an index.
//!
//! What it is for: the rules by which a layer's tar becomes a tree. A later
//! member replaces an earlier one of its path, whiteouts speak of lower layers
//! only (whatever their place in the tar), a hard link leads to an object of
//! this layer or, unresolved, to one below. May assume that members come in the
//! order of the tar. Must not know what a tar looks like, nor other layers; where
//! bytes of the index lie is known to `format` alone.
//!
//! `tree` collects objects and names, `pool` keeps each byte string once,
//! `special` knows the spelling of whiteouts, `plan` numbers what is left, `heaps`
//! lays out what is of variable length, `encode` writes it all.

mod encode;
mod heaps;
mod plan;
mod pool;
mod special;
mod tree;

use std::collections::HashMap;
use std::io::Write;

use self::pool::Pool;
use self::special::Meaning;
use self::tree::{Data, Found, Node, NodeId, ROOT, Tree};
use super::format::{
    self, HEAP_MAX, SparseHead, TARGET_MAX, XATTR_NAME_MAX, XATTR_SET_MAX, XATTR_VALUE_MAX,
};
use super::tar::{Extent, Member, MemberKind};
use super::{Dialect, Limits};
use crate::digest::{DiffId, Digest};
use crate::tree_path::{TreePath, printable};

/// Why a member cannot be part of a layer. Names the member.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Hostile or senseless.
    #[error("the member `{member}` is refused: {what}")]
    Refused {
        /// The member's path, printable.
        member: String,
        /// Why, a fragment.
        what: String,
    },
    /// A limit passed.
    #[error("the layer passes the limit `{limit}`: {what}")]
    Limit {
        /// The limit's name.
        limit: &'static str,
        /// What is too large.
        what: String,
    },
    /// The writer below failed.
    #[error("cannot write the index")]
    Io(#[from] std::io::Error),
}

/// A [`BuildError`] before somebody says which member it is about.
#[derive(Debug)]
enum Fault {
    Refused(String),
    Limit(&'static str, String),
}

impl Fault {
    /// The same of something that the member names.
    fn about(self, subject: &str) -> Self {
        match self {
            Self::Refused(what) => Self::Refused(format!("{subject}: {what}")),
            limit @ Self::Limit(..) => limit,
        }
    }

    fn of(self, member: &[u8]) -> BuildError {
        match self {
            Self::Refused(what) => BuildError::Refused {
                member: printable(member),
                what,
            },
            Self::Limit(limit, what) => BuildError::Limit { limit, what },
        }
    }
}

fn refused<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(what.into()))
}

/// A file whose digest has not been told yet.
#[derive(Debug)]
struct Undigested {
    node: NodeId,
    stored: u64,
    path: Vec<u8>,
}

/// The file whose data ends last in the tar.
#[derive(Debug, Default)]
struct Furthest {
    end: u64,
    path: Vec<u8>,
}

/// Collects members, then writes the index.
#[derive(Debug)]
pub struct IndexBuilder {
    dialect: Dialect,
    limits: Limits,
    members: u64,
    tree: Tree,
    targets: Pool,
    /// Encoded xattr sets.
    xattrs: Pool,
    /// Encoded sparse maps, one behind the other.
    sparse: Vec<u8>,
    /// How many files have the number of a digest, and those that were told.
    numbered: u32,
    digests: Vec<[u8; 32]>,
    /// Objects below hidden names. They are no part of the tree, but hard links
    /// may lead to them: aufs keeps the first name of linked files in
    /// `.wh..wh.plnk`, and old layers were packed from that.
    hidden: HashMap<TreePath, Found>,
    undigested: Option<Undigested>,
    furthest: Furthest,
}

impl IndexBuilder {
    /// An empty layer.
    #[must_use]
    pub fn new(dialect: Dialect, limits: Limits) -> Self {
        Self {
            dialect,
            limits,
            members: 0,
            tree: Tree::new(limits.entries),
            targets: Pool::new("targets"),
            xattrs: Pool::new("xattrs"),
            sparse: Vec::new(),
            numbered: 0,
            digests: Vec::new(),
            hidden: HashMap::new(),
            undigested: None,
            furthest: Furthest::default(),
        }
    }

    /// Takes the next member. A later one of the same path replaces an earlier
    /// one, as unpacking in order would.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn member(&mut self, mut member: Member) -> Result<(), BuildError> {
        self.settle()?;
        let path = std::mem::take(&mut member.path);
        let stored = member.stored;
        let made = self.take(&path, member).map_err(|fault| fault.of(&path))?;
        self.undigested = made.map(|node| Undigested { node, stored, path });
        Ok(())
    }

    /// The SHA-256 of the stored data of the file that came last (called once
    /// after each [`Self::member`] of kind file, before the next).
    ///
    /// It is forgotten where that file is no part of the tree (a whiteout, say).
    /// A digest of another algorithm counts as none: the next call of
    /// [`Self::member`] or [`Self::finish`] refuses the file.
    pub fn digest(&mut self, digest: Digest) {
        let Digest::Sha256(digest) = digest else {
            return;
        };
        if let Some(file) = self.undigested.take() {
            self.number(file.node);
            self.digests.push(digest);
        }
    }

    /// Instead of [`Self::digest`], for one who hashes elsewhere: whether the index wants
    /// the digest of the file that came last. Those that it wants are told by
    /// [`Self::digests`], in the order of the tar. All files of a layer the one way or the other.
    pub fn digest_later(&mut self) -> bool {
        let file = self.undigested.take();
        if let Some(file) = &file {
            self.number(file.node);
        }
        file.is_some()
    }

    /// The digests that were left for later.
    pub fn digests(&mut self, digests: Vec<[u8; 32]>) {
        debug_assert!(
            self.digests.is_empty(),
            "all files the one way or the other"
        );
        self.digests = digests;
    }

    /// Writes the index, sealed (see `blocks`), and hands the writer back.
    ///
    /// # Errors
    /// What the writer answers, and limits; a file without a digest, or whose
    /// data ends behind `tar_len`.
    pub fn finish<W: Write>(mut self, diff: DiffId, tar_len: u64, to: W) -> Result<W, BuildError> {
        self.settle()?;
        if self.furthest.end > tar_len {
            let what = format!(
                "its data ends at byte {}, the tar at {tar_len}",
                self.furthest.end
            );
            return Err(Fault::Refused(what).of(&self.furthest.path));
        }
        if self.digests.len() != self.numbered as usize {
            let (told, files) = (self.digests.len(), self.numbered);
            let what =
                format!("its layer has {files} files, and {told} digests: a fault of lazyroot");
            return Err(Fault::Refused(what).of(&self.furthest.path));
        }
        encode::encode(self, diff, tar_len, to)
    }

    /// Every file before the next member must have its digest.
    fn settle(&mut self) -> Result<(), BuildError> {
        match self.undigested.take() {
            None => Ok(()),
            Some(file) if file.stored == 0 => {
                // Nothing is stored, and what nothing hashes to is known.
                if let Digest::Sha256(digest) = Digest::sha256(b"") {
                    self.number(file.node);
                    self.digests.push(digest);
                }
                Ok(())
            }
            Some(file) => {
                let what = "no SHA-256 of its data was given".to_owned();
                Err(Fault::Refused(what).of(&file.path))
            }
        }
    }

    /// Gives a file the number of the next digest.
    fn number(&mut self, node: NodeId) {
        if let Data::File { digest, .. } = &mut self.tree.node_mut(node).data {
            *digest = self.numbered;
            // They are fewer than nodes, which are counted in 32 bits.
            self.numbered = self.numbered.saturating_add(1);
        }
    }

    /// Takes a member whose path was split off; answers the file that waits for
    /// its digest.
    fn take(&mut self, raw: &[u8], member: Member) -> Result<Option<NodeId>, Fault> {
        self.members += 1;
        if self.members > self.limits.entries {
            let what = format!("more than {} members", self.limits.entries);
            return Err(Fault::Limit("entries", what));
        }
        if raw.is_empty() {
            return refused("its path is empty");
        }
        let path = match TreePath::parse_relative(raw) {
            Ok(path) => path,
            Err(error) => return refused(error.to_string()),
        };
        match special::meaning(self.dialect, path.as_bytes())? {
            Meaning::Opaque { dir } => {
                let dir = self.tree.dir(dir)?;
                self.tree.node_mut(dir).opaque = true;
                Ok(None)
            }
            Meaning::Whiteout { dir, name } => {
                let dir = self.tree.dir(dir)?;
                self.tree.whiteout(dir, name)?;
                Ok(None)
            }
            Meaning::Hidden => self.hide(path, member),
            Meaning::Root => self.root(member),
            Meaning::Plain { dir, name } => self.plain(dir, name, &path, member),
        }
    }

    fn root(&mut self, member: Member) -> Result<Option<NodeId>, Fault> {
        if member.kind != MemberKind::Dir {
            return refused("the root can only be a directory");
        }
        let node = self.node_of(member)?;
        self.tree.replace_dir(ROOT, node);
        Ok(None)
    }

    fn plain(
        &mut self,
        dir: &[u8],
        name: &[u8],
        path: &TreePath,
        member: Member,
    ) -> Result<Option<NodeId>, Fault> {
        if member.kind == MemberKind::HardLink {
            let found = self.linked(&member.link)?;
            let dir = self.tree.dir(dir)?;
            self.tree.put(dir, name, found)?;
            return Ok(None);
        }
        let end = member.data_at.saturating_add(member.stored);
        let node = self.node_of(member)?;
        let dir = self.tree.dir(dir)?;
        if node.is_dir()
            && let Some(Found::Node(old)) = self.tree.get(dir, name)
            && self.tree.node(old).is_dir()
        {
            self.tree.replace_dir(old, node);
            return Ok(None);
        }
        let node = self.tree.add(node)?;
        self.tree.put(dir, name, Found::Node(node))?;
        Ok(self.begin_file(node, path, end))
    }

    /// Remembers where the data of a new file ends; answers it, if it is a file.
    fn begin_file(&mut self, node: NodeId, path: &TreePath, end: u64) -> Option<NodeId> {
        if !self.tree.awaits_digest(node) {
            return None;
        }
        if end > self.furthest.end {
            self.furthest = Furthest {
                end,
                path: path.as_bytes().to_vec(),
            };
        }
        Some(node)
    }

    /// Keeps a member below a hidden name for hard links that may lead to it.
    fn hide(&mut self, path: TreePath, member: Member) -> Result<Option<NodeId>, Fault> {
        let (found, waits) = match member.kind {
            MemberKind::Dir => return Ok(None),
            MemberKind::HardLink => (self.linked(&member.link)?, None),
            _ => {
                let end = member.data_at.saturating_add(member.stored);
                let node = self.node_of(member)?;
                let node = self.tree.add(node)?;
                (Found::Node(node), self.begin_file(node, &path, end))
            }
        };
        self.hidden.insert(path, found);
        Ok(waits)
    }

    /// What a hard link to `link` leads to.
    fn linked(&mut self, link: &[u8]) -> Result<Found, Fault> {
        if link.is_empty() {
            return refused("it is a hard link without a target");
        }
        let target = match TreePath::parse(link) {
            Ok(target) => target,
            Err(error) => return refused(format!("its target `{}`: {error}", printable(link))),
        };
        let meaning = special::meaning(self.dialect, target.as_bytes());
        let found = match meaning.map_err(|fault| fault.about("its target"))? {
            Meaning::Root => Some(Found::Node(ROOT)),
            Meaning::Hidden => self.hidden.get(&target).copied(),
            Meaning::Plain { dir, name } => match self.tree.find_dir(dir) {
                Ok(dir) => dir.and_then(|dir| self.tree.get(dir, name)),
                Err(below) => return refused(format!("its target {below}")),
            },
            Meaning::Opaque { .. } | Meaning::Whiteout { .. } => {
                return refused(format!("its target `{}` is a whiteout", printable(link)));
            }
        };
        match found {
            Some(Found::Node(node)) if self.tree.node(node).is_dir() => {
                refused(format!("its target `{target}` is a directory"))
            }
            Some(found) => Ok(found),
            None => Ok(Found::Link(self.targets.intern(target.as_bytes())?)),
        }
    }

    /// The object that a member describes; not for hard links.
    fn node_of(&mut self, member: Member) -> Result<Node, Fault> {
        if member.size > self.limits.unpacked {
            let what = format!("`{}` bytes in one file", member.size);
            return Err(Fault::Limit("unpacked", what));
        }
        let mut size = 0;
        let data = match member.kind {
            MemberKind::File => {
                size = member.size;
                self.file(&member)?
            }
            // Its list of names comes with its place in the tree.
            MemberKind::Dir => Data::Dir { names: 0 },
            MemberKind::Symlink => {
                size = member.link.len() as u64;
                Data::Symlink {
                    target: self.symlink(&member.link)?,
                }
            }
            MemberKind::Char => Data::Char(member.rdev),
            MemberKind::Block => Data::Block(member.rdev),
            MemberKind::Fifo => Data::Fifo,
            MemberKind::HardLink => return refused("a hard link has no object of its own"),
        };
        if member.mtime.nanos >= 1_000_000_000 {
            return refused("its time has more nanoseconds than a second");
        }
        Ok(Node {
            mode: member.mode & 0o7777,
            implied: false,
            opaque: false,
            uid: member.uid,
            gid: member.gid,
            size,
            mtime: member.mtime,
            xattrs: self.xattrs(member.xattrs)?,
            data,
        })
    }

    fn symlink(&mut self, target: &[u8]) -> Result<u32, Fault> {
        if target.is_empty() || target.len() > TARGET_MAX {
            return refused(format!(
                "its target has {} bytes, not 1 to {TARGET_MAX}",
                target.len()
            ));
        }
        if target.contains(&0) {
            return refused("its target has a NUL byte");
        }
        self.targets.intern(target)
    }

    fn file(&mut self, member: &Member) -> Result<Data, Fault> {
        if member.data_at.checked_add(member.stored).is_none() {
            return refused("its data ends behind 64 bits");
        }
        let sparse = match &member.sparse {
            Some(extents) => self.sparse(member, extents)?,
            None if member.stored != member.size => {
                return refused("its size is not that of its data");
            }
            None => 0,
        };
        Ok(Data::File {
            start: member.data_at,
            digest: tree::NO_DIGEST,
            sparse,
        })
    }

    /// Keeps a sparse map; answers 1 + its offset in units.
    fn sparse(&mut self, member: &Member, extents: &[Extent]) -> Result<u32, Fault> {
        let full: Vec<&Extent> = extents.iter().filter(|extent| extent.len > 0).collect();
        let mut before = 0;
        for extent in &full {
            let end = extent.offset.checked_add(extent.len);
            let stored_end = extent.stored_at.checked_add(extent.len);
            if extent.offset < before
                || end.is_none_or(|end| end > member.size)
                || stored_end.is_none_or(|end| end > member.stored)
            {
                return refused("its sparse map is not sorted within file and data");
            }
            before = extent.offset + extent.len;
        }
        let at = self.sparse.len();
        let more = format::SPARSE_HEAD.saturating_add(full.len().saturating_mul(format::EXTENT));
        if at.saturating_add(more) > HEAP_MAX {
            return Err(Fault::Limit(
                "sparse",
                format!("more than {HEAP_MAX} bytes of maps"),
            ));
        }
        let limit = |_| Fault::Limit("sparse", "too many extents".to_owned());
        let count = u32::try_from(full.len()).map_err(limit)?;
        let reference = u32::try_from(1 + at / format::UNIT).map_err(limit)?;
        SparseHead {
            stored: member.stored,
            count,
        }
        .encode(&mut self.sparse);
        for extent in full {
            format::put_extent(extent, &mut self.sparse);
        }
        Ok(reference)
    }

    /// Keeps a set of attributes; answers 0 for none, else 1 + its number.
    fn xattrs(&mut self, mut given: Vec<(Vec<u8>, Vec<u8>)>) -> Result<u32, Fault> {
        if given.is_empty() {
            return Ok(0);
        }
        // The sort is stable: of equal names the last of the archive stays.
        given.sort_by(|a, b| a.0.cmp(&b.0));
        let mut set = vec![0; 4];
        for (at, (name, value)) in given.iter().enumerate() {
            if given.get(at + 1).is_some_and(|next| next.0 == *name) {
                continue;
            }
            let shown = printable(name);
            if name.is_empty() || name.contains(&0) || name.len() > XATTR_NAME_MAX {
                return refused(format!(
                    "the xattr name `{shown}` is empty, has a NUL or over {XATTR_NAME_MAX} bytes"
                ));
            }
            if value.len() > XATTR_VALUE_MAX {
                return refused(format!(
                    "the xattr `{shown}` has over {XATTR_VALUE_MAX} bytes"
                ));
            }
            format::put_xattr(name, value, &mut set);
            if set.len() > XATTR_SET_MAX {
                return refused(format!("its xattrs have over {XATTR_SET_MAX} bytes"));
            }
        }
        let len = u32::try_from(set.len() - 4)
            .unwrap_or(u32::MAX)
            .to_le_bytes();
        for (to, from) in set.iter_mut().zip(len) {
            *to = from;
        }
        Ok(1 + self.xattrs.intern(&set)?)
    }
}

#[cfg(test)]
mod tests;
