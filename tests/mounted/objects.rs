//! One layer in memory, some of whose files are damaged or slow.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lazyroot::digest::{DiffId, Digest};
use lazyroot::layer::blocks::BlockCache;
use lazyroot::layer::read::Index;
use lazyroot::layer::tar::{Member, MemberKind};
use lazyroot::layer::write::IndexBuilder;
use lazyroot::layer::{Dialect, Layer, Limits, ReadError, Source};
use lazyroot::node::{Device, Time};
use lazyroot::union::Union;

/// How long a slow file takes for each read.
const SLOW: Duration = Duration::from_millis(400);

/// One object of the layer.
pub(crate) struct Object {
    member: Member,
    data: Vec<u8>,
    damaged: bool,
    slow: bool,
}

impl Object {
    fn new(path: &str, kind: MemberKind, mode: u16) -> Self {
        let member = Member {
            path: path.as_bytes().to_vec(),
            kind,
            link: Vec::new(),
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            stored: 0,
            data_at: 0,
            mtime: Time {
                seconds: 1_700_000_000,
                nanos: 0,
            },
            rdev: Device::default(),
            xattrs: Vec::new(),
            sparse: None,
        };
        Self {
            member,
            data: Vec::new(),
            damaged: false,
            slow: false,
        }
    }

    pub(crate) fn dir(path: &str) -> Self {
        Self::new(path, MemberKind::Dir, 0o755)
    }

    pub(crate) fn file(path: &str, data: &[u8]) -> Self {
        let mut object = Self::new(path, MemberKind::File, 0o644);
        object.member.size = data.len() as u64;
        object.member.stored = data.len() as u64;
        object.data = data.to_vec();
        object
    }

    pub(crate) fn symlink(path: &str, target: &str) -> Self {
        let mut object = Self::new(path, MemberKind::Symlink, 0o777);
        object.member.link = target.as_bytes().to_vec();
        object
    }

    pub(crate) fn special(path: &str, kind: MemberKind, major: u32, minor: u32) -> Self {
        let mut object = Self::new(path, kind, 0o666);
        object.member.rdev = Device { major, minor };
        object
    }

    pub(crate) fn mode(mut self, mode: u16) -> Self {
        self.member.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.member.uid, self.member.gid) = (uid, gid);
        self
    }

    pub(crate) fn at(mut self, mtime: Time) -> Self {
        self.member.mtime = mtime;
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.member
            .xattrs
            .push((name.as_bytes().to_vec(), value.to_vec()));
        self
    }

    pub(crate) fn damaged(mut self) -> Self {
        self.damaged = true;
        self
    }

    pub(crate) fn slow(mut self) -> Self {
        self.slow = true;
        self
    }
}

/// The bytes of the layer's tar, as far as anybody reads them.
struct Contents {
    bytes: Vec<u8>,
    damaged: Vec<Range<u64>>,
    slow: Vec<Range<u64>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contents")
    }
}

impl Source for Contents {
    fn name(&self) -> String {
        "test blob".to_owned()
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), ReadError> {
        if self.damaged.iter().any(|range| range.contains(&offset)) {
            let what = "the check fails".to_owned();
            return Err(ReadError::Corrupt {
                file: self.name(),
                offset,
                what,
            });
        }
        if self.slow.iter().any(|range| range.contains(&offset)) {
            thread::sleep(SLOW);
        }
        self.bytes.read_at(offset, to)
    }
}

/// The tree of one layer with these objects.
pub(crate) fn union_of(objects: Vec<Object>) -> Union {
    let mut contents = Contents {
        bytes: Vec::new(),
        damaged: Vec::new(),
        slow: Vec::new(),
    };
    let mut builder = IndexBuilder::new(Dialect::Docker, Limits::default());
    for mut object in objects {
        // As if a header came first.
        contents.bytes.resize(contents.bytes.len() + 512, 0xee);
        let begin = contents.bytes.len() as u64;
        object.member.data_at = begin;
        let is_file = object.member.kind == MemberKind::File;
        builder.member(object.member).unwrap();
        if is_file {
            builder.digest(Digest::sha256(&object.data));
            contents.bytes.extend_from_slice(&object.data);
        }
        let range = begin..contents.bytes.len() as u64;
        if object.damaged {
            contents.damaged.push(range.clone());
        }
        if object.slow {
            contents.slow.push(range);
        }
    }
    let diff = DiffId(Digest::sha256(b"test"));
    let sealed = builder
        .finish(diff, contents.bytes.len() as u64, Vec::new())
        .unwrap();
    let index = Index::open(Box::new(sealed), BlockCache::new(32 << 20)).unwrap();
    Union::new(vec![Arc::new(Layer {
        index,
        contents: Box::new(contents),
    })])
}
