//! Layers made of a few words each, in memory.
//!
//! What it is for: tests say what a tar would have had in it; this file makes
//! the member, the bytes and the index.

use std::fmt;
use std::sync::Arc;

use lazyroot::digest::{DiffId, Digest};
use lazyroot::layer::blocks::BlockCache;
use lazyroot::layer::read::Index;
use lazyroot::layer::tar::{Extent, Member, MemberKind};
use lazyroot::layer::write::IndexBuilder;
use lazyroot::layer::{Dialect, Layer, Limits, SharedLayer};
use lazyroot::node::{Device, Time};
use lazyroot::tree_path::printable;

/// What one member of a layer's tar is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    File(Data),
    Dir,
    Symlink(Vec<u8>),
    /// A hard link, by the path of its target.
    Link(Vec<u8>),
    Char(u32, u32),
    Fifo,
    /// `.wh.NAME` for the last name of the path.
    Whiteout,
    /// `.wh..wh..opq` in the directory of the path.
    Opaque,
}

/// The content of a file: `size` bytes, each told by `salt` and its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) size: u64,
    pub(crate) salt: u8,
    /// What is stored (offset, length) of a sparse file.
    pub(crate) stored: Option<Vec<(u64, u64)>>,
}

impl Data {
    fn byte(&self, offset: u64) -> u8 {
        (offset % 251) as u8 ^ self.salt | 1
    }

    /// All of it, holes as zeros.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let stored = |at: u64| match &self.stored {
            None => true,
            Some(map) => map
                .iter()
                .any(|&(from, len)| (from..from + len).contains(&at)),
        };
        (0..self.size)
            .map(|at| if stored(at) { self.byte(at) } else { 0 })
            .collect()
    }

    /// How many bytes are stored.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
            .as_ref()
            .map_or(self.size, |map| map.iter().map(|e| e.1).sum())
    }
}

/// One member of a layer's tar.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Names joined by `/`; of what is hidden, for a whiteout.
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) owner: u32,
    pub(crate) seconds: i64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (
            path,
            Self {
                mode,
                owner,
                seconds,
                ..
            },
        ) = (printable(&self.path), self);
        match &self.what {
            What::Symlink(target) => write!(f, "`{path}` -> `{}`", printable(target))?,
            What::Link(target) => write!(f, "`{path}` = `{}`", printable(target))?,
            what => write!(f, "`{path}` {what:?}")?,
        }
        write!(
            f,
            " {mode:o} {owner} {seconds} {} xattrs",
            self.xattrs.len()
        )
    }
}

impl Entry {
    /// A member with plain attributes.
    pub(crate) fn new(path: &str, what: What) -> Self {
        let path = path.as_bytes().to_vec();
        Self {
            path,
            what,
            mode: 0o644,
            owner: 0,
            seconds: 1,
            xattrs: Vec::new(),
        }
    }

    /// The path as the tar would spell it.
    fn spelled(&self) -> Vec<u8> {
        let at = self
            .path
            .iter()
            .rposition(|&b| b == b'/')
            .map_or(0, |at| at + 1);
        let (parent, name) = self.path.split_at(at);
        match &self.what {
            What::Whiteout => [parent, b".wh.", name].concat(),
            What::Opaque if self.path.is_empty() => b".wh..wh..opq".to_vec(),
            What::Opaque => [&self.path[..], b"/.wh..wh..opq"].concat(),
            What::Dir => [b"./", &self.path[..], b"/"].concat(),
            _ => self.path.clone(),
        }
    }
}

/// Builds layers; all share one cache of blocks.
pub(crate) struct Maker {
    cache: Arc<BlockCache>,
    made: u64,
}

impl Maker {
    pub(crate) fn new() -> Self {
        Self {
            cache: BlockCache::new(32 << 20),
            made: 0,
        }
    }

    /// The layer of those members.
    pub(crate) fn layer(&mut self, entries: &[Entry]) -> SharedLayer {
        let mut builder = IndexBuilder::new(Dialect::Docker, Limits::default());
        let mut contents = Vec::new();
        for entry in entries {
            // As if a header came first.
            contents.resize(contents.len() + 512, 0xee);
            let member = member(entry, contents.len() as u64);
            let data = match &entry.what {
                What::File(data) => Some(stored_bytes(data)),
                _ => None,
            };
            builder
                .member(member)
                .unwrap_or_else(|error| panic!("{entry:?}: {error}"));
            if let Some(data) = data {
                builder.digest(Digest::sha256(&data));
                contents.extend_from_slice(&data);
            }
        }
        self.made += 1;
        let diff = DiffId(Digest::sha256(&self.made.to_le_bytes()));
        let sealed = builder
            .finish(diff, contents.len() as u64, Vec::new())
            .unwrap();
        let index = Index::open(Box::new(sealed), Arc::clone(&self.cache)).unwrap();
        Arc::new(Layer {
            index,
            contents: Box::new(contents),
        })
    }
}

fn stored_bytes(data: &Data) -> Vec<u8> {
    let all = [(0, data.size)];
    let stretches = data.stored.as_deref().unwrap_or(&all);
    stretches
        .iter()
        .flat_map(|&(from, len)| from..from + len)
        .map(|at| data.byte(at))
        .collect()
}

fn member(entry: &Entry, data_at: u64) -> Member {
    let (kind, link) = match &entry.what {
        What::File(_) | What::Whiteout | What::Opaque => (MemberKind::File, &[][..]),
        What::Dir => (MemberKind::Dir, &[][..]),
        What::Symlink(target) => (MemberKind::Symlink, &target[..]),
        What::Link(target) => (MemberKind::HardLink, &target[..]),
        What::Char(..) => (MemberKind::Char, &[][..]),
        What::Fifo => (MemberKind::Fifo, &[][..]),
    };
    let (size, stored, sparse) = match &entry.what {
        What::File(data) => (
            data.size,
            data.stored(),
            data.stored.as_deref().map(extents),
        ),
        _ => (0, 0, None),
    };
    let rdev = match entry.what {
        What::Char(major, minor) => Device { major, minor },
        _ => Device::default(),
    };
    Member {
        path: entry.spelled(),
        kind,
        link: link.to_vec(),
        mode: entry.mode,
        uid: entry.owner,
        gid: entry.owner + 1,
        size,
        stored,
        data_at,
        mtime: Time {
            seconds: entry.seconds,
            nanos: 7,
        },
        rdev,
        xattrs: entry.xattrs.clone(),
        sparse,
    }
}

fn extents(stretches: &[(u64, u64)]) -> Vec<Extent> {
    let mut stored_at = 0;
    let extent = |&(offset, len): &(u64, u64)| {
        let extent = Extent {
            offset,
            len,
            stored_at,
        };
        stored_at += len;
        extent
    };
    stretches.iter().map(extent).collect()
}
