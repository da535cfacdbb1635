//! A tree on disk, compared with the naive model.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path as DiskPath, PathBuf};

use lazyroot::node::{Attr, Device, Kind, Time};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::support::model::{Node, Path, Tree};

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

fn on_disk(top: &DiskPath, path: &Path) -> PathBuf {
    path.iter().fold(top.to_owned(), |path, name| {
        path.join(OsStr::from_bytes(name))
    })
}

fn paths(top: &DiskPath, at: &Path, found: &mut BTreeSet<Path>) {
    found.insert(at.clone());
    let here = on_disk(top, at);
    if fs::symlink_metadata(&here).unwrap().is_dir() {
        for entry in fs::read_dir(here).unwrap() {
            let name = entry.unwrap().file_name().as_bytes().to_vec();
            paths(top, &[&at[..], &[name]].concat(), found);
        }
    }
}

fn attr(path: &DiskPath) -> (Attr, u64) {
    let meta = fs::symlink_metadata(path).unwrap();
    let of = meta.file_type();
    let kind = match () {
        () if of.is_file() => Kind::File,
        () if of.is_dir() => Kind::Dir,
        () if of.is_symlink() => Kind::Symlink,
        () if of.is_fifo() => Kind::Fifo,
        () if of.is_char_device() => Kind::Char,
        () if of.is_block_device() => Kind::Block,
        () => Kind::Socket,
    };
    let device = meta.rdev();
    let attr = Attr {
        kind,
        mode: (meta.mode() & 0o7777) as u16,
        uid: meta.uid(),
        gid: meta.gid(),
        size: meta.size(),
        stored: 0,
        mtime: Time {
            seconds: meta.mtime(),
            nanos: meta.mtime_nsec() as u32,
        },
        nlink: meta.nlink() as u32,
        rdev: Device {
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
        },
    };
    (attr, meta.ino())
}

/// All extended attributes of an object, not followed.
pub(crate) fn xattrs(path: &DiskPath) -> Xattrs {
    let mut list = vec![0; 1 << 16];
    let len = match rustix::fs::llistxattr(path, &mut list[..]) {
        Err(Errno::NOTSUP) => 0,
        len => len.unwrap(),
    };
    let names = list[..len].split(|&byte| byte == 0);
    let names = names.filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

/// Where a file has data (offset, length), as its file system says.
pub(crate) fn stretches(path: &DiskPath) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(from) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(from)).unwrap();
        found.push((from, at - from));
    }
    found
}

/// Everything that can be seen is the same.
#[track_caller]
pub(crate) fn is_the_same(top: &DiskPath, tree: &Tree) {
    let mut found = BTreeSet::new();
    paths(top, &Path::new(), &mut found);
    let visible = tree.nodes.iter().filter(|node| *node.1 != Node::Nowhere);
    let expected: BTreeSet<Path> = visible.map(|node| node.0.clone()).collect();
    assert_eq!(found, expected);

    let mut numbers = BTreeMap::new();
    for path in &expected {
        let place = on_disk(top, path);
        let (mut is, number) = attr(&place);
        let mut wanted = tree.attr(path);
        let object = tree.object(path);
        wanted.stored = 0;
        match is.kind {
            // Every file system has its own idea of a directory's size and names.
            Kind::Dir => (is.size, is.nlink) = (wanted.size, wanted.nlink),
            Kind::Symlink => is.mode = wanted.mode,
            _ => {}
        }
        assert_eq!(is, wanted, "{place:?}");
        let same = numbers.entry(tree.nodes[path].number()).or_insert(number);
        assert_eq!(*same, number, "{place:?}: one object, one number");
        let mut wanted: Xattrs = object.xattrs.iter().cloned().collect();
        if !matches!(is.kind, Kind::File | Kind::Dir) {
            wanted.retain(|name, _| !name.starts_with(b"user."));
        }
        assert_eq!(xattrs(&place), wanted, "{place:?}");
        match is.kind {
            Kind::File => {
                let wanted = object.data.as_ref().unwrap().bytes();
                assert!(fs::read(&place).unwrap() == wanted, "{place:?}");
            }
            Kind::Symlink => {
                let target = fs::read_link(&place).unwrap();
                assert_eq!(target.as_os_str().as_bytes(), object.target);
            }
            _ => {}
        }
    }
    let different: BTreeSet<u64> = numbers.values().copied().collect();
    assert_eq!(different.len(), numbers.len(), "one number, one object");
}

trait Number {
    fn number(&self) -> usize;
}

impl Number for Node {
    fn number(&self) -> usize {
        match *self {
            Node::Dir(number) | Node::Object(number) => number,
            Node::Nowhere => panic!("it cannot be found"),
        }
    }
}
