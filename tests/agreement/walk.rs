//! A tree as its users see it.
//!
//! What it is for: two trees are the same when their walks are. May assume: root,
//! nobody changes the tree meanwhile. Must not know who serves the tree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
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

/// Everything below a directory, one line for each name. Attributes of the
/// mechanism itself (`trusted.overlay.*`), what atime and ctime say, and sizes and
/// link counts of directories are left out.
pub(crate) type Walk = BTreeMap<PathBuf, String>;

/// Walks all of it; an error anywhere is a line too, so that it is a difference.
pub(crate) fn walk(top: &Path, look: &Look) -> Walk {
    let mut walk = Walk::new();
    let mut first = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let at = top.join(&path);
        let line = match fs::symlink_metadata(&at) {
            Err(error) => format!("! {error}"),
            Ok(_) if path.as_os_str().is_empty() && !look.root => "the root".to_owned(),
            Ok(stat) => line(&at, &path, &stat, look, &mut first),
        };
        if at.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
            match names(&at) {
                // The lowest name comes first, whatever order a listing has.
                Ok(names) => todo.extend(names.into_iter().rev().map(|name| path.join(name))),
                Err(error) => {
                    walk.insert(path.join("!"), error.to_string());
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
) -> String {
    let kind = stat.file_type();
    let mut line = format!("{:o} {}:{}", stat.mode(), stat.uid(), stat.gid());
    if stat.mtime() <= look.now {
        write!(line, " {}.{:09}", stat.mtime(), stat.mtime_nsec()).unwrap();
    }
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
    line
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
pub(crate) fn differences(ours: &Walk, theirs: &Walk) -> Option<String> {
    const SHOWN: usize = 12;
    let mut lines = Vec::new();
    let all: std::collections::BTreeSet<&PathBuf> = ours.keys().chain(theirs.keys()).collect();
    for path in all {
        let (one, other) = (ours.get(path), theirs.get(path));
        if one != other {
            let told = |line: Option<&String>| line.map_or("-", |line| line).to_owned();
            lines.push(format!("{path:?}\n  {}\n  {}", told(one), told(other)));
        }
    }
    let count = lines.len();
    lines.truncate(SHOWN);
    (count > 0).then(|| format!("{count} differences:\n{}", lines.join("\n")))
}
