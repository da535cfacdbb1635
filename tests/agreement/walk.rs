//! A tree as its users see it.
//!
//! What it is for: two trees are the same when their walks are. May assume: root,
//! nobody changes the tree meanwhile. Must not know who serves the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use lazyroot::digest::Digest;
use rustix::fs::{lgetxattr, llistxattr};

/// What of a tree is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Times later than this second are all the same: somebody changed it just now.
    pub(crate) now: i64,
    /// Whether the root's own attributes count. Who mounts overlayfs decides them.
    pub(crate) root: bool,
    /// Whether the number of links of files counts.
    pub(crate) links: bool,
}

/// What a name shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// When contents changed; nothing: just now.
    mtime: Option<(i64, i64)>,
    /// All the rest.
    rest: String,
}

impl From<String> for Line {
    fn from(rest: String) -> Self {
        Self { mtime: None, rest }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mtime {
            Some((seconds, nanos)) => write!(f, "{} at {seconds}.{nanos:09}", self.rest),
            None => f.write_str(&self.rest),
        }
    }
}

/// Everything below a directory, one line for each name. Attributes of the
/// mechanism itself (`trusted.overlay.*`), what atime and ctime say, and sizes and
/// link counts of directories are left out.
pub(crate) type Walk = BTreeMap<PathBuf, Line>;

/// Walks all of it; an error anywhere is a line too, so that it is a difference.
pub(crate) fn walk(top: &Path, look: &Look) -> Walk {
    let mut walk = Walk::new();
    let mut first = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let at = top.join(&path);
        let line = match fs::symlink_metadata(&at) {
            Err(error) => format!("! {error}").into(),
            Ok(_) if path.as_os_str().is_empty() && !look.root => "the root".to_owned().into(),
            Ok(stat) => line(&at, &path, &stat, look, &mut first),
        };
        if at.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
            match names(&at) {
                // The lowest name comes first, whatever order a listing has.
                Ok(names) => todo.extend(names.into_iter().rev().map(|name| path.join(name))),
                Err(error) => {
                    walk.insert(path.join("!"), error.to_string().into());
                }
            }
        }
        let twice = walk.insert(path.clone(), line);
        assert!(twice.is_none(), "{path:?} is listed twice");
    }
    walk
}

fn names(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn line(
    at: &Path,
    path: &Path,
    stat: &fs::Metadata,
    look: &Look,
    first: &mut BTreeMap<u64, PathBuf>,
) -> Line {
    let kind = stat.file_type();
    let mut line = format!("{:o} {}:{}", stat.mode(), stat.uid(), stat.gid());
    if !kind.is_dir() {
        let group = first.entry(stat.ino()).or_insert_with(|| path.to_owned());
        write!(line, " size {} of {group:?}", stat.size()).unwrap();
        if look.links {
            write!(line, " {} links", stat.nlink()).unwrap();
        }
    }
    let told = if kind.is_symlink() {
        fs::read_link(at).map(|target| format!("-> {target:?}"))
    } else if kind.is_file() {
        fs::read(at).map(|bytes| Digest::sha256(&bytes).hex()[..16].to_owned())
    } else if kind.is_char_device() || kind.is_block_device() {
        let (major, minor) = (
            rustix::fs::major(stat.rdev()),
            rustix::fs::minor(stat.rdev()),
        );
        Ok(format!("device {major}:{minor}"))
    } else {
        Ok(String::new())
    };
    match told.and_then(|told| Ok((told, xattrs(at)?))) {
        Ok((told, xattrs)) => write!(line, " {told}{xattrs}").unwrap(),
        Err(error) => write!(line, " ! {error}").unwrap(),
    }
    let mtime = (stat.mtime() <= look.now).then(|| (stat.mtime(), stat.mtime_nsec()));
    Line { mtime, rest: line }
}

fn xattrs(at: &Path) -> io::Result<String> {
    let mut list = vec![0; 1 << 16];
    let len = llistxattr(at, &mut list[..])?;
    let mut names: Vec<&[u8]> = list[..len].split(|&byte| byte == 0).collect();
    names.retain(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay."));
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 1 << 16];
        let len = lgetxattr(at, name, &mut value[..])?;
        let hash = Digest::sha256(&value[..len]).hex();
        let name = String::from_utf8_lossy(name);
        write!(text, " {name}={}", &hash[..8]).unwrap();
    }
    Ok(text)
}

/// How two walks differ, in a few lines; nothing when they do not.
pub(crate) fn differences(one: &Walk, other: &Walk) -> Option<String> {
    told(one, other, |a, b| a == b)
}

/// The same, where `kernel` is that of an overlayfs, which changes an mtime at times
/// when nothing was changed: a file's whose attributes are copied up, when its
/// contents are too (`metacopy=on`, an open for writing), and that of a directory
/// when a name was copied up in it for a rename that failed.
pub(crate) fn differences_to_kernel(one: &Walk, kernel: &Walk) -> Option<String> {
    let touched = |a: &Line, b: &Line| b.mtime.is_none() && a.rest == b.rest;
    told(one, kernel, |a, b| {
        a == b || a.zip(b).is_some_and(|(a, b)| touched(a, b))
    })
}

fn told(
    one: &Walk,
    other: &Walk,
    same: impl Fn(Option<&Line>, Option<&Line>) -> bool,
) -> Option<String> {
    const SHOWN: usize = 12;
    let all: BTreeSet<&PathBuf> = one.keys().chain(other.keys()).collect();
    let mut lines = Vec::new();
    for path in all {
        let (a, b) = (one.get(path), other.get(path));
        if !same(a, b) {
            let text = |line: Option<&Line>| line.map_or("-".to_owned(), Line::to_string);
            lines.push(format!("{path:?}\n  {}\n  {}", text(a), text(b)));
        }
    }
    let count = lines.len();
    lines.truncate(SHOWN);
    (count > 0).then(|| format!("{count} differences:\n{}", lines.join("\n")))
}
